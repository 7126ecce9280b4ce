//! Whatever a program does with streams, questions, heartbeats and checks: the elector is told that it stopped only when nobody may act any
//! more, and then it is told in time.

use conch_crds::program::{Presence, WhenAllUnhealthy};
use conch_election::Moment;
use conch_sidecar::{
    gate::{Lead, Now, Rules, Thresholds},
    program::{Channel, Closed, Order, Program},
};
use proptest::prelude::*;
use std::time::Duration;

const STOP_GRACE: Duration = Duration::from_millis(300);
const PROMISE_MAX: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, Debug)]
enum Step {
    Ask,
    Open,
    /// Closes one of the open streams.
    Close(usize, Closed),
    /// Tells one of the open streams.
    TellStream(usize, Duration),
    TellElsewhere(Duration),
    Beat,
    Checked(bool),
    LeadMoves(Lead),
    Wait(Duration),
}

/// What somebody outside knows: until when each reader may act.
#[derive(Default)]
struct World {
    now: Duration,
    streams: Vec<Duration>,
    others: Vec<Duration>,
    resigned_at: Option<Duration>,
    lead: Option<Lead>,
    /// What the elector was told last.
    willing: bool,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let promise = || (1..=1_000_u64).prop_map(Duration::from_millis);
    let closed = prop_oneof![3 => Just(Closed::ByProgram), 1 => Just(Closed::ByUs)];
    let step = prop_oneof![
        1 => Just(Step::Ask),
        3 => Just(Step::Open),
        3 => (any::<usize>(), closed).prop_map(|(stream, closed)| Step::Close(stream, closed)),
        4 => (any::<usize>(), promise()).prop_map(|(stream, valid_for)| Step::TellStream(stream, valid_for)),
        2 => promise().prop_map(Step::TellElsewhere),
        1 => Just(Step::Beat),
        1 => any::<bool>().prop_map(Step::Checked),
        1 => prop_oneof![Just(Lead::Here), Just(Lead::Left), Just(Lead::Elsewhere)].prop_map(Step::LeadMoves),
        4 => (0..800_u64).prop_map(|ms| Step::Wait(Duration::from_millis(ms))),
    ];
    prop::collection::vec(step, 1..60)
}

fn rules() -> impl Strategy<Value = Rules> {
    let milliseconds = |range: std::ops::Range<u64>| range.prop_map(Duration::from_millis);
    let check = (1..3_u32, 1..3_u32).prop_map(|(failures, successes)| Thresholds { failures, successes });
    (
        prop::option::of(milliseconds(100..2_000)),
        prop::option::of(check),
        milliseconds(100..2_000),
        prop_oneof![Just(WhenAllUnhealthy::Nobody), Just(WhenAllUnhealthy::KeepLast)],
    )
        .prop_map(|(heartbeat_timeout, check, cool_down, when_all_unhealthy)| Rules {
            heartbeat_timeout,
            check,
            cool_down,
            when_all_unhealthy,
        })
}

impl World {
    fn now(&self) -> Now {
        Now { at: Moment::from_uptime(self.now), lead: self.lead.unwrap_or(Lead::Elsewhere) }
    }

    /// A program whose clock is slewed to run slow by a tenth, and then its stop grace.
    fn acts_until(&self, valid_for: Duration) -> Duration {
        self.now + valid_for * 10 / 9 + STOP_GRACE
    }

    fn take(&mut self, program: &mut Program, step: Step) -> Vec<Order> {
        let now = self.now();
        match step {
            Step::Ask => program.ask(now),
            Step::Beat => program.beat(now),
            Step::Checked(passed) => program.checked(now, passed),
            Step::LeadMoves(lead) => {
                self.lead = Some(lead);
                program.tick(self.now())
            }
            Step::Open => {
                self.streams.push(Duration::ZERO);
                program.open_stream(now)
            }
            Step::Close(stream, closed) if !self.streams.is_empty() => {
                let acts_until = self.streams.swap_remove(stream % self.streams.len());
                if closed == Closed::ByUs {
                    self.others.push(acts_until);
                }
                if self.streams.is_empty() {
                    self.resigned_at.get_or_insert(self.now);
                }
                program.close_stream(now, closed)
            }
            // Nobody is told that this pod leads while it resigns.
            Step::TellStream(stream, valid_for) if !self.streams.is_empty() && !program.is_resigning() => {
                let stream = stream % self.streams.len();
                self.streams[stream] = self.streams[stream].max(self.acts_until(valid_for));
                program.told(now.at, Channel::Lead, valid_for);
                Vec::new()
            }
            Step::TellElsewhere(valid_for) if !program.is_resigning() => {
                self.others.push(self.acts_until(valid_for));
                program.told(now.at, Channel::Elsewhere, valid_for);
                Vec::new()
            }
            Step::Wait(time) => {
                // As the timer does: no later than the program's own next moment.
                self.now += program.timeout(now).map_or(time, |left| left.min(time));
                program.tick(self.now())
            }
            _ => Vec::new(),
        }
    }

    fn check(&mut self, program: &Program, orders: &[Order]) -> Result<(), TestCaseError> {
        if orders.contains(&Order::Stopped) {
            for acts_until in self.others.drain(..).chain(self.streams.iter().copied()) {
                prop_assert!(
                    acts_until <= self.now,
                    "somebody may act until {acts_until:?}, now {:?}",
                    self.now
                );
            }
            self.resigned_at = None;
        }
        for order in orders {
            match order {
                Order::Willing(willing) => {
                    prop_assert_ne!(*willing, self.willing, "it was told that before");
                    self.willing = *willing;
                }
                Order::GiveAway => prop_assert_eq!(self.lead, Some(Lead::Here), "it had nothing to give"),
                Order::Stopped => {}
            }
        }
        prop_assert!(!(self.willing && program.is_resigning()), "who resigns wants nothing");
        prop_assert_eq!(program.is_resigning(), self.resigned_at.is_some());
        if let Some(resigned_at) = self.resigned_at {
            let longest = PROMISE_MAX * 9 / 8 + STOP_GRACE;
            prop_assert!(self.now < resigned_at + longest, "it waits for longer than any promise lasts");
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_elector_is_told_that_the_program_stopped_when_nobody_may_act_and_then_in_time(
        steps in steps(),
        presence in prop_oneof![
            Just(Presence::Asked), Just(Presence::Heartbeat), Just(Presence::Stream), Just(Presence::NotNeeded)
        ],
        rules in rules(),
    ) {
        let mut program = Program::new(presence, rules, STOP_GRACE);
        let mut world = World { now: Duration::from_secs(1_000), ..World::default() };
        for step in steps {
            let orders = world.take(&mut program, step);
            world.check(&program, &orders)?;
        }
    }
}
