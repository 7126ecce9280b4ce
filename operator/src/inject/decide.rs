//! Whether a pod gets a sidecar, and if not, why.

use super::{
    json::{list, name, text},
    sidecar::{Injected, SidecarImage, is_in_place},
    stamp::{REQUIRED, Stamp},
};
use conch_crds::{CoordinationPolicy, CoordinationPolicySpec, conditions::Reason, names};
use conch_election::{Timing, UnsafeTiming};
use serde_json::Value;
use std::{fmt, time::Duration};

/// What injection needs of a policy.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ChosenPolicy<'a> {
    /// `metadata.generation`.
    pub generation: i64,
    /// What it asks for.
    pub spec: &'a CoordinationPolicySpec,
}

/// What is to be done with a pod.
#[derive(Clone, Debug, PartialEq)]
pub enum Decision<'a> {
    /// It gets a sidecar.
    Inject(Injection<'a>),
    /// There is nothing to do.
    Skip(SkipReason),
    /// It asks for a sidecar that it cannot have.
    Refuse(Refusal),
}

/// All that a sidecar is built from, besides its image.
#[derive(Clone, Debug, PartialEq)]
pub struct Injection<'a> {
    /// What the pod's labels say.
    pub stamp: Stamp<'a>,
    /// The policy that they name.
    pub policy: ChosenPolicy<'a>,
    /// The policy's timing.
    pub timing: Timing,
}

/// Why there is nothing to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SkipReason {
    /// The labels name no policy and election.
    NotStamped,
    /// The sidecar is there, last among the init containers, as this policy and image ask for.
    AlreadyInjected,
}

/// Why a pod cannot have the sidecar that it asks for, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The reason, for machines.
    pub reason: RefusalReason,
    /// One sentence for people, with what to do.
    pub sentence: String,
}

/// Why a pod cannot have the sidecar that it asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RefusalReason {
    /// It is labelled as one that needs a sidecar, with no policy or election.
    NotStamped,
    /// The label that names its election is no election's name.
    ElectionNameInvalid,
    /// There is no such policy in its namespace.
    PolicyNotFound,
    /// The policy cannot be used.
    PolicyInvalid,
    /// It asks for another operating system than Linux.
    NotLinux,
    /// It is on the node's network.
    HostNetwork,
    /// One of its containers declares a port of the sidecar.
    PortTaken,
    /// It has a container of the sidecar's name that is not ours.
    ContainerNameTaken,
    /// It has a volume of the name of the sidecar's volume that is not ours.
    VolumeNameTaken,
}

/// Why a policy cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PolicyUnusable {
    /// Its timing is unsafe.
    Timing(UnsafeTiming),
    /// `stopGrace` is no longer than this although two leaders at once would damage data.
    StopGraceNeeded(Duration),
}

/// Decides on a pod or pod template (anything with `metadata` and `spec` of a pod).
///
/// * `namespace`: where it is, or will be.
/// * `policy`: the one that its stamp names, if that exists.
/// * `image`: what would be injected.
pub fn decide<'a>(
    pod: &'a Value,
    namespace: &str,
    policy: Option<ChosenPolicy<'a>>,
    image: &SidecarImage,
) -> Decision<'a> {
    let Some(stamp) = Stamp::of(pod) else {
        let needed = super::json::entry(pod, "/metadata/labels", names::INJECTION) == Some(REQUIRED);
        return if needed {
            Decision::Refuse(refuse(RefusalReason::NotStamped, not_stamped()))
        } else {
            Decision::Skip(SkipReason::NotStamped)
        };
    };
    let injection = match injection(stamp, namespace, policy) {
        Ok(injection) => injection,
        Err(refusal) => return Decision::Refuse(refusal),
    };
    if let Err(refusal) = check_pod(pod, &injection) {
        return Decision::Refuse(refusal);
    }
    if is_in_place(pod, &Injected::new(&injection, image), injection.policy.spec) {
        return Decision::Skip(SkipReason::AlreadyInjected);
    }
    Decision::Inject(injection)
}

/// The timing of a policy. The CRD's own rules say the same, but a policy may be older than they are.
pub fn timing(spec: &CoordinationPolicySpec) -> Result<Timing, PolicyUnusable> {
    if let Some(needed) = spec.lacks_stop_grace() {
        return Err(PolicyUnusable::StopGraceNeeded(needed));
    }
    let timing = &spec.timing;
    Timing::new(
        timing.lease_duration.get(),
        timing.renew_interval.get(),
        timing.stop_grace.get(),
        timing.max_promise.get(),
    )
    .map_err(PolicyUnusable::Timing)
}

fn injection<'a>(
    stamp: Stamp<'a>,
    namespace: &str,
    policy: Option<ChosenPolicy<'a>>,
) -> Result<Injection<'a>, Refusal> {
    if let Err(error) = names::election_name(Some(stamp.election), "") {
        let sentence = format!("label {}: {error}", names::ELECTION_LABEL);
        return Err(refuse(RefusalReason::ElectionNameInvalid, sentence));
    }
    let Some(policy) = policy else {
        return Err(refuse(RefusalReason::PolicyNotFound, policy_not_found(stamp.policy, namespace)));
    };
    let timing = timing(policy.spec).map_err(|error| {
        let sentence = format!("CoordinationPolicy \"{}\" cannot be used: {error}", stamp.policy);
        refuse(RefusalReason::PolicyInvalid, sentence)
    })?;
    Ok(Injection { stamp, policy, timing })
}

fn check_pod(pod: &Value, injection: &Injection<'_>) -> Result<(), Refusal> {
    if let Some(system) = other_system(pod) {
        return Err(refuse(RefusalReason::NotLinux, not_linux(system)));
    }
    if pod.pointer("/spec/hostNetwork").and_then(Value::as_bool) == Some(true) {
        return Err(refuse(RefusalReason::HostNetwork, host_network(injection)));
    }
    if let Some((container, port)) = port_taken(pod, injection) {
        return Err(refuse(RefusalReason::PortTaken, port_is_taken(container, port, injection)));
    }
    let ours = Injected::of(pod).is_some();
    let own_init = list(pod, "/spec/initContainers").iter().filter(|container| is_sidecar(container)).count();
    let others = ["/spec/containers", "/spec/ephemeralContainers"];
    if (own_init > 0 && !ours) || others.iter().any(|path| list(pod, path).iter().any(is_sidecar)) {
        return Err(refuse(RefusalReason::ContainerNameTaken, container_name_taken()));
    }
    // The volume is ours only together with the container: an annotation alone may have been copied by hand.
    let volume_taken =
        list(pod, "/spec/volumes").iter().any(|volume| name(volume) == Some(names::TOKEN_VOLUME));
    if volume_taken && !(ours && own_init > 0) {
        return Err(refuse(RefusalReason::VolumeNameTaken, volume_name_taken()));
    }
    Ok(())
}

fn is_sidecar(container: &Value) -> bool {
    name(container) == Some(names::SIDECAR_CONTAINER)
}

/// The operating system that the pod asks for, unless that is Linux or unsaid.
fn other_system(pod: &Value) -> Option<&str> {
    text(pod, "/spec/os/name")
        .or_else(|| text(pod, "/spec/nodeSelector/kubernetes.io~1os"))
        .filter(|system| !system.eq_ignore_ascii_case("linux"))
}

/// A container that runs beside the sidecar and declares a TCP port that the sidecar needs.
fn port_taken<'a>(pod: &'a Value, injection: &Injection<'_>) -> Option<(&'a str, u64)> {
    let api = u64::from(injection.policy.spec.sidecar.port);
    let needed = [api, api + u64::from(names::METRICS_PORT_OFFSET)];
    // An init container that is no sidecar has ended before ours starts.
    let beside = list(pod, "/spec/initContainers")
        .iter()
        .filter(|container| text(container, "/restartPolicy") == Some("Always") && !is_sidecar(container));
    list(pod, "/spec/containers").iter().chain(beside).find_map(|container| {
        let taken = list(container, "/ports").iter().find_map(|port| {
            let number = port.get("containerPort").and_then(Value::as_u64)?;
            let tcp = text(port, "/protocol").is_none_or(|protocol| protocol == "TCP");
            (tcp && needed.contains(&number)).then_some(number)
        })?;
        Some((name(container).unwrap_or_default(), taken))
    })
}

fn refuse(reason: RefusalReason, sentence: String) -> Refusal {
    Refusal { reason, sentence }
}

fn not_stamped() -> String {
    format!(
        "the pod is labelled {}={REQUIRED}, but its labels {} and {} name no policy and election: annotate its workload with \
         {}: NAME, which sets all three",
        names::INJECTION,
        names::POLICY,
        names::ELECTION_LABEL,
        names::POLICY,
    )
}

fn policy_not_found(policy: &str, namespace: &str) -> String {
    format!(
        "CoordinationPolicy \"{policy}\" does not exist in namespace \"{namespace}\": create it, or correct \
         the workload's annotation {}",
        names::POLICY
    )
}

fn not_linux(system: &str) -> String {
    format!(
        "the pod asks for operating system \"{system}\", and the sidecar runs on Linux only: {}",
        opt_out()
    )
}

fn host_network(injection: &Injection<'_>) -> String {
    format!(
        "the pod uses hostNetwork, where port {} would answer every program of the node: set hostNetwork to false, or {}",
        injection.policy.spec.sidecar.port,
        opt_out()
    )
}

fn port_is_taken(container: &str, port: u64, injection: &Injection<'_>) -> String {
    let api = injection.policy.spec.sidecar.port;
    format!(
        "container \"{container}\" has port {port}; the sidecar needs {api} and {}: change sidecar.port of policy \"{}\", or \
         that port",
        u32::from(api) + u32::from(names::METRICS_PORT_OFFSET),
        injection.stamp.policy
    )
}

fn container_name_taken() -> String {
    format!("the pod has a container \"{}\" that is not the sidecar: rename it", names::SIDECAR_CONTAINER)
}

fn volume_name_taken() -> String {
    format!("the pod has a volume \"{}\" that is not the sidecar's: rename it", names::TOKEN_VOLUME)
}

fn opt_out() -> String {
    format!("take the annotation {} off the workload", names::POLICY)
}

impl<'a> From<&'a CoordinationPolicy> for ChosenPolicy<'a> {
    fn from(policy: &'a CoordinationPolicy) -> Self {
        Self { generation: policy.metadata.generation.unwrap_or_default(), spec: &policy.spec }
    }
}

impl RefusalReason {
    /// Every reason, in the order of their definition.
    pub const ALL: [Self; 9] = [
        Self::NotStamped,
        Self::ElectionNameInvalid,
        Self::PolicyNotFound,
        Self::PolicyInvalid,
        Self::NotLinux,
        Self::HostNetwork,
        Self::PortTaken,
        Self::ContainerNameTaken,
        Self::VolumeNameTaken,
    ];

    /// The same as the reason of a condition.
    pub const fn condition(self) -> Reason {
        match self {
            Self::NotStamped => Reason::NotStamped,
            Self::ElectionNameInvalid => Reason::ElectionNameInvalid,
            Self::PolicyNotFound => Reason::PolicyNotFound,
            Self::PolicyInvalid => Reason::PolicyInvalid,
            Self::NotLinux => Reason::NotLinux,
            Self::HostNetwork => Reason::HostNetwork,
            Self::PortTaken => Reason::PortTaken,
            Self::ContainerNameTaken => Reason::ContainerNameTaken,
            Self::VolumeNameTaken => Reason::VolumeNameTaken,
        }
    }
}

impl fmt::Display for PolicyUnusable {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Timing(unsafe_timing) => unsafe_timing.fmt(formatter),
            Self::StopGraceNeeded(needed) => {
                let client = if needed.is_zero() { "" } else { " with LeaderElector" };
                write!(
                    formatter,
                    "stopGrace must be longer than {}s{client} where two leaders mean Corruption; say consequence: DuplicateWork \
                     if it does not matter",
                    needed.as_secs()
                )
            }
        }
    }
}

impl std::error::Error for PolicyUnusable {}
