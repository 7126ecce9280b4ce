//! The sidecar of Conch: answers over localhost whether this pod leads its election, and until when.
//!
//! [`sidecar::Sidecar`] joins four parts: the candidate (which talks to the store), [`program`] (does the program want to
//! lead, is it fit to by its [`gate`], has it stopped), [`shutdown`] (does SIGTERM prove that it has stopped) and the HTTP handlers in [`http`]. The second
//! and third are pure and hold every decision; [`run`] is the process around them.
//!
//! [`wrap`] runs a program that asks nothing.
//!
//! To try it outside a cluster, give it a kubeconfig that may write the Lease:
//!
//! ```sh
//! conch-sidecar serve --kubeconfig ~/.kube/config --namespace shop --election payments
//! curl 'localhost:4040/v1/leader?wait=30s'
//! ```

pub mod args;
pub mod check;
pub mod client;
pub mod config;
pub mod descriptors;
pub mod gate;
pub mod http;
pub mod instance;
pub mod metrics;
pub mod postgres_args;
pub mod program;
pub mod program_args;
pub mod run;
pub mod shutdown;
pub mod sidecar;
pub mod status;
pub mod view;
pub mod watchdog;
pub mod witness;
pub mod wrap;
