//! Real faults on a real cluster (`make faults`): candidates whose programs ask every 10 ms whether they lead, one fault,
//! and the checker's verdict over every answer. A title begins with the number of the failure scenario that it stands
//! for. What is in `always` also runs in `make test`.
//!
//! Not here: what needs several API servers (25, 34), a full or restored etcd (37, 38), another address or certificate
//! authority (45, 46), the ten minutes that a token lives at least (47), a feature that is off (59), another version of the
//! sidecar (71), a way to run the sidecar that does not exist (63). Tests of the Lease's store and the simulation cover what
//! of them concerns the election.

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
