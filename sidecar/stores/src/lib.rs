//! The stores of an election: versioned registers with compare-and-set, one file or folder each.

pub mod clock;
pub mod driver;
#[cfg(feature = "kubernetes")]
pub mod kubernetes;
#[cfg(feature = "memory")]
pub mod memory;
#[cfg(feature = "postgres")]
pub mod postgres;
pub mod transition;

#[cfg(all(test, any(feature = "kubernetes", feature = "postgres")))]
#[path = "../tests/common/records.rs"]
mod records;

use conch_election::{Failure, Record, Stored, Token, Version, WriteError, Written};
use futures::stream::BoxStream;
use std::future::Future;

/// What a store promises of the fences that it hands out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fencing {
    /// Fences rise with every write, through every failure that the store claims to survive.
    Strict,
    /// Fences may repeat after a failure of the store.
    BestEffort,
}

/// A register that holds one record, for one election.
///
/// # Guarantees
///
/// * `write` takes effect only if the register is at the expected version, atomically.
/// * No version is ever seen twice, not even after the register was deleted and made again.
/// * `read` is linearizable: it sees every write that had returned before it was sent.
/// * Of one handle, neither `read` nor `changes` tells of a state after the other told of a later one.
pub trait Store: Send + Sync + 'static {
    /// For people: what and where, e.g. `Lease shop/conch-payments`.
    fn name(&self) -> String;

    /// What this store promises of its fences.
    fn fencing(&self) -> Fencing;

    /// Reads the register, past every cache. `None`: there is none.
    fn read(&self) -> impl Future<Output = Result<Option<Stored>, Failure>> + Send;

    /// Writes the record if the register is at `expected`. `None`: creates it if there is none; then the record claims nothing
    /// ([`conch_election::Claim::Vacant`]), and any other is refused as invalid. Dropping the future gives the request up; it
    /// may still take effect.
    fn write(
        &self,
        record: &Record,
        expected: Option<&Version>,
        token: Option<Token>,
    ) -> impl Future<Output = Result<Written, WriteError>> + Send;

    /// What the register holds, now and after each change, in order; changes may be missed but never the last one. The
    /// stream never ends: it reconnects by itself, and yields a failure each time it could not.
    fn changes(&self) -> BoxStream<'static, Result<Option<Stored>, Failure>>;
}
