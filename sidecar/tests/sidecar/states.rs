//! The states in which a sidecar can be asked, brought about one by one, in a time that passes by itself.

use crate::pod::{LOCAL, POST, Pod, pod_over};
use axum::{
    body::Body,
    http::{Method, Request},
};
use conch_crds::program::Presence;
use conch_election::{
    Content, Failure, Fence, Moment, Record, Stored, Timing, Token, Version, WriteError, Written,
};
use conch_sidecar::{gate::Rules, program::Program};
use conch_stores::{
    Fencing, Store,
    memory::{Link, MemoryStore},
};
use futures::stream::BoxStream;
use serde_json::json;
use std::{
    sync::{
        Arc, LazyLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::time::{Instant, sleep};

pub(crate) const LEASE: Duration = Duration::from_secs(15);
const RENEW_INTERVAL: Duration = Duration::from_secs(2);
const STOP_GRACE: Duration = Duration::from_secs(3);
const MAX_PROMISE: Duration = Duration::from_secs(5);
/// The host of pod 1, as its program knows it.
pub(crate) const HOST: &str = "pod-1";

static START: LazyLock<std::time::Instant> = LazyLock::new(std::time::Instant::now);

/// What a sidecar may be in when it is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    BeforeFirstContact,
    StoreAway,
    NotAsked,
    NotLeader,
    Leading,
    Terminating,
    Terminated,
    Resigned,
    CoolingDown,
    HistoryLost,
}

/// A pod in its state, and what keeps it there.
pub(crate) struct World {
    pub(crate) pod: Pod,
    pub(crate) others: Vec<Pod>,
}

impl State {
    pub(crate) const ALL: [Self; 10] = [
        Self::BeforeFirstContact,
        Self::StoreAway,
        Self::NotAsked,
        Self::NotLeader,
        Self::Leading,
        Self::Terminating,
        Self::Terminated,
        Self::Resigned,
        Self::CoolingDown,
        Self::HistoryLost,
    ];

    /// The status of `GET /v1/leader` then, and the reason in it.
    pub(crate) fn answer(self) -> (u16, &'static str) {
        match self {
            Self::BeforeFirstContact => (503, "NotContacted"),
            Self::StoreAway => (503, "StoreUnavailable"),
            Self::NotAsked => (503, "NotAsked"),
            Self::NotLeader => (503, "OtherLeads"),
            Self::Leading | Self::Terminating => (200, "Leading"),
            Self::Terminated => (503, "Terminating"),
            Self::Resigned | Self::CoolingDown => (503, "CoolingDown"),
            Self::HistoryLost => (503, "HistoryLost"),
        }
    }

    /// Call it in a runtime whose time is paused.
    pub(crate) async fn bring_about(self) -> World {
        let (store, timing) = (fresh(), timing(LEASE, STOP_GRACE));
        if self == Self::BeforeFirstContact {
            store.set_link(Link::Silent);
        }
        let restored = Arc::new(AtomicBool::new(false));
        let restorable = Restorable { store: store.clone(), restored: Arc::clone(&restored) };
        let pod = pod_over(restorable, store.clone(), 1, now, timing, asked_for(STOP_GRACE));
        let mut world = World { pod, others: Vec::new() };
        match self {
            Self::BeforeFirstContact => {}
            // Its time to read the record.
            Self::NotAsked => sleep(Duration::from_millis(10)).await,
            Self::NotLeader => {
                let other = virtual_pod(store.candidate(), 2, timing);
                other.lead().await;
                world.others.push(other);
                world.pod.get("/v1/leader?wait=1s").await;
            }
            _ => world.leave_the_lead(self, &store, &restored).await,
        }
        world
    }
}

impl World {
    async fn leave_the_lead(&self, state: State, store: &MemoryStore, restored: &AtomicBool) {
        let token = self.pod.lead().await;
        match state {
            State::StoreAway => {
                store.set_link(Link::Refused);
                sleep(LEASE).await;
            }
            State::Terminating => self.pod.sidecar.pre_stop(now()),
            State::Terminated => {
                self.pod.sidecar.pre_stop(now());
                self.pod.sidecar.signalled("SIGTERM");
            }
            State::Resigned => {
                let answer = self.pod.resign(&json!({ "token": token }).to_string()).await;
                assert_eq!((answer.status.as_u16(), &answer.body["leader"]), (200, &false.into()));
            }
            State::CoolingDown => {
                self.pod.resign(&json!({ "token": token, "coolDown": "1m" }).to_string()).await;
                sleep(Duration::from_secs(50)).await;
            }
            State::HistoryLost => {
                restored.store(true, Ordering::Relaxed);
                sleep(LEASE).await;
            }
            _ => {}
        }
    }
}

/// A register that nobody ever led by.
pub(crate) fn fresh() -> MemoryStore {
    let store = MemoryStore::new();
    store.overwrite(Content::Fresh);
    store
}

pub(crate) fn timing(lease: Duration, stop_grace: Duration) -> Timing {
    Timing::new(lease, RENEW_INTERVAL, stop_grace, MAX_PROMISE).unwrap()
}

pub(crate) fn virtual_pod(store: MemoryStore, number: u128, timing: Timing) -> Pod {
    pod_over(store.clone(), store, number, now, timing, asked_for(timing.stop_grace()))
}

fn asked_for(stop_grace: Duration) -> Program {
    Program::new(Presence::Asked, Rules::NONE, stop_grace)
}

/// The runtime's time.
pub(crate) fn now() -> Moment {
    Moment::from_uptime(Instant::now().into_std().saturating_duration_since(*START))
}

/// A request that the guard lets through.
pub(crate) fn request(path: &str, method: &Method, body: &str) -> Request<Body> {
    let request = Request::builder().method(method).uri(path).header(LOCAL.0, LOCAL.1).header(POST.0, POST.1);
    request.body(Body::from(body.to_owned())).unwrap()
}

/// A store whose backup is put back: from then on its fences begin anew.
#[derive(Clone, Debug)]
struct Restorable {
    store: MemoryStore,
    restored: Arc<AtomicBool>,
}

impl Store for Restorable {
    fn name(&self) -> String {
        self.store.name()
    }

    fn fencing(&self) -> Fencing {
        self.store.fencing()
    }

    async fn read(&self) -> Result<Option<Stored>, Failure> {
        self.store.read().await
    }

    async fn write(
        &self,
        record: &Record,
        expected: Option<&Version>,
        token: Option<Token>,
    ) -> Result<Written, WriteError> {
        let mut written = self.store.write(record, expected, token).await?;
        if self.restored.load(Ordering::Relaxed) {
            written.fence = Some(Fence(0));
        }
        Ok(written)
    }

    fn changes(&self) -> BoxStream<'static, Result<Option<Stored>, Failure>> {
        self.store.changes()
    }
}
