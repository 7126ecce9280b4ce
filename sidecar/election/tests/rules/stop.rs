//! A leader watches its own record and stops at once; it never takes a term over that is not provably its own.

use crate::world::*;
use conch_election::{Claim, Config, Content, EndCause, Event, Identity, Input, Nonce, Timing};

fn ends_with(meddle: impl FnOnce(&mut Register), cause: EndCause) {
    let (mut elector, mut register) = leader();
    let token = token(&mut elector, 1_000).unwrap();
    meddle(&mut register);
    register.tell(&mut elector, at(1_010));
    assert_eq!(elector.answer(at(1_010)).promise, None, "{cause:?}");
    assert!(events(&mut elector).contains(&Event::TermEnded { token, cause }), "{cause:?}");
    // And it touches nothing that is not its own; a missing record it makes anew, claiming nothing.
    let before = register.stored.clone();
    register.run_until(&mut elector, 1_010, 1_030);
    if let Some(before) = before {
        assert_eq!(register.stored, Some(before), "{cause:?}");
    } else {
        let Some(Content::Record(made)) = register.stored.map(|stored| stored.content) else {
            panic!("no record")
        };
        assert_eq!(made.claim, Claim::Vacant);
    }
}

#[test]
fn a_leader_stops_at_once_when_the_record_is_not_its_own() {
    ends_with(|register| register.put(held_by(2, 2, LEASE)), EndCause::OtherHolder);
    ends_with(|register| register.put(unknown("kubectl")), EndCause::OtherHolder);
    ends_with(|register| register.put(unknown("")), EndCause::RecordReplaced);
    ends_with(|register| register.put(Content::Fresh), EndCause::RecordReplaced);
    ends_with(Register::delete, EndCause::RecordDeleted);
    ends_with(
        |register| {
            register.touch();
            register.stored.as_mut().unwrap().deleting = true;
        },
        EndCause::RecordDeleting,
    );
}

#[test]
fn a_leader_stops_when_its_own_record_stands_in_another_object() {
    ends_with(
        |register| {
            let content = register.stored.clone().unwrap().content;
            register.delete();
            register.put(content);
        },
        EndCause::RecordReplaced,
    );
}

#[test]
fn who_lost_its_record_waits_like_everybody_else() {
    let (mut elector, mut register) = leader();
    register.delete();
    register.tell(&mut elector, at(1_000));
    register.run_until(&mut elector, 1_000, 1_020);
    let first = first_write(&mut elector, 1_020, 60_000).unwrap();
    assert!(first >= 16_000, "tries at {first} ms");
}

#[test]
fn an_expired_leader_whose_record_nobody_touched_leads_again_with_a_new_token() {
    let (mut elector, mut register) = leader();
    let first = token(&mut elector, 1_000).unwrap();
    assert_eq!(token(&mut elector, 20_000), None);
    register.run(&mut elector, at(20_000));
    let second = token(&mut elector, 20_001).unwrap();
    assert!(second > first);
}

#[test]
fn an_expired_leader_takes_up_nothing_of_its_own_that_is_put_back() {
    for (meanwhile, recreated) in [(held_by(2, 2, LEASE), false), (unknown(""), false), (unknown(""), true)] {
        let (mut elector, mut register) = leader();
        let own = register.stored.clone().unwrap().content;
        elector.handle(at(14_000), Input::Tick);
        assert!(!elector.leads(at(14_000)));
        if recreated {
            register.delete();
        } else {
            register.put(meanwhile);
            register.tell(&mut elector, at(14_000));
        }
        register.put(own);
        register.tell(&mut elector, at(15_000));
        register.run(&mut elector, at(15_000));
        assert!(!elector.leads(at(15_000)));
        assert!(first_write(&mut elector, 15_001, 60_000).unwrap() >= 30_000);
    }
}

#[test]
fn a_stale_watch_event_does_not_end_a_term_nor_revive_one() {
    let (mut elector, mut register) = leader();
    let old = register.stored.clone();
    register.run(&mut elector, at(2_020));
    elector.handle(at(2_030), Input::Changed(old.clone()));
    assert!(elector.leads(at(2_040)));
    register.put(held_by(2, 2, LEASE));
    register.tell(&mut elector, at(2_050));
    elector.handle(at(2_060), Input::Changed(old));
    assert!(!elector.leads(at(2_070)));
}

fn restarted(nonce: u128) -> Config {
    Config { identity: Identity { nonce: Nonce(nonce), ..identity(1) }, ..config(1) }
}

#[test]
fn a_restarted_sidecar_takes_up_the_lead_of_its_own_pod_at_once_with_a_new_token() {
    let (mut elector, mut register) = leader();
    let first = token(&mut elector, 1_000).unwrap();
    let mut second = willing(restarted(77));
    register.run(&mut second, at(1_500));
    assert!(token(&mut second, 1_500).unwrap() > first);
}

#[test]
fn a_sidecar_that_restarts_again_and_again_must_wait_the_second_time() {
    let (_, mut register) = leader();
    let mut second = willing(restarted(77));
    register.run(&mut second, at(1_500));
    let mut third = willing(restarted(78));
    register.run(&mut third, at(3_000));
    assert!(!third.leads(at(3_000)));
    // After a lease of quiet work the next restart is forgiven.
    register.run_until(&mut second, 1_500, 1_500 + 15_000 + 4_000);
    let mut fourth = willing(restarted(79));
    register.run(&mut fourth, at(21_000));
    assert!(fourth.leads(at(21_000)));
}

#[test]
fn a_restart_is_forgiven_when_a_whole_lease_is_over_and_no_sooner() {
    let (_, mut register) = leader();
    let mut second = willing(restarted(77));
    register.run(&mut second, at(1_000));
    let mut flagged = |now: u64| {
        register.run(&mut second, at(now));
        let Content::Record(record) = register.stored.clone().unwrap().content else { panic!("no record") };
        matches!(record.claim, Claim::Held { reacquired: true, .. })
    };
    let flags: Vec<bool> =
        [3_000, 5_000, 7_000, 9_000, 11_000, 13_000, 15_000, 16_000, 18_000].map(&mut flagged).into();
    assert_eq!(flags, [true, true, true, true, true, true, true, true, false]);
}

#[test]
fn a_restarted_sidecar_takes_whatever_its_predecessor_promised_as_standing() {
    let (_, mut register) = leader();
    // Its own policy allows less: the other one's may have been changed.
    let brief = Timing::new(LEASE, ms(2_000), ms(500), ms(500)).unwrap();
    let mut second = willing(Config { timing: brief, ..restarted(77) });
    register.run(&mut second, at(1_500));
    assert!(second.leads(at(1_500)));
    second.handle(at(1_600), Input::Terminate);
    let end = 1_500 + 15_000;
    register.run_until(&mut second, 1_600, end - 1);
    let held = |register: &Register| {
        matches!(&register.stored.as_ref().unwrap().content,
            Content::Record(record) if matches!(record.claim, Claim::Held { .. }))
    };
    assert!(held(&register));
    register.run_until(&mut second, end, end + 200);
    assert!(!held(&register));
}

#[test]
fn a_restarted_sidecar_waits_out_a_longer_lease_of_its_predecessor() {
    let (_, register) = leader();
    for (lease_ms, at_once) in [(15_000, true), (20_000, true), (14_000, false)] {
        let mut register = register.clone();
        let timing = Timing::new(ms(lease_ms), ms(2_000), GRACE, ms(5_000)).unwrap();
        let mut second = willing(Config { timing, longest_lease: ms(lease_ms), ..restarted(77) });
        register.run(&mut second, at(1_500));
        assert_eq!(second.leads(at(1_500)), at_once, "{lease_ms}");
        let next = first_write(&mut second, 1_501, 60_000).unwrap();
        assert!(at_once || next >= 1_500 + 15_000, "{lease_ms}: {next}");
    }
}

#[test]
fn a_restarted_sidecar_that_saw_another_leader_takes_up_nothing_that_is_put_back() {
    let (_, register) = leader();
    let left = register.stored.clone().unwrap().content;
    for meanwhile in [Some(held_by(2, 2, LEASE)), Some(unknown("")), None] {
        let mut register = register.clone();
        match meanwhile {
            Some(content) => register.put(content),
            None => register.delete(),
        }
        let mut second = willing(restarted(77));
        register.tell(&mut second, at(1_000));
        register.put(left.clone());
        register.tell(&mut second, at(1_500));
        register.run(&mut second, at(1_500));
        assert!(!second.leads(at(1_500)));
        assert!(first_write(&mut second, 1_501, 60_000).unwrap() >= 16_500);
    }
}

#[test]
fn a_restarted_sidecar_that_led_takes_up_nothing_of_an_earlier_term() {
    let (_, mut register) = leader();
    let left = register.stored.clone().unwrap().content;
    let mut second = willing(restarted(77));
    register.run(&mut second, at(1_000));
    let token = token(&mut second, 1_000).unwrap();
    // It missed that another pod led after it, and sees only that its predecessor's record is there again.
    second.resign(at(1_100), token, Some(std::time::Duration::ZERO)).unwrap();
    register.put(left);
    register.tell(&mut second, at(1_500));
    register.run(&mut second, at(1_500));
    assert!(!second.leads(at(1_500)));
    assert!(first_write(&mut second, 1_501, 60_000).unwrap() >= 16_500);
}

#[test]
fn a_restarted_sidecar_may_see_its_pods_record_many_times_but_nobody_elses() {
    for (meanwhile, leads) in [(None, true), (Some(held_by(2, 0, LEASE)), false)] {
        let (_, mut register) = leader();
        let left = register.stored.clone().unwrap().content;
        let mut second = conch_election::Elector::new(restarted(77));
        for now in [100, 200, 300] {
            register.touch();
            register.tell(&mut second, at(now));
        }
        if let Some(content) = meanwhile {
            // In an object that was made anew, whose terms are counted from the beginning.
            register.delete();
            register.put(content);
            register.tell(&mut second, at(400));
            register.put(left);
            register.tell(&mut second, at(500));
        }
        second.handle(at(600), Input::Willing(true));
        register.run(&mut second, at(600));
        assert_eq!(second.leads(at(600)), leads);
    }
}

#[test]
fn another_pod_of_the_same_name_inherits_nothing() {
    let (_, mut register) = leader();
    let identity = Identity { pod_uid: "another".into(), nonce: Nonce(77), ..identity(1) };
    let mut replacement = willing(Config { identity, ..config(1) });
    register.run(&mut replacement, at(1_500));
    assert!(!replacement.leads(at(1_500)));
    assert!(first_write(&mut replacement, 1_500, 60_000).unwrap() >= 16_500);
}

#[test]
fn a_closed_stream_takes_nothing_back_that_an_earlier_process_promised() {
    let (_, mut register) = leader();
    let mut second = willing(restarted(77));
    register.run(&mut second, at(1_500));
    // Somebody else in the pod may have been told by the earlier process, a moment before it died.
    second.handle(at(1_600), Input::ProgramStopped);
    let end = 1_500 + 5_555 + 3_000;
    register.run_until(&mut second, 1_600, end);
    assert!(matches!(&register.stored.as_ref().unwrap().content,
        Content::Record(record) if matches!(record.claim, Claim::Held { .. })));
}

#[test]
fn an_answer_that_comes_after_the_news_of_a_deletion_begins_no_term() {
    let mut register = Register::fresh();
    let mut elector = candidate(1);
    register.run(&mut elector, at(0));
    let (now, (record, expected)) = first_sent(&mut elector);
    let written = register.write(&record, expected.as_ref());
    register.delete();
    register.tell(&mut elector, at(now + 5));
    elector.handle(at(now + 10), Input::Written(written));
    assert!(!elector.leads(at(now + 10)));
}
