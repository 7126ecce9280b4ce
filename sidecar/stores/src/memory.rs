//! A register in this process's memory, shared by the candidates that hold a [`MemoryStore`] of it. It says what every
//! other store must do, and it is what the driver is tested against; its [`Link`] can be broken in the ways in which
//! networks break.

use crate::{Fencing, Store};
use conch_election::{
    Claim, Content, Failure, FailureKind, Fence, Incarnation, Record, Stored, Token, Version, WriteError,
    Written,
};
use futures::{
    StreamExt,
    stream::{self, BoxStream},
};
use std::{future, sync::Arc, time::Duration};
use tokio::sync::watch;

/// One candidate's way to a shared register. Cloning gives the same candidate another handle; [`Self::candidate`] gives
/// another candidate of the same register.
#[derive(Clone, Debug)]
pub struct MemoryStore {
    register: Arc<watch::Sender<Register>>,
    link: Arc<watch::Sender<Link>>,
}

/// How a candidate is connected to the register.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Link {
    /// Requests arrive and are answered.
    #[default]
    Up,
    /// Requests fail at once, streams of changes too.
    Refused,
    /// Requests do not arrive, and nobody says so; streams of changes fall silent.
    Silent,
    /// Requests arrive and take effect, but no answer comes back; streams of changes fall silent.
    AnswersLost,
}

/// What is shared. `revision` counts every write of anything, deletions too, and so never gives a version twice.
#[derive(Debug, Default)]
struct Register {
    revision: u128,
    object: Option<Object>,
}

#[derive(Clone, Debug)]
struct Object {
    /// The revision that created it.
    incarnation: u128,
    /// The revision that wrote it last.
    revision: u128,
    deleting: bool,
    longest_lease: Option<Duration>,
    content: Content,
}

impl MemoryStore {
    /// A new, empty register and its first candidate.
    pub fn new() -> Self {
        Self { register: Arc::new(watch::Sender::default()), link: Arc::new(watch::Sender::default()) }
    }

    /// Another candidate of the same register, with a link of its own.
    #[must_use]
    pub fn candidate(&self) -> Self {
        Self { register: Arc::clone(&self.register), link: Arc::new(watch::Sender::default()) }
    }

    /// Breaks or mends the link of this candidate.
    pub fn set_link(&self, link: Link) {
        self.link.send_replace(link);
    }

    /// What a foreign hand does: puts any content, whatever the version. Creates the register if there is none.
    pub fn overwrite(&self, content: Content) {
        self.register.send_modify(|register| {
            register.put(content);
        });
    }

    /// Writes without changing content, as a foreign label does; does nothing if there is no register.
    pub fn touch(&self) {
        self.change(|_| {});
    }

    /// Marks the register for deletion.
    pub fn mark_deleting(&self) {
        self.change(|object| object.deleting = true);
    }

    /// Sets what the operator stamps: the longest lease of any living candidate.
    pub fn set_longest_lease(&self, longest_lease: Option<Duration>) {
        self.change(|object| object.longest_lease = longest_lease);
    }

    /// Deletes the register.
    pub fn delete(&self) {
        self.register.send_modify(|register| {
            register.revision += 1;
            register.object = None;
        });
    }

    fn change(&self, change: impl FnOnce(&mut Object)) {
        self.register.send_if_modified(|register| {
            let revision = register.revision + 1;
            let Some(object) = &mut register.object else {
                return false;
            };
            change(object);
            object.revision = revision;
            register.revision = revision;
            true
        });
    }

    /// Waits as long as the link lets no request through.
    async fn arrive(&self) -> Result<(), Failure> {
        match *self.link.borrow() {
            Link::Up | Link::AnswersLost => return Ok(()),
            Link::Refused => return Err(REFUSED),
            Link::Silent => {}
        }
        future::pending().await
    }

    /// Waits as long as the link lets no answer through.
    async fn answer(&self) {
        if *self.link.borrow() == Link::AnswersLost {
            future::pending::<()>().await;
        }
    }
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

impl Store for MemoryStore {
    fn name(&self) -> String {
        "memory".to_owned()
    }

    fn fencing(&self) -> Fencing {
        Fencing::Strict
    }

    async fn read(&self) -> Result<Option<Stored>, Failure> {
        self.arrive().await?;
        let stored = self.register.borrow().stored();
        self.answer().await;
        Ok(stored)
    }

    async fn write(
        &self,
        record: &Record,
        expected: Option<&Version>,
        _token: Option<Token>,
    ) -> Result<Written, WriteError> {
        self.arrive().await.map_err(WriteError::Failed)?;
        if expected.is_none() && record.claim != Claim::Vacant {
            return Err(WriteError::Failed(INVALID));
        }
        let mut result = Err(WriteError::Conflict);
        self.register.send_if_modified(|register| {
            if register.object.as_ref().map(Object::version).as_ref() != expected {
                return false;
            }
            let object = register.put(Content::Record(record.clone()));
            result = Ok(Written {
                version: object.version(),
                incarnation: object.incarnation(),
                fence: Some(Fence(object.revision)),
            });
            true
        });
        self.answer().await;
        result
    }

    fn changes(&self) -> BoxStream<'static, Result<Option<Stored>, Failure>> {
        let changes = Changes {
            register: self.register.subscribe(),
            link: self.link.subscribe(),
            _open: (Arc::clone(&self.register), Arc::clone(&self.link)),
            seen: None,
        };
        stream::unfold(changes, |mut changes| async move { Some((changes.next().await, changes)) }).boxed()
    }
}

const INVALID: Failure = Failure { kind: FailureKind::Invalid, retry_after: None };
const REFUSED: Failure = Failure { kind: FailureKind::Unavailable, retry_after: None };

struct Changes {
    register: watch::Receiver<Register>,
    link: watch::Receiver<Link>,
    /// Keeps both channels open: the stream never ends.
    _open: (Arc<watch::Sender<Register>>, Arc<watch::Sender<Link>>),
    /// The revision that was yielded last; `None` before the first and after a failure.
    seen: Option<u128>,
}

impl Changes {
    async fn next(&mut self) -> Result<Option<Stored>, Failure> {
        loop {
            let link = *self.link.borrow_and_update();
            if link == Link::Up {
                let register = self.register.borrow_and_update();
                if self.seen != Some(register.revision) {
                    self.seen = Some(register.revision);
                    return Ok(register.stored());
                }
            } else if link == Link::Refused && self.seen.take().is_some() {
                return Err(REFUSED);
            }
            // Neither channel can close while `_open` is held.
            tokio::select! {
                _ = self.register.changed() => {}
                _ = self.link.changed() => {}
            }
        }
    }
}

impl Register {
    fn put(&mut self, content: Content) -> &Object {
        self.revision += 1;
        let revision = self.revision;
        let object = self.object.get_or_insert(Object {
            incarnation: revision,
            revision,
            deleting: false,
            longest_lease: None,
            content: Content::Fresh,
        });
        object.revision = revision;
        object.content = content;
        object
    }

    fn stored(&self) -> Option<Stored> {
        self.object.as_ref().map(|object| Stored {
            version: object.version(),
            incarnation: object.incarnation(),
            fence: Some(Fence(object.revision)),
            deleting: object.deleting,
            longest_lease: object.longest_lease,
            content: object.content.clone(),
        })
    }
}

impl Object {
    fn version(&self) -> Version {
        Version(self.revision.to_string())
    }

    fn incarnation(&self) -> Incarnation {
        Incarnation(self.incarnation.to_string())
    }
}
