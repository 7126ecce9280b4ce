//! Does what a plan says. Decides nothing.

use super::{
    mark::Mark,
    observe::{
        ObjectKind,
        readable::Readable,
        view::{Identity, ViewOf},
        workload::{Workload, WorkloadKind},
    },
    plan::{Notice, Object, Write},
};
use conch_crds::{CoordinationPolicy, Election, ElectionStatus, events::EventReason, names};
use k8s_openapi::{
    api::{
        apps::v1::{DaemonSet, Deployment, StatefulSet},
        coordination::v1::Lease,
        rbac::v1::{Role, RoleBinding},
    },
    serde::de::DeserializeOwned,
};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions},
    core::{NamespaceResourceScope, Status},
};
use serde::Serialize;
use serde_json::{Value, json};
use std::{fmt::Debug, future::Future, sync::Arc, time::Duration};
use tokio::time::timeout;

/// No request takes longer. Everything written here can be written again.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// Why a write was not done.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// This operator does not lead: somebody else writes.
    #[error("this operator does not lead")]
    NotLeading,
    /// An object of the needed name belongs to something else.
    #[error("an object of the needed name belongs to something else")]
    Foreign(ObjectKind),
    /// What was decided upon is not there any more: look again.
    #[error("the object changed meanwhile")]
    Stale,
    /// What was decided upon was deleted: look again.
    #[error("the object was deleted meanwhile")]
    Gone,
    /// The namespace is being deleted, and everything in it.
    #[error("the namespace is being deleted")]
    NamespaceEnding,
    /// The API server refused.
    #[error("the API server refused ({code}): {message}")]
    Refused {
        /// HTTP status.
        code: u16,
        /// What it says about it.
        message: String,
    },
    /// No answer in time.
    #[error("failed to get an answer from the API server in time")]
    Timeout,
    /// The request did not reach the API server, or its answer cannot be read.
    #[error("failed to exchange a request with the API server")]
    Exchange(#[source] Box<kube::Error>),
    /// What was to be written has no JSON form.
    #[error("failed to encode an object")]
    Encode(#[from] serde_json::Error),
}

/// What a write led to, besides itself.
#[derive(Debug, Default)]
pub struct Effect {
    /// Something that became worth telling.
    pub notice: Option<Notice>,
    /// A workload was touched for want of a stamp, or because of one that is left over.
    pub touched: Option<Touched>,
    /// The status of the election was written, and is at this version.
    pub status: Option<(ElectionStatus, String)>,
}

/// That a workload was touched.
#[derive(Debug)]
pub struct Touched {
    /// Which one.
    pub workload: Identity,
    /// What the API server said, if it refused.
    pub refused: Option<String>,
}

/// Writes, as long as it may.
#[derive(Clone)]
pub struct Writer {
    client: Client,
    may_write: Arc<dyn Fn() -> bool + Send + Sync>,
}

impl Writer {
    /// `may_write` is asked right before each write: does this operator lead?
    pub fn new(client: Client, may_write: Arc<dyn Fn() -> bool + Send + Sync>) -> Self {
        Self { client, may_write }
    }

    /// May anything be written now?
    pub fn may_write(&self) -> bool {
        (self.may_write)()
    }

    /// One write. An object that is gone when it is to be deleted, or there when it is to be made, is as it should be.
    pub async fn write(&self, write: Write) -> Result<Effect, ApplyError> {
        tracing::debug!(?write, "writes");
        match write {
            Write::CreatePolicy { policy, notice } => return self.create_policy(*policy, notice).await,
            Write::Create(object) => self.create_object(object).await?,
            Write::Apply { object, uid } => self.apply_object(object, &uid).await?,
            Write::PatchLease { lease, patch } => self.merge::<Lease>(&lease, &patch).await.map(drop)?,
            Write::Mark(mark) => self.mark(&mark).await?,
            Write::Touch { kind, workload, notice } => return self.touch(kind, workload, notice).await,
            Write::ElectionStatus { election, status } => {
                let version = self.status::<Election>(&election, &json!(status)).await?;
                return Ok(Effect { status: Some((*status, version)), ..Effect::default() });
            }
            Write::PolicyStatus { policy, status } => {
                self.status::<CoordinationPolicy>(&policy, &json!(status)).await?;
            }
            Write::Delete { kind, object, version } => self.delete_object(kind, &object, version).await?,
        }
        Ok(Effect::default())
    }

    /// Writes a mark.
    pub async fn mark(&self, mark: &Mark) -> Result<(), ApplyError> {
        let lease = Identity {
            namespace: mark.namespace.clone(),
            name: mark.lease.clone(),
            uid: mark.lease_uid.clone(),
        };
        self.merge::<Lease>(&lease, &mark.patch()?).await.map(drop)
    }

    async fn create_policy(
        &self,
        policy: CoordinationPolicy,
        notice: Option<Notice>,
    ) -> Result<Effect, ApplyError> {
        let api: Api<CoordinationPolicy> = self.api(policy.metadata.namespace.as_deref());
        match self.send(api.create(&creation(), &policy)).await {
            Ok(_) => Ok(Effect { notice, ..Effect::default() }),
            Err(ApplyError::Stale) => Ok(Effect::default()),
            Err(error) => Err(error),
        }
    }

    async fn create_object(&self, object: Object) -> Result<(), ApplyError> {
        match object {
            Object::Lease(object) => self.create(Some(ObjectKind::Lease), *object).await,
            Object::Role(object) => self.create(Some(ObjectKind::Role), *object).await,
            Object::RoleBinding(object) => self.create(Some(ObjectKind::RoleBinding), *object).await,
            Object::Election(object) => self.create(None, *object).await,
        }
    }

    async fn apply_object(&self, object: Object, uid: &str) -> Result<(), ApplyError> {
        match object {
            Object::Lease(object) => self.apply(*object, uid).await,
            Object::Role(object) => self.apply(*object, uid).await,
            Object::RoleBinding(object) => self.apply(*object, uid).await,
            Object::Election(object) => self.apply(*object, uid).await,
        }
    }

    async fn delete_object(
        &self,
        kind: ObjectKind,
        object: &Identity,
        version: Option<String>,
    ) -> Result<(), ApplyError> {
        match kind {
            ObjectKind::Lease => self.delete::<Lease>(object, version).await,
            ObjectKind::Role => self.delete::<Role>(object, version).await,
            ObjectKind::RoleBinding => self.delete::<RoleBinding>(object, version).await,
            ObjectKind::Election => self.delete::<Election>(object, version).await,
        }
    }

    /// A POST, never an apply: what is there and is not ours must not be taken over.
    ///
    /// * `kind`: where an object of that name may be somebody else's.
    async fn create<K: Kind>(&self, kind: Option<ObjectKind>, object: K) -> Result<(), ApplyError> {
        let api: Api<K> = self.api(object.meta().namespace.as_deref());
        match self.send(api.create(&creation(), &object)).await {
            Ok(_) => Ok(()),
            Err(ApplyError::Stale) => match kind {
                Some(kind) => self.settle(&object, kind).await,
                None => Ok(()),
            },
            Err(error) => Err(error),
        }
    }

    /// An object of the name is there: is it ours, and the watch has not brought it yet? A Lease that a sidecar made anew
    /// without ever having seen ours carries no label.
    async fn settle<K: Kind>(&self, wanted: &K, kind: ObjectKind) -> Result<(), ApplyError> {
        let api: Api<Readable<K>> = self.api(wanted.meta().namespace.as_deref());
        let name = &wanted.name_any();
        let Some(found) = self.send(api.get_opt(name)).await? else {
            return Err(ApplyError::Stale);
        };
        if found.labels().get(names::MANAGED).is_some_and(|value| value == names::MANAGED_VALUE) {
            return Ok(());
        }
        if kind == ObjectKind::Lease && found.annotations().contains_key(names::RECORD) {
            let election = name.strip_prefix(names::OBJECT_PREFIX).unwrap_or(name);
            let labels = json!({names::MANAGED: names::MANAGED_VALUE, names::ELECTION_LABEL: election});
            let patch = json!({"metadata": {"uid": found.uid(), "labels": labels}});
            return self.merge::<Lease>(&Identity::of(found.meta()), &patch).await.map(drop);
        }
        Err(ApplyError::Foreign(kind))
    }

    async fn apply<K: Kind>(&self, mut object: K, uid: &str) -> Result<(), ApplyError> {
        object.meta_mut().uid = Some(uid.to_owned());
        let api: Api<K> = self.api(object.meta().namespace.as_deref());
        let name = object.name_any();
        let patch = typed(&object)?;
        self.send(api.patch(&name, &force(), &Patch::Apply(&patch))).await.map(drop)
    }

    /// Returns the object's version after the write.
    async fn status<K: Kind>(&self, object: &Identity, status: &Value) -> Result<String, ApplyError> {
        let api: Api<K> = self.api(Some(&object.namespace));
        let patch = json!({
            "apiVersion": K::api_version(&()), "kind": K::kind(&()), "metadata": {"uid": object.uid}, "status": status,
        });
        let written = self.send(api.patch_status(&object.name, &force(), &Patch::Apply(&patch))).await?;
        Ok(written.resource_version().unwrap_or_default())
    }

    async fn merge<K: Kind>(&self, object: &Identity, patch: &Value) -> Result<Readable<K>, ApplyError> {
        let api: Api<Readable<K>> = self.api(Some(&object.namespace));
        let parameters =
            PatchParams { field_manager: Some(names::OPERATOR.to_owned()), ..PatchParams::default() };
        self.send(api.patch(&object.name, &parameters, &Patch::Merge(patch))).await
    }

    async fn delete<K: Kind>(&self, object: &Identity, version: Option<String>) -> Result<(), ApplyError> {
        let api: Api<K> = self.api(Some(&object.namespace));
        let preconditions = Preconditions { uid: Some(object.uid.clone()), resource_version: version };
        let parameters = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
        let deletion = async { api.delete(&object.name, &parameters).await.map(drop) };
        match self.send(deletion).await {
            Err(ApplyError::Gone) => Ok(()),
            other => other,
        }
    }

    /// A patch that changes nothing, so that the webhook sees the workload. That it is refused is something to tell, and no
    /// reason to leave other things undone.
    async fn touch(
        &self,
        kind: WorkloadKind,
        workload: Identity,
        notice: Notice,
    ) -> Result<Effect, ApplyError> {
        let patch = json!({"metadata": {"uid": workload.uid}});
        let after = match kind {
            WorkloadKind::Deployment => self.merge::<Deployment>(&workload, &patch).await.map(Workload::of),
            WorkloadKind::StatefulSet => self.merge::<StatefulSet>(&workload, &patch).await.map(Workload::of),
            WorkloadKind::DaemonSet => self.merge::<DaemonSet>(&workload, &patch).await.map(Workload::of),
        };
        let after = match after {
            Ok(after) => after,
            Err(ApplyError::Refused { message, .. }) => {
                let touched = Some(Touched { workload, refused: Some(message) });
                return Ok(Effect { touched, ..Effect::default() });
            }
            Err(error) => return Err(error),
        };
        let is_done = match notice.reason {
            EventReason::StampRemoved => after.is_none(),
            _ => after.is_some_and(|after| after.is_stamped()),
        };
        let touched = Some(Touched { workload, refused: None });
        Ok(Effect { notice: is_done.then_some(notice), touched, ..Effect::default() })
    }

    fn api<K>(&self, namespace: Option<&str>) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), namespace.unwrap_or_default())
    }

    async fn send<T>(&self, request: impl Future<Output = kube::Result<T>>) -> Result<T, ApplyError> {
        if !self.may_write() {
            return Err(ApplyError::NotLeading);
        }
        match timeout(REQUEST_TIMEOUT, request).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(kube::Error::Api(status))) => Err(refused(*status)),
            Ok(Err(error)) => Err(ApplyError::Exchange(Box::new(error))),
            Err(_) => Err(ApplyError::Timeout),
        }
    }
}

/// What all kinds of objects that are written here have in common.
trait Kind:
    Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + Serialize + DeserializeOwned
{
}

impl<K> Kind for K where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + Debug
        + Serialize
        + DeserializeOwned
{
}

fn creation() -> PostParams {
    PostParams { field_manager: Some(names::OPERATOR.to_owned()), ..PostParams::default() }
}

fn force() -> PatchParams {
    PatchParams::apply(names::OPERATOR).force()
}

/// With `apiVersion` and `kind`, which a server-side apply must name.
fn typed<K: Kind>(object: &K) -> Result<Value, serde_json::Error> {
    let mut value = serde_json::to_value(object)?;
    value["apiVersion"] = json!(K::api_version(&()));
    value["kind"] = json!(K::kind(&()));
    Ok(value)
}

fn refused(status: Status) -> ApplyError {
    let Status { code, message, details, .. } = status;
    let causes = details.map(|details| details.causes).unwrap_or_default();
    match code {
        409 => ApplyError::Stale,
        404 => ApplyError::Gone,
        // The UID in a patch is not that of the object.
        422 if message.contains("metadata.uid") => ApplyError::Stale,
        403 if causes.iter().any(|cause| cause.reason == "NamespaceTerminating") => {
            ApplyError::NamespaceEnding
        }
        _ => ApplyError::Refused { code, message },
    }
}
