//! Whatever a program does with streams and questions: the elector is told that it stopped only when nobody may act any
//! more, and then it is told in time.

use conch_election::Moment;
use conch_sidecar::program::{Channel, Closed, Order, Program};
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
    Wait(Duration),
}

/// What somebody outside knows: until when each reader may act.
#[derive(Default)]
struct World {
    now: Duration,
    streams: Vec<Duration>,
    others: Vec<Duration>,
    resigned_at: Option<Duration>,
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
        4 => (0..800_u64).prop_map(|ms| Step::Wait(Duration::from_millis(ms))),
    ];
    prop::collection::vec(step, 1..60)
}

impl World {
    fn moment(&self) -> Moment {
        Moment::from_uptime(self.now)
    }

    /// A program whose clock is slewed to run slow by a tenth, and then its stop grace.
    fn acts_until(&self, valid_for: Duration) -> Duration {
        self.now + valid_for * 10 / 9 + STOP_GRACE
    }

    fn take(&mut self, program: &mut Program, step: Step) -> Vec<Order> {
        let now = self.moment();
        match step {
            Step::Ask => program.ask().into_iter().collect(),
            Step::Open => {
                self.streams.push(Duration::ZERO);
                program.open_stream().into_iter().collect()
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
                program.told(now, Channel::Lead, valid_for);
                Vec::new()
            }
            Step::TellElsewhere(valid_for) if !program.is_resigning() => {
                self.others.push(self.acts_until(valid_for));
                program.told(now, Channel::Elsewhere, valid_for);
                Vec::new()
            }
            Step::Wait(time) => {
                // As the timer does: no later than the program's own next moment.
                self.now += program.timeout(now).map_or(time, |left| left.min(time));
                program.tick(self.moment())
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
    fn the_elector_is_told_that_the_program_stopped_when_nobody_may_act_and_then_in_time(steps in steps()) {
        let mut program = Program::new(false, STOP_GRACE);
        let mut world = World { now: Duration::from_secs(1_000), ..World::default() };
        for step in steps {
            let orders = world.take(&mut program, step);
            world.check(&program, &orders)?;
        }
    }
}
