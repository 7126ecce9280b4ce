//! The controller against a real API server. `CONCH_TEST_KUBECONFIG` names an administrator's kubeconfig of a cluster in
//! which no operator runs; without it each test says that it was skipped.
//!
//! Tests run one after the other: each has an operator of its own, and that acts on the whole cluster.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod cluster;
mod elections;
mod faults;
mod leaders;
mod replicas;
