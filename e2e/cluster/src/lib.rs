//! A real Kubernetes cluster on one machine, without Docker: etcd, the control plane and any number of
//! nodes, built from Go modules, each node in namespaces of its own, with the faults that tests need.
//!
//! ```no_run
//! # fn main() -> Result<(), conch_cluster::Error> {
//! use conch_cluster::{Cluster, Options};
//!
//! let cluster = Cluster::up(&Options::default())?;
//! println!("KUBECONFIG={}", cluster.kubeconfig().display());
//! cluster.cut_node(1)?;
//! cluster.heal_node(1)?;
//! Cluster::down(cluster.name())?;
//! # Ok(())
//! # }
//! ```

mod binaries;
mod certificates;
mod cgroup;
mod cluster;
mod command;
mod components;
mod control;
mod description;
mod error;
mod forward;
mod images;
pub mod internal;
mod keeper;
mod kubeconfig;
mod kubectl;
mod layout;
mod lifecycle;
mod messages;
mod node;
mod node_files;
mod node_mounts;
pub mod prerequisites;
mod processes;
mod progress;
mod relay;

pub use binaries::{Binaries, build_go_program, cache_directory};
pub use cluster::{Cluster, Component, Listed, Options};
pub use error::{Error, Result};
pub use layout::node_name;
pub use relay::{Relay, Treatment, Ways};
