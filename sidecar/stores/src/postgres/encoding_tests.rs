//! What stands in a row, and what is believed of it.

use super::*;
use proptest::prelude::*;

use crate::records::records;

const ELECTION: &str = "shop/payments";
const PLACE: Place =
    Place { system: 7_711_200_676_456_234_860, timeline: 3, table: 16_384, incarnation: 800 };

fn row(place: Place, columns: Columns) -> Row {
    let Columns { holder, lease_ms, transitions, token, record } = columns;
    Row {
        place,
        xmin: 900,
        holder,
        lease_ms: lease_ms.map(|ms| ms.try_into().unwrap()),
        transitions: Some(transitions.into()),
        token,
        written_at: Some("1764000000.5".to_owned()),
        record: Some(record),
        fresh: None,
        deleting: false,
        longest_lease_ms: None,
    }
}

fn held() -> Record {
    let write = WriteId { nonce: Nonce(5), sequence: 2 };
    let holder = Identity { pod: "payments-b".to_owned(), pod_uid: "u_1".to_owned(), nonce: Nonce(5) };
    let claim = Claim::Held { holder, term: write, lease: Duration::from_secs(15), reacquired: false };
    Record { write, transitions: 4, fencing_offset: 9, claim }
}

fn released() -> Record {
    Record { claim: Claim::Released { term: held().write }, ..held() }
}

fn vacant() -> Record {
    Record { claim: Claim::Vacant, ..held() }
}

fn written(record: &Record) -> Row {
    row(PLACE, encode(ELECTION, Some(&PLACE), record, Some(Token(7))).unwrap())
}

fn believed(row: &Row) -> bool {
    matches!(decode(ELECTION, row, 1_000).content, Content::Record(_))
}

proptest! {
    #[test]
    fn every_record_is_read_as_it_was_written(record in records(r"[ -~]{0,60}", r"\PC{0,40}")) {
        let row = written(&record);
        prop_assert_eq!(decode(ELECTION, &row, 1_000).content, Content::Record(record));
    }

    #[test]
    fn no_text_breaks_the_decoding(text in ".{0,200}", place in ".{0,40}", ms in any::<i64>()) {
        let mut row = written(&held());
        row.record = Some(format!("{} {text}", checksum(&text)));
        row.fresh = Some(place.clone());
        row.lease_ms = Some(ms);
        row.longest_lease_ms = Some(ms);
        let stored = decode(ELECTION, &row, 1_000);
        prop_assert!(matches!(stored.content, Content::Unknown(_)));
        prop_assert!(stored.longest_lease.is_none_or(|lease| lease <= LEASE_MAX));
        prop_assert_eq!(parse_version(&Version(place)), None);
    }

    #[test]
    fn a_transaction_id_of_32_bits_is_the_latest_one(xid in any::<u64>(), later in 0..XID_ROUND) {
        let newest = xid.saturating_add(later);
        let xmin = u32::try_from(xid % XID_ROUND).unwrap();
        prop_assert_eq!(whole_xid(xmin, newest), xid);
    }
}

/// What somebody does to what stands in the database.
type Alter<T> = fn(&mut T);

#[test]
fn what_anybody_altered_is_unknown() {
    let alterations: [(&str, Alter<Row>); 9] = [
        ("holder", |row| row.holder = Some("somebody".to_owned())),
        ("no holder", |row| row.holder = None),
        ("lease", |row| row.lease_ms = Some(1)),
        ("no lease", |row| row.lease_ms = None),
        ("transitions", |row| row.transitions = Some(3)),
        ("no record", |row| row.record = None),
        ("part of the record", |row| {
            row.record = row.record.as_ref().map(|text| text.replace("15000", "25000"));
        }),
        ("half of the record", |row| row.record = row.record.as_ref().map(|text| text[..60].to_owned())),
        ("no sum", |row| row.record = row.record.as_ref().map(|text| text[33..].to_owned())),
    ];
    let whole = written(&held());
    assert!(believed(&whole));
    for (name, alter) in alterations {
        let mut row = whole.clone();
        alter(&mut row);
        assert!(!believed(&row), "{name}");
    }
    let mut row = written(&released());
    row.holder = Some("somebody".to_owned());
    assert!(!believed(&row), "somebody holds what was released");
}

#[test]
fn what_stands_in_another_place_is_unknown_unless_it_claims_nothing() {
    let places: [(&str, Alter<Place>); 4] = [
        ("another server, e.g. by pg_dump", |place| place.system += 1),
        ("after a promotion", |place| place.timeline += 1),
        ("a table that was made anew", |place| place.table += 1),
        ("a row that was put back", |place| place.incarnation += 1),
    ];
    for (name, alter) in places {
        for record in [held(), released()] {
            let mut row = written(&record);
            alter(&mut row.place);
            assert!(!believed(&row), "{name}");
        }
        let mut fresh = row(PLACE, encode(ELECTION, None, &vacant(), None).unwrap());
        assert!(believed(&fresh));
        (fresh.record, fresh.fresh) = (None, Some(PLACE.to_string()));
        assert_eq!(decode(ELECTION, &fresh, 1_000).content, Content::Fresh);
        alter(&mut fresh.place);
        assert!(matches!(decode(ELECTION, &fresh, 1_000).content, Content::Unknown(_)), "{name}");
    }
    assert!(!matches!(decode("shop/other", &written(&released()), 1_000).content, Content::Record(_)));
}

#[test]
fn who_creates_claims_nothing_and_a_record_without_a_place_is_not_believed() {
    for record in [held(), released()] {
        assert_eq!(encode(ELECTION, None, &record, None), Err(Unwritable));
        let note = Note::of(ELECTION, None, &record);
        let text = serde_json::to_string(&note).unwrap();
        let mut row = written(&record);
        row.record = Some(format!("{} {text}", checksum(&text)));
        assert!(!believed(&row));
    }
}

#[test]
fn another_form_is_unknown() {
    let text = serde_json::to_string(&Note { form: 2, ..Note::of(ELECTION, Some(&PLACE), &held()) }).unwrap();
    let mut row = written(&held());
    row.record = Some(format!("{} {text}", checksum(&text)));
    assert!(!believed(&row));
}

#[test]
fn a_lease_of_fractions_of_a_millisecond_is_not_written() {
    let Claim::Held { holder, term, reacquired, .. } = held().claim else { panic!("it is held") };
    let claim = Claim::Held { holder, term, lease: Duration::from_micros(1_500), reacquired };
    assert_eq!(encode(ELECTION, Some(&PLACE), &Record { claim, ..held() }, None), Err(Unwritable));
}

#[test]
fn fences_rise_with_transactions_and_more_with_timelines() {
    let fence = |timeline, xmin, newest| {
        let row = Row { place: Place { timeline, ..PLACE }, xmin, ..written(&held()) };
        decode(ELECTION, &row, newest).fence.unwrap()
    };
    let fences =
        [fence(1, 700, 800), fence(1, 701, 800), fence(1, 5, XID_ROUND + 10), fence(2, 3, 4), fence(2, 4, 4)];
    assert!(fences.is_sorted_by(|one, next| one < next), "{fences:?}");
    assert_eq!(fence(1, 700, 800), Fence((1 << 48) + 700));
    assert!(fence(32_767, u32::MAX, (1 << 48) - 1).0 <= i64::MAX as u128);
}

#[test]
fn versions_are_read_as_they_are_named() {
    let stored = decode(ELECTION, &written(&held()), XID_ROUND + 1_000);
    assert_eq!(parse_version(&stored.version), Some((PLACE, XID_ROUND + 900)));
    for other in ["", "@", "1/2/3@4", "1/2/3/4/5@6", "1/2/3/4@", "no such version"] {
        assert_eq!(parse_version(&Version(other.to_owned())), None, "{other}");
    }
}
