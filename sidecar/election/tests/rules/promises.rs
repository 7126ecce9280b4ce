//! What a program is told, and that no release goes out before all of it is over.

use crate::world::*;
use conch_election::{Claim, Config, Content, EndCause, Event, Identity, Input, Moment, Nonce, Reason};
use std::time::Duration;

fn released(register: &Register) -> bool {
    matches!(
        &register.stored.as_ref().unwrap().content,
        Content::Record(record) if matches!(record.claim, Claim::Released { .. })
    )
}

#[test]
fn a_promise_is_scaled_for_a_slewed_clock_and_capped() {
    let (mut elector, _) = leader();
    // Early in the term the cap decides, late in it the scaled rest does.
    assert_eq!(elector.answer(at(100)).promise.unwrap().valid_for, ms(5_000));
    let late = 10_000;
    let promise = elector.answer(at(late)).promise.unwrap();
    let left = (timing().validity() + ms(10)).saturating_sub(ms(late));
    assert!(promise.valid_for <= left.mul_f64(0.89), "{promise:?} of {left:?}");
    assert!(promise.valid_for + ms(10) >= left.mul_f64(0.85), "{promise:?} of {left:?}");
    assert_eq!(promise.deadline_boottime, ms(late) + promise.valid_for);
}

#[test]
fn a_program_whose_clock_is_slewed_by_a_tenth_stops_within_the_validity() {
    let (mut elector, _) = leader();
    for asked in (20..13_000).step_by(7) {
        let Some(promise) = elector.answer(at(asked)).promise else {
            continue;
        };
        // 10 % slow: so much true time passes while the program counts the promise.
        let stops = ms(asked) + promise.valid_for.mul_f64(1.0 / 0.9);
        assert!(stops <= timing().validity() + ms(10), "asked at {asked} ms, stops at {stops:?}");
    }
}

#[test]
fn a_terminating_leader_says_no_at_once_and_releases_only_after_its_last_promise_and_the_grace() {
    let (mut elector, mut register) = leader();
    let asked = 1_000;
    let promise = elector.answer(at(asked)).promise.unwrap();
    elector.handle(at(1_100), Input::Terminate);
    let answer = elector.answer(at(1_100));
    assert_eq!((answer.promise, answer.reason), (None, Reason::Terminating));
    assert!(!elector.is_done(at(1_100)));

    let slowest = promise.valid_for.mul_f64(1.0 / 0.9) + GRACE;
    let not_before = asked + u64::try_from(slowest.as_millis()).unwrap();
    register.run_until(&mut elector, 1_100, not_before);
    assert!(!released(&register));
    register.run_until(&mut elector, not_before, not_before + 100);
    assert!(released(&register));
    assert!(elector.is_done(at(not_before + 100)));
}

#[test]
fn a_leader_that_never_promised_anything_releases_at_once() {
    let (mut elector, mut register) = leader();
    elector.handle(at(1_000), Input::Terminate);
    register.run(&mut elector, at(1_000));
    assert!(released(&register));
    assert!(elector.is_done(at(1_000)));
}

#[test]
fn the_release_waits_for_the_latest_promise() {
    let (mut elector, mut register) = leader();
    elector.answer(at(100));
    elector.answer(at(2_900));
    elector.handle(at(3_000), Input::Terminate);
    let end = 2_900 + 5_000 * 100 / 89 + 3_000;
    register.run_until(&mut elector, 3_000, end);
    assert!(!released(&register));
    register.run_until(&mut elector, end, end + 100);
    assert!(released(&register));
}

#[test]
fn a_shorter_promise_does_not_shorten_a_longer_one() {
    let (_, mut register) = leader();
    // The sidecar is started again: what its predecessor may have promised, up to its lease, is longer than what it promises.
    let identity = Identity { nonce: Nonce(77), ..identity(1) };
    let mut elector = willing(Config { identity, ..config(1) });
    register.run(&mut elector, at(1_000));
    let short = elector.answer(at(1_100)).promise.unwrap().valid_for;
    assert_eq!(short, ms(5_000));
    elector.handle(at(1_200), Input::Terminate);
    let end = 1_000 + 15_000;
    register.run_until(&mut elector, 1_200, end - 1);
    assert!(!released(&register), "what the first process promised is not over");
    register.run_until(&mut elector, end, end + 100);
    assert!(released(&register));
}

#[test]
fn the_wait_for_promises_counts_the_clock_that_went_less_far() {
    let (mut elector, mut register) = leader();
    elector.answer(at(1_000));
    elector.handle(at(1_000), Input::Terminate);
    let slewed = Moment { boottime: ms(60_000), monotonic: ms(60_000), monotonic_raw: ms(2_000) };
    register.run(&mut elector, slewed);
    assert!(!released(&register));
}

#[test]
fn a_program_that_stopped_frees_the_lead_at_once() {
    for stop in [Input::ProgramStopped, Input::Terminate] {
        let (mut elector, mut register) = leader();
        let token = elector.answer(at(1_000)).promise.unwrap().token;
        match stop {
            Input::ProgramStopped => elector.handle(at(1_001), Input::ProgramStopped),
            other => {
                elector.handle(at(1_001), other);
                // Proof comes later: the program says so itself.
                elector.resign(at(1_002), token, None).unwrap();
            }
        }
        register.run(&mut elector, at(1_003));
        assert!(released(&register));
        assert!(!elector.leads(at(1_003)));
    }
}

#[test]
fn resigning_a_term_that_is_not_current_is_refused_and_changes_nothing() {
    let (mut elector, _) = leader();
    let current = token(&mut elector, 1_000).unwrap();
    let refused = elector.resign(at(1_000), conch_election::Token(current.0 - 1), None).unwrap_err();
    assert_eq!(refused.current, Some(current));
    assert!(elector.leads(at(1_001)));
}

#[test]
fn who_resigned_leaves_the_lead_to_others_for_a_while() {
    let (mut elector, mut register) = leader();
    let token = token(&mut elector, 1_000).unwrap();
    elector.resign(at(1_000), token, Some(Duration::from_secs(30))).unwrap();
    register.run_until(&mut elector, 1_000, 30_900);
    assert!(!elector.leads(at(30_900)));
    assert_eq!(elector.answer(at(30_900)).reason, Reason::CoolingDown);
    register.run_until(&mut elector, 30_900, 31_020);
    assert!(elector.leads(at(31_020)));
}

#[test]
fn losing_health_stops_renewals_and_takes_nothing_back() {
    let (mut elector, mut register) = leader();
    elector.handle(at(1_000), Input::Willing(false));
    register.run_until(&mut elector, 1_000, 11_000);
    assert!(elector.leads(at(11_000)), "what was promised still holds");
    assert!(!released(&register));
    register.run_until(&mut elector, 11_000, 14_000);
    assert!(!elector.leads(at(14_000)));
    assert!(!released(&register));
    // A write in the meantime would have been a renewal.
    assert_eq!(register.fence, 2);
}

#[test]
fn a_term_that_arrives_after_the_program_has_gone_is_given_back() {
    let mut register = Register::fresh();
    let mut elector = candidate(1);
    register.run(&mut elector, at(0));
    let (now, (record, expected)) = first_sent(&mut elector);
    elector.handle(at(now), Input::Willing(false));
    let result = register.write(&record, expected.as_ref());
    elector.handle(at(now + 5), Input::Written(result));
    register.run(&mut elector, at(now + 5));
    assert!(released(&register));
}

#[test]
fn a_program_that_stops_again_leaves_the_lead_to_others_again() {
    let (mut elector, mut register) = leader();
    for now in [1_000, 6_000] {
        assert!(elector.leads(at(now)));
        elector.handle(at(now), Input::ProgramStopped);
        register.run_until(&mut elector, now, now + 1_900);
        assert!(!elector.leads(at(now + 1_900)));
        register.run_until(&mut elector, now + 1_900, now + 2_100);
    }
    assert!(elector.leads(at(8_100)));
}

#[test]
fn a_leader_that_is_given_away_says_no_at_once_and_is_released_only_after_its_last_promise_and_the_grace() {
    let (mut elector, mut register) = leader();
    let promise = elector.answer(at(1_000)).promise.unwrap();
    elector.handle(at(1_100), Input::Willing(false));
    elector.handle(at(1_100), Input::GiveAway);
    assert_eq!(elector.answer(at(1_100)).promise, None);
    assert!(
        events(&mut elector).contains(&Event::TermEnded { token: promise.token, cause: EndCause::Unhealthy })
    );

    let slowest = promise.valid_for.mul_f64(1.0 / 0.9) + GRACE;
    let not_before = 1_000 + u64::try_from(slowest.as_millis()).unwrap();
    register.run_until(&mut elector, 1_100, not_before);
    assert!(!released(&register));
    register.run_until(&mut elector, not_before, not_before + 100);
    assert!(released(&register));
    assert!(!elector.leads(at(not_before + 100)));
}

#[test]
fn a_hung_leader_whose_last_promise_is_over_is_given_away_at_once() {
    let (mut elector, mut register) = leader();
    elector.answer(at(100));
    register.run_until(&mut elector, 100, 10_000);
    elector.handle(at(10_000), Input::Willing(false));
    elector.handle(at(10_000), Input::GiveAway);
    register.run(&mut elector, at(10_000));
    assert!(released(&register));
}

#[test]
fn a_leader_that_stands_back_releases_after_its_last_promise_and_leaves_the_lead_to_the_other_for_a_lease() {
    let (mut elector, mut register) = leader();
    let mut other = follower(&mut register, 100);
    let promise = elector.answer(at(1_000)).promise.unwrap();
    elector.handle(at(1_100), Input::StandBack);
    assert_eq!(
        (elector.answer(at(1_100)).promise, elector.answer(at(1_100)).reason),
        (None, Reason::CoolingDown)
    );
    let ended = Event::TermEnded { token: promise.token, cause: EndCause::Transferred };
    assert!(events(&mut elector).contains(&ended));

    let slowest = promise.valid_for.mul_f64(1.0 / 0.9) + GRACE;
    let not_before = 1_000 + u64::try_from(slowest.as_millis()).unwrap();
    register.run_until(&mut elector, 1_100, not_before);
    assert!(!released(&register), "the program was told until then");
    register.run_until(&mut elector, not_before, not_before + 100);
    assert!(released(&register));
    // It is willing, and has been asked for nothing else: it leads again if nobody wants to.
    let lease = 1_100 + 15_000;
    register.run_until(&mut elector, not_before + 100, lease - 10);
    assert!(released(&register));
    other.handle(at(lease - 10), Input::Changed(register.stored.clone()));
    register.run_until(&mut other, lease - 10, lease);
    assert!(other.leads(at(lease)));
}

#[test]
fn a_leader_that_stands_back_and_is_resigned_releases_at_once() {
    let (mut elector, mut register) = leader();
    let promise = elector.answer(at(1_000)).promise.unwrap();
    elector.handle(at(1_100), Input::StandBack);
    elector.resign(at(1_200), promise.token, None).unwrap();
    register.run(&mut elector, at(1_200));
    assert!(released(&register));
    assert_eq!(elector.answer(at(1_200)).reason, Reason::CoolingDown);
    // The resignation asks for less than the transfer, and shortens it by nothing.
    register.run_until(&mut elector, 1_200, 16_000);
    assert!(released(&register));
    register.run_until(&mut elector, 16_000, 16_300);
    assert!(elector.leads(at(16_300)));
}

#[test]
fn a_follower_that_stands_back_waits_a_lease_and_not_for_ever() {
    let (mut elector, mut register) = leader();
    let mut other = follower(&mut register, 100);
    other.handle(at(1_000), Input::StandBack);
    assert_eq!(other.answer(at(1_000)).reason, Reason::CoolingDown);
    elector.handle(at(2_000), Input::ProgramStopped);
    register.run(&mut elector, at(2_000));
    assert!(released(&register));
    other.handle(at(2_010), Input::Changed(register.stored.clone()));
    register.run_until(&mut other, 2_010, 15_900);
    assert!(!other.leads(at(15_900)));
    register.run_until(&mut other, 15_900, 16_200);
    assert!(other.leads(at(16_200)));
}

#[test]
fn giving_away_what_one_does_not_have_is_nothing() {
    let (_, mut register) = leader();
    let mut second = follower(&mut register, 100);
    let before = register.stored.clone();
    second.handle(at(200), Input::GiveAway);
    register.run_until(&mut second, 200, 14_000);
    assert_eq!(register.stored, before);
    // And it takes nothing from its candidacy.
    register.run_until(&mut second, 14_000, 15_200);
    assert!(second.leads(at(15_200)));
}
