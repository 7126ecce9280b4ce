//! Asking the cluster through kubectl, from outside of its namespaces.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::command::{command, output};
use crate::error::{Error, Result};
use crate::layout::Layout;

/// kubectl with the administrator's kubeconfig.
pub(crate) fn kubectl(layout: &Layout) -> Command {
    let mut kubectl = command(layout.tools().join("kubectl"));
    kubectl
        .env_remove("KUBECONFIG")
        // Otherwise every cluster would leave a folder in the caller's home.
        .env("KUBECACHEDIR", layout.kubectl_cache())
        .arg(format!("--kubeconfig={}", layout.kubeconfig().display()))
        .arg("--request-timeout=5s");
    kubectl
}

/// Runs kubectl and gives what it printed.
pub(crate) fn run(layout: &Layout, arguments: &[&str]) -> Result<String> {
    output(kubectl(layout).args(arguments))
}

/// Applies a file.
pub(crate) fn apply(layout: &Layout, file: &Path) -> Result<()> {
    output(kubectl(layout).args(["apply", "--server-side", "--filename"]).arg(file)).map(drop)
}

/// Reads an object or a list.
pub(crate) fn get(layout: &Layout, arguments: &[&str]) -> Result<Value> {
    let text = output(kubectl(layout).arg("get").args(arguments).args(["--output", "json"]))?;
    serde_json::from_str(&text)
        .map_err(|error| Error::Invalid(format!("kubectl's answer makes no sense: {error}")))
}

/// Whether the API server is ready.
pub(crate) fn is_ready(layout: &Layout) -> bool {
    run(layout, &["get", "--raw=/readyz"]).is_ok()
}

/// The names of the nodes that are Ready, of a list of nodes.
pub(crate) fn ready_nodes(list: &Value) -> Vec<String> {
    let items = list["items"].as_array().map_or(&[][..], Vec::as_slice);
    items
        .iter()
        .filter(|node| is_node_ready(node))
        .filter_map(|node| node["metadata"]["name"].as_str())
        .map(str::to_owned)
        .collect()
}

/// Whether a node says that it is Ready.
pub(crate) fn is_node_ready(node: &Value) -> bool {
    let conditions = node["status"]["conditions"].as_array().map_or(&[][..], Vec::as_slice);
    conditions.iter().any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_ready_nodes_count() {
        let node = |name: &str, status: &str| json!({"metadata": {"name": name}, "status": {"conditions": [{"type": "Ready", "status": status}]}});
        let list = json!({"items": [node("node-1", "True"), node("node-2", "Unknown"), {"metadata": {"name": "new"}}]});
        assert_eq!(ready_nodes(&list), ["node-1"]);
        assert!(ready_nodes(&json!({})).is_empty());
    }
}
