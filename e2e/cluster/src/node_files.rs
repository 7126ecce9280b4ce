//! The configuration files of a node's programs.

use std::fs;
use std::path::Path;

use serde_json::json;

use crate::error::{Context, Result};
use crate::layout::{DNS_ADDRESS, Layout, PAUSE_IMAGE, node_name};

/// Writes a file and the directory that it is in.
pub(crate) fn write(path: &Path, content: &str) -> Result<()> {
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory).at("create", directory)?;
    }
    fs::write(path, content).at("write", path)
}

/// containerd's configuration.
pub(crate) fn containerd(directory: &Path, plugins: &Path) -> String {
    // Strings of TOML and of JSON have the same form for paths.
    let quoted = |path: &Path| json!(path).to_string();
    format!(
        r#"version = 3
root = {root}
state = {state}

[grpc]
  address = {socket}

[plugins."io.containerd.internal.v1.opt"]
  path = {opt}

[plugins."io.containerd.nri.v1.nri"]
  disable = true

[plugins."io.containerd.cri.v1.images".pinned_images]
  sandbox = "{PAUSE_IMAGE}"

[plugins."io.containerd.cri.v1.runtime"]
  # Without CAP_SYS_RESOURCE, runc may not lower a process's score below its own.
  restrict_oom_score_adj = true

[plugins."io.containerd.cri.v1.runtime".cni]
  bin_dirs = [{plugins}]
  conf_dir = {cni}

[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
"#,
        root = quoted(&directory.join("containerd/root")),
        state = quoted(&directory.join("containerd/state")),
        socket = quoted(&directory.join("containerd.sock")),
        opt = quoted(&directory.join("containerd/opt")),
        plugins = quoted(plugins),
        cni = quoted(&directory.join("cni")),
    )
}

/// The network of a node's pods: routed links rather than a bridge, so that a Service's answer never takes
/// a way past the node's address translation (and no bridge module is needed for that).
pub(crate) fn pod_network(number: usize) -> String {
    let configuration = json!({
        "cniVersion": "1.0.0",
        "name": "pods",
        "plugins": [{
            "type": "ptp",
            "ipMasq": false,
            "ipam": {
                "type": "host-local",
                "dataDir": "/run/cni",
                "ranges": [[{"subnet": crate::layout::pod_network(number)}]],
                "routes": [{"dst": "0.0.0.0/0"}],
            },
        }],
    });
    format!("{configuration:#}\n")
}

/// kubelet's configuration; `group` is the control group of the node.
pub(crate) fn kubelet(layout: &Layout, number: usize, group: &str) -> String {
    let name = node_name(number);
    let directory = layout.node(number);
    let configuration = json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": {"enabled": false},
            "webhook": {"enabled": true},
            "x509": {"clientCAFile": layout.certificate("ca")},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": layout.certificate(&name),
        "tlsPrivateKeyFile": layout.key(&name),
        "containerRuntimeEndpoint": format!("unix://{}", layout.containerd_socket(number).display()),
        "volumePluginDir": directory.join("volume-plugins"),
        "clusterDNS": [DNS_ADDRESS],
        "clusterDomain": "cluster.local",
        // The machine's name servers cannot be reached from the cluster's network.
        "resolvConf": "",
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": format!("/{}", group.trim_start_matches('/')),
        "enforceNodeAllocatable": [],
        "failCgroupV1": false,
        "failSwapOn": false,
        // Nodes share the machine's disk: how full it is says nothing about the cluster, and images that
        // were loaded cannot be fetched again.
        "imageGCHighThresholdPercent": 100,
        "evictionHard": {"imagefs.available": "0%", "nodefs.available": "0%"},
    });
    format!("{configuration:#}\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    #[test]
    fn kubelet_gets_its_own_files_and_group() {
        let layout = Layout::under(Path::new("/state"), "c").unwrap();
        let value: Value = serde_json::from_str(&kubelet(&layout, 2, "conch-c/node-2")).unwrap();
        assert_eq!(value["cgroupRoot"], "/conch-c/node-2");
        assert_eq!(value["tlsCertFile"], "/state/c/certificates/node-2.crt");
        assert_eq!(value["containerRuntimeEndpoint"], "unix:///state/c/node-2/containerd.sock");
    }

    #[test]
    fn containerd_keeps_everything_in_the_nodes_directory() {
        let text = containerd(Path::new("/state/c/node-1"), Path::new("/usr/lib/cni"));
        for line in text.lines().filter(|line| line.contains('/') && !line.contains("sandbox =")) {
            assert!(line.contains("/state/c/node-1") || line.contains("/usr/lib/cni"), "{line}");
        }
    }

    #[test]
    fn each_node_has_its_own_pod_network() {
        let value: Value = serde_json::from_str(&pod_network(3)).unwrap();
        assert_eq!(value["plugins"][0]["ipam"]["ranges"][0][0]["subnet"], "10.89.3.0/24");
    }
}
