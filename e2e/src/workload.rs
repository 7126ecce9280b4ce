//! Workloads whose program is the probe.

use conch_crds::names;
use conch_images::Program;
use serde_json::{Value, json};

use crate::environment::image_reference;

/// Name of the program's container.
pub const CONTAINER: &str = "program";

/// A workload to be written as a manifest.
#[derive(Debug, Clone)]
pub struct Workload<'a> {
    /// `Deployment`, `StatefulSet` or `DaemonSet`.
    pub kind: &'a str,
    /// Its name, and the value of the label `app` on its pods.
    pub name: &'a str,
    /// How many pods; a `DaemonSet` has one on each node.
    pub replicas: usize,
    /// The policy to name, if any.
    pub policy: Option<&'a str>,
    /// Milliseconds between two questions of each program.
    pub interval_ms: u64,
    /// Milliseconds that each program takes to stop when it is told to, as a program with open work does.
    pub exit_delay_ms: u64,
    /// A directory of the node to write to; standard output without it.
    pub directory: Option<&'a str>,
}

impl<'a> Workload<'a> {
    /// A Deployment with three pods whose programs ask once a second.
    pub fn deployment(name: &'a str) -> Self {
        Self {
            kind: "Deployment",
            name,
            replicas: 3,
            policy: None,
            interval_ms: 1_000,
            exit_delay_ms: 0,
            directory: None,
        }
    }

    /// `deployment/name`, as `kubectl` takes it.
    pub fn reference(&self) -> String {
        format!("{}/{}", self.kind.to_lowercase(), self.name)
    }

    /// The manifest.
    pub fn manifest(&self) -> Value {
        let mut manifest = json!({
            "apiVersion": "apps/v1",
            "kind": self.kind,
            "metadata": {"name": self.name},
            "spec": {
                "selector": {"matchLabels": {"app": self.name}},
                "template": {"metadata": {"labels": {"app": self.name}}, "spec": self.pod()},
            },
        });
        if let Some(policy) = self.policy {
            manifest["metadata"]["annotations"] = json!({names::POLICY: policy});
        }
        if self.kind != "DaemonSet" {
            manifest["spec"]["replicas"] = json!(self.replicas);
        }
        manifest
    }

    fn pod(&self) -> Value {
        let mut container = json!({
            "name": CONTAINER,
            "image": image_reference(Program::Probe),
            "imagePullPolicy": "IfNotPresent",
            "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}},
            "args": [
                "run",
                "--interval-ms", self.interval_ms.to_string(),
                "--exit-delay-ms", self.exit_delay_ms.to_string(),
            ],
            "env": [
                {"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
                {"name": "POD_UID", "valueFrom": {"fieldRef": {"fieldPath": "metadata.uid"}}},
                {"name": "PROBE_NAME", "value": "$(POD)_$(POD_UID)"},
            ],
        });
        let mut pod = json!({
            "securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
            "topologySpreadConstraints": [{
                "maxSkew": 1,
                "topologyKey": "kubernetes.io/hostname",
                "whenUnsatisfiable": "ScheduleAnyway",
                "labelSelector": {"matchLabels": {"app": self.name}},
            }],
        });
        if let Some(directory) = self.directory {
            container["env"].as_array_mut().into_iter().for_each(|environment| {
                environment.push(json!({"name": "PROBE_DIRECTORY", "value": directory}));
            });
            container["volumeMounts"] = json!([{"name": "probes", "mountPath": directory}]);
            pod["volumes"] =
                json!([{"name": "probes", "hostPath": {"path": directory, "type": "Directory"}}]);
        }
        pod["containers"] = json!([container]);
        pod
    }
}
