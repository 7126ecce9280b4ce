//! The stamp: three labels on a pod template, and so on its pods.

use super::json::entry;
use conch_crds::names;
use serde_json::Value;

/// What the labels of a pod or pod template say. Admission of pods goes by them alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp<'a> {
    /// Name of the policy, in the pod's namespace.
    pub policy: &'a str,
    /// Name of the election.
    pub election: &'a str,
    /// May a pod not start without its sidecar? Anything but the word for "no" means yes.
    pub required: bool,
}

/// The labels of a stamp.
pub(super) const LABELS: [&str; 3] = [names::POLICY, names::ELECTION_LABEL, names::INJECTION];

/// Label values of [`names::INJECTION`] on a pod template.
pub(super) const REQUIRED: &str = "Required";
pub(super) const OPTIONAL: &str = "Optional";

impl<'a> Stamp<'a> {
    /// The stamp of a pod or pod template; `None` unless both policy and election are named.
    pub fn of(pod: &'a Value) -> Option<Self> {
        let label = |key| entry(pod, "/metadata/labels", key).filter(|value| !value.is_empty());
        Some(Self {
            policy: label(names::POLICY)?,
            election: label(names::ELECTION_LABEL)?,
            required: label(names::INJECTION) != Some(OPTIONAL),
        })
    }

    /// Is this stamp one that admission put, and nobody else? What admission adds to a write belongs to nobody in the
    /// object's `managedFields`; what a person writes belongs to that person.
    ///
    /// * `template`: a pod template with the labels.
    /// * `managers`: the `fieldsV1` of every entry of the workload's `managedFields`.
    pub fn is_left_by_admission<'v>(template: &Value, managers: impl IntoIterator<Item = &'v Value>) -> bool {
        const PATH: &str = "/f:spec/f:template/f:metadata/f:labels";
        let whole = LABELS.iter().all(|key| entry(template, "/metadata/labels", key).is_some());
        let owns = |fields: &Value| {
            let labels = fields.pointer(PATH).and_then(Value::as_object);
            labels.is_some_and(|labels| LABELS.iter().any(|key| labels.contains_key(&format!("f:{key}"))))
        };
        // Without any entry nothing is known of who wrote what.
        let mut managers = managers.into_iter().peekable();
        whole && managers.peek().is_some() && !managers.any(owns)
    }

    /// The labels, in the order in which they are written.
    pub(super) fn labels(&self) -> [(&'static str, &str); 3] {
        let injection = if self.required { REQUIRED } else { OPTIONAL };
        [(names::POLICY, self.policy), (names::ELECTION_LABEL, self.election), (names::INJECTION, injection)]
    }
}
