use super::*;
use conch_election::TermId;
use proptest::prelude::*;
use std::collections::BTreeMap;

#[path = "encoding_marks_tests.rs"]
mod marks;

const NOW: &str = "2026-11-22T12:00:00.25Z";

fn now() -> Timestamp {
    NOW.parse().unwrap()
}

fn lease(annotations: &[(&str, &str)], spec: impl Into<Value>) -> DynamicObject {
    let annotations: BTreeMap<&str, &str> = annotations.iter().copied().collect();
    serde_json::from_value(json!({
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"name": "conch-payments", "uid": "u-1", "resourceVersion": "81234", "annotations": annotations},
        "spec": spec.into(),
    }))
    .unwrap()
}

fn held() -> Record {
    let nonce = Nonce(0xabc);
    Record {
        write: WriteId { nonce, sequence: 9 },
        transitions: 3,
        fencing_offset: 0,
        claim: Claim::Held {
            holder: Identity { pod: "payments-7c9-x2x".into(), pod_uid: "4f1c-8d".into(), nonce },
            term: WriteId { nonce, sequence: 2 },
            lease: Duration::from_secs(15),
            reacquired: false,
        },
    }
}

fn released(term: TermId) -> Record {
    Record {
        write: WriteId { nonce: Nonce(0xabc), sequence: 10 },
        transitions: 3,
        fencing_offset: 0,
        claim: Claim::Released { term },
    }
}

/// A Lease as a candidate left it.
fn written(record: &Record) -> DynamicObject {
    replacement(&lease(&[], json!({})), record, Some(Token(81_000)), now()).unwrap()
}

fn annotations(object: &DynamicObject) -> &BTreeMap<String, String> {
    object.metadata.annotations.as_ref().unwrap()
}

fn assert_unknown(object: &DynamicObject, why: &str) -> Unknown {
    match decode(object).content {
        Content::Unknown(unknown) => unknown,
        content => panic!("{why}: {content:?}"),
    }
}

#[test]
fn the_lease_of_a_record_is_read_whatever_the_fields_say() {
    let noted = |record: &Record| held_lease(&annotations(&written(record))[names::RECORD]);
    let end = released(WriteId { nonce: Nonce(0xabc), sequence: 2 });
    assert_eq!((noted(&held()), noted(&end)), (Some(Duration::from_secs(15)), None));
}

#[test]
fn a_held_lease_reads_well_for_every_tool() {
    let object = written(&held());
    assert_eq!(
        object.data["spec"],
        json!({
            "holderIdentity": "payments-7c9-x2x_4f1c-8d_00000000000000000000000000000abc",
            "leaseDurationSeconds": 15,
            "leaseTransitions": 3,
            "renewTime": "2026-11-22T12:00:00.250000Z",
        })
    );
    assert_eq!(annotations(&object)[names::TOKEN], "00000000000000081000");
    assert_eq!(
        annotations(&object)[names::RECORD],
        concat!(
            r#"{"form":2,"leaseUid":"u-1","write":"00000000000000000000000000000abc.9","transitions":3,"claim":{"held":"#,
            r#"{"holder":"payments-7c9-x2x_4f1c-8d_00000000000000000000000000000abc","#,
            r#""term":"00000000000000000000000000000abc.2","leaseSeconds":15,"reacquired":false}}}"#
        )
    );
    assert_eq!(decode(&object).content, Content::Record(held()));
}

#[test]
fn acquire_time_is_set_by_the_acquiring_write_and_kept_by_the_others() {
    let mut acquiring = held();
    acquiring.write.sequence = 2;
    let acquired = replacement(&lease(&[], json!({})), &acquiring, None, now()).unwrap();
    assert_eq!(acquired.data["spec"]["acquireTime"], "2026-11-22T12:00:00.250000Z");
    let later = "2026-11-22T13:00:00Z".parse().unwrap();
    let renewed = replacement(&acquired, &held(), None, later).unwrap();
    assert_eq!(renewed.data["spec"]["acquireTime"], "2026-11-22T12:00:00.250000Z");
    assert_eq!(renewed.data["spec"]["renewTime"], "2026-11-22T13:00:00.000000Z");
}

#[test]
fn a_released_or_vacant_lease_names_nobody() {
    let WriteId { nonce, .. } = held().write;
    for record in [released(WriteId { nonce, sequence: 2 }), Record { claim: Claim::Vacant, ..held() }] {
        let object = replacement(&written(&held()), &record, None, now()).unwrap();
        assert_eq!(object.data["spec"]["holderIdentity"], "");
        assert_eq!(object.data["spec"]["leaseDurationSeconds"], 1);
        assert_eq!(decode(&object).content, Content::Record(record));
    }
}

#[test]
fn a_write_keeps_what_it_does_not_know() {
    let mut base = lease(
        &[("example.com/note", "mine"), (names::LONGEST_LEASE, "30000"), (names::FRESH, "u-1")],
        json!({"newerThanWeAre": {"a": [1, null, "x"]}}),
    );
    base.metadata.labels = Some([("conch.rs/managed".into(), "true".into())].into());
    base.metadata.finalizers = Some(vec!["example.com/hold".into()]);
    base.metadata.managed_fields = Some(vec![]);
    base.data["alsoNewer"] = json!(true);
    let object = replacement(&base, &held(), None, now()).unwrap();
    assert_eq!(object.data["spec"]["newerThanWeAre"], base.data["spec"]["newerThanWeAre"]);
    assert_eq!(object.data["alsoNewer"], true);
    assert_eq!(annotations(&object)["example.com/note"], "mine");
    assert_eq!(annotations(&object)[names::LONGEST_LEASE], "30000");
    assert!(!annotations(&object).contains_key(names::FRESH), "a sidecar has run");
    let ObjectMeta { labels, finalizers, uid, resource_version, managed_fields, .. } = object.metadata;
    assert_eq!((labels, finalizers), (base.metadata.labels, base.metadata.finalizers));
    assert_eq!((uid.as_deref(), resource_version.as_deref()), (Some("u-1"), Some("81234")));
    assert_eq!(managed_fields, None, "the server keeps them when they are not sent");
}

#[test]
fn a_created_lease_can_touch_no_other_and_keeps_owner_and_labels_of_the_one_before() {
    let record = Record { claim: Claim::Vacant, ..held() };
    let object = creation("shop", "conch-payments", None, &record, None, now()).unwrap();
    let ObjectMeta { name, namespace, resource_version, uid, owner_references, labels, .. } =
        &object.metadata;
    assert_eq!(labels, &Some([("conch.rs/managed".into(), "true".into())].into()), "nobody told of it");
    assert_eq!((name.as_deref(), namespace.as_deref()), (Some("conch-payments"), Some("shop")));
    assert_eq!((resource_version.as_deref(), uid, owner_references), (Some("1"), &None, &None));

    let mut last =
        lease(&[(names::LONGEST_LEASE, "30000"), (names::POD_DELETION, "x"), ("a", "b")], json!({}));
    last.metadata.labels = Some(
        [("conch.rs/managed".into(), "no".into()), ("conch.rs/election".into(), "payments".into())].into(),
    );
    last.metadata.finalizers = Some(vec!["example.com/hold".into()]);
    last.metadata.deletion_timestamp = serde_json::from_value(json!("2026-11-22T12:00:00Z")).unwrap();
    last.metadata.owner_references =
        Some(vec![k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference {
            name: "payments".into(),
            ..Default::default()
        }]);
    let object = creation("shop", "conch-payments", Some(&last), &record, None, now()).unwrap();
    let labels = object.metadata.labels.as_ref().unwrap();
    assert_eq!(
        (labels["conch.rs/managed"].as_str(), labels["conch.rs/election"].as_str()),
        ("true", "payments")
    );
    assert_eq!(object.metadata.owner_references, last.metadata.owner_references);
    assert_eq!(annotations(&object).keys().collect::<Vec<_>>(), [names::LONGEST_LEASE, names::RECORD]);
    let ObjectMeta { uid, resource_version, finalizers, deletion_timestamp, .. } = object.metadata;
    assert_eq!(
        (uid, resource_version.as_deref(), finalizers, deletion_timestamp),
        (None, Some("1"), None, None)
    );
}

#[test]
fn a_lease_that_was_put_back_is_unknown_whatever_it_said() {
    let WriteId { nonce, .. } = held().write;
    let term = WriteId { nonce, sequence: 2 };
    let vacant = Record { claim: Claim::Vacant, ..held() };
    let fresh = lease(&[(names::FRESH, "u-1")], json!({}));
    for original in [written(&held()), written(&released(term)), written(&vacant), fresh] {
        assert!(!matches!(decode(&original).content, Content::Unknown(_)));
        let mut put_back = original;
        put_back.metadata.uid = Some("u-2".into());
        assert_unknown(&put_back, "another object");
        put_back.metadata.uid = None;
        assert_unknown(&put_back, "none that the API server sent");
        assert_eq!(replacement(&put_back, &held(), None, now()).err(), Some(Unwritable::NoUid));
    }
    // And whoever writes it next is believed again.
    let mut put_back = written(&released(term));
    put_back.metadata.uid = Some("u-2".into());
    let over = replacement(&put_back, &held(), None, now()).unwrap();
    assert_eq!(decode(&over).content, Content::Record(held()));
}

#[test]
fn a_creation_claims_nothing_and_is_read_as_vacant_in_the_object_that_came_of_it() {
    let WriteId { nonce, .. } = held().write;
    for record in [held(), released(WriteId { nonce, sequence: 2 })] {
        let refused = creation("shop", "conch-payments", None, &record, None, now()).err();
        assert_eq!(refused, Some(Unwritable::Record));
    }
    let vacant = Record { claim: Claim::Vacant, ..held() };
    let mut made = creation("shop", "conch-payments", None, &vacant, None, now()).unwrap();
    made.metadata.uid = Some("u-3".into());
    assert_eq!(decode(&made).content, Content::Record(vacant));
}

#[test]
fn a_record_that_no_candidate_writes_is_refused() {
    let stranger = WriteId { nonce: Nonce(1), sequence: 1 };
    let claim = |change: fn(&mut Identity, &mut Duration)| {
        let mut record = held();
        if let Claim::Held { holder, lease, .. } = &mut record.claim {
            change(holder, lease);
        }
        record
    };
    for (why, record) in [
        ("a lease of fractions", claim(|_, lease| *lease = Duration::from_millis(15_500))),
        ("no lease", claim(|_, lease| *lease = Duration::ZERO)),
        ("a lease past any use", claim(|_, lease| *lease = LEASE_MAX + Duration::from_secs(1))),
        ("a holder that did not write it", claim(|holder, _| holder.nonce = Nonce(7))),
        ("a UID that cannot be told from the name", claim(|holder, _| holder.pod_uid = "4f_1c".into())),
        ("the term of another", Record { write: stranger, ..held() }),
        ("a release by another", released(stranger)),
    ] {
        assert_eq!(
            replacement(&lease(&[], json!({})), &record, None, now()).err(),
            Some(Unwritable::Record),
            "{why}"
        );
    }
}

#[test]
fn a_lease_of_coordinated_leader_election_is_neither_believed_nor_written() {
    for field in ["strategy", "preferredHolder"] {
        let mut object = written(&held());
        object.data["spec"][field] = json!("OldestEmulationVersion");
        assert_unknown(&object, field);
        assert_eq!(
            replacement(&object, &held(), None, now()).err(),
            Some(Unwritable::Coordinated),
            "{field}"
        );
    }
}

#[test]
fn a_lease_where_any_part_was_altered_is_unknown() {
    for (field, values) in [
        (
            "holderIdentity",
            vec![json!(""), json!(null), json!("somebody"), json!("payments-7c9-x2x"), json!(7)],
        ),
        (
            "leaseDurationSeconds",
            vec![json!(14), json!(0), json!(-15), json!(null), json!(i32::MAX), json!("15")],
        ),
        ("leaseTransitions", vec![json!(4), json!(-1), json!(null), json!(2.5)]),
    ] {
        for value in values {
            let mut object = written(&held());
            object.data["spec"][field] = value.clone();
            assert_unknown(&object, &format!("{field}: {value}"));
        }
    }
    let note = annotations(&written(&held()))[names::RECORD].clone();
    for (why, from, to) in [
        ("another form", r#""form":2"#, r#""form":1"#),
        ("another Lease", r#""u-1""#, r#""u-2""#),
        ("no Lease", r#""leaseUid":"u-1","#, ""),
        ("another writer", "abc.9", "abd.9"),
        ("an unusual sequence", "abc.9", "abc.09"),
        ("a nonce in capitals", "abc.9", "ABC.9"),
        ("a short nonce", "00000000000000000000000000000abc.9", "abc.9"),
        ("a signed nonce", "00000000000000000000000000000abc.9", "+0000000000000000000000000000abc.9"),
        ("another term", "abc.2", "abd.2"),
        ("another count", r#""transitions":3"#, r#""transitions":4"#),
        ("a negative count", r#""transitions":3"#, r#""transitions":-3"#),
        ("another lease", r#""leaseSeconds":15"#, r#""leaseSeconds":16"#),
        ("another claim", r#""held""#, r#""hold""#),
        ("no JSON", "{", "["),
    ] {
        let mut object = written(&held());
        let altered = note.replacen(from, to, 1);
        assert_ne!(altered, note, "{why} alters nothing");
        object.metadata.annotations.as_mut().unwrap().insert(names::RECORD.into(), altered);
        assert_unknown(&object, why);
    }
    let mut object = written(&held());
    object.metadata.annotations.as_mut().unwrap().remove(names::RECORD);
    assert_unknown(&object, "no annotation");
}

#[test]
fn a_release_that_somebody_else_could_have_made_is_unknown() {
    let WriteId { nonce, .. } = held().write;
    let released = written(&released(WriteId { nonce, sequence: 2 }));
    let held = written(&held());
    // The annotation of one, the spec of the other.
    let mut cleared = held.clone();
    cleared.data = released.data.clone();
    assert_unknown(&cleared, "cleared as a release looks");
    let mut taken = released.clone();
    taken.data = held.data.clone();
    assert_unknown(&taken, "put back");
}

#[test]
fn only_an_empty_lease_that_the_operator_marked_is_fresh() {
    const FRESH: (&str, &str) = (names::FRESH, "u-1");
    for spec in [json!({}), json!(null), json!({"holderIdentity": null})] {
        assert_eq!(decode(&lease(&[FRESH], spec)).content, Content::Fresh);
    }
    assert_unknown(&lease(&[], json!({})), "no mark");
    for other in ["true", "u-2", ""] {
        assert_unknown(&lease(&[(names::FRESH, other)], json!({})), "the mark of another Lease, or none");
        let mut anonymous = lease(&[(names::FRESH, other)], json!({}));
        anonymous.metadata.uid = Some(String::new());
        assert_unknown(&anonymous, "a Lease without a uid");
    }
    assert_unknown(&lease(&[FRESH, (names::RECORD, "{}")], json!({})), "a record");
    assert_unknown(&lease(&[FRESH], json!({"holderIdentity": ""})), "a holder, even none");
    assert_unknown(&lease(&[FRESH], json!({"leaseTransitions": 0})), "any field");
}

#[test]
fn a_foreign_lease_tells_its_holder_and_a_wait_within_reason() {
    for (spec, holder, wait) in [
        (json!({"holderIdentity": "a", "leaseDurationSeconds": 30}), Some("a"), Some(30)),
        (json!({"holderIdentity": "🐚_x_y", "leaseDurationSeconds": 0}), Some("🐚_x_y"), None),
        (json!({"holderIdentity": "", "leaseDurationSeconds": -5}), None, None),
        (json!({"holderIdentity": null, "leaseDurationSeconds": i32::MAX}), None, Some(3_600)),
        (json!({"leaseDurationSeconds": u64::MAX}), None, Some(3_600)),
        (json!({"leaseDurationSeconds": "15"}), None, None),
        (json!([1, 2]), None, None),
        (json!("spec"), None, None),
        (json!(null), None, None),
    ] {
        let unknown = assert_unknown(&lease(&[], spec.clone()), "foreign");
        assert_eq!(unknown.holder.as_deref(), holder, "{spec}");
        assert_eq!(unknown.lease, wait.map(Duration::from_secs), "{spec}");
    }
}

#[test]
fn the_fingerprint_covers_spec_and_record_and_nothing_else() {
    let base = lease(&[(names::RECORD, "garbage")], json!({"holderIdentity": "a", "renewTime": "1"}));
    let fingerprint = |object: &DynamicObject| assert_unknown(object, "foreign").fingerprint;
    let mut other = base.clone();
    other.metadata.labels = Some([("a".into(), "b".into())].into());
    other.metadata.resource_version = Some("81235".into());
    other.metadata.annotations.as_mut().unwrap().insert(names::POD_DELETION.into(), "{}".into());
    assert_eq!(fingerprint(&other), fingerprint(&base));
    for (why, changed) in [
        ("spec", lease(&[(names::RECORD, "garbage")], json!({"holderIdentity": "a", "renewTime": "2"}))),
        (
            "unknown field",
            lease(&[(names::RECORD, "garbage")], json!({"holderIdentity": "a", "renewTime": "1", "x": 1})),
        ),
        ("record", lease(&[(names::RECORD, "rubbish")], json!({"holderIdentity": "a", "renewTime": "1"}))),
    ] {
        assert_ne!(fingerprint(&changed), fingerprint(&base), "{why}");
    }
}

#[test]
fn the_longest_lease_is_a_number_within_reason_or_none() {
    for (text, expected) in [
        ("15000", Some(15_000)),
        ("1", Some(1)),
        ("0", None),
        ("-1", None),
        ("15s", None),
        ("", None),
        ("1e3", None),
        ("4000000", Some(3_600_000)),
        ("18446744073709551615", Some(3_600_000)),
        ("18446744073709551616", None),
    ] {
        let stored = decode(&lease(&[(names::LONGEST_LEASE, text)], json!({})));
        assert_eq!(stored.longest_lease, expected.map(Duration::from_millis), "{text}");
    }
}

#[test]
fn a_resource_version_is_a_fence_only_if_it_is_a_canonical_number() {
    for (text, expected) in [
        ("81234", Some(81_234)),
        ("340282366920938463463374607431768211455", Some(u128::MAX)),
        ("340282366920938463463374607431768211456", None),
        ("0", None),
        ("081234", None),
        ("+81234", None),
        ("-1", None),
        ("", None),
        ("abc", None),
        ("１２", None),
    ] {
        let mut object = lease(&[], json!({}));
        object.metadata.resource_version = Some(text.into());
        assert_eq!(decode(&object).fence, expected.map(Fence), "{text}");
    }
}

#[test]
fn transitions_count_on_where_the_field_ends() {
    for (count, field) in [(0, 0), (2_147_483_647, i32::MAX), (2_147_483_648, i32::MAX), (u32::MAX, i32::MAX)]
    {
        let record = Record { transitions: count, ..held() };
        let object = written(&record);
        assert_eq!(object.data["spec"]["leaseTransitions"], field);
        assert_eq!(decode(&object).content, Content::Record(record));
    }
}

fn any_record() -> impl Strategy<Value = Record> {
    crate::records::records("\\PC{0,80}", "[^_]{0,40}")
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "\\PC{0,20}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 24, 6, |inner| {
        let key = prop_oneof![
            Just("holderIdentity".to_owned()),
            Just("leaseDurationSeconds".to_owned()),
            Just("leaseTransitions".to_owned()),
            Just("claim".to_owned()),
            Just("write".to_owned()),
            "\\PC{0,8}",
        ];
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::btree_map(key, inner, 0..5)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn every_record_is_read_as_it_was_written(record in any_record(), base in any_record(), token: Option<u128>) {
        let base = written(&base);
        let object = replacement(&base, &record, token.map(Token), now()).unwrap();
        // As the server sends it.
        let mut object: DynamicObject = serde_json::from_str(&serde_json::to_string(&object).unwrap()).unwrap();
        prop_assert_eq!(decode(&object).content, Content::Record(record));
        // As a backup tool brings it back.
        object.metadata.uid = Some("u-2".to_owned());
        prop_assert!(matches!(decode(&object).content, Content::Unknown(_)));
    }

    #[test]
    fn no_lease_makes_the_decoding_panic(spec in any_json(), note in any_json(), text in "\\PC{0,40}", version in "\\PC{0,20}") {
        for note in [note.to_string(), text] {
            let mut object = lease(
                &[(names::RECORD, &note), (names::LONGEST_LEASE, &note), (names::POD_DELETION, &note), (names::FRESH, "u-1")],
                spec.clone(),
            );
            object.metadata.resource_version = Some(version.clone());
            decode(&object);
            pod_deletion(&object);
            // And whatever stands there can be written over.
            if !is_coordinated(&spec) {
                let over = replacement(&object, &held(), None, now()).unwrap();
                prop_assert_eq!(decode(&over).content, Content::Record(held()));
            }
        }
    }
}
