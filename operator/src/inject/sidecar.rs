//! The injected container, and how it is recognised.

use super::{
    decide::Injection,
    json::{entry, list, name, text},
};
use conch_crds::{
    CoordinationPolicySpec,
    duration::DurationText,
    names::{self, sidecar_env},
    program::{Compatibility, ProgramSpec},
};
use k8s_openapi::api::core::v1::{
    Capabilities, ConfigMapProjection, Container, ContainerPort, DownwardAPIProjection,
    DownwardAPIVolumeFile, EnvVar, EnvVarSource, ExecAction, KeyToPath, Lifecycle, LifecycleHandler,
    ObjectFieldSelector, Probe, ProjectedVolumeSource, ResourceRequirements, SeccompProfile, SecurityContext,
    ServiceAccountTokenProjection, Volume, VolumeMount, VolumeProjection,
};
use serde::Serialize;
use serde_json::Value;
use std::{fmt, str::FromStr, time::Duration};

/// User and group of the sidecar's process; the token is readable for everyone in the one container that mounts it.
const NOBODY: i64 = 65532;
const TOKEN_SECONDS: i64 = 3_600;
const READABLE: i32 = 0o444;

/// How often and how long the kubelet asks whether the sidecar listens before it restarts it.
const STARTUP_PERIOD_SECONDS: i32 = 1;
const STARTUP_TIMEOUT_SECONDS: i32 = 5;
const STARTUP_ATTEMPTS: i32 = 120;

/// The image that the operator injects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SidecarImage {
    /// Its reference, e.g. `registry.example/conch-sidecar@sha256:…`.
    pub reference: String,
    /// When the kubelet fetches it.
    pub pull_policy: PullPolicy,
}

/// When the kubelet fetches an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PullPolicy {
    /// For each container.
    Always,
    /// Where the node does not have it.
    IfNotPresent,
    /// Never: the node has it.
    Never,
}

/// Not the name of a pull policy.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the pull policy must be Always, IfNotPresent or Never")]
pub struct UnknownPullPolicy;

/// What was injected into a pod: its annotation [`names::INJECTED`], `<policy>@<generation>/<image>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Injected {
    /// Name of the policy.
    pub policy: String,
    /// `metadata.generation` of the policy at that time.
    pub generation: i64,
    /// The sidecar's image.
    pub image: String,
}

impl Injected {
    /// What this injection would be remembered as.
    pub fn new(injection: &Injection<'_>, image: &SidecarImage) -> Self {
        Self {
            policy: injection.stamp.policy.to_owned(),
            generation: injection.policy.generation,
            image: image.reference.clone(),
        }
    }

    /// What the annotation of a pod says; `None` if it has none that can be read.
    pub fn of(pod: &Value) -> Option<Self> {
        entry(pod, "/metadata/annotations", names::INJECTED)?.parse().ok()
    }
}

impl fmt::Display for Injected {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}@{}/{}", self.policy, self.generation, self.image)
    }
}

impl FromStr for Injected {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (policy, rest) = text.split_once('@').ok_or(())?;
        let (generation, image) = rest.split_once('/').ok_or(())?;
        let generation = generation.parse().map_err(|_| ())?;
        Ok(Self { policy: policy.to_owned(), generation, image: image.to_owned() })
    }
}

/// Whether the pod has the sidecar, as remembered in `injected`, in its place: the last init container, restartable, with
/// its volume, and every container of the program has its variables. What others changed in it, e.g. the image's
/// registry or a limit, is left alone.
pub(super) fn is_in_place(pod: &Value, injected: &Injected, spec: &CoordinationPolicySpec) -> bool {
    let is_last = list(pod, "/spec/initContainers").last().is_some_and(|last| {
        name(last) == Some(names::SIDECAR_CONTAINER) && text(last, "/restartPolicy") == Some("Always")
    });
    is_last
        && Injected::of(pod).as_ref() == Some(injected)
        && has(pod, "/spec/volumes", names::TOKEN_VOLUME)
        && list(pod, "/spec/containers").iter().all(|container| {
            program_variables(spec).iter().all(|(variable, _)| has(container, "/env", variable))
        })
}

fn has(value: &Value, pointer: &str, wanted: &str) -> bool {
    list(value, pointer).iter().any(|element| name(element) == Some(wanted))
}

/// The sidecar's container. `longest_lease` is the longest lease duration that any living pod of the election is known to
/// use; `completes`: the pod is one that ends with its program.
pub(super) fn container(
    injection: &Injection<'_>,
    image: &SidecarImage,
    longest_lease: Option<Duration>,
    completes: bool,
) -> Container {
    let exec =
        |word: &str| ExecAction { command: Some(vec![names::SIDECAR_BINARY.to_owned(), word.to_owned()]) };
    let resources = &injection.policy.spec.sidecar.resources;
    Container {
        name: names::SIDECAR_CONTAINER.to_owned(),
        image: Some(image.reference.clone()),
        image_pull_policy: Some(image.pull_policy.as_str().to_owned()),
        restart_policy: Some("Always".to_owned()),
        env: Some(environment(injection, image, longest_lease, completes)),
        ports: Some(vec![ContainerPort {
            name: Some(names::METRICS_PORT_NAME.to_owned()),
            container_port: i32::from(injection.policy.spec.sidecar.port)
                + i32::from(names::METRICS_PORT_OFFSET),
            protocol: Some("TCP".to_owned()),
            ..ContainerPort::default()
        }]),
        // exec, because the kubelet's httpGet dials the pod's address, which the API does not listen on.
        startup_probe: Some(Probe {
            exec: Some(exec("ready")),
            period_seconds: Some(STARTUP_PERIOD_SECONDS),
            timeout_seconds: Some(STARTUP_TIMEOUT_SECONDS),
            failure_threshold: Some(STARTUP_ATTEMPTS),
            ..Probe::default()
        }),
        lifecycle: Some(Lifecycle {
            pre_stop: Some(LifecycleHandler { exec: Some(exec("prestop")), ..LifecycleHandler::default() }),
            ..Lifecycle::default()
        }),
        resources: Some(ResourceRequirements {
            requests: Some(resources.requests.clone()),
            limits: Some(resources.limits.clone()),
            ..ResourceRequirements::default()
        }),
        security_context: Some(security_context()),
        termination_message_policy: Some("FallbackToLogsOnError".to_owned()),
        volume_mounts: Some(vec![VolumeMount {
            name: names::TOKEN_VOLUME.to_owned(),
            mount_path: names::TOKEN_DIRECTORY.to_owned(),
            read_only: Some(true),
            ..VolumeMount::default()
        }]),
        ..Container::default()
    }
}

fn environment(
    injection: &Injection<'_>,
    image: &SidecarImage,
    longest_lease: Option<Duration>,
    completes: bool,
) -> Vec<EnvVar> {
    let timing = &injection.timing;
    let longest = longest_lease.map_or(timing.lease(), |longest| longest.max(timing.lease()));
    let milliseconds = |duration: Duration| duration.as_millis().to_string();
    let election = injection.stamp.election;
    let spec = injection.policy.spec;
    let program = &spec.program;
    let compatibility = (program.compatibility != Compatibility::default())
        .then(|| (sidecar_env::COMPATIBILITY, word(program.compatibility)));
    let values = [
        (sidecar_env::ELECTION, election.to_owned()),
        (sidecar_env::LEASE, names::object_name(election)),
        (sidecar_env::LEASE_DURATION, milliseconds(timing.lease())),
        (sidecar_env::RENEW_INTERVAL, milliseconds(timing.renew_interval())),
        (sidecar_env::STOP_GRACE, milliseconds(timing.stop_grace())),
        (sidecar_env::MAX_PROMISE, milliseconds(timing.max_promise())),
        (sidecar_env::LONGEST_LEASE, milliseconds(longest)),
        (sidecar_env::FENCING_OFFSET, spec.fencing_offset.to_string()),
        (sidecar_env::PRESENCE, word(program.presence)),
        (sidecar_env::HEARTBEAT_TIMEOUT, milliseconds(program.heartbeat_timeout.get())),
        (sidecar_env::COOL_DOWN, milliseconds(program.cool_down.get())),
        (sidecar_env::WHEN_ALL_UNHEALTHY, word(program.when_all_unhealthy)),
        (sidecar_env::PORT, spec.sidecar.port.to_string()),
        (sidecar_env::IMAGE, image.reference.clone()),
        (sidecar_env::LOG_FORMAT, word(spec.sidecar.log_format)),
        (sidecar_env::LOG, spec.sidecar.log.clone()),
    ];
    let fields = [
        (sidecar_env::POD_NAME, "metadata.name"),
        (sidecar_env::POD_UID, "metadata.uid"),
        (sidecar_env::NAMESPACE, "metadata.namespace"),
    ];
    let downward = fields.map(|(name, path)| EnvVar {
        name: name.to_owned(),
        value_from: Some(EnvVarSource { field_ref: Some(field(path)), ..EnvVarSource::default() }),
        ..EnvVar::default()
    });
    let completes = completes.then(|| (sidecar_env::POD_COMPLETES, true.to_string()));
    let values = values.into_iter().chain(compatibility).chain(completes).map(plain);
    downward.into_iter().chain(values).chain(health_check(program)).collect()
}

/// What the program's containers are told.
pub(super) fn program_variables(spec: &CoordinationPolicySpec) -> Vec<(&'static str, String)> {
    let port = spec.sidecar.port;
    let mut variables = vec![(names::ENV_URL, format!("http://127.0.0.1:{port}"))];
    if spec.program.compatibility == Compatibility::LeaderElector {
        // As nais/elector gives them.
        variables.extend([
            (names::ENV_ELECTOR_PATH, format!("localhost:{port}")),
            (names::ENV_ELECTOR_GET_URL, format!("http://localhost:{port}/")),
            (names::ENV_ELECTOR_SSE_URL, format!("http://localhost:{port}/sse")),
        ]);
    }
    variables
}

/// What is checked, and how; nothing where nothing is.
fn health_check(program: &ProgramSpec) -> Vec<EnvVar> {
    let Some((check, url)) = program.health_check.as_ref().and_then(|check| Some((check, check.url()?)))
    else {
        return Vec::new();
    };
    let milliseconds = |duration: DurationText| duration.get().as_millis().to_string();
    [
        (sidecar_env::CHECK, url),
        (sidecar_env::CHECK_PERIOD, milliseconds(check.period)),
        (sidecar_env::CHECK_TIMEOUT, milliseconds(check.timeout)),
        (sidecar_env::CHECK_FAILURES, check.failure_threshold.to_string()),
        (sidecar_env::CHECK_SUCCESSES, check.success_threshold.to_string()),
    ]
    .map(plain)
    .into()
}

fn plain((name, value): (&str, String)) -> EnvVar {
    EnvVar { name: name.to_owned(), value: Some(value), ..EnvVar::default() }
}

/// A word of the API as it is written in a policy.
fn word(word: impl Serialize) -> String {
    match serde_json::to_value(word) {
        Ok(Value::String(text)) => text,
        _ => String::new(), // no enum of words is written as anything else
    }
}

fn field(path: &str) -> ObjectFieldSelector {
    ObjectFieldSelector { api_version: Some("v1".to_owned()), field_path: path.to_owned() }
}

fn security_context() -> SecurityContext {
    SecurityContext {
        run_as_non_root: Some(true),
        run_as_user: Some(NOBODY),
        run_as_group: Some(NOBODY),
        allow_privilege_escalation: Some(false),
        read_only_root_filesystem: Some(true),
        capabilities: Some(Capabilities { drop: Some(vec!["ALL".to_owned()]), ..Capabilities::default() }),
        seccomp_profile: Some(SeccompProfile {
            type_: "RuntimeDefault".to_owned(),
            ..SeccompProfile::default()
        }),
        ..SecurityContext::default()
    }
}

/// The volume with the sidecar's own token, so that it needs no automounted one and the program gets none by it.
pub(super) fn token_volume() -> Volume {
    let token = VolumeProjection {
        service_account_token: Some(ServiceAccountTokenProjection {
            path: "token".to_owned(),
            expiration_seconds: Some(TOKEN_SECONDS),
            ..ServiceAccountTokenProjection::default()
        }),
        ..VolumeProjection::default()
    };
    let certificate = VolumeProjection {
        config_map: Some(ConfigMapProjection {
            name: "kube-root-ca.crt".to_owned(),
            items: Some(vec![KeyToPath { key: "ca.crt".to_owned(), path: "ca.crt".to_owned(), mode: None }]),
            ..ConfigMapProjection::default()
        }),
        ..VolumeProjection::default()
    };
    let namespace = VolumeProjection {
        downward_api: Some(DownwardAPIProjection {
            items: Some(vec![DownwardAPIVolumeFile {
                path: "namespace".to_owned(),
                field_ref: Some(field("metadata.namespace")),
                ..DownwardAPIVolumeFile::default()
            }]),
        }),
        ..VolumeProjection::default()
    };
    Volume {
        name: names::TOKEN_VOLUME.to_owned(),
        projected: Some(ProjectedVolumeSource {
            default_mode: Some(READABLE),
            sources: Some(vec![token, certificate, namespace]),
        }),
        ..Volume::default()
    }
}

impl PullPolicy {
    /// As it is written in a container.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Always => "Always",
            Self::IfNotPresent => "IfNotPresent",
            Self::Never => "Never",
        }
    }
}

impl FromStr for PullPolicy {
    type Err = UnknownPullPolicy;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        [Self::Always, Self::IfNotPresent, Self::Never]
            .into_iter()
            .find(|policy| policy.as_str() == text)
            .ok_or(UnknownPullPolicy)
    }
}
