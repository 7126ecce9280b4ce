//! What this process has seen of the Lease: the objects that a version names, so that a PUT can be made from one, and
//! the newest version, so that nothing older is told after it.

use super::encoding;
use conch_crds::PodDeletion;
use conch_election::{Fence, Stored, Version};
use kube::api::DynamicObject;
use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
};
use tokio::sync::{Notify, futures::Notified, watch};

/// How many objects are kept. A candidate writes from the version that it saw last; a few more come in while it decides.
const KEPT: usize = 8;

#[derive(Debug)]
pub(super) struct Seen {
    state: Mutex<State>,
    /// An answer came.
    answered: Notify,
    pod_deletion: watch::Sender<Option<PodDeletion>>,
    transfer_to: watch::Sender<Option<String>>,
}

#[derive(Debug, Default)]
struct State {
    /// Of the object that was written or deleted last, as far as we know.
    newest: Option<Fence>,
    /// The latest at the back.
    objects: VecDeque<(Version, DynamicObject)>,
    /// An object came whose resourceVersion is no number.
    fenceless: bool,
}

/// What was the newest when a request was sent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Before(Option<Fence>);

/// What a request found.
pub(super) struct Answered {
    pub(super) stored: Option<Stored>,
    /// Something newer came in while the answer was on its way. An answer older than what was known when the request was
    /// *sent* is not outdated: then the server lost history, and that must be told.
    pub(super) outdated: bool,
}

impl Seen {
    pub(super) fn new() -> Self {
        Self {
            state: Mutex::default(),
            answered: Notify::new(),
            pod_deletion: watch::Sender::default(),
            transfer_to: watch::Sender::default(),
        }
    }

    pub(super) fn before(&self) -> Before {
        Before(self.lock().newest)
    }

    /// Ends with the next answer, however late it is polled.
    pub(super) fn next_answer(&self) -> Notified<'_> {
        self.answered.notified()
    }

    /// Do we know of something newer than this `resourceVersion`?
    pub(super) fn is_ahead_of(&self, resource_version: &str) -> bool {
        encoding::parse_fence(resource_version).is_some_and(|fence| self.lock().newest > Some(fence))
    }

    /// The object of that version, if it is still known.
    pub(super) fn object(&self, version: &Version) -> Option<DynamicObject> {
        self.lock().objects.iter().find(|(known, _)| known == version).map(|(_, object)| object.clone())
    }

    /// The object that was seen last, alive or not.
    pub(super) fn last(&self) -> Option<DynamicObject> {
        self.lock().objects.back().map(|(_, object)| object.clone())
    }

    /// Did every object so far carry a fence?
    pub(super) fn is_fenced(&self) -> bool {
        !self.lock().fenceless
    }

    pub(super) fn pod_deletion(&self) -> watch::Receiver<Option<PodDeletion>> {
        self.pod_deletion.subscribe()
    }

    pub(super) fn transfer_to(&self) -> watch::Receiver<Option<String>> {
        self.transfer_to.subscribe()
    }

    /// Takes note of the answer to a request that went to the quorum.
    pub(super) fn answered(&self, before: Before, object: Option<DynamicObject>) -> Answered {
        let stored = object.as_ref().map(encoding::decode);
        let fence = stored.as_ref().and_then(|stored| stored.fence);
        let mut state = self.lock();
        let outdated = state.newest != before.0 && fence < state.newest;
        if !outdated {
            state.newest = fence.or(state.newest);
            self.tell(object.as_ref());
        }
        state.keep(object);
        self.answered.notify_waiters();
        Answered { stored, outdated }
    }

    /// Takes note of an event of a watch. `None`: something newer was seen before.
    pub(super) fn happened(&self, object: DynamicObject) -> Option<Stored> {
        let stored = encoding::decode(&object);
        let mut state = self.lock();
        if state.is_past(stored.fence) {
            return None;
        }
        state.newest = stored.fence.or(state.newest);
        self.tell(Some(&object));
        state.keep(Some(object));
        Some(stored)
    }

    /// Takes note of the end of an object. `false`: something newer was seen before.
    pub(super) fn deleted(&self, object: &DynamicObject) -> bool {
        let fence = encoding::fence(object);
        let mut state = self.lock();
        if state.is_past(fence) {
            return false;
        }
        state.newest = fence.or(state.newest);
        self.tell(None);
        true
    }

    fn tell(&self, object: Option<&DynamicObject>) {
        tell_change(&self.pod_deletion, object.and_then(encoding::pod_deletion));
        tell_change(&self.transfer_to, object.and_then(encoding::transfer_to));
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn tell_change<T: PartialEq>(told: &watch::Sender<T>, now: T) {
    told.send_if_modified(|known| {
        let changed = *known != now;
        *known = now;
        changed
    });
}

impl State {
    fn is_past(&self, fence: Option<Fence>) -> bool {
        fence.is_some() && fence < self.newest
    }

    fn keep(&mut self, object: Option<DynamicObject>) {
        let Some(mut object) = object else { return };
        object.metadata.managed_fields = None;
        self.fenceless |= encoding::fence(&object).is_none();
        let version = encoding::version(&object);
        self.objects.retain(|(known, _)| *known != version);
        if self.objects.len() == KEPT {
            self.objects.pop_front();
        }
        self.objects.push_back((version, object));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use conch_crds::names;
    use serde_json::json;

    fn object(uid: &str, version: &str) -> DynamicObject {
        serde_json::from_value(json!({"metadata": {"uid": uid, "resourceVersion": version}, "spec": {}}))
            .unwrap()
    }

    fn fence(stored: Option<Stored>) -> Option<u128> {
        stored.and_then(|stored| stored.fence).map(|fence| fence.0)
    }

    #[test]
    fn an_answer_that_was_overtaken_by_an_event_is_outdated() {
        let seen = Seen::new();
        assert!(!seen.answered(seen.before(), Some(object("a", "10"))).outdated);
        let before = seen.before();
        assert_eq!(fence(seen.happened(object("a", "12"))), Some(12));
        assert!(seen.answered(before, Some(object("a", "11"))).outdated);
        assert!(seen.answered(before, None).outdated, "none is older than something that came in meanwhile");
        assert!(!seen.answered(before, Some(object("a", "12"))).outdated);
        assert!(!seen.answered(before, Some(object("a", "13"))).outdated);
    }

    #[test]
    fn an_answer_older_than_what_was_known_when_it_was_asked_for_is_told() {
        let seen = Seen::new();
        seen.happened(object("a", "1000"));
        let answered = seen.answered(seen.before(), Some(object("a", "900")));
        assert!(!answered.outdated, "the server lost history");
        assert_eq!(fence(seen.happened(object("a", "901"))), Some(901), "and goes on from there");
    }

    #[test]
    fn an_older_event_is_dropped_and_the_same_one_is_not() {
        let seen = Seen::new();
        seen.answered(seen.before(), Some(object("a", "100")));
        assert_eq!(fence(seen.happened(object("a", "99"))), None);
        assert_eq!(fence(seen.happened(object("a", "100"))), Some(100));
        assert!(!seen.deleted(&object("a", "99")));
        assert!(seen.deleted(&object("a", "101")));
        assert_eq!(fence(seen.happened(object("a", "100"))), None, "it was before the deletion");
        assert_eq!(fence(seen.happened(object("b", "102"))), Some(102));
        assert!(!seen.deleted(&object("a", "101")));
    }

    #[test]
    fn versions_name_the_objects_that_were_seen_last() {
        let seen = Seen::new();
        for version in 1..=20 {
            seen.happened(object("a", &version.to_string()));
            seen.happened(object("a", &version.to_string()));
        }
        let known = |version: &str| seen.object(&Version(version.to_owned()));
        assert_eq!(known("a/12"), None);
        for version in 13..=20 {
            let found = known(&format!("a/{version}")).unwrap();
            assert_eq!(found.metadata.resource_version, Some(version.to_string()));
        }
        assert_eq!(known("b/20"), None);
        assert_eq!(seen.last().unwrap().metadata.resource_version.as_deref(), Some("20"));
    }

    #[test]
    fn a_version_that_is_no_number_ends_the_promise_of_fences() {
        let seen = Seen::new();
        seen.happened(object("a", "100"));
        assert!(seen.is_fenced());
        assert_eq!(fence(seen.happened(object("a", "x7"))), None);
        assert!(!seen.is_fenced());
        assert_eq!(fence(seen.happened(object("a", "101"))), Some(101));
    }

    #[test]
    fn who_is_to_lead_is_told_when_it_is_asked_for_and_when_it_is_over() {
        let asked = |version: &str, pod: &str| {
            let mut object = object("a", version);
            object.metadata.annotations = Some([(names::TRANSFER_TO.to_owned(), pod.to_owned())].into());
            object
        };
        let seen = Seen::new();
        let mut transfers = seen.transfer_to();
        seen.happened(asked("1", ""));
        assert!(!transfers.has_changed().unwrap(), "nobody is named");
        seen.happened(asked("2", "payments-b"));
        assert_eq!(transfers.borrow_and_update().as_deref(), Some("payments-b"));
        seen.happened(asked("3", "payments-b"));
        assert!(!transfers.has_changed().unwrap(), "renewals change nothing");
        seen.happened(object("a", "4"));
        assert_eq!(*transfers.borrow_and_update(), None);
    }

    #[test]
    fn a_pods_deletion_is_told_when_it_comes_changes_and_goes() {
        let marked = |version: &str, uid: &str| {
            let mut object = object("a", version);
            let deletion = PodDeletion {
                pod_uid: uid.to_owned(),
                grace_seconds: 30,
                sidecar_image: "conch:1".to_owned(),
            };
            let text = serde_json::to_string(&deletion).unwrap();
            object.metadata.annotations = Some([(names::POD_DELETION.to_owned(), text)].into());
            object
        };
        let seen = Seen::new();
        let mut deletion = seen.pod_deletion();
        let mut told = || {
            let changed = deletion.has_changed().unwrap();
            changed.then(|| deletion.borrow_and_update().as_ref().map(|deletion| deletion.pod_uid.clone()))
        };
        seen.happened(object("a", "1"));
        assert_eq!(told(), None);
        seen.happened(marked("2", "x"));
        assert_eq!(told(), Some(Some("x".to_owned())));
        seen.happened(marked("3", "x"));
        assert_eq!(told(), None);
        seen.happened(marked("2", "y"));
        assert_eq!(told(), None, "older");
        seen.answered(seen.before(), Some(marked("4", "y")));
        assert_eq!(told(), Some(Some("y".to_owned())));
        seen.deleted(&object("a", "5"));
        assert_eq!(told(), Some(None));
    }
}
