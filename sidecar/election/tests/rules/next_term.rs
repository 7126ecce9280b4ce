//! A new term of the same process, for a program that is another one than before: a higher token, and nothing else changes.

use crate::world::*;
use conch_election::{
    Claim, Config, Content, Elector, EndCause, Event, Identity, Input, Nonce, Record, Token, WriteError,
};

fn record(register: &Register) -> Record {
    match &register.stored.as_ref().unwrap().content {
        Content::Record(record) => record.clone(),
        other => panic!("no record: {other:?}"),
    }
}

/// A leader whose program asked for a new term at this time; the token that it had.
fn asked_anew(now: u64) -> (Elector, Register, Token) {
    let (mut elector, register) = leader();
    let old = token(&mut elector, 1_000).unwrap();
    elector.begin_anew(at(now), old).unwrap();
    (elector, register, old)
}

#[test]
fn a_new_term_has_a_higher_token_and_the_lead_is_never_lost() {
    let (mut elector, mut register) = leader();
    register.run_until(&mut elector, 20, 3_000);
    let old = token(&mut elector, 3_000).unwrap();
    let before = record(&register);
    elector.begin_anew(at(3_000), old).unwrap();
    assert_eq!(token(&mut elector, 3_000), Some(old), "until the store confirms it");
    register.run(&mut elector, at(3_000));
    let new = token(&mut elector, 3_000).unwrap();
    assert!(new > old);
    let seen = events(&mut elector);
    let ended =
        seen.iter().position(|event| *event == Event::TermEnded { token: old, cause: EndCause::NewTerm });
    let began =
        seen.iter().position(|event| matches!(event, Event::TermBegan { token, .. } if *token == new));
    assert!(ended.unwrap() < began.unwrap());
    // Everybody else sees the same holder with a later term.
    let after = record(&register);
    assert_eq!(after.transitions, before.transitions + 1);
    assert_eq!(after.term(), Some(after.write));
    // It renews as any other.
    register.run_until(&mut elector, 3_000, 30_000);
    assert_eq!(token(&mut elector, 30_000), Some(new));
}

#[test]
fn who_names_another_term_gets_no_new_one() {
    let (mut elector, mut register) = leader();
    let current = token(&mut elector, 3_000).unwrap();
    let refused = elector.begin_anew(at(3_000), Token(current.0 - 1)).unwrap_err();
    assert_eq!(refused.current, Some(current));
    register.run_until(&mut elector, 3_000, 10_000);
    assert_eq!(token(&mut elector, 10_000), Some(current));

    let mut second = follower(&mut register, 10_000);
    assert_eq!(second.begin_anew(at(10_001), current).unwrap_err().current, None);
    elector.handle(at(10_002), Input::Terminate);
    assert!(elector.begin_anew(at(10_003), current).is_err(), "it leads no more");
}

#[test]
fn new_terms_follow_each_other_no_faster_than_renewals() {
    let (mut elector, mut register) = leader();
    let mut writes = 0;
    for now in 20..10_000 {
        if let Some(current) = token(&mut elector, now) {
            elector.begin_anew(at(now), current).unwrap();
        }
        let before = register.fence;
        register.run(&mut elector, at(now));
        writes += register.fence - before;
    }
    assert!((4..=5).contains(&writes), "{writes} writes in 10 s");
}

#[test]
fn a_follower_waits_as_after_a_renewal_and_takes_nothing_early() {
    let (mut elector, mut register, old) = asked_anew(3_000);
    let mut second = follower(&mut register, 100);
    register.run(&mut elector, at(3_000));
    register.tell(&mut second, at(3_010));
    let first = first_write(&mut second.clone(), 3_011, 60_000).unwrap();
    assert!(first >= 18_010, "tries at {first} ms");
    drop(elector);
    register.run_until(&mut second, 3_011, 18_100);
    assert!(token(&mut second, 18_100).unwrap() > old);
}

#[test]
fn the_validity_counts_from_when_the_write_of_the_new_term_was_sent() {
    let (mut elector, mut register, _) = asked_anew(3_000);
    let (record, expected) = expect_write(elector.poll_action(at(3_000)));
    let written = register.write(&record, expected.as_ref());
    elector.handle(at(6_000), Input::Written(written));
    let end = 3_000 + u64::try_from(timing().validity().as_millis()).unwrap();
    elector.handle(at(6_000), Input::Willing(false));
    assert!(elector.leads(at(end - 200)));
    assert!(!elector.leads(at(end + 1)));
}

#[test]
fn what_was_promised_in_the_old_term_is_waited_for_in_the_new_one() {
    let (mut elector, mut register, _) = asked_anew(3_000);
    elector.answer(at(3_000));
    register.run(&mut elector, at(3_000));
    elector.handle(at(3_001), Input::Terminate);
    let end = 3_000 + 5_000 * 100 / 89 + 3_000;
    register.run_until(&mut elector, 3_001, end);
    assert!(matches!(record(&register).claim, Claim::Held { .. }));
    register.run_until(&mut elector, end, end + 100);
    assert!(matches!(record(&register).claim, Claim::Released { .. }));
}

#[test]
fn the_program_of_the_old_term_cannot_resign_the_new_one() {
    let (mut elector, mut register, old) = asked_anew(3_000);
    register.run(&mut elector, at(3_000));
    let new = token(&mut elector, 3_001).unwrap();
    assert_eq!(elector.resign(at(3_002), old, None).unwrap_err().current, Some(new));
    assert!(elector.leads(at(3_003)));
}

#[test]
fn a_new_term_whose_answer_was_lost_is_settled_by_reading() {
    for landed in [true, false] {
        let (mut elector, mut register, old) = asked_anew(3_000);
        let (record, expected) = expect_write(elector.poll_action(at(3_000)));
        if landed {
            register.write(&record, expected.as_ref()).unwrap();
        }
        elector.handle(at(4_000), Input::Written(Err(WriteError::Failed(timeout()))));
        assert_eq!(token(&mut elector, 4_000), Some(old));
        register.run_until(&mut elector, 4_000, 6_000);
        assert!(token(&mut elector, 6_000).unwrap() > old, "landed: {landed}");
        register.run_until(&mut elector, 6_000, 30_000);
        assert!(elector.leads(at(30_000)));
    }
}

#[test]
fn a_new_term_that_somebody_else_forestalled_begins_nothing() {
    let (mut elector, mut register, _) = asked_anew(3_000);
    let (record, expected) = expect_write(elector.poll_action(at(3_000)));
    register.put(held_by(2, 2, LEASE));
    let written = register.write(&record, expected.as_ref());
    elector.handle(at(3_010), Input::Written(written));
    register.run(&mut elector, at(3_010));
    assert!(!elector.leads(at(3_010)));
    assert!(!events(&mut elector).iter().any(|event| matches!(event, Event::TermBegan { .. })));
}

#[test]
fn a_release_after_a_new_term_names_the_new_one_even_if_it_never_led() {
    let (mut elector, mut register) = leader();
    let mut second = follower(&mut register, 100);
    register.run_until(&mut elector, 20, 9_000);
    let current = token(&mut elector, 9_000).unwrap();
    elector.begin_anew(at(9_000), current).unwrap();
    let (following, expected) = expect_write(elector.poll_action(at(9_000)));
    elector.resign(at(9_001), current, None).unwrap();
    let written = register.write(&following, expected.as_ref());
    register.tell(&mut second, at(9_005));
    elector.handle(at(9_010), Input::Written(written));
    assert!(!elector.leads(at(9_010)));
    register.run(&mut elector, at(9_010));
    assert_eq!(record(&register).claim, Claim::Released { term: following.write });
    register.tell(&mut second, at(9_012));
    register.run_until(&mut second, 9_012, 9_030);
    assert!(second.leads(at(9_030)), "the follower saw the new term, so no other release counts for it");
}

#[test]
fn a_new_term_forgives_no_restart_of_the_sidecar() {
    let (_, mut register) = leader();
    let again = |nonce: u128| {
        willing(Config { identity: Identity { nonce: Nonce(nonce), ..identity(1) }, ..config(1) })
    };
    let mut second = again(77);
    register.run(&mut second, at(1_500));
    let current = token(&mut second, 1_500).unwrap();
    second.begin_anew(at(4_000), current).unwrap();
    register.run(&mut second, at(4_000));
    assert!(token(&mut second, 4_000).unwrap() > current);
    let mut third = again(78);
    register.run(&mut third, at(4_500));
    assert!(!third.leads(at(4_500)));
}

#[test]
fn a_store_that_goes_back_is_noticed_by_a_new_term_too() {
    let (mut elector, mut register, _) = asked_anew(3_000);
    let (record, expected) = expect_write(elector.poll_action(at(3_000)));
    register.fence = 0;
    let written = register.write(&record, expected.as_ref());
    elector.handle(at(3_010), Input::Written(written));
    assert!(!elector.leads(at(3_010)));
    assert!(events(&mut elector).contains(&Event::HistoryLost));
}

#[test]
fn a_process_knows_whether_anybody_else_wrote_after_it() {
    let (mut elector, mut register) = leader();
    assert!(elector.wrote_last() && !follower(&mut register, 100).wrote_last());
    let current = token(&mut elector, 1_000).unwrap();
    elector.resign(at(1_000), current, None).unwrap();
    register.run(&mut elector, at(1_000));
    assert!(elector.wrote_last(), "what it released is free");
    register.put(held_by(2, 2, LEASE));
    register.tell(&mut elector, at(1_010));
    assert!(!elector.wrote_last());
}
