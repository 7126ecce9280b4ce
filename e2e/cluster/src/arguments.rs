//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use conch_cluster::{Cluster, Component, Result};

/// A real Kubernetes cluster on this machine, without Docker.
///
/// etcd, the API server, the controller manager, the scheduler and any number of nodes are built from Go
/// modules once (about 10 minutes on two cores), then a cluster comes up in seconds. Every node has its own
/// namespaces and can be cut off, frozen and killed like a machine. Needs root.
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "\
State is kept in /var/lib/conch/clusters (or CONCH_STATE), built programs in ~/.cache/conch (or XDG_CACHE_HOME).\n\
Example: conch-cluster up && conch-cluster run -- kubectl get nodes"
)]
pub(crate) struct Arguments {
    /// The cluster: several live side by side under different names
    #[arg(long, global = true, default_value = "conch", value_name = "NAME")]
    pub(crate) name: String,
    #[command(subcommand)]
    pub(crate) action: Action,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Action {
    /// Bring the cluster up and wait until it can be used; nothing happens if it is up
    Up {
        /// How many worker nodes to start
        #[arg(long, default_value_t = 2)]
        nodes: usize,
        /// Let etcd wait until each write is on the disk, as in production
        #[arg(long)]
        fsync: bool,
    },
    /// End the cluster and remove all that it left
    Down,
    /// List the clusters of this machine
    List,
    /// Run a program with KUBECONFIG set, and kubectl, helm and ctr in PATH
    Run {
        /// The program and its arguments
        #[arg(required = true, last = true, value_name = "PROGRAM")]
        program: Vec<String>,
    },
    /// Open a shell with KUBECONFIG set, and kubectl, helm and ctr in PATH
    Shell,
    /// Print the path of the administrator's kubeconfig, which works everywhere on this machine
    Kubeconfig,
    /// Import image archives into every node, also those restarted later
    Load {
        /// Archives as `docker save` or an OCI tool writes them
        #[arg(required = true, value_name = "IMAGE.tar")]
        archives: Vec<PathBuf>,
    },
    /// Show the log of a component
    Logs {
        /// etcd, kube-apiserver, kube-scheduler, supervisor, kubelet-1, containerd-2, node-1, …
        component: String,
    },
    /// Break a part of the cluster, or mend it
    Fault {
        #[command(subcommand)]
        fault: Fault,
    },
    /// Build the programs, if they are not cached
    Build,
    /// Check what the machine must have; on Debian and Ubuntu, install what is missing
    Prerequisites,
    /// Run a part of the cluster inside its namespaces
    #[command(hide = true)]
    Internal {
        #[command(subcommand)]
        role: Internal,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Internal {
    Control { directory: PathBuf },
    Node { directory: PathBuf, number: usize },
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Program {
    Apiserver,
    Etcd,
}

impl From<Program> for Component {
    fn from(program: Program) -> Self {
        match program {
            Program::Apiserver => Self::ApiServer,
            Program::Etcd => Self::Etcd,
        }
    }
}

#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct NodeNumber {
    /// The node's number, counted from 1
    #[arg(value_name = "N")]
    node: usize,
}

#[derive(Debug, Clone, Copy, Subcommand)]
pub(crate) enum Fault {
    /// Unplug a node's network cable
    CutNode(NodeNumber),
    /// Plug it in again
    HealNode(NodeNumber),
    /// Stop every process of a node, its pods' too
    FreezeNode(NodeNumber),
    /// Let a frozen node go on
    ThawNode(NodeNumber),
    /// Cut a node's power
    KillNode(NodeNumber),
    /// Start a killed node (or restart a running one) and wait until it is Ready
    RestartNode(NodeNumber),
    /// Stop the API server or etcd where it is (SIGSTOP)
    Stop { program: Program },
    /// Let a stopped API server or etcd go on (SIGCONT)
    Continue { program: Program },
    /// Kill the API server or etcd (SIGKILL); it stays away until restarted
    Kill { program: Program },
    /// Start the API server or etcd again, killing it first if it runs
    Restart { program: Program },
}

impl Fault {
    pub(crate) fn apply(self, cluster: &Cluster) -> Result<()> {
        match self {
            Self::CutNode(which) => cluster.cut_node(which.node),
            Self::HealNode(which) => cluster.heal_node(which.node),
            Self::FreezeNode(which) => cluster.freeze_node(which.node),
            Self::ThawNode(which) => cluster.thaw_node(which.node),
            Self::KillNode(which) => cluster.kill_node(which.node),
            Self::RestartNode(which) => cluster.restart_node(which.node),
            Self::Stop { program } => cluster.stop_component(program.into()),
            Self::Continue { program } => cluster.continue_component(program.into()),
            Self::Kill { program } => cluster.kill_component(program.into()),
            Self::Restart { program } => cluster.restart_component(program.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_sound() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn a_program_keeps_its_own_options() {
        let parsed =
            Arguments::parse_from(["conch-cluster", "--name", "a", "run", "--", "kubectl", "get", "--help"]);
        assert_eq!(parsed.name, "a");
        assert!(matches!(parsed.action, Action::Run { program } if program == ["kubectl", "get", "--help"]));
    }
}
