//! Every shape of a record that a candidate may write; for tests of the encoding as well as of whole stores.

use conch_election::{Claim, Identity, LEASE_MAX, Nonce, Record, WriteId};
use proptest::prelude::{Strategy, any};
use std::time::Duration;

/// With names of pods, and UIDs, of these forms.
pub(crate) fn records(pod: &'static str, pod_uid: &'static str) -> impl Strategy<Value = Record> {
    let lease = 1..=LEASE_MAX.as_secs();
    let ids = (any::<u128>(), any::<u64>(), any::<u64>(), any::<u32>(), any::<u64>());
    (ids, lease, pod, pod_uid, 0..4_u8).prop_map(
        |((nonce, sequence, acquired, transitions, fencing_offset), lease, pod, pod_uid, shape)| {
            let nonce = Nonce(nonce);
            let term = WriteId { nonce, sequence: acquired };
            let claim = match shape {
                0 => Claim::Vacant,
                1 => Claim::Released { term },
                _ => Claim::Held {
                    holder: Identity { pod, pod_uid, nonce },
                    term,
                    lease: Duration::from_secs(lease),
                    reacquired: shape == 2,
                },
            };
            Record { write: WriteId { nonce, sequence }, transitions, fencing_offset, claim }
        },
    )
}
