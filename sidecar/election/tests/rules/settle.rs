//! Lost answers: only a record that carries the write's id confirms it, counted from when it was sent.

use crate::world::*;
use conch_election::{Action, Input, WriteError};

#[test]
fn a_lost_answer_to_the_acquiring_write_is_settled_by_reading_back() {
    let mut register = Register::fresh();
    let mut elector = candidate(1);
    register.run(&mut elector, at(0));
    let (now, (record, expected)) = first_sent(&mut elector);
    register.write(&record, expected.as_ref()).unwrap();
    elector.handle(at(now + 3_000), Input::Written(Err(WriteError::Failed(timeout()))));
    assert!(!elector.leads(at(now + 3_000)), "not a success before it was seen");
    assert!(matches!(elector.poll_action(at(now + 3_000)), Some(Action::Read { .. })));
    elector.handle(at(now + 3_001), Input::Read(Ok(register.stored.clone())));
    assert!(elector.leads(at(now + 3_001)));
    // Counted from its send, so it ends 3 s earlier than if it counted from the read.
    let validity = u64::try_from(timing().validity().as_millis()).unwrap();
    assert!(!elector.leads(at(now + validity + 1)));
    // One term, one token: that of the version that shows the write.
    assert_eq!(token(&mut elector, now + 4_000).unwrap().0, register.fence);
}

#[test]
fn a_failed_write_that_took_no_effect_confirms_nothing() {
    let (mut elector, mut register) = leader();
    elector.handle(at(2_020), Input::Tick);
    expect_write(elector.poll_action(at(2_020)));
    elector.handle(at(5_000), Input::Written(Err(WriteError::Failed(timeout()))));
    assert!(matches!(elector.poll_action(at(5_000)), Some(Action::Read { .. })));
    elector.handle(at(5_001), Input::Read(Ok(register.stored.clone())));
    // The record still shows the first write: the validity of that one goes on, and a new renewal is due at once.
    let (renewal, expected) = expect_write(elector.poll_action(at(5_001)));
    let written = register.write(&renewal, expected.as_ref()).unwrap();
    elector.handle(at(5_010), Input::Written(Ok(written)));
    assert!(elector.leads(at(16_000)));
}

#[test]
fn a_conflict_with_ones_own_lost_write_is_no_loss() {
    let (mut elector, mut register) = leader();
    let before = token(&mut elector, 1_000);
    elector.handle(at(2_020), Input::Tick);
    let (record, expected) = expect_write(elector.poll_action(at(2_020)));
    register.write(&record, expected.as_ref()).unwrap();
    // The connection repeated the request, and the repetition came back with a conflict.
    elector.handle(at(2_050), Input::Written(Err(WriteError::Conflict)));
    register.run(&mut elector, at(2_060));
    assert!(elector.leads(at(13_900)));
    assert_eq!(token(&mut elector, 3_000), before);
}

#[test]
fn a_metadata_write_between_two_renewals_costs_a_read_and_nothing_else() {
    let (mut elector, mut register) = leader();
    let before = token(&mut elector, 1_000);
    register.touch();
    register.run_until(&mut elector, 1_000, 60_000);
    assert!(elector.leads(at(60_000)));
    assert_eq!(token(&mut elector, 60_000), before);
}

#[test]
fn a_zombie_write_that_lands_after_a_take_over_changes_nothing() {
    let (mut elector, mut register) = leader();
    elector.handle(at(2_020), Input::Tick);
    let (zombie, expected) = expect_write(elector.poll_action(at(2_020)));
    elector.handle(at(5_000), Input::Written(Err(WriteError::Failed(timeout()))));
    register.put(held_by(2, 2, LEASE));
    assert!(register.write(&zombie, expected.as_ref()).is_err());
    register.tell(&mut elector, at(6_000));
    assert!(!elector.leads(at(6_000)));
}

#[test]
fn a_zombie_renewal_before_the_release_does_not_stop_the_release() {
    let (mut elector, mut register) = leader();
    let token = token(&mut elector, 1_000).unwrap();
    elector.handle(at(2_020), Input::Tick);
    let (zombie, expected) = expect_write(elector.poll_action(at(2_020)));
    elector.handle(at(5_000), Input::Written(Err(WriteError::Failed(timeout()))));
    elector.resign(at(5_000), token, None).unwrap();
    assert!(matches!(elector.poll_action(at(5_000)), Some(Action::Read { .. })));
    elector.handle(at(5_001), Input::Read(Ok(register.stored.clone())));
    let (release, release_expected) = expect_write(elector.poll_action(at(5_001)));
    register.write(&zombie, expected.as_ref()).unwrap();
    let result = register.write(&release, release_expected.as_ref());
    assert_eq!(result, Err(WriteError::Conflict));
    elector.handle(at(5_002), Input::Written(result));
    register.run(&mut elector, at(5_003));
    assert!(matches!(&register.stored.as_ref().unwrap().content,
        conch_election::Content::Record(record) if matches!(record.claim, conch_election::Claim::Released { .. })));
}

#[test]
fn a_record_of_this_process_that_it_does_not_remember_is_not_its_term() {
    let (mut elector, mut register) = leader();
    // Its own first record, put back over its newest: whoever did that may have undone somebody's take-over.
    let first = register.stored.clone().unwrap();
    register.run(&mut elector, at(2_020));
    register.put(first.content);
    register.tell(&mut elector, at(2_100));
    assert!(!elector.leads(at(2_100)));
}

#[test]
fn a_watch_that_is_faster_than_the_answer_to_a_renewal_does_not_end_the_term() {
    let (mut elector, mut register) = leader();
    elector.handle(at(2_020), Input::Tick);
    let (record, expected) = expect_write(elector.poll_action(at(2_020)));
    let written = register.write(&record, expected.as_ref()).unwrap();
    register.tell(&mut elector, at(2_030));
    assert!(elector.leads(at(2_030)));
    elector.handle(at(2_040), Input::Written(Ok(written)));
    assert!(elector.leads(at(13_900)));
}

#[test]
fn a_renewal_that_timed_out_and_shows_later_does_not_end_the_term() {
    let (mut elector, mut register) = leader();
    elector.handle(at(2_020), Input::Tick);
    let (record, expected) = expect_write(elector.poll_action(at(2_020)));
    elector.handle(at(5_000), Input::Written(Err(WriteError::Failed(timeout()))));
    // It lands while the read that is to settle it is under way.
    assert!(matches!(elector.poll_action(at(5_000)), Some(Action::Read { .. })));
    register.write(&record, expected.as_ref()).unwrap();
    register.tell(&mut elector, at(5_100));
    assert!(elector.leads(at(13_900)), "it counts, from when it was sent");
}

#[test]
fn the_first_conflict_is_settled_at_once_and_the_second_after_a_pause() {
    let (mut elector, mut register) = leader();
    let mut pauses = Vec::new();
    for now in [2_020, 3_000, 4_000] {
        register.touch();
        let (record, expected) = expect_write(elector.poll_action(at(now)));
        let result = register.write(&record, expected.as_ref());
        assert_eq!(result, Err(WriteError::Conflict));
        elector.handle(at(now), Input::Written(result));
        pauses.push(elector.poll_timeout(at(now)).unwrap());
        let later = now + 600;
        assert!(matches!(elector.poll_action(at(later)), Some(Action::Read { .. })));
        elector.handle(at(later), Input::Read(Ok(register.stored.clone())));
    }
    assert_eq!(pauses, [ms(0), ms(500), ms(500)]);
}

#[test]
fn an_answer_of_the_store_ends_what_was_said_of_its_failure() {
    let (_, register) = leader();
    let mut elector = candidate(2);
    assert!(elector.poll_action(at(0)).is_some());
    elector.handle(at(10), Input::Read(Err(unavailable())));
    assert_eq!(elector.answer(at(10)).reason, conch_election::Reason::StoreUnavailable);
    register.tell(&mut elector, at(20));
    assert_eq!(elector.answer(at(20)).reason, conch_election::Reason::OtherLeads);
}
