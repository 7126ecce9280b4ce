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
use tokio::sync::watch;

/// How many objects are kept. A candidate writes from the version that it saw last; a few more come in while it decides.
const KEPT: usize = 8;

#[derive(Debug)]
pub(super) struct Seen {
    state: Mutex<State>,
    pod_deletion: watch::Sender<Option<PodDeletion>>,
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
        Self { state: Mutex::default(), pod_deletion: watch::Sender::default() }
    }

    pub(super) fn before(&self) -> Before {
        Before(self.lock().newest)
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
        let deletion = object.and_then(encoding::pod_deletion);
        self.pod_deletion.send_if_modified(|known| {
            let changed = *known != deletion;
            *known = deletion;
            changed
        });
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
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
