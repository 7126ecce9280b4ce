//! The two that are compared, and how their workloads are written.

use std::time::Duration;

use anyhow::Result;
use conch_crds::names;
use conch_e2e::{CONTAINER, Namespace, Probes, Workload};
use serde_json::{Value, json};

use crate::peer;

/// Who is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Contender {
    /// Conch, injected by its operator, with its default policy.
    Conch,
    /// The sidecar over client-go in `client-go/`, written into the pod template.
    ClientGo,
}

/// The durations of an election.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Timing {
    /// 15 s, renewed every 2 s: the default of both.
    Default,
    /// 3 s, renewed every 500 ms.
    Short,
}

impl Timing {
    /// From one renewal to the next.
    pub(crate) const fn renew_interval(self) -> Duration {
        match self {
            Self::Default => Duration::from_secs(2),
            Self::Short => Duration::from_millis(500),
        }
    }
}

/// How the program beside the sidecar learns whether it leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Way {
    /// For people.
    pub(crate) name: &'static str,
    /// Name of the program's container: each way has its own program.
    pub(crate) container: &'static str,
    /// Further arguments of the probe.
    arguments: &'static [&'static str],
}

const CONCH_WAYS: &[Way] =
    &[Way { name: "Conch", container: CONTAINER, arguments: &["--path", "/v1/leader"] }];
const CLIENT_GO_WAYS: &[Way] = &[
    Way {
        name: "client-go, callbacks",
        container: CONTAINER,
        arguments: &["--status-alone", "--path", "/callbacks"],
    },
    Way {
        name: "client-go, IsLeader()",
        container: "program-is-leader",
        arguments: &["--status-alone", "--path", "/is-leader"],
    },
];
/// The policy of [`Timing::Short`].
const SHORT_POLICY: &str = "short";

impl Contender {
    /// For namespaces and file names.
    pub(crate) fn slug(self) -> &'static str {
        match self {
            Self::Conch => "conch",
            Self::ClientGo => "client-go",
        }
    }

    /// The ways in which its programs ask; all at once.
    pub(crate) fn ways(self) -> &'static [Way] {
        match self {
            Self::Conch => CONCH_WAYS,
            Self::ClientGo => CLIENT_GO_WAYS,
        }
    }

    /// Name of the sidecar's container.
    pub(crate) fn sidecar(self) -> &'static str {
        match self {
            Self::Conch => names::SIDECAR_CONTAINER,
            Self::ClientGo => "sidecar",
        }
    }

    /// What a namespace needs before the workloads come.
    pub(crate) fn prepare(self, namespace: &Namespace<'_>) -> Result<()> {
        match self {
            Self::Conch => namespace.apply(short_policy())?,
            Self::ClientGo => {
                let rights = ["get", "create", "update"];
                let rules =
                    json!([{"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": rights}]);
                let kind = |kind: &str| json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": kind, "metadata": {"name": "elector"}});
                let (mut role, mut binding) = (kind("Role"), kind("RoleBinding"));
                role["rules"] = rules;
                binding["roleRef"] =
                    json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "elector"});
                binding["subjects"] =
                    json!([{"kind": "ServiceAccount", "name": "default", "namespace": namespace.name}]);
                namespace.apply(role)?;
                namespace.apply(binding)?
            }
        };
        Ok(())
    }

    /// The Deployment of one election; `probes` are those of its ways.
    pub(crate) fn manifest(self, probes: &[Probes<'_>], timing: Timing, shape: Shape) -> Value {
        let Shape { replicas, interval_ms } = shape;
        let one = |probes: &Probes<'_>| Workload { interval_ms, ..probes.workload(replicas) }.manifest();
        let mut manifests = probes.iter().map(one);
        let mut manifest = manifests.next().unwrap_or_default();
        let pod = &mut manifest["spec"]["template"]["spec"];
        for (way, mut more) in self.ways()[1..].iter().zip(manifests) {
            add_program(pod, way, &mut more["spec"]["template"]["spec"]);
        }
        for (way, container) in self.ways().iter().zip(pod["containers"].as_array_mut().into_iter().flatten())
        {
            container["name"] = json!(way.container);
            push_all(&mut container["args"], way.arguments);
        }
        match (self, timing) {
            (Self::Conch, Timing::Default) => annotate(&mut manifest, names::DEFAULT_POLICY),
            (Self::Conch, Timing::Short) => annotate(&mut manifest, SHORT_POLICY),
            (Self::ClientGo, _) => {
                let lease = probes.first().map(Probes::lease).unwrap_or_default();
                pod["initContainers"] = json!([sidecar(&lease, timing)]);
            }
        }
        manifest
    }
}

/// Candidates of each election.
pub(crate) const REPLICAS: usize = 3;

/// How many candidates, and how often their programs ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shape {
    pub(crate) replicas: usize,
    pub(crate) interval_ms: u64,
}

/// Wherever time is measured.
pub(crate) const MEASURING: Shape = Shape { replicas: REPLICAS, interval_ms: 10 };

fn annotate(manifest: &mut Value, policy: &str) {
    manifest["metadata"]["annotations"] = json!({names::POLICY: policy});
}

fn push_all(list: &mut Value, words: &[&str]) {
    list.as_array_mut().into_iter().for_each(|list| list.extend(words.iter().map(|word| json!(word))));
}

/// Moves the one program of another pod into this one, with its volume.
fn add_program(pod: &mut Value, way: &Way, other: &mut Value) {
    let mut container = other["containers"][0].take();
    let mut volume = other["volumes"][0].take();
    volume["name"] = json!(way.container);
    container["volumeMounts"][0]["name"] = json!(way.container);
    for (list, item) in [("containers", container), ("volumes", volume)] {
        if let (Some(list), false) = (pod[list].as_array_mut(), item.is_null()) {
            list.push(item);
        }
    }
}

/// A native sidecar, in client-go's favour: one among the other containers would get its SIGTERM together with the program
/// and release the lease while the program still works.
fn sidecar(lease: &str, timing: Timing) -> Value {
    let mut container = json!({
        "name": Contender::ClientGo.sidecar(),
        "image": peer::IMAGE,
        "imagePullPolicy": "IfNotPresent",
        "restartPolicy": "Always",
        "args": [format!("--lease={lease}")],
        "env": [
            {"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
            {"name": "POD_NAMESPACE", "valueFrom": {"fieldRef": {"fieldPath": "metadata.namespace"}}},
        ],
        "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}},
    });
    if timing == Timing::Short {
        // As short as the lease allows in the proportions of the defaults.
        push_all(
            &mut container["args"],
            &["--lease-duration=3s", "--renew-deadline=2s", "--retry-period=500ms"],
        );
    }
    container
}

fn short_policy() -> Value {
    json!({
        "apiVersion": format!("{}/{}", names::GROUP, names::VERSION),
        "kind": "CoordinationPolicy",
        "metadata": {"name": SHORT_POLICY},
        "spec": {"timing": {"leaseDuration": "3s", "renewInterval": "500ms", "stopGrace": "500ms", "maxPromise": "1s"}},
    })
}
