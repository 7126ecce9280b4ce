//! V counts from sending; answers compare the clock when asked; a leader takes the clock that went further.

use crate::world::*;
use conch_election::{Input, Moment, Reason, WriteError};

fn validity_ms() -> u64 {
    u64::try_from(timing().validity().as_millis()).unwrap()
}

#[test]
fn validity_counts_from_when_the_write_was_sent_not_from_its_answer() {
    let mut register = Register::fresh();
    let mut elector = candidate(1);
    register.run(&mut elector, at(0));
    let sent = first_sent(&mut elector);
    let (record, expected) = sent.1;
    let written = register.write(&record, expected.as_ref()).unwrap();
    // The answer took 9 s.
    elector.handle(at(sent.0 + 9_000), Input::Written(Ok(written)));
    assert!(elector.leads(at(sent.0 + 9_001)));
    assert!(!elector.leads(at(sent.0 + validity_ms() + 1)));
}

#[test]
fn an_answer_after_the_validity_is_no_even_before_any_timer_ran() {
    let (mut elector, _) = leader();
    // The whole process was stopped for a minute; the first thing that happens is the program's question.
    let answer = elector.answer(at(60_000));
    assert_eq!(answer.promise, None);
    assert!(!elector.leads(at(60_000)));
}

#[test]
fn a_leader_counts_suspend_and_slew_against_itself() {
    let (elector, _) = leader();
    let moment = |boottime, monotonic, raw| Moment {
        boottime: ms(boottime),
        monotonic: ms(monotonic),
        monotonic_raw: ms(raw),
    };
    let suspended = moment(20_000, 1_000, 1_000);
    let slewed = moment(1_000, 1_000, 20_000);
    // Awake for 6 s on slow clocks, suspended for 6: neither BOOTTIME nor RAW alone saw the 12 s.
    let both = moment(11_400, 5_400, 6_000);
    assert!(elector.leads(at(11_400)));
    assert!(!elector.leads(both));
    assert!(!elector.leads(suspended));
    assert!(!elector.leads(slewed));
}

#[test]
fn a_leader_that_cannot_renew_stops_in_time_and_says_why() {
    let (mut elector, _) = leader();
    let mut now = 20;
    while now < validity_ms() + 100 {
        elector.handle(at(now), Input::Tick);
        match elector.poll_action(at(now)) {
            Some(conch_election::Action::Read { .. }) => {
                elector.handle(at(now), Input::Read(Err(unavailable())));
            }
            Some(conch_election::Action::Write { .. }) => {
                elector.handle(at(now), Input::Written(Err(WriteError::Failed(unavailable()))));
            }
            None => now += 10,
        }
        if elector.answer(at(now)).promise.is_some() {
            assert!(now < validity_ms() + 20, "leads at {now} ms");
        }
    }
    let answer = elector.answer(at(now));
    assert_eq!((answer.promise, answer.reason), (None, Reason::StoreUnavailable));
}

#[test]
fn three_attempts_fit_between_a_due_renewal_and_the_end() {
    let (mut elector, _) = leader();
    let timeout_ms = u64::try_from(timing().attempt_timeout().as_millis()).unwrap();
    let mut attempts = 0;
    let mut now = 20;
    loop {
        elector.handle(at(now), Input::Tick);
        if !elector.leads(at(now)) {
            break;
        }
        let Some(action) = elector.poll_action(at(now)) else {
            now += 1;
            continue;
        };
        attempts += 1;
        now += timeout_ms;
        elector.handle(
            at(now),
            match action {
                conch_election::Action::Read { .. } => Input::Read(Err(timeout())),
                conch_election::Action::Write { .. } => Input::Written(Err(WriteError::Failed(timeout()))),
            },
        );
    }
    assert!(attempts >= 3, "{attempts} attempts");
}

#[test]
fn a_store_that_asks_to_be_left_alone_for_an_hour_is_asked_again_in_time() {
    let (mut elector, mut register) = leader();
    elector.handle(at(2_020), Input::Tick);
    expect_write(elector.poll_action(at(2_020)));
    let failure = conch_election::Failure {
        kind: conch_election::FailureKind::Unavailable,
        retry_after: Some(std::time::Duration::from_hours(1)),
    };
    elector.handle(at(2_030), Input::Written(Err(WriteError::Failed(failure))));
    register.run_until(&mut elector, 2_031, validity_ms() - 1_000);
    assert!(elector.leads(at(validity_ms() + 1_000)), "it renewed although it was told to wait for an hour");
}
