//! The pods and policies of this directory.

use conch_crds::CoordinationPolicy;
use conch_operator::inject::{ChosenPolicy, Decision, PullPolicy, SidecarImage, Stamp, decide, inject};
use serde_json::Value;
use std::{collections::BTreeMap, fs, path::PathBuf, time::Duration};

pub(crate) const NAMESPACE: &str = "shop";

/// What the operator knows of the election from its Lease.
pub(crate) const LONGEST_LEASE: Option<Duration> = Some(Duration::from_secs(10));

pub(crate) fn directory() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/inject")
}

pub(crate) fn image() -> SidecarImage {
    SidecarImage {
        reference: "registry.example/conch-sidecar:0.1.0".to_owned(),
        pull_policy: PullPolicy::IfNotPresent,
    }
}

/// The policies by name.
pub(crate) fn policies() -> BTreeMap<String, CoordinationPolicy> {
    let text = fs::read_to_string(directory().join("policies.yaml")).unwrap();
    let policies: Vec<CoordinationPolicy> = serde_saphyr::from_str(&text).unwrap();
    policies.into_iter().map(|policy| (policy.metadata.name.clone().unwrap(), policy)).collect()
}

/// The golden pods by file name, in alphabetical order.
pub(crate) fn pods() -> BTreeMap<String, Value> {
    let files = fs::read_dir(directory().join("pods")).unwrap().map(|file| file.unwrap().path());
    files
        .map(|path| {
            let pod = serde_saphyr::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
            (path.file_stem().unwrap().to_str().unwrap().to_owned(), pod)
        })
        .collect()
}

/// The policy that a pod's label names, if it exists.
pub(crate) fn policy_of<'a>(
    pod: &Value,
    policies: &'a BTreeMap<String, CoordinationPolicy>,
) -> Option<ChosenPolicy<'a>> {
    Stamp::of(pod).and_then(|stamp| policies.get(stamp.policy)).map(ChosenPolicy::from)
}

/// The pod with its sidecar, if it gets one.
pub(crate) fn injected(pod: &Value, policies: &BTreeMap<String, CoordinationPolicy>) -> Option<Value> {
    match decide(pod, NAMESPACE, policy_of(pod, policies), &image()) {
        Decision::Inject(injection) => Some(inject(pod, &injection, &image(), LONGEST_LEASE).unwrap()),
        Decision::Skip(_) | Decision::Refuse(_) => None,
    }
}
