//! End-to-end tests and the demo, on a real cluster with real faults.

pub mod checker;
