//! How a [`Record`] stands in a row: columns that people read, and one text that says the same again, whole, with what the
//! columns cannot hold. A row is believed only where both agree, where the text is as it was written, and where it names
//! the election and the [`Place`] in which it stands: what a backup tool puts back, what a standby was promoted with, and what
//! was copied from another election says nothing.

use conch_election::{
    Claim, Content, Fence, Identity, Incarnation, LEASE_MAX, Nonce, Record, Stored, Token, Unknown, Version,
    WriteId,
};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::{
    fmt::{self, Write as _},
    time::Duration,
};

/// The form of the text. Another number means that it cannot be understood.
const FORM: u32 = 1;
/// Transaction ids of PostgreSQL that are kept in a row have 32 bits; the rest is counted by the server.
const XID_ROUND: u64 = 1 << 32;
/// A fence is the timeline and, in so many bits below it, the transaction id: at 10,000 transactions a second they last
/// for 890 years. Up to 32,767 promotions it fits PostgreSQL's own `bigint`.
const XID_BITS: u32 = 48;

/// Where a row is: another place is another object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// PostgreSQL's identifier of the database system: one for a primary and its standbys.
    pub(super) system: i64,
    /// Which history the server writes: each promotion begins a new one, and a failover may have lost what the old one held.
    pub(super) timeline: u32,
    /// `oid` of the table: a table that was dropped and restored is another one.
    pub(super) table: u32,
    /// The transaction that inserted the row, as a trigger says whoever inserts it.
    pub(super) incarnation: u64,
}

/// What is written to the columns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Columns {
    /// For people, as in a Lease.
    pub(super) holder: Option<String>,
    pub(super) lease_ms: Option<u64>,
    pub(super) transitions: u32,
    /// For people.
    pub(super) token: Option<String>,
    pub(super) record: String,
}

/// A row as it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) place: Place,
    /// The transaction that wrote it last, in 32 bits.
    pub(super) xmin: u32,
    pub(super) holder: Option<String>,
    pub(super) lease_ms: Option<i64>,
    pub(super) transitions: Option<i64>,
    pub(super) token: Option<String>,
    pub(super) written_at: Option<String>,
    pub(super) record: Option<String>,
    pub(super) fresh: Option<String>,
    pub(super) deleting: bool,
    pub(super) longest_lease_ms: Option<i64>,
}

/// The record holds what the decoding would not believe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the record has no form in a row")]
pub(super) struct Unwritable;

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Note {
    form: u32,
    election: String,
    /// Who creates a row does not know it, and claims nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    place: Option<String>,
    write: String,
    transitions: u32,
    fencing_offset: u64,
    claim: NotedClaim,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
enum NotedClaim {
    Held { pod: String, pod_uid: String, nonce: String, term: String, lease_ms: u64, reacquired: bool },
    Released { term: String },
    Vacant,
}

/// Names one state of one row. `newest` is a transaction id, in 64 bits, that is not before the row's.
pub(super) fn decode(election: &str, row: &Row, newest: u64) -> Stored {
    let xid = whole_xid(row.xmin, newest);
    Stored {
        version: Version(format!("{}@{xid}", row.place)),
        incarnation: Incarnation(row.place.to_string()),
        fence: Some(fence(row.place.timeline, xid)),
        deleting: row.deleting,
        longest_lease: row.longest_lease_ms.and_then(duration),
        content: content(election, row),
    }
}

/// The reverse of what [`decode`] names a version.
pub(super) fn parse_version(version: &Version) -> Option<(Place, u64)> {
    let (place, xid) = version.0.split_once('@')?;
    let mut parts = place.split('/');
    let place = Place {
        system: parts.next()?.parse().ok()?,
        timeline: parts.next()?.parse().ok()?,
        table: parts.next()?.parse().ok()?,
        incarnation: parts.next()?.parse().ok()?,
    };
    parts.next().is_none().then_some((place, xid.parse().ok()?))
}

/// The columns for `record`, in the row of `place`; in a row that is yet to be made the record can only be
/// [`Claim::Vacant`].
pub(super) fn encode(
    election: &str,
    place: Option<&Place>,
    record: &Record,
    token: Option<Token>,
) -> Result<Columns, Unwritable> {
    let note = Note::of(election, place, record);
    let text = serde_json::to_string(&note).map_err(|_| Unwritable)?;
    let (holder, lease_ms) = shown(&record.claim).ok_or(Unwritable)?;
    let believed = read(&text).and_then(Note::record).is_some_and(|read| read == *record);
    if !believed || (place.is_none() && record.claim != Claim::Vacant) {
        return Err(Unwritable);
    }
    Ok(Columns {
        holder,
        lease_ms,
        transitions: record.transitions,
        token: token.map(|token| token.to_string()),
        record: format!("{} {text}", checksum(&text)),
    })
}

/// The latest transaction id up to `newest` that ends in these 32 bits. A row that nobody wrote for more than four billion
/// transactions seems younger than it is, and still older than whatever is written next.
fn whole_xid(xmin: u32, newest: u64) -> u64 {
    newest - newest.wrapping_sub(u64::from(xmin)) % XID_ROUND
}

fn fence(timeline: u32, xid: u64) -> Fence {
    Fence((u128::from(timeline) << XID_BITS) + u128::from(xid))
}

fn content(election: &str, row: &Row) -> Content {
    let place = row.place.to_string();
    let empty = row.record.is_none() && row.holder.is_none();
    if empty && row.fresh.as_deref() == Some(place.as_str()) {
        return Content::Fresh;
    }
    if let Some(record) = row.record.as_deref().and_then(|text| record(election, &place, row, text)) {
        return Content::Record(record);
    }
    let Row { holder, lease_ms, transitions, token, written_at, record, .. } = row;
    Content::Unknown(Unknown {
        holder: holder.clone().filter(|holder| !holder.is_empty()),
        lease: lease_ms.and_then(duration),
        fingerprint: format!("{holder:?} {lease_ms:?} {transitions:?} {token:?} {written_at:?} {record:?}"),
    })
}

/// The record, if text and columns say the same, and nobody but its writer can have said it, here.
fn record(election: &str, place: &str, row: &Row, text: &str) -> Option<Record> {
    let (sum, text) = text.split_once(' ')?;
    let note = if checksum(text) == sum { read(text)? } else { return None };
    let of_this_row = note.election == election
        && match (&note.place, &note.claim) {
            (Some(of), _) => of == place,
            (None, NotedClaim::Vacant) => true,
            (None, _) => false,
        };
    let record = note.record()?;
    let (holder, lease_ms) = shown(&record.claim)?;
    let agrees = row.holder == holder
        && row.lease_ms == lease_ms.and_then(|ms| ms.try_into().ok())
        && row.transitions == Some(record.transitions.into());
    (of_this_row && agrees).then_some(record)
}

/// What the columns say of a claim.
fn shown(claim: &Claim) -> Option<(Option<String>, Option<u64>)> {
    match claim {
        Claim::Held { holder, lease, .. } => {
            let lease_ms = u64::try_from(lease.as_millis()).ok().filter(|ms| i64::try_from(*ms).is_ok())?;
            Some((Some(holder.to_string()), Some(lease_ms)))
        }
        Claim::Released { .. } | Claim::Vacant => Some((None, None)),
    }
}

fn read(text: &str) -> Option<Note> {
    serde_json::from_str::<Note>(text).ok().filter(|note| note.form == FORM)
}

/// Not against forgery, which nothing in a row can prevent, but against whatever alters a text.
fn checksum(text: &str) -> String {
    hexadecimal(&Sha256::digest(text.as_bytes()))
}

/// The first half of a digest.
pub(super) fn hexadecimal(digest: &[u8]) -> String {
    digest.iter().take(16).fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}"); // a String takes everything
        text
    })
}

fn duration(milliseconds: i64) -> Option<Duration> {
    let milliseconds = u64::try_from(milliseconds).ok().filter(|ms| *ms > 0)?;
    Some(Duration::from_millis(milliseconds).min(LEASE_MAX))
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

impl Note {
    fn of(election: &str, place: Option<&Place>, record: &Record) -> Self {
        Self {
            form: FORM,
            election: election.to_owned(),
            place: place.map(Place::to_string),
            write: record.write.to_string(),
            transitions: record.transitions,
            fencing_offset: record.fencing_offset,
            claim: match &record.claim {
                Claim::Held { holder, term, lease, reacquired } => NotedClaim::Held {
                    pod: holder.pod.clone(),
                    pod_uid: holder.pod_uid.clone(),
                    nonce: holder.nonce.to_string(),
                    term: term.to_string(),
                    lease_ms: u64::try_from(lease.as_millis()).unwrap_or(u64::MAX),
                    reacquired: *reacquired,
                },
                Claim::Released { term } => NotedClaim::Released { term: term.to_string() },
                Claim::Vacant => NotedClaim::Vacant,
            },
        }
    }

    fn record(self) -> Option<Record> {
        let claim = match self.claim {
            NotedClaim::Held { pod, pod_uid, nonce, term, lease_ms, reacquired } => Claim::Held {
                holder: Identity { pod, pod_uid, nonce: parse_nonce(&nonce)? },
                term: parse_write_id(&term)?,
                lease: Duration::from_millis(lease_ms),
                reacquired,
            },
            NotedClaim::Released { term } => Claim::Released { term: parse_write_id(&term)? },
            NotedClaim::Vacant => Claim::Vacant,
        };
        let Self { transitions, fencing_offset, .. } = self;
        Some(Record { write: parse_write_id(&self.write)?, transitions, fencing_offset, claim })
    }
}

/// `system/timeline/table/incarnation`.
impl fmt::Display for Place {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { system, timeline, table, incarnation } = self;
        write!(formatter, "{system}/{timeline}/{table}/{incarnation}")
    }
}

#[cfg(test)]
#[path = "encoding_tests.rs"]
mod tests;
