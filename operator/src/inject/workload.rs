//! Workload → workload with the stamp on its pod template.

use super::{
    decide::{ChosenPolicy, Decision, RefusalReason, decide},
    json::{entry, list, object_in, text},
    sidecar::SidecarImage,
    stamp::{LABELS, OPTIONAL, REQUIRED, Stamp},
};
use conch_crds::{
    names,
    policy::{CoordinationPolicySpec, InjectionMode},
};
use serde_json::{Map, Value, json};

/// A write to a Deployment, StatefulSet or DaemonSet, before it is stored.
#[derive(Clone, Copy, Debug)]
pub struct Workload<'a> {
    /// What is to be stored.
    pub new: &'a Value,
    /// What is stored, unless it is being created.
    pub old: Option<&'a Value>,
    /// The namespace of both.
    pub namespace: &'a str,
}

/// What becomes of the write.
#[derive(Clone, Debug, PartialEq)]
pub enum Stamping {
    /// It is stored, as this document.
    Store {
        /// The workload, stamped or with its stamp removed.
        workload: Value,
        /// What its author should know.
        warnings: Vec<String>,
    },
    /// It is refused, for this reason: a name in its annotations, which this very write brought in, is none.
    Refuse(String),
}

impl<'a> Workload<'a> {
    /// The policy that the workload asks for. An empty annotation asks for none.
    pub fn policy(&self) -> Option<&'a str> {
        policy_of(self.new)
    }

    /// Do this write's annotations ask for the same as before?
    fn asks_the_same(&self) -> bool {
        let asked = |workload| {
            [names::POLICY, names::ELECTION].map(|key| entry(workload, "/metadata/annotations", key))
        };
        self.old.is_some_and(|old| asked(old) == asked(self.new))
    }
}

fn policy_of(workload: &Value) -> Option<&str> {
    entry(workload, "/metadata/annotations", names::POLICY).filter(|name| !name.is_empty())
}

/// Stamps the pod template of a workload whose annotations ask for it, and takes off the stamp of one whose annotations
/// do so no longer.
///
/// A write that changes neither annotations nor template never changes the stamp, whatever became of the policy
/// meanwhile: nobody expects pods to be replaced by it.
///
/// * `policy`: the one that the workload asks for, if that exists.
/// * `image`: what would be injected into its pods.
pub fn stamp_workload(
    workload: Workload<'_>,
    policy: Option<ChosenPolicy<'_>>,
    image: &SidecarImage,
) -> Stamping {
    let Some(policy_name) = workload.policy() else {
        let plain = without_stamp(workload);
        let warnings = misplaced(&plain);
        return store(plain, warnings);
    };
    let election = match names_of(workload.new, policy_name) {
        Ok(election) => election,
        Err(sentence) if workload.asks_the_same() => return store(workload.new.clone(), vec![sentence]),
        Err(sentence) => return Stamping::Refuse(sentence),
    };
    let required = stays(workload).unwrap_or_else(|| is_required(policy.map(|policy| policy.spec)));
    let stamp = Stamp { policy: policy_name, election: &election, required };
    let stamped = with_stamp(workload.new, &stamp);
    let warnings = warnings(&stamped, workload, policy, image);
    store(stamped, warnings)
}

fn store(workload: Value, warnings: Vec<String>) -> Stamping {
    Stamping::Store { workload, warnings }
}

/// The election that a workload with this policy joins, or why one of the two names is none.
fn names_of(workload: &Value, policy: &str) -> Result<String, String> {
    let annotation = |key: &str, error: names::InvalidElectionName| format!("annotation {key}: {error}");
    // A policy's name obeys the rules of an election's, as both become labels.
    names::election_name(Some(policy), "").map_err(|_| {
        format!(
            "annotation {}: \"{policy}\" names no policy: use at most {} lower-case letters, digits, '-' and '.'",
            names::POLICY,
            names::NAME_MAX
        )
    })?;
    let named = entry(workload, "/metadata/annotations", names::ELECTION);
    names::election_name(named, text(workload, "/metadata/name").unwrap_or_default())
        .map_err(|error| annotation(names::ELECTION, error))
}

/// A missing policy counts as one that requires the sidecar: its pods wait for it.
fn is_required(policy: Option<&CoordinationPolicySpec>) -> bool {
    policy.is_none_or(|spec| spec.injection == InjectionMode::Required)
}

/// The word of the stored stamp, if this write changes nothing that replaces pods.
fn stays(workload: Workload<'_>) -> Option<bool> {
    let old = workload.old.filter(|_| workload.asks_the_same())?;
    let template = |workload: &Value| {
        let mut template = workload.pointer("/spec/template").cloned().unwrap_or_default();
        remove_labels(&mut template, |_, _| true);
        template
    };
    let stamped = entry(old, "/spec/template/metadata/labels", names::POLICY);
    if template(old) != template(workload.new) || stamped != workload.policy() {
        return None;
    }
    match entry(old, "/spec/template/metadata/labels", names::INJECTION) {
        Some(REQUIRED) => Some(true),
        Some(OPTIONAL) => Some(false),
        _ => None,
    }
}

fn with_stamp(workload: &Value, stamp: &Stamp<'_>) -> Value {
    let mut stamped = workload.clone();
    if let Some(labels) = template_labels(&mut stamped) {
        for (key, value) in stamp.labels() {
            labels.insert(key.to_owned(), json!(value));
        }
    }
    stamped
}

/// The labels of the pod template, made if they are missing. `None` if the document is no workload: then the API server
/// refuses it by itself.
fn template_labels(workload: &mut Value) -> Option<&mut Map<String, Value>> {
    let template = workload.pointer_mut("/spec/template")?.as_object_mut()?;
    object_in(object_in(template, "metadata")?, "labels")
}

/// Takes off the stamp that we put: where the stored workload was annotated, or lost its annotation while the webhook was
/// away, the labels that are as they were stored. A label that the workload's selector asks for must stay.
fn without_stamp(workload: Workload<'_>) -> Value {
    let mut plain = workload.new.clone();
    let Some(old) = workload.old.filter(|old| policy_of(old).is_some() || is_left_over(old)) else {
        return plain;
    };
    let selected = |key: &str| entry(workload.new, "/spec/selector/matchLabels", key).is_some();
    let stored = |key: &str| old.pointer("/spec/template/metadata/labels").and_then(|labels| labels.get(key));
    if let Some(template) = plain.pointer_mut("/spec/template") {
        remove_labels(template, |key, value| !selected(key) && stored(key) == Some(value));
    }
    plain
}

/// Has it the stamp of admission, and no annotation any more?
fn is_left_over(workload: &Value) -> bool {
    let template = workload.pointer("/spec/template").unwrap_or(&Value::Null);
    let managers = list(workload, "/metadata/managedFields").iter().filter_map(|entry| entry.get("fieldsV1"));
    policy_of(workload).is_none() && Stamp::is_left_by_admission(template, managers)
}

fn remove_labels(template: &mut Value, ours: impl Fn(&str, &Value) -> bool) {
    if let Some(Value::Object(labels)) = template.pointer_mut("/metadata/labels") {
        labels.retain(|key, value| !(LABELS.contains(&key.as_str()) && ours(key, value)));
    }
}

/// Warnings are shown by kubectl as they are: one sentence each.
fn warnings(
    stamped: &Value,
    workload: Workload<'_>,
    policy: Option<ChosenPolicy<'_>>,
    image: &SidecarImage,
) -> Vec<String> {
    let mut warnings = selector_warning(workload.new);
    let template = stamped.pointer("/spec/template").unwrap_or(&Value::Null);
    if let Decision::Refuse(refusal) = decide(template, workload.namespace, policy, image) {
        let consequence = match (refusal.reason, Stamp::of(template)) {
            (RefusalReason::PolicyNotFound, _) => "pods wait",
            (_, Some(Stamp { required: false, .. })) => "pods start without a sidecar",
            _ => "pods are refused",
        };
        warnings.push(format!("{consequence}: {}", refusal.sentence));
    }
    warnings
}

fn selector_warning(workload: &Value) -> Vec<String> {
    let selects = |key: &str| {
        let expressions = list(workload, "/spec/selector/matchExpressions");
        entry(workload, "/spec/selector/matchLabels", key).is_some()
            || expressions.iter().any(|expression| text(expression, "/key") == Some(key))
    };
    let Some(key) = LABELS.iter().find(|key| selects(key)) else {
        return Vec::new();
    };
    vec![format!(
        "spec.selector uses the label {key}, which the annotation {} of the workload sets: the annotation can then not be \
         changed without a new workload; select by other labels",
        names::POLICY
    )]
}

/// Of a workload that is not annotated: what on its pod template looks as if it were.
fn misplaced(workload: &Value) -> Vec<String> {
    let template = workload.pointer("/spec/template").unwrap_or(&Value::Null);
    let mut warnings = Vec::new();
    if let Some(policy) = entry(template, "/metadata/annotations", names::POLICY) {
        let kind = text(workload, "/kind").unwrap_or("workload").to_lowercase();
        let name = text(workload, "/metadata/name").unwrap_or("NAME");
        warnings.push(format!(
            "annotation {0} on the pod template does nothing: kubectl annotate {kind} {name} {0}={policy}",
            names::POLICY
        ));
    }
    // Somebody copied the labels, or wrote them by hand.
    if let Some(stamp) = Stamp::of(template) {
        warnings.push(format!(
            "the pod template has the labels of CoordinationPolicy \"{}\", but the workload has no annotation {}: annotate it, \
             or take the labels off",
            stamp.policy,
            names::POLICY
        ));
    }
    warnings
}
