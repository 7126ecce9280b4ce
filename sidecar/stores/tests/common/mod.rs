//! What every store is held to.

pub(crate) mod conformance;
pub(crate) mod records;
pub(crate) mod samples;
