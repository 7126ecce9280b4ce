//! Seeded simulation: several candidates, one register, clocks that disagree, messages that are late, lost or come twice,
//! pauses, crashes, meddling hands. What happens is held against the true time line by a [`checker`].
//!
//! A seed makes a [`scenario`]: a list of pods and of faults, nothing else. A [`world`] executes it, always in the same way.
//! A scenario that fails is shrunk: faults, pods and troubles of the network are left out one by one, as long as it still
//! fails. There are no wall clocks in it, because there is none in the elector: a jump of one can have no effect.

mod campaign;
mod checker;
#[cfg(test)]
mod fair;
mod hands;
mod node;
mod random;
mod scenario;
mod shrink;
mod store;
mod target;
mod trace;
mod world;

pub(crate) use campaign::{Campaign, replay, run};
#[cfg(not(test))]
pub(crate) use checker::Kind;
