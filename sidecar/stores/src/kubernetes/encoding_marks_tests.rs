//! What others write on a Lease for its candidates.

use super::*;

#[test]
fn a_holder_takes_down_the_deletion_of_other_pods_and_leaves_its_own() {
    let deletion = |pod_uid: &str| {
        let deletion =
            PodDeletion { pod_uid: pod_uid.into(), grace_seconds: 30, sidecar_image: "conch:1".into() };
        serde_json::to_string(&deletion).unwrap()
    };
    let after = |text: &str| {
        replacement(&lease(&[(names::POD_DELETION, text)], json!({})), &held(), None, now()).unwrap()
    };
    assert_eq!(pod_deletion(&after(&deletion("4f1c-8d"))).unwrap().pod_uid, "4f1c-8d");
    assert!(!annotations(&after(&deletion("another"))).contains_key(names::POD_DELETION));
    assert!(!annotations(&after("garbage")).contains_key(names::POD_DELETION));
    assert_eq!(pod_deletion(&lease(&[(names::POD_DELETION, "garbage")], json!({}))), None);
}

#[test]
fn a_new_term_takes_down_who_was_to_lead_and_renewals_and_releases_leave_it() {
    let base = lease(&[(names::TRANSFER_TO, "payments-b")], json!({}));
    let asked_after = |record: &Record| transfer_to(&replacement(&base, record, None, now()).unwrap());
    let renewal = held();
    let Some(term) = renewal.term() else { panic!("a held record has a term") };
    assert_ne!(term, renewal.write);
    assert_eq!(asked_after(&renewal).as_deref(), Some("payments-b"));
    let release = Record { claim: Claim::Released { term }, ..held() };
    assert_eq!(asked_after(&release).as_deref(), Some("payments-b"));
    assert_eq!(asked_after(&Record { write: term, ..held() }), None);
}
