//! The operator: reconciles policies and workloads into elections, and injects the sidecar.

pub mod args;
pub mod certs;
pub mod check;
pub mod cluster;
pub mod inject;
pub mod leadership;
pub mod policy;
pub mod run;
pub mod uninstall;
pub mod webhook;
