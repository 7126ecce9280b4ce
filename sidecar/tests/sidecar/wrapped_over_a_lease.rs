//! `conch-sidecar run` with two candidates and a Lease on a real API server; see `process.rs`.

use crate::{
    real::{Election, LEASE, STOP_GRACE, two_free_ports},
    wrapping::{Mark, Wrapper, until},
};
use rustix::process::{Signal, kill_process};
use std::time::{Duration, Instant};
use tempfile::{TempDir, tempdir};

/// What a watch and a busy machine may take.
const NEWS: Duration = Duration::from_secs(2);

fn start(election: &Election, pod: &str, directory: &TempDir, script: &str) -> Wrapper {
    let port = two_free_ports();
    let mut command = election.command(pod, port);
    command.env("PATH", "/usr/bin:/bin").args(["run", "--state-directory"]).arg(directory.path());
    Wrapper::new(command.args(["--", "sh", "-c", script]).spawn().unwrap(), port)
}

/// Waits until the successor's program runs, and fails if that happens while the first one's does.
fn takes_over(first: &Mark, second: &Mark) {
    let began = Instant::now();
    loop {
        let runs = second.alive() > 0; // looked at first: what follows must have been so before
        assert!(!runs || first.alive() == 0, "two programs run at a time");
        if runs {
            return;
        }
        assert!(began.elapsed() < LEASE * 4, "nobody takes over");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_wrapper_that_is_stopped_is_followed_when_its_program_is_dead() {
    let Some(election) = Election::new() else { return };
    let (directory, first, second) = (tempdir().unwrap(), Mark::new(), Mark::new());
    let wrapper = start(&election, "first", &directory, &first.stubborn());
    first.wait_for(2);
    let _follower = start(&election, "second", &directory, &second.sleep());
    wrapper.signal(Signal::STOP);
    takes_over(&first, &second);
    wrapper.signal(Signal::CONT);
    std::thread::sleep(NEWS);
    assert_eq!((first.alive(), second.alive()), (0, 1));
}

#[test]
fn a_program_that_exits_is_followed_long_before_its_lease_is_over() {
    let Some(election) = Election::new() else { return };
    let (directory, first, second) = (tempdir().unwrap(), Mark::new(), Mark::new());
    let mut wrapper = start(&election, "first", &directory, &first.sleep());
    first.wait_for(1);
    let _follower = start(&election, "second", &directory, &second.sleep());
    std::thread::sleep(Duration::from_millis(500)); // the follower has seen who leads
    let told = Instant::now();
    wrapper.signal(Signal::TERM);
    takes_over(&first, &second);
    assert!(told.elapsed() < LEASE / 2, "{:?}", told.elapsed());
    assert_eq!(wrapper.ends().code(), Some(143));
}

#[test]
fn a_lead_that_is_taken_away_ends_the_program_at_once_even_if_the_guard_is_stopped() {
    let Some(election) = Election::new() else { return };
    for guard_stopped in [false, true] {
        let (directory, mark) = (tempdir().unwrap(), Mark::new());
        let wrapper = start(&election, "first", &directory, &mark.stubborn());
        until_within(LEASE * 4, || mark.alive() == 2);
        if guard_stopped {
            kill_process(wrapper.guard(), Signal::STOP).unwrap();
        }
        let taken = Instant::now();
        election.take_away();
        until("the program is dead", || mark.alive() == 0);
        assert!(taken.elapsed() < STOP_GRACE + NEWS, "{:?}", taken.elapsed());
        drop(wrapper);
    }
}

fn until_within(limit: Duration, is_so: impl Fn() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < limit);
        std::thread::sleep(Duration::from_millis(5));
    }
}
