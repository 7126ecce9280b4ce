//! A Kubernetes Lease as the register of an election.
//!
//! * Every write is a PUT with `uid` and `resourceVersion`: the one form that can neither hit another object of the same
//!   name nor create one unasked. A missing Lease is created by a PUT whose `resourceVersion` no object ever has, because
//!   RBAC can limit that to one name (it cannot limit a POST).
//! * Whatever a Lease holds besides the record stays in it: labels, owners, finalizers, fields that are newer than this
//!   program.
//! * A Lease of Coordinated Leader Election (`strategy` or `preferredHolder` is set) is never written.

mod changes;
mod connection;
mod encoding;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod rhythm;
mod seen;

pub use connection::ConnectError;
pub use encoding::held_lease;

use crate::{Fencing, Store};
use conch_crds::PodDeletion;
use conch_election::{Content, Failure, FailureKind, Record, Stored, Token, Version, WriteError, Written};
use connection::{Connection, Rejection};
use futures::stream::BoxStream;
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use kube::{
    Config, Resource,
    api::{DynamicObject, GetParams, PostParams},
    config::InClusterError,
    core::Request,
};
use seen::Seen;
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::sync::watch;
use tracing::{debug, info, warn};

/// The Lease of one election.
///
/// Cloning gives another handle to the same connection and the same memory of what was seen.
#[derive(Clone, Debug)]
pub struct KubernetesStore {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    connection: Connection,
    seen: Seen,
    namespace: String,
    lease: String,
    field_manager: &'static str,
    renew_interval: Duration,
    /// What failed last time, and how: logged already.
    failing: Mutex<BTreeMap<Operation, FailureKind>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Operation {
    Read,
    Write,
    Watch,
}

/// Why a pod has no way to its API server.
#[derive(Debug, thiserror::Error)]
pub enum InClusterStoreError {
    /// Environment, token or certificate authority are not where Kubernetes puts them.
    #[error("failed to find the API server of this pod's cluster")]
    Config(#[source] InClusterError),
    /// They are, but cannot be used.
    #[error(transparent)]
    Connect(#[from] ConnectError),
}

impl KubernetesStore {
    /// A store over the Lease `namespace`/`lease`, as the API server of `config` holds it. Takes addresses and
    /// credentials from `config`, and no proxy; time-outs and retries are the caller's, who drops a future that takes too
    /// long. A watch that tells of no renewal for longer than `renew_interval` allows is opened again. Must be called inside
    /// a Tokio runtime.
    pub fn new(
        config: Config,
        namespace: impl Into<String>,
        lease: impl Into<String>,
        field_manager: &'static str,
        renew_interval: Duration,
    ) -> Result<Self, ConnectError> {
        let shared = Shared {
            connection: Connection::new(config)?,
            seen: Seen::new(),
            namespace: namespace.into(),
            lease: lease.into(),
            field_manager,
            renew_interval,
            failing: Mutex::default(),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// The same with the address, token and certificate authority that Kubernetes gives to a pod. The token is read again
    /// each minute and after each 401.
    pub fn in_cluster(
        namespace: impl Into<String>,
        lease: impl Into<String>,
        field_manager: &'static str,
        renew_interval: Duration,
    ) -> Result<Self, InClusterStoreError> {
        let config = Config::incluster().map_err(InClusterStoreError::Config)?;
        Ok(Self::new(config, namespace, lease, field_manager, renew_interval)?)
    }

    /// What the operator last wrote on the Lease about a pod that is being deleted. Fed by reads, writes and, while it is
    /// polled, the stream of [`Store::changes`].
    pub fn pod_deletion(&self) -> watch::Receiver<Option<PodDeletion>> {
        self.shared.seen.pod_deletion()
    }

    /// The pod that somebody wants to lead, as the Lease says. Fed as [`Self::pod_deletion`] is.
    pub fn transfer_to(&self) -> watch::Receiver<Option<String>> {
        self.shared.seen.transfer_to()
    }
}

impl Store for KubernetesStore {
    fn name(&self) -> String {
        format!("Lease {}/{}", self.shared.namespace, self.shared.lease)
    }

    /// [`Fencing::BestEffort`] once the API server has shown a `resourceVersion` that is no number.
    fn fencing(&self) -> Fencing {
        if self.shared.seen.is_fenced() { Fencing::Strict } else { Fencing::BestEffort }
    }

    async fn read(&self) -> Result<Option<Stored>, Failure> {
        loop {
            let before = self.shared.seen.before();
            let object = self
                .shared
                .get()
                .await
                .map_err(|rejection| self.shared.failure(Operation::Read, &rejection))?;
            let answered = self.shared.seen.answered(before, object);
            // Else the stream of changes has told of something newer meanwhile: ask again.
            if !answered.outdated {
                return Ok(answered.stored);
            }
        }
    }

    async fn write(
        &self,
        record: &Record,
        expected: Option<&Version>,
        token: Option<Token>,
    ) -> Result<Written, WriteError> {
        let shared = &self.shared;
        let body = shared.body(record, expected, token)?;
        let before = shared.seen.before();
        let object = shared.put(&body).await.map_err(|rejection| shared.write_error(&rejection))?;
        let (version, incarnation) = (encoding::version(&object), encoding::incarnation(&object));
        let stored = shared.seen.answered(before, Some(object)).stored;
        match stored {
            Some(Stored { content: Content::Record(written), fence, .. }) if written == *record => {
                Ok(Written { version, incarnation, fence })
            }
            _ => {
                warn!(lease = %self.name(), "something on the way altered what was written to the Lease");
                Err(WriteError::Failed(INVALID))
            }
        }
    }

    fn changes(&self) -> BoxStream<'static, Result<Option<Stored>, Failure>> {
        changes::stream(Arc::clone(&self.shared))
    }
}

const INVALID: Failure = Failure { kind: FailureKind::Invalid, retry_after: None };

impl Shared {
    /// GET without a `resourceVersion`: the API server asks a quorum of etcd.
    async fn get(&self) -> Result<Option<DynamicObject>, Rejection> {
        let request = self.requests().get(&self.lease, &GetParams::default()).map_err(request_error)?;
        match self.connection.exchange(request).await {
            Ok(body) => Ok(Some(self.parse(Operation::Read, &body)?)),
            Err(rejection) if rejection.is_not_found() => {
                self.succeeded(Operation::Read);
                Ok(None)
            }
            Err(rejection) => Err(rejection),
        }
    }

    /// What to PUT for `record`.
    fn body(
        &self,
        record: &Record,
        expected: Option<&Version>,
        token: Option<Token>,
    ) -> Result<DynamicObject, WriteError> {
        let now = Timestamp::now();
        let body = if let Some(version) = expected {
            // A version that was never seen here, or long ago, is not the current one: reading back brings that.
            let base = self.seen.object(version).ok_or(WriteError::Conflict)?;
            encoding::replacement(&base, record, token, now)
        } else {
            let last = self.seen.last();
            encoding::creation(&self.namespace, &self.lease, last.as_ref(), record, token, now)
        };
        body.map_err(|reason| {
            warn!(namespace = %self.namespace, lease = %self.lease, %reason, "the Lease is not written");
            WriteError::Failed(INVALID)
        })
    }

    async fn put(&self, object: &DynamicObject) -> Result<DynamicObject, Rejection> {
        let body = serde_json::to_vec(object).map_err(kube::Error::SerdeError)?;
        let parameters =
            PostParams { field_manager: Some(self.field_manager.to_owned()), ..PostParams::default() };
        let request = self.requests().replace(&self.lease, &parameters, body).map_err(request_error)?;
        self.parse(Operation::Write, &self.connection.exchange(request).await?)
    }

    fn requests(&self) -> Request {
        Request::new(Lease::url_path(&(), Some(&self.namespace)))
    }

    fn parse(&self, operation: Operation, body: &[u8]) -> Result<DynamicObject, Rejection> {
        let object = serde_json::from_slice(body).map_err(kube::Error::SerdeError)?;
        self.succeeded(operation);
        Ok(object)
    }

    fn succeeded(&self, operation: Operation) {
        if self.failing().remove(&operation).is_some() {
            let (namespace, lease) = (&self.namespace, &self.lease);
            info!(%namespace, %lease, ?operation, "requests to the API server succeed again");
        }
    }

    fn failing(&self) -> MutexGuard<'_, BTreeMap<Operation, FailureKind>> {
        self.failing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_error(&self, rejection: &Rejection) -> WriteError {
        // 404: deleted, or its namespace is; reading back tells.
        if rejection.is_conflict() || rejection.is_not_found() {
            self.succeeded(Operation::Write);
            return WriteError::Conflict;
        }
        WriteError::Failed(self.failure(Operation::Write, rejection))
    }

    /// Logs the first failure of a kind, and the others for those who look for them.
    fn failure(&self, operation: Operation, rejection: &Rejection) -> Failure {
        let failure = rejection.failure();
        let (namespace, lease, kind) = (&self.namespace, &self.lease, failure.kind);
        let detail = rejection.message();
        if self.failing().insert(operation, kind) == Some(kind) {
            debug!(%namespace, %lease, ?operation, ?kind, %detail, "a request to the API server failed again");
        } else {
            warn!(%namespace, %lease, ?operation, ?kind, %detail, "a request to the API server failed");
        }
        failure
    }
}

fn request_error(error: kube::core::request::Error) -> kube::Error {
    kube::Error::BuildRequest(error)
}
