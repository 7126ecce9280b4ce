//! What must hold for any input, however bad. Each function takes bytes as a stranger may send them, and panics where
//! something does not hold; a fuzzer looks for such bytes (`make fuzz`), and a test replays what it found.

mod admission;
pub mod corpus;
pub mod mutate;
mod policy;
mod requests;

pub use admission::admission;
pub use conch_stores::kubernetes::fuzzing::lease;
pub use policy::policy;
pub use requests::requests;

/// Panics if something does not hold for these bytes.
pub type Check = fn(&[u8]);

/// The checks by the name of their target.
pub const TARGETS: [(&str, Check); 4] =
    [("lease", lease), ("policy", policy), ("admission", admission), ("requests", requests)];
