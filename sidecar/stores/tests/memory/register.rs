//! A register in memory, its candidates, and the hands of others.

use crate::common::conformance::Subject;
use conch_election::{Content, Unknown};
use conch_stores::memory::{Link, MemoryStore};
use std::{sync::Mutex, time::Duration};

pub(crate) struct Memory {
    register: MemoryStore,
    candidates: Mutex<Vec<MemoryStore>>,
}

pub(crate) async fn memory(_name: &str) -> Option<Memory> {
    Some(Memory { register: MemoryStore::new(), candidates: Mutex::default() })
}

fn foreign(holder: Option<&str>, fingerprint: &str) -> Content {
    Content::Unknown(Unknown {
        holder: holder.map(str::to_owned),
        lease: None,
        fingerprint: fingerprint.to_owned(),
    })
}

impl Subject for Memory {
    type Store = MemoryStore;

    async fn candidate(&self) -> MemoryStore {
        let candidate = self.register.candidate();
        self.candidates.lock().unwrap().push(candidate.clone());
        candidate
    }

    async fn make_fresh(&self) {
        self.register.overwrite(Content::Fresh);
    }

    async fn clear(&self) {
        self.register.overwrite(foreign(None, "cleared"));
    }

    async fn hold_by(&self, holder: &str, renewal: u32) {
        self.register.overwrite(foreign(Some(holder), &format!("renewal {renewal}")));
    }

    async fn alter(&self) {
        self.register.overwrite(foreign(None, "altered"));
    }

    async fn touch(&self) {
        self.register.touch();
    }

    async fn stamp_longest_lease(&self, lease: Duration) {
        self.register.set_longest_lease(Some(lease));
    }

    async fn mark_deleting(&self) {
        self.register.mark_deleting();
    }

    async fn delete(&self) {
        self.register.delete();
    }

    async fn cut_connections(&self) {
        for candidate in &*self.candidates.lock().unwrap() {
            candidate.set_link(Link::Refused);
            candidate.set_link(Link::Up);
        }
    }

    async fn tidy(&self) {}
}
