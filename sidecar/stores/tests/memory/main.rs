//! The register in memory keeps what every store promises.

#[cfg(test)]
#[path = "../common/mod.rs"]
mod common;
#[cfg(test)]
mod register;

#[cfg(test)]
use {common::conformance, register::memory};

conformance!(memory);
