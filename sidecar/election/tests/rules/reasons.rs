//! Why the answer is what it is, and when to call again.

use crate::world::*;
use conch_election::{Content, Elector, Event, Failure, FailureKind, Input, Reason, WriteError};

fn reason(elector: &mut Elector, now: u64) -> Reason {
    elector.answer(at(now)).reason
}

fn failing(kind: FailureKind) -> Elector {
    let mut elector = candidate(1);
    assert!(elector.poll_action(at(0)).is_some());
    elector.handle(at(10), Input::Read(Err(Failure { kind, retry_after: None })));
    elector
}

#[test]
fn each_failure_of_the_store_has_a_reason_of_its_own() {
    for (kind, expected) in [
        (FailureKind::Denied, Reason::StoreDenied),
        (FailureKind::Invalid, Reason::StoreInvalid),
        (FailureKind::Timeout, Reason::StoreUnavailable),
        (FailureKind::Unavailable, Reason::StoreUnavailable),
    ] {
        let mut elector = failing(kind);
        assert_eq!(reason(&mut elector, 11), expected);
        assert_eq!(events(&mut elector), [Event::RequestFailed(kind)]);
    }
}

#[test]
fn a_leader_that_cannot_renew_for_a_while_still_leads_and_says_so() {
    let (mut elector, _) = leader();
    elector.handle(at(2_020), Input::Tick);
    expect_write(elector.poll_action(at(2_020)));
    elector.handle(at(2_100), Input::Written(Err(WriteError::Failed(unavailable()))));
    let answer = elector.answer(at(2_100));
    assert_eq!(answer.reason, Reason::Leading);
    assert!(answer.promise.is_some());
}

#[test]
fn before_the_first_answer_of_the_store_nothing_is_known() {
    assert_eq!(reason(&mut candidate(1), 0), Reason::NotContacted);
}

#[test]
fn the_record_says_why_not() {
    for (content, expected) in [
        (held_by(9, 1, LEASE), Reason::OtherLeads),
        (unknown("kubectl"), Reason::OtherLeads),
        (unknown(""), Reason::RecordUnknown),
        (
            Content::Unknown(conch_election::Unknown {
                holder: Some(String::new()),
                lease: None,
                fingerprint: String::new(),
            }),
            Reason::RecordUnknown,
        ),
        (Content::Fresh, Reason::Acquiring),
    ] {
        let mut register = Register::default();
        register.put(content.clone());
        let mut elector = candidate(1);
        register.run(&mut elector, at(0));
        assert_eq!(reason(&mut elector, 0), expected, "{content:?}");
    }
}

#[test]
fn who_expired_and_finds_its_own_record_is_about_to_acquire() {
    let (mut elector, _) = leader();
    assert_eq!(reason(&mut elector, 14_000), Reason::Acquiring);
}

#[test]
fn the_driver_is_woken_when_the_validity_ends() {
    let (mut elector, _) = leader();
    elector.handle(at(20), Input::Willing(false));
    let validity = timing().validity();
    let left = elector.poll_timeout(at(1_000)).unwrap();
    assert!(left + ms(980) <= validity && left + ms(1_000) >= validity, "{left:?}");
    elector.handle(at(1_000), Input::Tick);
    assert!(elector.leads(at(1_000)));
}

#[test]
fn a_process_that_ended_its_work_wants_nothing_more() {
    let mut register = Register::default();
    register.put(held_by(9, 1, LEASE));
    let mut elector = candidate(1);
    register.run(&mut elector, at(0));
    elector.handle(at(10), Input::Terminate);
    assert!(elector.is_done(at(10)));
    assert_eq!(elector.poll_timeout(at(10)), None);
    register.run_until(&mut elector, 10, 60_000);
    assert!(register.stored.unwrap().content == held_by(9, 1, LEASE));
}

#[test]
fn a_process_that_ends_waits_for_a_write_that_may_make_it_lead_and_no_longer() {
    let mut register = Register::fresh();
    let mut elector = candidate(1);
    register.run(&mut elector, at(0));
    let (sent, _) = first_sent(&mut elector);
    elector.handle(at(sent + 10), Input::Terminate);
    elector.handle(at(sent + 20), Input::Written(Err(WriteError::Failed(timeout()))));
    register.run(&mut elector, at(sent + 30));
    assert!(!elector.is_done(at(sent + 30)), "it may land yet");
    let validity = timing().validity();
    let left = elector.poll_timeout(at(sent + 30)).unwrap();
    assert_eq!(left + ms(30), validity, "the driver is woken to end");
    let end = sent + u64::try_from(validity.as_micros().div_ceil(1_000)).unwrap();
    assert!(!elector.is_done(at(end - 1)));
    assert!(elector.is_done(at(end)));
}

#[test]
fn a_process_that_is_told_to_end_before_it_began_asks_the_store_nothing() {
    let mut elector = candidate(1);
    elector.handle(at(0), Input::Terminate);
    assert!(elector.is_done(at(0)));
    assert_eq!(elector.poll_action(at(0)), None);
}
