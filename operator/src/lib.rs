//! The operator: reconciles policies and workloads into elections, and injects the sidecar.

pub mod certs;
pub mod inject;
pub mod policy;
pub mod webhook;
