//! The driver with a register in memory, in virtual time.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a helper of a test may fail the test")]

use conch_election::{
    Config, Content, Event, FailureKind, Identity, Moment, Nonce, Reason, Timing, Token, WriteError,
};
use conch_stores::{
    driver::{Candidate, ChangesEnded, Driver, Observer, Request, TURN_MAX},
    memory::{Link, MemoryStore},
};
use std::{
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};

const LEASE: Duration = Duration::from_secs(15);
const STOP_GRACE: Duration = Duration::from_secs(3);
const MAX_PROMISE: Duration = Duration::from_secs(5);
/// What a hand-over may take where nothing has to be waited for: jitter and the timer's grain.
const SOON: Duration = Duration::from_millis(20);

fn timing() -> Timing {
    Timing::new(LEASE, Duration::from_secs(2), STOP_GRACE, MAX_PROMISE).unwrap()
}

thread_local! {
    static START: Instant = Instant::now();
}

/// Virtual time as both clocks. Each test has a thread of its own, and so a start of its own.
fn virtual_now() -> Moment {
    let elapsed = START.with(Instant::elapsed) + Duration::from_secs(1_000);
    Moment::from_uptime(elapsed)
}

#[derive(Default)]
struct Seen {
    events: Mutex<Vec<Event>>,
    requests: Mutex<Vec<(Request, Result<(), WriteError>)>>,
    turns: Mutex<Vec<Instant>>,
}

impl Observer for Seen {
    fn event(&self, event: &Event) {
        self.events.lock().unwrap().push(event.clone());
    }

    fn request_ended(&self, request: Request, result: Result<(), WriteError>) {
        self.requests.lock().unwrap().push((request, result));
    }

    fn turned(&self) {
        self.turns.lock().unwrap().push(Instant::now());
    }
}

struct Pod {
    candidate: Candidate,
    store: MemoryStore,
    seen: Arc<Seen>,
    task: JoinHandle<Result<(), ChangesEnded>>,
}

fn pod(store: MemoryStore, number: u128) -> Pod {
    let config = Config {
        identity: Identity {
            pod: format!("pod-{number}"),
            pod_uid: format!("uid-{number}"),
            nonce: Nonce(number),
        },
        timing: timing(),
        longest_lease: LEASE,
        fencing_offset: 0,
    };
    let seen = Arc::new(Seen::default());
    let (driver, candidate) =
        Driver::new(store.clone(), config, virtual_now, Arc::clone(&seen) as Arc<dyn Observer>);
    candidate.set_willing(true);
    Pod { candidate, store, seen, task: tokio::spawn(driver.run()) }
}

impl Pod {
    /// Waits until this pod leads; returns its token and how long it took.
    async fn leads(&self) -> (Token, Duration) {
        let began = Instant::now();
        let mut changes = self.candidate.subscribe();
        let leading = async {
            while !self.candidate.leads() {
                changes.changed().await.unwrap();
            }
        };
        timeout(Duration::from_mins(1), leading).await.expect("this pod leads within a minute");
        (self.token(), began.elapsed())
    }

    fn token(&self) -> Token {
        self.candidate.answer().promise.expect("this pod leads").token
    }
}

/// A leader and a follower of one election.
async fn two_pods() -> (Pod, Pod) {
    let store = MemoryStore::new();
    store.overwrite(Content::Fresh);
    let leader = pod(store.clone(), 1);
    leader.leads().await;
    let follower = pod(store.candidate(), 2);
    sleep(Duration::from_millis(100)).await;
    assert!(!follower.candidate.leads());
    (leader, follower)
}

#[tokio::test(start_paused = true)]
async fn a_fresh_register_is_led_at_once_and_a_missing_one_after_a_lease() {
    let fresh = MemoryStore::new();
    fresh.overwrite(Content::Fresh);
    assert!(pod(fresh, 1).leads().await.1 <= SOON);

    let (_, waited) = pod(MemoryStore::new(), 1).leads().await;
    assert!(waited >= LEASE && waited <= LEASE + SOON, "{waited:?}");
}

#[tokio::test(start_paused = true)]
async fn the_leader_goes_on_for_ever_with_one_token_and_the_follower_asks_nothing() {
    let (leader, follower) = two_pods().await;
    let token = leader.token();
    let asked = follower
        .seen
        .requests
        .lock()
        .unwrap()
        .iter()
        .filter(|(request, _)| *request != Request::Watch)
        .count();
    for _ in 0..100 {
        sleep(Duration::from_secs(3)).await;
        assert_eq!(leader.token(), token);
        assert!(!follower.candidate.leads());
        assert_eq!(follower.candidate.answer().reason, Reason::OtherLeads);
        assert_eq!(follower.candidate.answer().holder.as_deref(), Some("pod-1"));
    }
    let asks = follower
        .seen
        .requests
        .lock()
        .unwrap()
        .iter()
        .filter(|(request, _)| *request != Request::Watch)
        .count();
    assert_eq!(asks, asked);
}

#[tokio::test(start_paused = true)]
async fn a_resignation_hands_over_at_once_with_a_higher_token() {
    let (leader, follower) = two_pods().await;
    let token = leader.token();
    assert!(leader.candidate.resign(Token(token.0 + 1), None).is_err());
    leader.candidate.resign(token, Some(Duration::from_secs(30))).unwrap();
    assert_eq!(leader.candidate.answer().promise, None);
    let (next, waited) = follower.leads().await;
    assert!(next > token && waited <= SOON, "{next} {waited:?}");
    assert_eq!(leader.candidate.answer().reason, Reason::CoolingDown);
    assert!(leader.seen.events.lock().unwrap().contains(&Event::Released { token }));
}

#[tokio::test(start_paused = true)]
async fn a_process_that_dies_is_followed_after_a_lease_and_not_before() {
    let (leader, follower) = two_pods().await;
    leader.task.abort();
    let (_, waited) = follower.leads().await;
    assert!(waited + Duration::from_secs(1) >= LEASE && waited <= LEASE + SOON, "{waited:?}");
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_is_cut_off_stops_by_itself_before_its_successor_starts() {
    for link in [Link::Silent, Link::Refused, Link::AnswersLost] {
        let (leader, follower) = two_pods().await;
        leader.store.set_link(link);
        let mut changes = follower.candidate.subscribe();
        let mut last_deadline = Duration::ZERO;
        while !follower.candidate.leads() {
            if let Some(promise) = leader.candidate.answer().promise {
                last_deadline = promise.deadline_boottime;
            }
            let _ = timeout(Duration::from_millis(100), changes.changed()).await;
        }
        let now = virtual_now().boottime;
        assert!(last_deadline + STOP_GRACE < now, "{link:?}: {last_deadline:?} {now:?}");
        assert_ne!(leader.candidate.answer().reason, Reason::Leading);

        leader.store.set_link(Link::Up);
        sleep(LEASE).await;
        assert!(follower.candidate.leads() && !leader.candidate.leads());
        assert_eq!(leader.candidate.answer().reason, Reason::OtherLeads);
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_that_is_never_answered_is_given_up_in_time_for_others() {
    let (leader, _follower) = two_pods().await;
    leader.store.set_link(Link::Silent);
    sleep(timing().validity()).await;
    let requests = leader.seen.requests.lock().unwrap();
    let late = requests.iter().filter(|(_, result)| {
        matches!(result, Err(WriteError::Failed(failure)) if failure.kind == FailureKind::Timeout)
    });
    assert!(late.count() >= 2, "{requests:?}");
}

#[tokio::test(start_paused = true)]
async fn termination_releases_when_every_promise_is_over_or_the_program_is_known_to_have_stopped() {
    for stopped in [false, true] {
        let (leader, follower) = two_pods().await;
        let promise = leader.candidate.answer().promise.unwrap();
        assert_eq!(promise.valid_for, MAX_PROMISE);
        leader.candidate.terminate();
        assert_eq!(leader.candidate.answer().reason, Reason::Terminating);
        if stopped {
            leader.candidate.program_stopped();
        }
        let (_, waited) = follower.leads().await;
        if stopped {
            assert!(waited <= SOON, "{waited:?}");
        } else {
            assert!(waited >= MAX_PROMISE + STOP_GRACE && waited < LEASE, "{waited:?}");
        }
        timeout(SOON, leader.task).await.expect("the loop ends when nothing is left to do").unwrap().unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_follower_that_is_told_to_end_ends_at_once() {
    let (leader, follower) = two_pods().await;
    follower.candidate.terminate();
    timeout(SOON, follower.task).await.expect("nothing is left to do").unwrap().unwrap();
    assert!(leader.candidate.leads());
}

#[tokio::test(start_paused = true)]
async fn subscribers_are_told_of_every_renewal() {
    let (leader, _follower) = two_pods().await;
    sleep(Duration::from_secs(1)).await;
    let mut changes = leader.candidate.subscribe();
    for _ in 0..10 {
        let before = leader.seen.events.lock().unwrap().len();
        let renewed = |events: &[Event]| events.iter().any(|event| matches!(event, Event::Renewed { .. }));
        let told = async {
            loop {
                changes.changed().await.unwrap();
                if renewed(&leader.seen.events.lock().unwrap()[before..]) {
                    return;
                }
            }
        };
        timeout(Duration::from_secs(3), told).await.expect("a renewal is told");
    }
}

#[tokio::test(start_paused = true)]
async fn the_loop_turns_often_enough_to_be_told_from_a_stuck_one() {
    let (_leader, follower) = two_pods().await;
    follower.store.set_link(Link::Silent);
    sleep(LEASE * 4).await;
    let turns = follower.seen.turns.lock().unwrap();
    assert!(turns.windows(2).all(|pair| pair[1] - pair[0] <= TURN_MAX + SOON), "{turns:?}");
}

#[test]
fn two_nonces_differ() {
    assert_ne!(conch_stores::driver::draw_nonce().unwrap(), conch_stores::driver::draw_nonce().unwrap());
}
