//! A row on a real PostgreSQL server keeps what every store promises. Where PostgreSQL is not installed, each test says that it
//! was skipped.

#[cfg(test)]
#[path = "../common/mod.rs"]
mod common;
#[cfg(test)]
mod relay;
#[cfg(test)]
mod server;
#[cfg(test)]
mod table;

#[cfg(test)]
use {common::conformance, table::row};

conformance!(row);
