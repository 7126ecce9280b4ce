//! When a register is free, and how long a candidate waits when it is not.

use crate::world::*;
use conch_election::{Claim, Content, Input, Moment, Nonce, Reason, Record, WriteId};
use std::time::Duration;

const JITTER_MS: u64 = 10;
const LEASE_MS: u64 = 15_000;

fn assert_waits_a_lease(elector: &mut conch_election::Elector, from: u64) {
    let first = first_write(elector, from, from + LEASE_MS + 1_000).expect("it never tries");
    assert!((from + LEASE_MS..=from + LEASE_MS + JITTER_MS).contains(&first), "first tries at {first} ms");
}

#[test]
fn a_register_that_never_had_a_candidate_is_taken_at_once() {
    let mut register = Register::fresh();
    let mut elector = candidate(1);
    register.run_until(&mut elector, 0, JITTER_MS);
    assert!(elector.leads(at(JITTER_MS)));
}

#[test]
fn a_program_that_has_not_asked_makes_no_candidate() {
    let mut register = Register::fresh();
    let mut elector = conch_election::Elector::new(config(1));
    register.run_until(&mut elector, 0, 60_000);
    assert!(!elector.leads(at(60_000)));
    assert_eq!(elector.answer(at(60_000)).reason, Reason::NotAsked);
    assert!(matches!(register.stored.unwrap().content, Content::Fresh));
}

#[test]
fn a_follower_waits_a_lease_from_its_own_first_sight() {
    let (_, mut register) = leader();
    // Whatever times the record may carry, this process knows nothing of the time before.
    let mut elector = follower(&mut register, 400_000);
    assert_waits_a_lease(&mut elector, 400_000);
}

#[test]
fn each_renewal_that_is_seen_starts_the_wait_anew_and_each_other_write_does_not() {
    let (mut elector, mut register) = leader();
    let mut follower = follower(&mut register, 100);
    register.run(&mut elector, at(2_020));
    register.tell(&mut follower, at(2_100));
    for now in [4_000, 9_000, 16_000] {
        register.touch();
        register.tell(&mut follower, at(now));
    }
    assert_waits_a_lease(&mut follower, 2_100);
    // And the compare-and-set uses the version of the last touch.
}

#[test]
fn a_take_over_compares_against_the_version_that_was_seen_last() {
    let (_, mut register) = leader();
    let mut follower = follower(&mut register, 100);
    register.touch();
    register.tell(&mut follower, at(5_000));
    register.run_until(&mut follower, 5_000, 100 + LEASE_MS + JITTER_MS);
    assert!(follower.leads(at(100 + LEASE_MS + JITTER_MS)));
}

#[test]
fn a_follower_counts_the_clock_that_went_less_far() {
    let (_, mut register) = leader();
    let mut elector = follower(&mut register, 0);
    for moment in [
        Moment { boottime: ms(60_000), monotonic: ms(14_000), monotonic_raw: ms(14_000) },
        Moment { boottime: ms(14_000), monotonic: ms(14_000), monotonic_raw: ms(60_000) },
    ] {
        elector.handle(moment, Input::Tick);
        assert_eq!(elector.poll_action(moment), None);
    }
}

#[test]
fn a_missing_record_is_made_anew_at_once_and_taken_only_after_a_lease() {
    let mut register = Register::default();
    let mut elector = candidate(1);
    register.run_until(&mut elector, 0, JITTER_MS);
    let Content::Record(made) = register.stored.clone().unwrap().content else { panic!("no record") };
    assert_eq!(made.claim, Claim::Vacant);
    assert!(!elector.leads(at(JITTER_MS)));
    assert_eq!(elector.answer(at(JITTER_MS)).reason, Reason::RecordUnknown);
    let first = first_write(&mut elector, JITTER_MS, 60_000).unwrap();
    assert!((LEASE_MS..=LEASE_MS + 2 * JITTER_MS).contains(&first), "first tries at {first} ms");
}

/// When the elector sends its first creation, and what.
fn creation(elector: &mut conch_election::Elector) -> (u64, Record) {
    let now = (0..=JITTER_MS).find(|now| elector.poll_timeout(at(*now)).unwrap().is_zero()).unwrap();
    let (record, expected) = expect_write(elector.poll_action(at(now)));
    assert_eq!(expected, None);
    (now, record)
}

#[test]
fn a_missing_record_is_created_and_never_overwritten() {
    let mut register = Register::default();
    let mut elector = candidate(1);
    register.run(&mut elector, at(0));
    let (now, record) = creation(&mut elector);
    // Somebody was faster.
    register.put(held_by(9, 1, LEASE));
    let result = register.write(&record, None);
    assert!(result.is_err());
    elector.handle(at(now), Input::Written(result));
    register.run(&mut elector, at(now));
    assert_waits_a_lease(&mut elector, now);
}

#[test]
fn a_creation_that_lands_late_after_another_leader_lost_the_record_acquires_nothing() {
    let mut register = Register::default();
    let mut late = candidate(1);
    register.run(&mut late, at(0));
    let (_, record) = creation(&mut late);
    // Another candidate leads meanwhile, and somebody deletes its record under it.
    register.put(held_by(9, 1, LEASE));
    register.delete();
    let result = register.write(&record, None);
    late.handle(at(5_000), Input::Written(result));
    register.run(&mut late, at(5_000));
    assert!(!late.leads(at(5_000)));
    assert_waits_a_lease(&mut late, 5_000);
}

#[test]
fn a_record_that_was_cleared_overwritten_or_is_garbage_is_not_free() {
    for content in [
        unknown(""),
        unknown("somebody-else"),
        Content::Unknown(conch_election::Unknown {
            holder: Some("🐚".into()),
            lease: Some(Duration::ZERO),
            fingerprint: "\0".into(),
        }),
    ] {
        let (_, mut register) = leader();
        register.put(content);
        let mut elector = follower(&mut register, 1_000);
        assert_waits_a_lease(&mut elector, 1_000);
    }
}

#[test]
fn a_foreign_holder_that_renews_is_never_overtaken() {
    let mut register = Register::default();
    let mut elector = candidate(1);
    for round in 0..20_u64 {
        let name = Content::Unknown(conch_election::Unknown {
            holder: Some("client-go".into()),
            lease: Some(LEASE),
            fingerprint: format!("renewed {round} times"),
        });
        register.put(name);
        register.tell(&mut elector, at(round * 10_000));
        register.run_until(&mut elector, round * 10_000, round * 10_000 + 9_999);
        assert!(!elector.leads(at(round * 10_000 + 9_999)));
    }
}

#[test]
fn a_follower_waits_the_longest_lease_of_record_policy_stamp_and_memory() {
    let longer = Duration::from_secs(40);
    let waits = |register: &mut Register, longest_lease: Duration| {
        let mut elector = willing(conch_election::Config { longest_lease, ..config(2) });
        register.run(&mut elector, at(0));
        first_write(&mut elector, 0, 60_000).expect("it never tries")
    };
    let mut by_record = Register::default();
    by_record.put(held_by(1, 1, longer));
    assert!(waits(&mut by_record, LEASE) >= 40_000);

    let mut by_configuration = Register::default();
    by_configuration.put(held_by(1, 1, ms(1_000)));
    assert!(waits(&mut by_configuration, longer) >= 40_000);
    assert!(waits(&mut by_configuration, LEASE) >= LEASE_MS, "its own lease counts too");

    let mut by_stamp = Register::default();
    by_stamp.put(held_by(1, 1, ms(1_000)));
    by_stamp.stored.as_mut().unwrap().longest_lease = Some(longer);
    assert!(waits(&mut by_stamp, LEASE) >= 40_000);

    // The record with the long lease was seen, then deleted: its holder may know nothing of that.
    let mut elector = candidate(2);
    by_record.tell(&mut elector, at(0));
    by_record.delete();
    by_record.tell(&mut elector, at(10));
    by_record.run_until(&mut elector, 10, 10 + JITTER_MS);
    assert!(first_write(&mut elector, 10 + JITTER_MS, 60_000).expect("it never tries") >= 40_010);
}

#[test]
fn an_absurd_lease_in_a_foreign_record_is_capped_at_an_hour() {
    let mut register = Register::default();
    register.put(Content::Unknown(conch_election::Unknown {
        holder: Some("x".into()),
        lease: Some(Duration::MAX),
        fingerprint: String::new(),
    }));
    let mut elector = candidate(1);
    register.run(&mut elector, at(0));
    register.run_until(&mut elector, 0, 3_600_000 + JITTER_MS);
    assert!(elector.leads(at(3_600_000 + JITTER_MS)));
}

#[test]
fn a_record_marked_for_deletion_is_left_alone() {
    let (_, mut register) = leader();
    register.stored.as_mut().unwrap().deleting = true;
    let mut elector = follower(&mut register, 0);
    assert_eq!(first_write(&mut elector, 0, 60_000), None);
}

#[test]
fn a_release_is_believed_only_for_the_latest_term() {
    let mut register = Register::default();
    register.put(held_by(1, 7, LEASE));
    let mut elector = candidate(2);
    register.run(&mut elector, at(0));
    // An old record is put back by hand while the leader of term 7 may know nothing of it.
    let old = WriteId { nonce: Nonce(4), sequence: 9 };
    for transitions in [5, 7] {
        register.put(Content::Record(Record {
            write: old,
            transitions,
            fencing_offset: 0,
            claim: Claim::Released { term: old },
        }));
        register.tell(&mut elector, at(100));
        register.run(&mut elector, at(200));
        assert!(!elector.leads(at(200)), "term {transitions}");
    }
    // The last holder's own word counts.
    let term = WriteId { nonce: Nonce(1), sequence: 1 };
    let release = WriteId { nonce: Nonce(1), sequence: 2 };
    register.put(Content::Record(Record {
        write: release,
        transitions: 7,
        fencing_offset: 0,
        claim: Claim::Released { term },
    }));
    register.tell(&mut elector, at(300));
    register.run_until(&mut elector, 300, 300 + JITTER_MS);
    assert!(elector.leads(at(300 + JITTER_MS)));
}

#[test]
fn take_overs_are_spread_over_a_few_milliseconds() {
    let (_, mut register) = leader();
    let mut tries = std::collections::BTreeSet::new();
    for number in 2..50 {
        let mut elector = candidate(number);
        register.run(&mut elector, at(0));
        tries.insert(first_write(&mut elector, LEASE_MS - 1, LEASE_MS + JITTER_MS));
    }
    assert!(!tries.contains(&None));
    assert!(tries.len() >= 5, "{tries:?}");
}

#[test]
fn a_candidate_that_comes_late_for_one_term_is_not_late_for_all() {
    // It never writes, because others are faster each time.
    let mut elector = candidate(2);
    Register::default().run(&mut elector, at(0));
    let mut waits = std::collections::BTreeSet::new();
    for transitions in 1..50 {
        let term = WriteId { nonce: Nonce(1), sequence: u64::from(transitions) };
        let mut register = Register { fence: u128::from(transitions), ..Register::default() };
        register.put(Content::Record(Record {
            write: term,
            transitions,
            fencing_offset: 0,
            claim: Claim::Released { term },
        }));
        register.tell(&mut elector, at(0));
        waits.insert(elector.poll_timeout(at(0)));
    }
    assert!(waits.len() >= 40, "{waits:?}");
}

#[test]
fn followers_send_no_polling_reads() {
    let (mut elector, mut register) = leader();
    let mut follower = follower(&mut register, 20);
    let mut requests = 0;
    for now in (20..600_000).step_by(10) {
        register.run(&mut elector, at(now));
        register.tell(&mut follower, at(now));
        requests += usize::from(follower.poll_action(at(now)).is_some());
    }
    assert_eq!(requests, 0);
}

#[test]
fn a_fresh_mark_is_not_believed_by_who_saw_a_candidate() {
    let (_, mut register) = leader();
    let mut elector = follower(&mut register, 0);
    register.delete();
    register.tell(&mut elector, at(500));
    register.put(Content::Fresh);
    register.tell(&mut elector, at(1_000));
    assert_waits_a_lease(&mut elector, 1_000);
}

#[test]
fn a_release_from_a_backup_in_a_new_object_frees_nothing_for_who_saw_a_later_term() {
    let mut register = Register::default();
    register.put(held_by(1, 7, LEASE));
    let mut elector = candidate(2);
    register.run(&mut elector, at(0));
    // Deleted and restored before anybody could look: the leader of term 7 may know nothing of it.
    register.delete();
    let old = WriteId { nonce: Nonce(4), sequence: 9 };
    register.put(Content::Record(Record {
        write: old,
        transitions: 5,
        fencing_offset: 0,
        claim: Claim::Released { term: old },
    }));
    register.tell(&mut elector, at(100));
    assert_waits_a_lease(&mut elector, 100);
}
