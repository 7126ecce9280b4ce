//! What was decided when a cluster was started, and who holds it: written to its directory.

use std::fs;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::binaries::Binaries;
use crate::error::{Context, Error, Result};

/// A started cluster.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Description {
    pub(crate) nodes: usize,
    pub(crate) port: u16,
    /// The cluster's control group, relative to the roots of the hierarchies.
    pub(crate) cgroup: String,
    pub(crate) plugins: PathBuf,
    pub(crate) binaries: Binaries,
    /// Whether etcd waits for the disk. A cluster that an older version brought up does not say.
    #[serde(default)]
    pub(crate) fsync: Fsync,
}

/// Whether etcd waits until each write is on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) enum Fsync {
    /// Tests do not need it: a killed process loses nothing, only a machine's power cut would, and disks of test machines
    /// are slow and shared.
    #[default]
    Off,
    /// As users have it.
    On,
}

impl Description {
    /// The control group of all that node `number` runs.
    pub(crate) fn node_cgroup(&self, number: usize) -> String {
        format!("{}/node-{number}", self.cgroup)
    }
}

/// Writes a value as JSON, whole or not at all.
pub(crate) fn write_json<T: Serialize>(path: &Path, value: &T) -> Result<()> {
    let text = serde_json::to_string_pretty(value).map_err(|error| Error::Invalid(error.to_string()))?;
    let new = path.with_extension("new");
    fs::write(&new, text).at("write", &new)?;
    fs::rename(&new, path).at("write", path)
}

/// Reads a value from a JSON file.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let text = fs::read_to_string(path).at("read", path)?;
    serde_json::from_str(&text).map_err(|error| Error::Invalid(format!("{}: {error}", path.display())))
}
