//! From a request to its answer.

use super::{
    lookup::{LookupError, Policies},
    metrics::Outcome,
    review::{Answer, Request, ReviewError},
    serve::Webhook,
};
use crate::inject::{
    ChosenPolicy, Decision, Injection, MalformedPod, Stamp, Stamping, Workload, decide, inject, patch,
    stamp_workload,
};
use conch_crds::conditions::Reason;
use json_patch::Patch;
use serde_json::Value;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How long a pod waits until the Lease says how long its leases are.
const ANNOUNCEMENT_PATIENCE: Duration = Duration::from_secs(2);
/// How long the pod of a workload that nobody has heard of yet waits for the watch: pods come within milliseconds after it.
const WORKLOAD_PATIENCE: Duration = Duration::from_millis(500);
const POLL: Duration = Duration::from_millis(20);

/// Why no answer could be given.
#[derive(Debug, thiserror::Error)]
pub(super) enum HandleError {
    #[error("failed to read the request, or it is too large")]
    Body,
    #[error("failed to answer in time")]
    TimedOut,
    #[error(transparent)]
    Review(#[from] ReviewError),
    #[error(transparent)]
    Pod(#[from] MalformedPod),
    #[error(transparent)]
    Lookup(#[from] LookupError),
    #[error(
        "election \"{election}\" has pods that count with shorter leases, and its Lease does not say yet that leases of {} s \
         are used: the operator writes that as soon as it leads; try again",
        lease.as_secs_f64()
    )]
    NotAnnounced { election: String, lease: Duration },
    #[error("failed to write the patch as JSON")]
    Patch(#[from] serde_json::Error),
}

/// An answer, and what is counted.
pub(super) struct Handled {
    pub(super) answer: Answer,
    pub(super) outcome: Outcome,
    pub(super) reason: &'static str,
}

impl HandleError {
    /// Is the request at fault, so that it would fare no better another time?
    pub(super) fn is_permanent(&self) -> bool {
        match self {
            Self::Body | Self::Review(_) | Self::Pod(_) => true,
            Self::TimedOut | Self::Lookup(_) | Self::NotAnnounced { .. } | Self::Patch(_) => false,
        }
    }

    pub(super) fn reason(&self) -> &'static str {
        match self {
            Self::Body => "BodyUnreadable",
            Self::TimedOut => "TimedOut",
            Self::Review(_) => "NoAdmissionReview",
            Self::Pod(_) => "NoPod",
            Self::Lookup(_) => "PolicyUnreadable",
            Self::NotAnnounced { .. } => "LeaseNotAnnounced",
            Self::Patch(_) => "PatchUnwritable",
        }
    }
}

/// Answers a request about a Deployment, StatefulSet or DaemonSet.
pub(super) async fn stamp<P: Policies>(webhook: &Webhook<P>, body: &[u8]) -> Result<Handled, HandleError> {
    let request = Request::read(body)?;
    let old = Some(&request.old_object).filter(|old| !old.is_null());
    let workload = Workload { new: &request.object, old, namespace: &request.namespace };
    let policy = match workload.policy() {
        Some(name) => webhook.policies.policy(&request.namespace, name).await?,
        None => None,
    };
    let stamping = stamp_workload(workload, policy.as_ref().map(ChosenPolicy::from), &webhook.image);
    match stamping {
        Stamping::Refuse(sentence) => Ok(refused(request, sentence, "NameInvalid")),
        Stamping::Store { workload, warnings } => {
            let patch = patch::diff(&request.object, &workload);
            allowed(request, &patch, warnings)
        }
    }
}

/// Answers a request about a pod.
pub(super) async fn inject_pod<P: Policies>(
    webhook: &Webhook<P>,
    body: &[u8],
) -> Result<Handled, HandleError> {
    let request = Request::read(body)?;
    let (pod, namespace) = (&request.object, request.namespace.as_str());
    let stamp = Stamp::of(pod);
    let policy = match stamp {
        Some(stamp) => webhook.policies.policy(namespace, stamp.policy).await?,
        None => None,
    };
    match decide(pod, namespace, policy.as_ref().map(ChosenPolicy::from), &webhook.image) {
        Decision::Skip(_) => allowed(request, &Patch::default(), Vec::new()),
        Decision::Inject(injection) => {
            // One that stays unknown was stamped by hand; it is judged by what is known.
            comes_true(WORKLOAD_PATIENCE, || webhook.policies.knows_workload_of(namespace, pod)).await;
            if let Some(sentence) = webhook.policies.not_shared(namespace, injection.stamp.election, pod) {
                return without_sidecar(request, Reason::NotShared, sentence);
            }
            wait_for_announcement(webhook, namespace, &injection).await?;
            let longest_lease = webhook.policies.longest_lease(namespace, injection.stamp.election);
            let injected = inject(pod, &injection, &webhook.image, longest_lease)?;
            let patch = patch::diff(pod, &injected);
            allowed(request, &patch, Vec::new())
        }
        Decision::Refuse(refusal) => without_sidecar(request, refusal.reason.condition(), refusal.sentence),
    }
}

/// A longer lease is announced by the controller within milliseconds, unless no replica of the operator leads.
async fn wait_for_announcement<P: Policies>(
    webhook: &Webhook<P>,
    namespace: &str,
    injection: &Injection<'_>,
) -> Result<(), HandleError> {
    let (election, lease) = (injection.stamp.election, injection.timing.lease());
    let is_announced = || webhook.policies.is_announced(namespace, election, lease);
    if comes_true(ANNOUNCEMENT_PATIENCE, is_announced).await {
        return Ok(());
    }
    Err(HandleError::NotAnnounced { election: election.to_owned(), lease })
}

/// Does it come true in time?
async fn comes_true(patience: Duration, is_so: impl Fn() -> bool) -> bool {
    let deadline = Instant::now() + patience;
    while !is_so() {
        if Instant::now() >= deadline {
            return false;
        }
        sleep(POLL).await;
    }
    true
}

/// A pod that cannot have its sidecar is refused, or starts without it where its stamp says that it may.
fn without_sidecar(request: Request, reason: Reason, sentence: String) -> Result<Handled, HandleError> {
    let (pod, reason) = (&request.object, reason.as_str());
    tracing::info!(namespace = request.namespace, pod = pod_name(pod), reason, "cannot inject the sidecar");
    if Stamp::of(pod).is_none_or(|stamp| stamp.required) {
        return Ok(refused(request, sentence, reason));
    }
    let warnings = vec![format!("the pod starts without a sidecar: {sentence}")];
    let answer = request.allow(&Patch::default(), warnings)?;
    Ok(Handled { answer, outcome: Outcome::Plain, reason })
}

fn allowed(request: Request, patch: &Patch, warnings: Vec<String>) -> Result<Handled, HandleError> {
    let outcome = if patch.0.is_empty() { Outcome::Unchanged } else { Outcome::Changed };
    Ok(Handled { answer: request.allow(patch, warnings)?, outcome, reason: "" })
}

fn refused(request: Request, sentence: String, reason: &'static str) -> Handled {
    Handled { answer: request.deny(sentence), outcome: Outcome::Refused, reason }
}

/// The pods of a workload have no name yet.
fn pod_name(pod: &Value) -> &str {
    let field = |key: &str| pod.get("metadata")?.get(key)?.as_str();
    field("name").or_else(|| field("generateName")).unwrap_or_default()
}
