//! A cluster with Conch on it.

use std::env;
use std::path::{Path, PathBuf};
use std::time::Duration;

use conch_cluster::{Cluster, Options};
use conch_images::{Program, workspace_directory};
use serde_json::Value;

use crate::error::{Error, Result};
use crate::tools::Tools;

/// The cluster of the tests, unless `CONCH_E2E_CLUSTER` names another.
pub const CLUSTER: &str = "conch-e2e";
/// Where the operator is installed.
pub const OPERATOR_NAMESPACE: &str = "conch-system";
/// The Helm release.
pub const RELEASE: &str = "conch";
/// An administrator's kubeconfig of somebody else's cluster to run the tests on.
pub const KUBECONFIG_VARIABLE: &str = "CONCH_KUBECONFIG";
/// The registry that holds the images for that cluster, if its nodes do not have them under their own names.
const REGISTRY_VARIABLE: &str = "CONCH_REGISTRY";
/// The registry in the images' own names.
const REGISTRY: &str = "ghcr.io";

/// A cluster with Conch on it.
#[derive(Debug)]
pub struct Environment {
    /// The command line tools for this cluster.
    pub tools: Tools,
    /// The cluster itself, if it is ours to break.
    pub cluster: Option<Cluster>,
}

impl Environment {
    /// Takes the cluster of `CONCH_KUBECONFIG`, or brings up that of the tests.
    ///
    /// # Errors
    /// The cluster does not come up.
    pub fn open() -> Result<Self> {
        Self::open_or(&env::var("CONCH_E2E_CLUSTER").unwrap_or_else(|_| CLUSTER.to_owned()))
    }

    /// Takes the cluster of `CONCH_KUBECONFIG`, or brings up one of our own.
    ///
    /// # Errors
    /// The cluster does not come up.
    pub fn open_or(name: &str) -> Result<Self> {
        if let Some(path) = env::var_os(KUBECONFIG_VARIABLE).map(PathBuf::from) {
            return Self::guest(&path);
        }
        println!("cluster: {name}, brought up by conch-cluster");
        Self::up(name.to_owned())
    }

    /// Somebody else's cluster.
    fn guest(kubeconfig: &Path) -> Result<Self> {
        let tools = Tools::new(kubeconfig, None);
        let name = "{.clusters[0].name} at {.clusters[0].cluster.server}";
        let name = tools.kubectl(&["config", "view", "--minify", &format!("--output=jsonpath={name}")])?;
        println!("cluster: {name}, of {KUBECONFIG_VARIABLE}={}", kubeconfig.display());
        Ok(Self { tools, cluster: None })
    }

    /// Brings up a cluster of our own with two nodes, or finds that it is up.
    ///
    /// # Errors
    /// It does not come up.
    fn up(name: String) -> Result<Self> {
        let cluster = Cluster::up(&Options { name, nodes: 2 })?;
        let tools = Tools::new(cluster.kubeconfig(), Some(cluster.tools_directory()));
        Ok(Self { tools, cluster: Some(cluster) })
    }

    /// Loads the images into our own cluster; on somebody else's they must be there.
    ///
    /// # Errors
    /// An image file is missing, or a node does not take it.
    pub fn load_images(&self) -> Result<()> {
        let Some(cluster) = &self.cluster else { return Ok(()) };
        for program in Program::ALL {
            let path = image_file(program);
            if !path.is_file() {
                return Err(Error::Unusable(format!("{} is missing: run `make images`", path.display())));
            }
            cluster.load_image(&path)?;
        }
        Ok(())
    }

    /// Installs the chart, or brings what is installed up to date, and waits for the operator.
    ///
    /// # Errors
    /// Helm fails, or the operator does not become ready.
    pub fn install(&self) -> Result<()> {
        let before = self.tools.helm(&["status", RELEASE, "--namespace", OPERATOR_NAMESPACE]).is_ok();
        let chart = chart_directory();
        let chart = chart.to_string_lossy();
        let install = ["upgrade", "--install", RELEASE, &chart, "--namespace", OPERATOR_NAMESPACE];
        let registry = registry();
        let images = format!("image.registry={registry},sidecar.image.registry={registry}");
        let wait = ["--create-namespace", "--wait", "--timeout", "2m", "--set", &images];
        self.tools.helm(&[&install[..], &wait].concat())?;
        if before { self.restart_operator() } else { Ok(()) }
    }

    /// The tag of an image stays while its content changes: only new pods run what was loaded.
    fn restart_operator(&self) -> Result<()> {
        let operator = ["--namespace", OPERATOR_NAMESPACE, "deployment", "--selector", OPERATOR_SELECTOR];
        self.tools.kubectl(&[&["rollout", "restart"], &operator[..]].concat())?;
        self.tools.kubectl(&[&["rollout", "status", "--timeout=2m"], &operator[..]].concat())?;
        Tools::wait_for("end of the old operators", Duration::from_mins(1), || {
            let all = self.all_operator_pods()?.len();
            let current = self.operator_pods()?.len();
            Ok(if all == current { Ok(()) } else { Err(format!("{} old pods", all - current)) })
        })
    }

    fn all_operator_pods(&self) -> Result<Vec<Value>> {
        let list = ["--namespace", OPERATOR_NAMESPACE, "pods", "--selector", OPERATOR_SELECTOR];
        Ok(self.tools.get(&list)?["items"].as_array().cloned().unwrap_or_default())
    }

    /// The operator's pods, but for those that are being deleted.
    ///
    /// # Errors
    /// The API server does not answer.
    pub fn operator_pods(&self) -> Result<Vec<Value>> {
        let mut pods = self.all_operator_pods()?;
        pods.retain(|pod| pod["metadata"]["deletionTimestamp"].is_null());
        Ok(pods)
    }

    /// How many requests the API server has counted of a resource and a verb, e.g. `leases` and `GET`.
    ///
    /// # Errors
    /// The API server does not answer.
    pub fn requests(&self, counts: &dyn Fn(&str, &str) -> bool) -> Result<u64> {
        let metrics = self.tools.kubectl(&["get", "--raw", "/metrics"])?;
        Ok(count_requests(&metrics, counts))
    }

    /// A directory that is the same on every node and on this machine, where probes write.
    pub fn shared_directory(&self) -> Option<PathBuf> {
        let cluster = self.cluster.as_ref()?;
        Some(cluster.kubeconfig().parent()?.join("probes"))
    }
}

/// Selects the operator's pods and Deployment.
pub const OPERATOR_SELECTOR: &str = "app.kubernetes.io/name=conch,app.kubernetes.io/component=operator";

/// The archive that `make images` writes.
pub fn image_file(program: Program) -> PathBuf {
    workspace_directory().join("out").join(format!("{}.tar", program.name()))
}

/// Where the cluster's nodes have an image from.
pub fn image_reference(program: Program) -> String {
    program.reference().replacen(REGISTRY, &registry(), 1)
}

fn registry() -> String {
    env::var(REGISTRY_VARIABLE).unwrap_or_else(|_| REGISTRY.to_owned())
}

/// The Helm chart.
pub fn chart_directory() -> PathBuf {
    workspace_directory().join(Path::new("charts/conch"))
}

/// Sums `apiserver_request_total` over the lines whose resource and verb count.
fn count_requests(metrics: &str, counts: &dyn Fn(&str, &str) -> bool) -> u64 {
    let lines = metrics.lines().filter_map(|line| line.strip_prefix("apiserver_request_total{"));
    let label = |labels: &str, name: &str| -> String {
        let found = labels.split(',').find_map(|label| label.strip_prefix(name)?.strip_prefix("=\""));
        found.unwrap_or_default().trim_end_matches('"').to_owned()
    };
    let counted = lines.filter_map(|line| {
        let (labels, value) = line.rsplit_once("} ")?;
        counts(&label(labels, "resource"), &label(labels, "verb")).then(|| value.parse::<u64>().ok())?
    });
    counted.sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_summed_by_resource_and_verb() {
        let metrics = "# HELP apiserver_request_total x\n\
            apiserver_request_total{code=\"200\",resource=\"leases\",verb=\"PUT\",version=\"v1\"} 37\n\
            apiserver_request_total{code=\"409\",resource=\"leases\",verb=\"PUT\",version=\"v1\"} 3\n\
            apiserver_request_total{code=\"200\",resource=\"leases\",verb=\"GET\",version=\"v1\"} 5\n\
            apiserver_request_total{code=\"200\",resource=\"pods\",verb=\"PUT\",version=\"v1\"} 7\n\
            apiserver_request_totals{resource=\"leases\",verb=\"PUT\"} 100\n";
        let count = |resource: &str, verb: &str| count_requests(metrics, &|r, v| r == resource && v == verb);
        assert_eq!([count("leases", "PUT"), count("leases", "GET"), count("leases", "POST")], [40, 5, 0]);
    }
}
