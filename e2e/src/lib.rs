//! End-to-end tests and the demo, on a real cluster with real faults.

pub mod checker;
mod environment;
mod error;
mod logs;
mod measure;
mod namespace;
mod probes;
mod tools;
mod workload;

pub use environment::{
    CLUSTER, Environment, KUBECONFIG_VARIABLE, OPERATOR_NAMESPACE, OPERATOR_SELECTOR, RELEASE,
    chart_directory, image_file, image_reference,
};
pub use error::{Error, Result};
pub use measure::{median, milliseconds, resident_kib};
pub use namespace::Namespace;
pub use probes::{Candidate, Probes};
pub use tools::{Tools, run};
pub use workload::{CONTAINER, Workload};
