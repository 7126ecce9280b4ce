//! Where a cluster keeps its files, and the fixed addresses inside its private networks.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// The control plane's address on the bridge that joins the nodes.
pub(crate) const CONTROL_ADDRESS: &str = "10.88.0.1";
/// The API server's port inside the control namespaces.
pub(crate) const API_PORT: u16 = 6443;
/// The network that all pods are in.
pub(crate) const POD_NETWORK: &str = "10.89.0.0/16";
/// The network of Service addresses.
pub(crate) const SERVICE_NETWORK: &str = "10.96.0.0/16";
/// The first Service address: the API server's own.
pub(crate) const API_SERVICE_ADDRESS: &str = "10.96.0.1";
/// The address of the cluster's DNS.
pub(crate) const DNS_ADDRESS: &str = "10.96.0.10";
/// The bridge in the control namespace.
pub(crate) const BRIDGE: &str = "nodes";
/// The pause image, which holds each pod's namespaces.
pub(crate) const PAUSE_IMAGE: &str = "conch.local/pause:1";
/// The DNS server's image.
pub(crate) const DNS_IMAGE: &str = "conch.local/coredns:1";

/// The longest cluster name: sockets have room for a path of 107 bytes only.
const LONGEST_NAME: usize = 20;
/// The most nodes: each has one byte in its addresses.
pub(crate) const MOST_NODES: usize = 200;

/// The name of node `number`, counted from 1.
pub fn node_name(number: usize) -> String {
    format!("node-{number}")
}

/// The address of node `number` on the bridge.
pub(crate) fn node_address(number: usize) -> String {
    format!("10.88.0.{}", number + 10)
}

/// The hardware address that belongs to an address on the bridge, as a machine's stays with it when its power is cut. Without
/// one of its own, a bridge takes the lowest of its ports' and changes it with them: the others would go on sending to the
/// one that they know, for half a minute.
pub(crate) fn hardware_address(address: &str) -> String {
    let host = address.rsplit('.').next().and_then(|last| last.parse::<u8>().ok()).unwrap_or_default();
    // Locally administered (IEEE 802), and the bytes of 10.88.0.x.
    format!("02:00:0a:58:00:{host:02x}")
}

/// The network of the pods of node `number`.
pub(crate) fn pod_network(number: usize) -> String {
    format!("10.89.{number}.0/24")
}

/// The control namespace's end of the link to node `number`.
pub(crate) fn link_name(number: usize) -> String {
    format!("to-node-{number}")
}

/// The files of one cluster.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    name: String,
    root: PathBuf,
}

impl Layout {
    /// The layout of a cluster under `CONCH_STATE`, or `/var/lib/conch/clusters`.
    pub(crate) fn named(name: &str) -> Result<Self> {
        Self::under(&clusters_directory()?, name)
    }

    /// The layout of a cluster under a directory.
    pub(crate) fn under(directory: &Path, name: &str) -> Result<Self> {
        check_name(name)?;
        let layout = Self { name: name.to_owned(), root: directory.join(name) };
        let longest = layout.containerd_socket(MOST_NODES);
        if longest.as_os_str().len() > 107 {
            return Err(Error::Invalid(format!(
                "{} is too long a path for a socket: choose a shorter CONCH_STATE or name",
                longest.display()
            )));
        }
        Ok(layout)
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// What was decided when the cluster was started.
    pub(crate) fn description(&self) -> PathBuf {
        self.root.join("cluster.json")
    }

    /// The pid and start time of the cluster's outermost process.
    pub(crate) fn holder(&self) -> PathBuf {
        self.root.join("holder.json")
    }

    /// The loopback port of the last `up`, kept so that kubeconfigs stay right.
    pub(crate) fn port(&self) -> PathBuf {
        self.root.join("port")
    }

    /// The supervisor's socket.
    pub(crate) fn socket(&self) -> PathBuf {
        self.root.join("control.sock")
    }

    /// Exists once the API server has answered: nodes start their kubelets then.
    pub(crate) fn api_is_up(&self) -> PathBuf {
        self.root.join("api-is-up")
    }

    /// Exists once `up` has seen everything work.
    pub(crate) fn complete(&self) -> PathBuf {
        self.root.join("complete")
    }

    pub(crate) fn log(&self, what: &str) -> PathBuf {
        self.root.join("log").join(format!("{what}.log"))
    }

    pub(crate) fn images(&self) -> PathBuf {
        self.root.join("images")
    }

    pub(crate) fn tools(&self) -> PathBuf {
        self.root.join("tools")
    }

    /// What kubectl remembers of the cluster.
    pub(crate) fn kubectl_cache(&self) -> PathBuf {
        self.root.join("kubectl-cache")
    }

    /// This program, copied so that a rebuild does not change a running cluster.
    pub(crate) fn program(&self) -> PathBuf {
        self.root.join("conch-cluster")
    }

    pub(crate) fn certificate(&self, name: &str) -> PathBuf {
        self.root.join("certificates").join(format!("{name}.crt"))
    }

    pub(crate) fn key(&self, name: &str) -> PathBuf {
        self.root.join("certificates").join(format!("{name}.key"))
    }

    /// A component's kubeconfig inside the namespaces.
    pub(crate) fn inner_kubeconfig(&self, user: &str) -> PathBuf {
        self.root.join("kubeconfigs").join(format!("{user}.json"))
    }

    /// The administrator's kubeconfig for programs outside of the namespaces.
    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.root.join("kubeconfig")
    }

    pub(crate) fn etcd(&self) -> PathBuf {
        self.root.join("etcd")
    }

    pub(crate) fn node(&self, number: usize) -> PathBuf {
        self.root.join(node_name(number))
    }

    pub(crate) fn containerd_socket(&self, number: usize) -> PathBuf {
        self.node(number).join("containerd.sock")
    }

    /// containerd's state, with the specification of each running container.
    pub(crate) fn tasks(&self, number: usize) -> PathBuf {
        self.node(number).join("containerd/state/io.containerd.runtime.v2.task/k8s.io")
    }

    /// The name of the cluster's cgroup: two state directories may hold clusters of one name.
    pub(crate) fn cgroup_name(&self) -> String {
        let mut hasher = DefaultHasher::new();
        self.root.hash(&mut hasher);
        format!("conch-{}-{:06x}", self.name, hasher.finish() & 0xff_ffff)
    }
}

/// The directory that holds all clusters' directories.
pub(crate) fn clusters_directory() -> Result<PathBuf> {
    let chosen = std::env::var_os("CONCH_STATE").filter(|value| !value.is_empty());
    let directory = chosen.map_or_else(|| PathBuf::from("/var/lib/conch/clusters"), PathBuf::from);
    std::path::absolute(&directory).map_err(|source| Error::Io { doing: "CONCH_STATE".to_owned(), source })
}

fn check_name(name: &str) -> Result<()> {
    let allowed =
        |character: char| character.is_ascii_lowercase() || character.is_ascii_digit() || character == '-';
    let fits = !name.is_empty() && name.len() <= LONGEST_NAME && name.chars().all(allowed);
    if fits && !name.starts_with('-') {
        return Ok(());
    }
    Err(Error::Invalid(format!(
        "{name:?} cannot name a cluster: use up to {LONGEST_NAME} of a-z, 0-9 and -, not beginning with -"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked() {
        for good in ["conch", "a", "ci-7", "01234567890123456789"] {
            assert!(check_name(good).is_ok(), "{good}");
        }
        for bad in ["", "-a", "A", "a/b", "..", "a b", "012345678901234567890"] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_socket_path_that_is_too_long_is_refused_with_advice() {
        let error = Layout::under(Path::new(&"/long".repeat(20)), "conch").unwrap_err().to_string();
        assert!(error.contains("CONCH_STATE"), "{error}");
    }

    #[test]
    fn clusters_of_one_name_in_two_places_have_two_cgroups() {
        let one = Layout::under(Path::new("/one"), "conch").unwrap();
        let other = Layout::under(Path::new("/other"), "conch").unwrap();
        assert_ne!(one.cgroup_name(), other.cgroup_name());
        assert!(one.cgroup_name().starts_with("conch-conch-"));
    }

    #[test]
    fn addresses_follow_the_node_number() {
        assert_eq!(
            (node_name(1), node_address(1), pod_network(1)),
            ("node-1".into(), "10.88.0.11".into(), "10.89.1.0/24".into())
        );
        assert!(link_name(MOST_NODES).len() <= 15, "an interface name has 15 characters at most");
    }
}
