//! Real faults on a real cluster (`make faults`): candidates whose programs ask every 10 ms whether they lead, one fault,
//! and the checker's verdict over every answer. A title begins with the number of the failure scenario that it stands
//! for. What is in `always` also runs in `make test`.
//!
//! Not here, because one cluster of this kind cannot show them: several API servers, one behind the others (25, 34),
//! a full or restored etcd (37, 38), other versions of the sidecar (71), a changed certificate authority (46). The
//! simulation and the tests of the Lease's store cover what of them concerns the election.

#![expect(clippy::unwrap_used, reason = "a helper of a test may fail the test")]

mod access;
mod always;
mod api_server;
mod network;
mod nodes;
mod process;
mod record;
mod rollout;
#[path = "../shared/mod.rs"]
mod shared;
mod stage;
