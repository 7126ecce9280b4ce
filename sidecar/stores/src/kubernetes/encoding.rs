//! How a [`Record`] stands in a Lease: the fields that every tool knows, and one annotation that says the same again,
//! with what the fields cannot hold. A Lease is believed only where both agree, and where the annotation names the Lease's
//! own uid: what a backup tool puts back, in a new object, says nothing.

use conch_crds::{PodDeletion, names};
use conch_election::{
    Claim, Content, Fence, Identity, Incarnation, LEASE_MAX, Nonce, Record, Stored, Token, Unknown, Version,
    WriteId,
};
use jiff::Timestamp;
use kube::api::{DynamicObject, ObjectMeta};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::time::Duration;

/// The form of the annotation. Another number means that it cannot be understood.
const FORM: u32 = 2;
/// What `leaseDurationSeconds` says where nobody holds the Lease: the least that the API server accepts, as in client-go.
const FREE_LEASE_SECONDS: u64 = 1;
/// A resourceVersion that no object ever has, because etcd's first revision is its own: a PUT with it can only create.
const NEVER_A_VERSION: &str = "1";

/// Why a record cannot be written to a Lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unwritable {
    /// The record holds what the decoding would not believe.
    #[error("the record has no form in a Lease")]
    Record,
    /// A Lease that the API server never sent: it has no uid.
    #[error("the Lease has no uid")]
    NoUid,
    /// `strategy` or `preferredHolder` is set: the control plane elects a holder for this Lease by itself.
    #[error("the Lease is managed by Coordinated Leader Election")]
    Coordinated,
}

/// The annotation [`names::RECORD`].
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Note {
    form: u32,
    /// Of the Lease that it was written to. Who creates one does not know it, and claims nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    lease_uid: Option<String>,
    write: String,
    transitions: u32,
    #[serde(default, skip_serializing_if = "is_zero")]
    fencing_offset: u64,
    claim: NotedClaim,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
enum NotedClaim {
    Held { holder: String, term: String, lease_seconds: u64, reacquired: bool },
    Released { term: String },
    Vacant,
}

/// The fields of a Lease's spec that a record decides.
#[derive(PartialEq, Eq)]
struct Fields {
    holder_identity: String,
    lease_seconds: u64,
    transitions: u64,
}

/// Reads a Lease. Never fails: what is not understood is [`Content::Unknown`].
pub(super) fn decode(object: &DynamicObject) -> Stored {
    Stored {
        version: version(object),
        incarnation: incarnation(object),
        fence: fence(object),
        deleting: object.metadata.deletion_timestamp.is_some(),
        longest_lease: longest_lease(object),
        content: content(object),
    }
}

/// Names one state of one object: the uid keeps the versions of a re-created Lease apart even if the server's counter
/// was set back.
pub(super) fn version(object: &DynamicObject) -> Version {
    let ObjectMeta { uid, resource_version, .. } = &object.metadata;
    Version(format!(
        "{}/{}",
        uid.as_deref().unwrap_or_default(),
        resource_version.as_deref().unwrap_or_default()
    ))
}

pub(super) fn incarnation(object: &DynamicObject) -> Incarnation {
    Incarnation(object.metadata.uid.clone().unwrap_or_default())
}

/// The resourceVersion as a number, if it is a decimal number without a leading zero (Kubernetes guarantees that from
/// 1.35 on, and etcd gives nothing else before).
pub(super) fn fence(object: &DynamicObject) -> Option<Fence> {
    parse_fence(object.metadata.resource_version.as_deref()?)
}

pub(super) fn parse_fence(text: &str) -> Option<Fence> {
    let canonical = !text.starts_with('0') && text.bytes().all(|byte| byte.is_ascii_digit());
    if canonical { text.parse().ok().map(Fence) } else { None }
}

/// The lease of the holder that [`names::RECORD`] names, whatever the fields of the Lease say by now: by it somebody may
/// lead.
pub fn held_lease(note: &str) -> Option<Duration> {
    match serde_json::from_str::<Note>(note).ok()?.record()?.claim {
        Claim::Held { lease, .. } => Some(lease),
        Claim::Released { .. } | Claim::Vacant => None,
    }
}

/// What the operator says about a pod that is being deleted; garbage counts as nothing.
pub(super) fn pod_deletion(object: &DynamicObject) -> Option<PodDeletion> {
    serde_json::from_str(annotation(object, names::POD_DELETION)?).ok()
}

/// The pod that somebody wants to lead.
pub(super) fn transfer_to(object: &DynamicObject) -> Option<String> {
    annotation(object, names::TRANSFER_TO).filter(|pod| !pod.is_empty()).map(str::to_owned)
}

/// The body of the PUT that takes `base` to `record`. Whatever else stands in `base` stays, its version included.
pub(super) fn replacement(
    base: &DynamicObject,
    record: &Record,
    token: Option<Token>,
    now: Timestamp,
) -> Result<DynamicObject, Unwritable> {
    if is_coordinated(&base.data["spec"]) {
        return Err(Unwritable::Coordinated);
    }
    if uid(base).is_none() {
        return Err(Unwritable::NoUid);
    }
    let mut object = base.clone();
    object.metadata.managed_fields = None;
    write_annotations(&mut object, record, token)?;
    write_spec(&mut object, record, now)?;
    Ok(object)
}

/// The body of the PUT that creates the Lease and cannot touch an existing one; the record can only be [`Claim::Vacant`].
/// What the operator had put on the Lease that was `last` seen under this name is put back, so that it keeps its owner and
/// its protection. The label is there in any case: by it the operator sees every Lease that a sidecar ever made.
pub(super) fn creation(
    namespace: &str,
    name: &str,
    last: Option<&DynamicObject>,
    record: &Record,
    token: Option<Token>,
    now: Timestamp,
) -> Result<DynamicObject, Unwritable> {
    if record.claim != Claim::Vacant {
        return Err(Unwritable::Record);
    }
    let longest = last.and_then(|object| annotation(object, names::LONGEST_LEASE));
    let last = last.map(|object| object.metadata.clone()).unwrap_or_default();
    let mut labels = last.labels.unwrap_or_default();
    labels.insert(names::MANAGED.to_owned(), names::MANAGED_VALUE.to_owned());
    let mut object = DynamicObject {
        types: Some(kube::api::TypeMeta {
            api_version: "coordination.k8s.io/v1".to_owned(),
            kind: "Lease".to_owned(),
        }),
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            namespace: Some(namespace.to_owned()),
            resource_version: Some(NEVER_A_VERSION.to_owned()),
            labels: Some(labels),
            annotations: longest
                .map(|longest| [(names::LONGEST_LEASE.to_owned(), longest.to_owned())].into_iter().collect()),
            owner_references: last.owner_references,
            ..ObjectMeta::default()
        },
        data: json!({}),
    };
    write_annotations(&mut object, record, token)?;
    write_spec(&mut object, record, now)?;
    Ok(object)
}

fn write_annotations(
    object: &mut DynamicObject,
    record: &Record,
    token: Option<Token>,
) -> Result<(), Unwritable> {
    let note = serde_json::to_string(&Note::of(record, uid(object))).map_err(|_| Unwritable::Record)?;
    let foreign_deletion = match &record.claim {
        Claim::Held { holder, .. } => {
            annotation(object, names::POD_DELETION).is_some()
                && pod_deletion(object).is_none_or(|deletion| deletion.pod_uid != holder.pod_uid)
        }
        Claim::Released { .. } | Claim::Vacant => false,
    };
    let annotations = object.metadata.annotations.get_or_insert_default();
    annotations.insert(names::RECORD.to_owned(), note);
    annotations.remove(names::FRESH);
    if foreign_deletion {
        annotations.remove(names::POD_DELETION);
    }
    if record.term() == Some(record.write) {
        annotations.remove(names::TRANSFER_TO); // whoever begins a term has won, whether it was asked for or not
    }
    match token {
        Some(token) => annotations.insert(names::TOKEN.to_owned(), token.to_string()),
        None => annotations.remove(names::TOKEN),
    };
    Ok(())
}

fn write_spec(object: &mut DynamicObject, record: &Record, now: Timestamp) -> Result<(), Unwritable> {
    let fields = Fields::of(record).ok_or(Unwritable::Record)?;
    if !object.data.is_object() {
        object.data = json!({});
    }
    let spec = &mut object.data["spec"];
    if !spec.is_object() {
        *spec = json!({});
    }
    // The API server takes exactly six decimals.
    let now = format!("{now:.6}");
    spec["holderIdentity"] = json!(fields.holder_identity);
    spec["leaseDurationSeconds"] = json!(fields.lease_seconds);
    spec["leaseTransitions"] = json!(fields.transitions);
    if record.term() == Some(record.write) {
        spec["acquireTime"] = json!(now);
    }
    spec["renewTime"] = json!(now);
    Ok(())
}

fn content(object: &DynamicObject) -> Content {
    let spec = &object.data["spec"];
    let note = annotation(object, names::RECORD);
    let empty = spec.as_object().is_none_or(|spec| spec.values().all(Value::is_null));
    let fresh = annotation(object, names::FRESH).is_some_and(|of| uid(object) == Some(of));
    if note.is_none() && empty && fresh {
        return Content::Fresh;
    }
    if let Some(record) = note.and_then(|note| record(note, spec, uid(object))) {
        return Content::Record(record);
    }
    Content::Unknown(Unknown {
        holder: spec["holderIdentity"].as_str().filter(|holder| !holder.is_empty()).map(str::to_owned),
        lease: spec["leaseDurationSeconds"]
            .as_u64()
            .filter(|seconds| *seconds > 0)
            .map(|seconds| Duration::from_secs(seconds).min(LEASE_MAX)),
        // The maps of serde_json are sorted: equal content gives equal text.
        fingerprint: format!("{spec} {}", note.unwrap_or_default()),
    })
}

/// The record, if annotation and spec both say the same and nobody but its writer can have said it, of this object.
fn record(note: &str, spec: &Value, uid: Option<&str>) -> Option<Record> {
    let note: Note = serde_json::from_str(note).ok()?;
    let of_this_object = match (&note.lease_uid, &note.claim) {
        (Some(of), _) => Some(of.as_str()) == uid,
        (None, NotedClaim::Vacant) => true,
        (None, _) => false,
    };
    let record = note.record()?;
    let agrees = !is_coordinated(spec) && Fields::of(&record)? == Fields::found_in(spec)?;
    (of_this_object && agrees).then_some(record)
}

/// Of the object itself: the API server gives each one its own.
fn uid(object: &DynamicObject) -> Option<&str> {
    object.metadata.uid.as_deref().filter(|uid| !uid.is_empty())
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for it")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

fn is_coordinated(spec: &Value) -> bool {
    !spec["strategy"].is_null() || !spec["preferredHolder"].is_null()
}

fn longest_lease(object: &DynamicObject) -> Option<Duration> {
    let milliseconds: u64 = annotation(object, names::LONGEST_LEASE)?.parse().ok()?;
    (milliseconds > 0).then(|| Duration::from_millis(milliseconds).min(LEASE_MAX))
}

fn annotation<'o>(object: &'o DynamicObject, name: &str) -> Option<&'o str> {
    object.metadata.annotations.as_ref()?.get(name).map(String::as_str)
}

impl Note {
    fn of(record: &Record, uid: Option<&str>) -> Self {
        Self {
            form: FORM,
            lease_uid: uid.map(str::to_owned),
            write: record.write.to_string(),
            transitions: record.transitions,
            fencing_offset: record.fencing_offset,
            claim: match &record.claim {
                Claim::Held { holder, term, lease, reacquired } => NotedClaim::Held {
                    holder: holder.to_string(),
                    term: term.to_string(),
                    lease_seconds: lease.as_secs(),
                    reacquired: *reacquired,
                },
                Claim::Released { term } => NotedClaim::Released { term: term.to_string() },
                Claim::Vacant => NotedClaim::Vacant,
            },
        }
    }

    fn record(self) -> Option<Record> {
        if self.form != FORM {
            return None;
        }
        let claim = match self.claim {
            NotedClaim::Held { holder, term, lease_seconds, reacquired } => Claim::Held {
                holder: parse_identity(&holder)?,
                term: parse_write_id(&term)?,
                lease: Duration::from_secs(lease_seconds),
                reacquired,
            },
            NotedClaim::Released { term } => Claim::Released { term: parse_write_id(&term)? },
            NotedClaim::Vacant => Claim::Vacant,
        };
        let Self { transitions, fencing_offset, .. } = self;
        Some(Record { write: parse_write_id(&self.write)?, transitions, fencing_offset, claim })
    }
}

impl Fields {
    /// `None` for a record that no candidate writes: only its holder renews or releases a term, and a lease is whole
    /// seconds up to [`LEASE_MAX`].
    fn of(record: &Record) -> Option<Self> {
        let by_its_holder = record.term().is_none_or(|term| term.nonce == record.write.nonce);
        let (holder_identity, lease_seconds) = match &record.claim {
            Claim::Held { holder, lease, .. } => {
                let text = holder.to_string();
                let possible = holder.nonce == record.write.nonce
                    && parse_identity(&text).as_ref() == Some(holder)
                    && !lease.is_zero()
                    && *lease <= LEASE_MAX
                    && lease.subsec_nanos() == 0;
                (possible.then_some(text)?, lease.as_secs())
            }
            Claim::Released { .. } | Claim::Vacant => (String::new(), FREE_LEASE_SECONDS),
        };
        // The field is an i32; the annotation counts on.
        let transitions = u64::from(record.transitions).min(i32::MAX.unsigned_abs().into());
        by_its_holder.then_some(Self { holder_identity, lease_seconds, transitions })
    }

    fn found_in(spec: &Value) -> Option<Self> {
        Some(Self {
            holder_identity: spec["holderIdentity"].as_str()?.to_owned(),
            lease_seconds: spec["leaseDurationSeconds"].as_u64()?,
            transitions: spec["leaseTransitions"].as_u64()?,
        })
    }
}

/// The reverse of [`Nonce`]'s `Display`, and of nothing else.
fn parse_nonce(text: &str) -> Option<Nonce> {
    let nonce = Nonce(u128::from_str_radix(text, 16).ok()?);
    (nonce.to_string() == text).then_some(nonce)
}

/// The reverse of [`WriteId`]'s `Display`, and of nothing else.
fn parse_write_id(text: &str) -> Option<WriteId> {
    let (nonce, sequence) = text.split_once('.')?;
    let id = WriteId { nonce: parse_nonce(nonce)?, sequence: sequence.parse().ok()? };
    (id.to_string() == text).then_some(id)
}

/// The reverse of [`Identity`]'s `Display`. Read from the right: neither a nonce nor a pod's UID holds a `_`.
fn parse_identity(text: &str) -> Option<Identity> {
    let mut parts = text.rsplitn(3, '_');
    let (nonce, pod_uid, pod) = (parts.next()?, parts.next()?, parts.next()?);
    Some(Identity { pod: pod.to_owned(), pod_uid: pod_uid.to_owned(), nonce: parse_nonce(nonce)? })
}

#[cfg(test)]
#[path = "encoding_tests.rs"]
mod tests;
