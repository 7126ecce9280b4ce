//! Tokens only rise, and a store that lost history is noticed.

use crate::world::*;
use conch_election::{Action, Config, Content, Elector, Event, Input, Reason, Stored, Token, Written};

#[test]
fn the_token_is_the_fence_of_the_acquiring_write_plus_the_offset_and_does_not_change_in_the_term() {
    let mut register = Register::fresh();
    let mut elector = willing(Config { fencing_offset: 1_000_000, ..config(1) });
    register.run_until(&mut elector, 0, 20);
    let first = token(&mut elector, 20).unwrap();
    assert_eq!(first, Token(1_000_000 + 2));
    register.run_until(&mut elector, 20, 60_000);
    assert_eq!(token(&mut elector, 60_000).unwrap(), first);
    assert!(register.fence > 20, "it renewed");
}

#[test]
fn tokens_rise_through_deletion_of_the_record() {
    let (mut first, mut register) = leader();
    let before = token(&mut first, 1_000).unwrap();
    register.delete();
    let mut second = follower(&mut register, 1_000);
    register.run_until(&mut second, 1_000, 16_020);
    assert!(token(&mut second, 16_020).unwrap() > before);
}

/// A rollout raises the offset: a new pod leads first, then one that was started with the old offset.
#[test]
fn a_candidate_with_a_lower_offset_goes_by_the_highest_in_any_record() {
    let mut register = Register::fresh();
    let mut new = willing(Config { fencing_offset: 1_000_000, ..config(1) });
    register.run_until(&mut new, 0, 20);
    let first = token(&mut new, 20).unwrap();
    new.resign(at(30), first, None).unwrap();
    register.run(&mut new, at(30));
    let mut old = candidate(2);
    register.run_until(&mut old, 40, 60);
    let second = token(&mut old, 60).unwrap();
    assert!(second > first, "{first} {second}");
    // The record is made anew by the old one, and taken over by another old one that never saw the first.
    register.delete();
    register.tell(&mut old, at(70));
    let created = (70..100).find(|now| {
        register.run(&mut old, at(*now));
        register.stored.is_some()
    });
    let mut third = candidate(3);
    let (seen, end) = (created.unwrap(), created.unwrap() + 15_020);
    register.run_until(&mut third, seen, end);
    let last = token(&mut third, end).unwrap();
    assert!(last > second, "{second} {last}");
}

#[test]
fn the_order_of_printed_tokens_is_their_order() {
    assert!(Token(9).to_string() < Token(10).to_string());
    assert_eq!(Token(81_234).to_string(), "00000000000000081234");
}

#[test]
fn a_write_that_comes_back_below_what_was_seen_stops_this_process_for_good() {
    let (mut elector, mut register) = leader();
    elector.handle(at(2_020), Input::Tick);
    let (record, _) = expect_write(elector.poll_action(at(2_020)));
    // The store was put back to an earlier state, and by chance the versions fit.
    register.fence = 0;
    register.put(Content::Record(record));
    let stored = register.stored.clone().unwrap();
    let written = conch_election::Written {
        version: stored.version,
        incarnation: stored.incarnation,
        fence: stored.fence,
    };
    elector.handle(at(2_030), Input::Written(Ok(written)));
    assert_eq!(elector.answer(at(2_030)).reason, Reason::HistoryLost);
    assert!(events(&mut elector).contains(&Event::HistoryLost));
    register.put(Content::Fresh);
    register.tell(&mut elector, at(3_000));
    register.run_until(&mut elector, 3_000, 100_000);
    assert_eq!(elector.answer(at(100_000)).promise, None);
    assert_eq!(elector.answer(at(100_000)).reason, Reason::HistoryLost);
}

#[test]
fn reads_that_stay_below_what_was_seen_say_that_the_store_lost_history() {
    let (mut elector, mut register) = leader();
    register.run_until(&mut elector, 20, 10_000);
    register.fence = 0;
    register.stored = None;
    register.put(held_by(1, 1, LEASE));
    register.run_until(&mut elector, 10_000, 20_000);
    assert_eq!(elector.answer(at(20_000)).reason, Reason::HistoryLost);
}

#[test]
fn a_single_stale_read_is_forgiven() {
    let (mut elector, mut register) = leader();
    let old = register.stored.clone();
    register.run_until(&mut elector, 20, 2_020);
    register.touch();
    elector.handle(at(4_020), Input::Tick);
    let (record, expected) = expect_write(elector.poll_action(at(4_020)));
    let result = register.write(&record, expected.as_ref());
    elector.handle(at(4_030), Input::Written(result));
    assert!(elector.poll_action(at(4_030)).is_some());
    elector.handle(at(4_040), Input::Read(Ok(old)));
    register.run_until(&mut elector, 4_041, 8_000);
    assert!(elector.leads(at(8_000)));
}

#[test]
fn a_read_that_a_newer_change_overtakes_is_no_sign_of_lost_history() {
    let (_, mut register) = leader();
    let mut elector = candidate(2);
    for now in [0, 2_000, 4_000, 6_000] {
        let Some(action) = elector.poll_action(at(now)) else { break };
        assert!(matches!(action, Action::Read { .. }));
        // The answer is under way for long; meanwhile the leader renews, and the watch tells that at once.
        let answer = register.stored.clone();
        register.touch();
        register.tell(&mut elector, at(now + 500));
        elector.handle(at(now + 1_000), Input::Read(Ok(answer)));
    }
    assert!(!events(&mut elector).contains(&Event::HistoryLost));
    register.run_until(&mut elector, 8_000, 23_020);
    assert!(elector.leads(at(23_020)));
}

/// The same state, from a store that counts nothing.
fn without_fence(stored: Option<Stored>) -> Option<Stored> {
    stored.map(|stored| Stored { fence: None, ..stored })
}

fn renew_without_fences(elector: &mut Elector, register: &mut Register, now: u64) {
    elector.handle(at(now), Input::Tick);
    while let Some(action) = elector.poll_action(at(now)) {
        let input = match action {
            Action::Read { .. } => Input::Read(Ok(without_fence(register.stored.clone()))),
            Action::Write { record, expected, .. } => {
                let result = register.write(&record, expected.as_ref());
                Input::Written(result.map(|written| Written { fence: None, ..written }))
            }
        };
        elector.handle(at(now), input);
    }
}

#[test]
fn without_fences_ones_own_writes_put_the_states_in_order_and_terms_count_as_tokens() {
    let mut register = Register::fresh();
    let mut elector = candidate(1);
    for now in 0..20 {
        renew_without_fences(&mut elector, &mut register, now);
    }
    assert_eq!(token(&mut elector, 20), Some(Token(1)));
    let old = without_fence(register.stored.clone());
    renew_without_fences(&mut elector, &mut register, 2_020);
    // A watch that lags shows the write before the last one: nothing new.
    elector.handle(at(2_030), Input::Changed(old));
    assert!(elector.leads(at(2_030)));
    // It shows the last one: nothing new either. Another holder is.
    elector.handle(at(2_040), Input::Changed(without_fence(register.stored.clone())));
    assert!(elector.leads(at(2_040)));
    register.put(held_by(2, 2, LEASE));
    elector.handle(at(2_050), Input::Changed(without_fence(register.stored.clone())));
    assert!(!elector.leads(at(2_050)));
}
