//! Events on workloads, few enough not to drown others.

use super::{
    observe::{view::Identity, workload::WorkloadKind},
    plan::Notice,
};
use conch_crds::{events::EventType, names};
use k8s_openapi::api::core::v1::ObjectReference;
use kube::{
    Client,
    runtime::events::{Event, EventType as KubeEventType, Recorder, Reporter},
};
use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};
use tokio::time::timeout;

/// So many Events of one workload may come in a burst,
const BURST: u32 = 20;
/// and one more after each of these.
const REFILL: Duration = Duration::from_secs(30);
/// Longest note that the API server takes.
const NOTE_BYTES_MAX: usize = 1024;
/// An Event is worth no longer wait.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Publishes Events. The same one again within some minutes only counts the first one up.
pub struct Publisher {
    recorder: Recorder,
    budgets: Mutex<HashMap<Identity, Budget>>,
}

#[derive(Clone, Copy, Debug)]
struct Budget {
    left: u32,
    at: Instant,
}

impl Publisher {
    /// `instance`: the name of this pod.
    pub fn new(client: Client, instance: Option<String>) -> Self {
        let reporter = Reporter { controller: names::OPERATOR.to_owned(), instance };
        Self { recorder: Recorder::new(client, reporter), budgets: Mutex::default() }
    }

    /// Publishes if there were not too many. A failure is logged: an Event is no state.
    pub async fn publish(&self, notice: &Notice) {
        if !self.take(&notice.workload, Instant::now()) {
            tracing::debug!(workload = %notice.workload.name, reason = %notice.reason, "publishes no more events for now");
            return;
        }
        let event = Event {
            type_: match notice.reason.event_type() {
                EventType::Normal => KubeEventType::Normal,
                EventType::Warning => KubeEventType::Warning,
            },
            reason: notice.reason.to_string(),
            note: Some(fit(&notice.note).to_owned()),
            action: notice.reason.action().to_owned(),
            // Part of what makes two Events the same one: a second leader is not the first one again.
            secondary: notice.pod.as_ref().map(|pod| reference("v1", "Pod", pod)),
        };
        let regarding = workload_reference(notice.kind, &notice.workload);
        match timeout(TIMEOUT, self.recorder.publish(&event, &regarding)).await {
            Ok(Ok(())) => {}
            // Everything in the namespace is being deleted.
            Ok(Err(kube::Error::Api(status)))
                if status.code == 403 && status.message.contains("being terminated") => {}
            Ok(Err(error)) => tracing::warn!(%error, reason = %notice.reason, "failed to publish an event"),
            Err(_) => tracing::warn!(reason = %notice.reason, "failed to publish an event in time"),
        }
    }

    fn take(&self, workload: &Identity, now: Instant) -> bool {
        let mut budgets = self.budgets.lock().unwrap_or_else(PoisonError::into_inner);
        // Whoever has a full budget need not be remembered.
        budgets.retain(|_, budget| budget.refilled(now).left < BURST);
        let budget = budgets.entry(workload.clone()).or_insert(Budget { left: BURST, at: now });
        *budget = budget.refilled(now);
        let may = budget.left > 0;
        budget.left = budget.left.saturating_sub(1);
        may
    }
}

impl Budget {
    fn refilled(self, now: Instant) -> Self {
        let periods = now.saturating_duration_since(self.at).as_secs() / REFILL.as_secs();
        let periods = u32::try_from(periods).unwrap_or(u32::MAX);
        let left = self.left.saturating_add(periods).min(BURST);
        Self { left, at: self.at + REFILL * periods.min(BURST) }
    }
}

fn workload_reference(kind: WorkloadKind, workload: &Identity) -> ObjectReference {
    reference("apps/v1", kind.as_str(), workload)
}

fn reference(api_version: &str, kind: &str, object: &Identity) -> ObjectReference {
    ObjectReference {
        api_version: Some(api_version.to_owned()),
        kind: Some(kind.to_owned()),
        name: Some(object.name.clone()),
        namespace: Some(object.namespace.clone()),
        uid: Some(object.uid.clone()),
        ..ObjectReference::default()
    }
}

fn fit(note: &str) -> &str {
    &note[..note.floor_char_boundary(NOTE_BYTES_MAX)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_workload_has_a_burst_and_then_one_event_for_each_period() {
        let start = Instant::now();
        let mut budget = Budget { left: 0, at: start };
        assert_eq!(budget.refilled(start + REFILL / 2).left, 0);
        budget = budget.refilled(start + REFILL * 2);
        assert_eq!(budget.left, 2);
        assert_eq!(budget.refilled(start + REFILL * 2).left, 2);
        assert_eq!(budget.refilled(start + REFILL * 100).left, BURST);
    }

    #[test]
    fn a_note_is_cut_between_characters() {
        let note = "ß".repeat(600);
        assert_eq!(fit(&note).len(), NOTE_BYTES_MAX);
        assert_eq!(fit("short"), "short");
    }
}
