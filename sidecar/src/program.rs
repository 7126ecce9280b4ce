//! Whether the program wants to lead, and when it is known to have stopped.
//!
//! A pod is a candidate once its program has asked: by `GET /v1/leader`, by opening `GET /v1/lead` or by `POST /v1/heartbeat`.
//! The policy's presence says which of them count: any (`Asked`), the heartbeat (`Heartbeat`), the stream (`Stream`), or none is
//! needed for the first time (`None`). Asking lasts for the life of this process, and a pod whose program is not fit
//! ([`crate::gate`]) is no candidate all the same. Asking ends when the last open `/v1/lead` is closed by the program: that is a
//! resignation, because the program closed it or died. Any later question begins it anew.
//!
//! A closed stream speaks for those who held streams. Whoever was told elsewhere that this pod leads (another container
//! that polls, an onlooker) may go on until the deadline that it was given; and a stream that *this* side closed, because its
//! reader took nothing, says nothing about the reader. So the program counts as stopped only when those promises are over as
//! well. Until then every answer is no.

use crate::gate::{Gate, Now, Rules};
use conch_crds::program::Presence;
use conch_election::{Moment, Reason};
use std::time::Duration;

/// Over which way somebody was told that this pod leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Channel {
    /// A `/v1/lead` stream: its end shows that the reader stopped.
    Lead,
    /// Any other answer.
    Elsewhere,
}

/// Why a stream ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closed {
    /// The program closed it, or its process died.
    ByProgram,
    /// This side gave up on its reader, which may not know.
    ByUs,
}

/// What the elector is to be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Be a candidate, or stop being one.
    Willing(bool),
    /// The program is not fit to lead on: hand over when every promise is over.
    GiveAway,
    /// Nobody acts on any promise any more.
    Stopped,
}

/// What is known of the program.
#[derive(Clone, Debug)]
pub struct Program {
    presence: Presence,
    /// σ: how long after its deadline something that the program began may still take effect.
    stop_grace: Duration,
    gate: Gate,
    asked: bool,
    streams: usize,
    /// Until when somebody on a stream may act.
    told_on_streams: Option<Standing>,
    /// Until when somebody else may act.
    told_elsewhere: Option<Standing>,
    /// The last stream was closed, and promises made elsewhere are not yet over.
    resigning: bool,
    /// What the elector was told last.
    willing: bool,
    last_beat: Option<Moment>,
    last_check: Option<(Moment, bool)>,
}

/// A promise that may still be relied upon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Standing {
    from: Moment,
    length: Duration,
}

impl Program {
    /// A program that has said nothing yet.
    pub fn new(presence: Presence, rules: Rules, stop_grace: Duration) -> Self {
        Self {
            presence,
            stop_grace,
            gate: Gate::new(rules),
            asked: presence == Presence::NotNeeded,
            streams: 0,
            told_on_streams: None,
            told_elsewhere: None,
            resigning: false,
            willing: false,
            last_beat: None,
            last_check: None,
        }
    }

    /// Is this pod a candidate on behalf of its program?
    pub fn is_candidate(&self) -> bool {
        self.willing
    }

    /// Does the program pass what the policy asks of it?
    pub fn is_fit(&self, at: Moment) -> bool {
        self.gate.ailment(at).is_none()
    }

    /// How many `/v1/lead` streams are open.
    pub fn streams(&self) -> usize {
        self.streams
    }

    /// What makes it a candidate.
    pub fn presence(&self) -> Presence {
        self.presence
    }

    /// When it last said that it is alive.
    pub fn last_beat(&self) -> Option<Moment> {
        self.last_beat
    }

    /// When its check last ended, and whether it passed.
    pub fn last_check(&self) -> Option<(Moment, bool)> {
        self.last_check
    }

    /// How long somebody may still act on what was promised, stop grace included.
    pub fn promises_stand_for(&self, at: Moment) -> Duration {
        longer(at, self.told_on_streams, self.told_elsewhere)
            .map_or(Duration::ZERO, |standing| standing.left(at))
    }

    /// Must every answer be no, whatever the elector says?
    pub fn is_resigning(&self) -> bool {
        self.resigning
    }

    /// Why this pod is no candidate, as far as its program decides that.
    pub fn objection(&self, now: Now) -> Option<Reason> {
        if self.resigning {
            return Some(Reason::CoolingDown);
        }
        let not_asked = match self.presence {
            Presence::Stream => Reason::StreamMissing,
            Presence::Asked | Presence::Heartbeat | Presence::NotNeeded => Reason::NotAsked,
        };
        // A program whose heartbeat is missing is told so, whether it ever sent one or not.
        let unasked = (!self.asked).then_some(not_asked);
        match self.presence {
            Presence::Heartbeat => self.gate.objection(now).or(unasked),
            _ => unasked.or_else(|| self.gate.objection(now)),
        }
    }

    /// The program asked whether it leads.
    pub fn ask(&mut self, now: Now) -> Vec<Order> {
        self.asked |= matches!(self.presence, Presence::Asked | Presence::NotNeeded);
        self.tick(now)
    }

    /// The program said that it is alive.
    pub fn beat(&mut self, now: Now) -> Vec<Order> {
        self.last_beat = Some(now.at);
        self.gate.beat(now.at);
        self.asked |= self.presence != Presence::Stream;
        self.tick(now)
    }

    /// A check of the program ended.
    pub fn checked(&mut self, now: Now, passed: bool) -> Vec<Order> {
        self.last_check = Some((now.at, passed));
        self.gate.checked(passed);
        self.tick(now)
    }

    /// A `/v1/lead` stream was opened: that is asking, too.
    pub fn open_stream(&mut self, now: Now) -> Vec<Order> {
        self.streams += 1;
        self.asked |= self.presence != Presence::Heartbeat;
        self.tick(now)
    }

    /// A `/v1/lead` stream is closed.
    pub fn close_stream(&mut self, now: Now, closed: Closed) -> Vec<Order> {
        self.streams = self.streams.saturating_sub(1);
        if closed == Closed::ByUs {
            // Which of the readers was told last is not known; the latest promise covers each.
            self.told_elsewhere = longer(now.at, self.told_elsewhere, self.told_on_streams);
        }
        if self.streams == 0 {
            self.told_on_streams = None;
            self.asked = false;
            self.resigning = true;
        }
        self.tick(now)
    }

    /// Somebody was told that this pod leads for `valid_for` from now on.
    pub fn told(&mut self, at: Moment, channel: Channel, valid_for: Duration) {
        // A kernel may slew the clock with which the program counts by 10 %: an eighth more covers it.
        let standing = Some(Standing { from: at, length: valid_for + valid_for / 8 + self.stop_grace });
        let told = match channel {
            Channel::Lead => &mut self.told_on_streams,
            Channel::Elsewhere => &mut self.told_elsewhere,
        };
        *told = longer(at, *told, standing);
    }

    /// In how long [`Self::tick`] may have something to say although nothing happens.
    pub fn timeout(&self, now: Now) -> Option<Duration> {
        let promises = self.resigning.then(|| self.promises_left(now.at));
        [promises, self.gate.timeout(now)].into_iter().flatten().min()
    }

    /// Time went on, or the lead moved. May be called at any time.
    pub fn tick(&mut self, now: Now) -> Vec<Order> {
        let stopped = self.resigning && self.promises_left(now.at).is_zero();
        if stopped {
            self.resigning = false;
            self.told_elsewhere = None;
        }
        let gives_away = self.gate.update(now);
        let willing = self.asked && !self.resigning && self.gate.objection(now).is_none();
        let before = std::mem::replace(&mut self.willing, willing);
        // Nothing is begun between the stop of one term and the next.
        [
            (before && !willing).then_some(Order::Willing(false)),
            stopped.then_some(Order::Stopped),
            gives_away.then_some(Order::GiveAway),
            (willing && !before).then_some(Order::Willing(true)),
        ]
        .into_iter()
        .flatten()
        .collect()
    }

    fn promises_left(&self, at: Moment) -> Duration {
        self.told_elsewhere.map_or(Duration::ZERO, |standing| standing.left(at))
    }
}

impl Standing {
    /// What may be left of it.
    fn left(self, now: Moment) -> Duration {
        self.length.saturating_sub(now.shortest_since(self.from))
    }
}

fn longer(now: Moment, one: Option<Standing>, other: Option<Standing>) -> Option<Standing> {
    [one, other].into_iter().flatten().max_by_key(|standing| standing.left(now))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gate::{Lead, Thresholds};
    use conch_crds::program::WhenAllUnhealthy;

    const STOP_GRACE: Duration = Duration::from_secs(3);
    /// On a slow clock it stands for 4.5 s, and then comes the stop grace.
    const PROMISE: Duration = Duration::from_secs(4);
    const WILLING: Order = Order::Willing(true);
    const UNWILLING: Order = Order::Willing(false);

    fn at(milliseconds: u64) -> Moment {
        let time = Duration::from_millis(100_000 + milliseconds);
        Moment::from_uptime(time)
    }

    fn leads(milliseconds: u64) -> Now {
        Now { at: at(milliseconds), lead: Lead::Here }
    }

    fn follows(milliseconds: u64) -> Now {
        Now { at: at(milliseconds), lead: Lead::Elsewhere }
    }

    fn program() -> Program {
        Program::new(Presence::Asked, Rules::NONE, STOP_GRACE)
    }

    #[test]
    fn asking_makes_a_candidate_once() {
        let mut program = program();
        assert_eq!(program.objection(follows(0)), Some(Reason::NotAsked));
        assert_eq!(program.ask(follows(0)), [WILLING]);
        assert_eq!(program.ask(follows(0)), []);
        assert_eq!((program.is_candidate(), program.objection(follows(0))), (true, None));
        let mut at_once = Program::new(Presence::NotNeeded, Rules::NONE, STOP_GRACE);
        assert_eq!(at_once.tick(follows(0)), [WILLING]);
        assert_eq!(at_once.ask(follows(0)), []);
    }

    #[test]
    fn closing_the_last_stream_is_a_resignation_and_closing_another_is_nothing() {
        let mut program = program();
        assert_eq!(program.open_stream(follows(0)), [WILLING]);
        assert_eq!(program.open_stream(follows(0)), []);
        program.told(at(0), Channel::Lead, PROMISE);
        assert_eq!(program.close_stream(leads(1), Closed::ByProgram), []);
        assert_eq!(program.close_stream(leads(2), Closed::ByProgram), [UNWILLING, Order::Stopped]);
        assert!(!program.is_candidate() && !program.is_resigning());
        assert_eq!(program.open_stream(follows(0)), [WILLING]);
    }

    #[test]
    fn what_was_promised_elsewhere_is_waited_for() {
        let mut program = program();
        program.open_stream(follows(0));
        program.told(at(0), Channel::Elsewhere, PROMISE);
        program.told(at(1_000), Channel::Lead, PROMISE);
        assert_eq!(program.close_stream(leads(2_000), Closed::ByProgram), [UNWILLING]);
        assert!(program.is_resigning());
        assert_eq!(program.timeout(leads(2_000)), Some(Duration::from_millis(5_500)));
        assert_eq!(program.tick(leads(7_499)), []);
        assert_eq!(program.tick(leads(7_500)), [Order::Stopped]);
        assert!(!program.is_resigning());
        assert_eq!(program.tick(leads(7_501)), []);
    }

    #[test]
    fn a_promise_made_elsewhere_that_is_over_delays_nothing() {
        let mut program = program();
        program.open_stream(follows(0));
        program.told(at(0), Channel::Elsewhere, PROMISE);
        assert_eq!(program.close_stream(leads(7_500), Closed::ByProgram), [UNWILLING, Order::Stopped]);
    }

    #[test]
    fn a_reader_that_was_dropped_is_waited_for() {
        let mut program = program();
        program.open_stream(follows(0));
        program.told(at(0), Channel::Lead, PROMISE);
        assert_eq!(program.close_stream(leads(10), Closed::ByUs), [UNWILLING]);
        assert_eq!(program.tick(leads(7_500)), [Order::Stopped]);
    }

    #[test]
    fn a_reader_that_was_dropped_is_waited_for_even_if_another_closes_after_it() {
        let mut program = program();
        program.open_stream(follows(0));
        program.open_stream(follows(0));
        program.told(at(0), Channel::Lead, PROMISE);
        assert_eq!(program.close_stream(leads(10), Closed::ByUs), []);
        assert_eq!(program.close_stream(leads(20), Closed::ByProgram), [UNWILLING]);
        assert_eq!(program.tick(leads(7_500)), [Order::Stopped]);
    }

    #[test]
    fn who_asks_while_the_resignation_waits_is_a_candidate_after_it() {
        let mut program = program();
        program.open_stream(follows(0));
        program.told(at(0), Channel::Elsewhere, PROMISE);
        program.close_stream(leads(10), Closed::ByProgram);
        assert_eq!(program.ask(leads(20)), []);
        assert!(program.is_resigning());
        assert_eq!(program.tick(leads(7_500)), [Order::Stopped, WILLING]);
    }

    #[test]
    fn a_shorter_promise_does_not_shorten_a_longer_one() {
        let mut program = program();
        program.open_stream(follows(0));
        program.told(at(0), Channel::Elsewhere, PROMISE);
        program.told(at(100), Channel::Elsewhere, Duration::from_secs(1));
        program.close_stream(leads(200), Closed::ByProgram);
        assert_eq!(program.tick(leads(7_400)), []);
    }

    const HEARTBEAT: Duration = Duration::from_secs(2);

    fn beating() -> Program {
        let rules = Rules { heartbeat_timeout: Some(HEARTBEAT), cool_down: HEARTBEAT, ..Rules::NONE };
        Program::new(Presence::Heartbeat, rules, STOP_GRACE)
    }

    #[test]
    fn only_a_heartbeat_makes_a_candidate_where_the_policy_asks_for_it() {
        let mut program = beating();
        assert_eq!((program.ask(follows(0)), program.open_stream(follows(0))), (vec![], vec![]));
        assert_eq!(program.objection(follows(0)), Some(Reason::HeartbeatMissing));
        assert_eq!(program.beat(follows(0)), [WILLING]);
        assert_eq!(program.timeout(follows(500)), Some(Duration::from_millis(1_500)));
        assert_eq!(program.tick(follows(1_999)), []);
        assert_eq!(program.tick(follows(2_000)), [UNWILLING]);
        assert_eq!(program.beat(follows(5_000)), [WILLING], "it did not lead, so nothing cools down");
    }

    #[test]
    fn a_leader_without_a_heartbeat_gives_the_lead_away_and_cools_down() {
        let mut program = beating();
        program.beat(follows(0));
        assert_eq!(program.tick(leads(2_000)), [UNWILLING, Order::GiveAway]);
        let left = |milliseconds| Now { at: at(milliseconds), lead: Lead::Left };
        assert_eq!(program.beat(left(2_500)), []);
        assert_eq!(program.objection(left(2_500)), Some(Reason::CoolingDown));
        program.beat(left(3_900));
        assert_eq!(program.tick(left(4_000)), [WILLING]);
    }

    #[test]
    fn only_a_stream_makes_a_candidate_where_the_policy_asks_for_it() {
        let mut program = Program::new(Presence::Stream, Rules::NONE, STOP_GRACE);
        assert_eq!((program.ask(follows(0)), program.beat(follows(0))), (vec![], vec![]));
        assert_eq!(program.objection(follows(0)), Some(Reason::StreamMissing));
        assert_eq!(program.open_stream(follows(0)), [WILLING]);
        assert_eq!(program.close_stream(leads(1), Closed::ByProgram), [UNWILLING, Order::Stopped]);
        assert_eq!(program.ask(follows(2)), []);
    }

    #[test]
    fn a_program_that_asks_is_a_candidate_only_while_it_is_healthy() {
        let check = Some(Thresholds { failures: 1, successes: 1 });
        let mut program =
            Program::new(Presence::Asked, Rules { check, cool_down: HEARTBEAT, ..Rules::NONE }, STOP_GRACE);
        assert_eq!(program.ask(follows(0)), []);
        assert_eq!((program.objection(follows(0)), program.is_fit(at(0))), (Some(Reason::Unhealthy), false));
        assert_eq!(program.checked(follows(0), true), [WILLING]);
        assert_eq!(program.checked(leads(1), false), [UNWILLING, Order::GiveAway]);
    }

    #[test]
    fn the_last_that_is_kept_stays_a_candidate_while_it_offers_the_lead() {
        let rules = Rules {
            check: Some(Thresholds { failures: 1, successes: 1 }),
            cool_down: HEARTBEAT,
            when_all_unhealthy: WhenAllUnhealthy::KeepLast,
            ..Rules::NONE
        };
        let mut program = Program::new(Presence::Asked, rules, STOP_GRACE);
        program.checked(follows(0), true);
        program.ask(follows(0));
        assert_eq!(program.checked(leads(1), false), [Order::GiveAway]);
        assert_eq!(program.tick(follows(2)), [UNWILLING], "somebody else took it");
    }
}
