//! From one leader to the next.

use crate::world::*;
use conch_election::{Action, Claim, Content, Event, Input, WriteError};

#[test]
fn a_release_lets_the_successor_lead_within_milliseconds_and_with_a_higher_token() {
    let (mut first, mut register) = leader();
    let mut second = follower(&mut register, 100);
    let old = token(&mut first, 1_000).unwrap();
    first.resign(at(1_000), old, None).unwrap();
    register.run(&mut first, at(1_001));
    register.tell(&mut second, at(1_003));
    register.run_until(&mut second, 1_003, 1_013);
    assert!(token(&mut second, 1_013).unwrap() > old);
    assert!(events(&mut first).contains(&Event::Released { token: old }));
}

#[test]
fn a_release_never_touches_the_successors_record() {
    let (mut first, mut register) = leader();
    first.answer(at(1_000));
    first.handle(at(1_000), Input::Terminate);
    // Cut off: nothing reaches it while somebody else takes over by expiry.
    register.put(held_by(2, 2, LEASE));
    let successor = register.stored.clone();
    register.run_until(&mut first, 1_000, 60_000);
    assert_eq!(register.stored, successor);
    assert!(first.is_done(at(60_000)));
}

#[test]
fn a_release_whose_answer_was_lost_is_settled_and_not_repeated_over_a_successor() {
    let (mut first, mut register) = leader();
    let token = token(&mut first, 1_000).unwrap();
    first.resign(at(1_000), token, None).unwrap();
    let (release, expected) = expect_write(first.poll_action(at(1_000)));
    register.write(&release, expected.as_ref()).unwrap();
    first.handle(at(2_000), Input::Written(Err(WriteError::Failed(timeout()))));
    first.handle(at(2_000), Input::Terminate);
    register.put(held_by(2, 2, LEASE));
    let successor = register.stored.clone();
    register.run_until(&mut first, 2_000, 40_000);
    assert_eq!(register.stored, successor);
    assert!(first.is_done(at(40_000)));
}

#[test]
fn a_release_that_the_store_never_takes_is_given_up_when_the_lease_is_over_anyway() {
    let (mut elector, _) = leader();
    elector.handle(at(1_000), Input::ProgramStopped);
    elector.handle(at(1_000), Input::Terminate);
    // The leader's last write was sent in the first 20 ms; no request is ever answered after that.
    let lease = u64::try_from(LEASE.as_millis()).unwrap();
    let mut now = 1_000;
    while now < lease {
        assert!(!elector.is_done(at(now)), "at {now} ms somebody may still be spared a wait");
        match elector.poll_action(at(now)) {
            Some(Action::Read { .. }) => elector.handle(at(now + 1), Input::Read(Err(timeout()))),
            Some(Action::Write { .. }) => {
                elector.handle(at(now + 1), Input::Written(Err(WriteError::Failed(timeout()))));
            }
            None => {}
        }
        let sleep = elector.poll_timeout(at(now + 1)).expect("the driver is woken to end");
        now += 1 + u64::try_from(sleep.as_millis()).unwrap().max(1);
    }
    assert!(elector.is_done(at(lease + 20)));
}

#[test]
fn a_release_names_the_term_that_ends() {
    let (mut elector, mut register) = leader();
    let Content::Record(held) = register.stored.clone().unwrap().content else { panic!("no record") };
    let token = token(&mut elector, 1_000).unwrap();
    elector.resign(at(1_000), token, None).unwrap();
    register.run(&mut elector, at(1_000));
    let Content::Record(released) = register.stored.unwrap().content else { panic!("no record") };
    assert_eq!(released.claim, Claim::Released { term: held.term().unwrap() });
}

#[test]
fn without_proof_and_without_time_the_lease_runs_out_by_itself() {
    let (mut first, mut register) = leader();
    let mut second = follower(&mut register, 100);
    first.answer(at(1_000));
    first.handle(at(1_000), Input::Terminate);
    register.run(&mut first, at(1_000));
    drop(first);
    register.run_until(&mut second, 100, 15_111);
    assert!(second.leads(at(15_111)));
}

#[test]
fn who_gave_the_lead_away_leaves_it_to_others_from_when_it_is_free() {
    let (mut first, mut register) = leader();
    first.answer(at(1_000));
    // The program closed its stream, and asks again at once.
    first.handle(at(1_000), Input::ProgramStopped);
    first.answer(at(1_000));
    register.run_until(&mut first, 1_000, 2_900);
    assert!(!first.leads(at(2_900)), "it took the lead back before anybody could");
    register.run_until(&mut first, 2_900, 3_100);
    assert!(first.leads(at(3_100)));
}
