//! What the guard of a wrapped program does by itself, whatever becomes of the wrapper.

use crate::wrapping::{Guard, Mark, until};
use rustix::process::{Pid, Signal, kill_process};
use std::time::{Duration, Instant};

const LONG: Duration = Duration::from_mins(1);
const STOP_GRACE: Duration = Duration::from_secs(1);
/// SIGKILL comes a quarter of the stop grace before its end on a slow clock.
const KILL_AFTER: Duration = Duration::from_millis(640);
const DEADLINE: Duration = Duration::from_millis(400);

#[test]
fn at_the_deadline_a_program_is_told_to_end_and_then_killed_in_time_with_all_that_it_started() {
    let mark = Mark::new();
    let mut guard = Guard::start(STOP_GRACE, DEADLINE, &mark.stubborn());
    mark.wait_for(2);
    let (report, after) = guard.report();
    assert_eq!(report, "ended 137");
    assert!(after >= DEADLINE + KILL_AFTER && after < DEADLINE + STOP_GRACE, "{after:?}");
    assert_eq!(mark.alive(), 0);
}

#[test]
fn a_program_that_ends_when_it_is_told_to_is_not_killed() {
    let mark = Mark::new();
    let mut guard = Guard::start(STOP_GRACE, DEADLINE, &mark.sleep());
    let (report, after) = guard.report();
    assert_eq!(report, "ended 143");
    assert!(after >= DEADLINE && after < DEADLINE + KILL_AFTER, "{after:?}");
}

#[test]
fn a_deadline_is_put_off_but_never_brought_forward_and_the_order_to_end_counts_at_once() {
    let mark = Mark::new();
    let mut guard = Guard::start(STOP_GRACE, DEADLINE, &mark.stubborn());
    let later = conch_stores::clock::now().boottime + LONG;
    guard.tell(&format!("until {}", later.as_nanos()));
    guard.tell("until 1");
    std::thread::sleep(DEADLINE + STOP_GRACE);
    assert_eq!(mark.alive(), 2);
    let told = Instant::now();
    guard.tell("end");
    assert_eq!(guard.report().0, "ended 137");
    assert!(told.elapsed() >= KILL_AFTER && told.elapsed() < STOP_GRACE, "{:?}", told.elapsed());
    assert_eq!(mark.alive(), 0);
}

#[test]
fn when_the_wrapper_dies_everything_dies_within_the_stop_grace() {
    let mark = Mark::new();
    let mut guard = Guard::start(STOP_GRACE, LONG, &mark.stubborn());
    mark.wait_for(2);
    let died = Instant::now();
    guard.channel.get_ref().shutdown(std::net::Shutdown::Both).unwrap();
    guard.child.wait().unwrap();
    assert!(died.elapsed() < STOP_GRACE, "{:?}", died.elapsed());
    assert_eq!(mark.alive(), 0);
}

#[test]
fn a_program_dies_with_its_guard() {
    let mark = Mark::new();
    let mut guard = Guard::start(STOP_GRACE, LONG, &mark.sleep());
    mark.wait_for(1);
    guard.child.kill().unwrap();
    mark.wait_for(0);
}

#[test]
fn what_a_program_leaves_behind_is_dead_before_its_exit_is_told() {
    let mark = Mark::new();
    let script = format!("trap '' TERM; setsid {} & sleep 0.2; exit 7", mark.sleep().replace("exec ", ""));
    let mut guard = Guard::start(STOP_GRACE, LONG, &script);
    assert_eq!(guard.report().0, "exited 7");
    assert_eq!(mark.alive(), 0);
}

#[test]
fn signals_reach_the_program_through_the_wrapper_alone() {
    let script = "trap 'exit 9' USR1; trap 'exit 8' TERM; while :; do sleep 0.01; done";
    let mut guard = Guard::start(STOP_GRACE, LONG, script);
    std::thread::sleep(Duration::from_millis(300));
    for signal in [Signal::TERM, Signal::INT, Signal::HUP] {
        kill_process(Pid::from_child(&guard.child), signal).unwrap();
    }
    std::thread::sleep(Duration::from_millis(100));
    guard.tell(&format!("signal {}", Signal::USR1.as_raw()));
    assert_eq!(guard.report().0, "exited 9");
}

#[test]
fn a_program_that_is_stopped_ends_as_well() {
    let mark = Mark::new();
    let mut guard = Guard::start(STOP_GRACE, DEADLINE, &format!("kill -STOP $$; {}", mark.sleep()));
    let (report, after) = guard.report();
    assert_eq!(report, "ended 143");
    assert!(after < DEADLINE + KILL_AFTER, "{after:?}");
}

#[test]
fn a_deadline_that_is_past_starts_nothing() {
    let mark = Mark::new();
    let mut guard = Guard::start(STOP_GRACE, Duration::ZERO, &mark.sleep());
    assert_eq!(guard.report().0, "ended 0");
    until("the guard ends", || guard.child.try_wait().unwrap().is_some());
    assert_eq!(mark.alive(), 0);
}
