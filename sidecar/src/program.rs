//! Whether the program wants to lead, and when it is known to have stopped.
//!
//! A pod is a candidate once its program has asked: by `GET /v1/leader` or by opening `GET /v1/lead`. Asking lasts for the
//! life of this process. It ends when the last open `/v1/lead` is closed by the program: that is a resignation, because
//! the program closed it or died. Any later question begins it anew.
//!
//! A closed stream speaks for those who held streams. Whoever was told elsewhere that this pod leads (another container
//! that polls, an onlooker) may go on until the deadline that it was given; and a stream that *this* side closed, because its
//! reader took nothing, says nothing about the reader. So the program counts as stopped only when those promises are over as
//! well. Until then every answer is no.

use conch_election::Moment;
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
    /// Nobody acts on any promise any more.
    Stopped,
}

/// What is known of the program.
#[derive(Clone, Debug)]
pub struct Program {
    /// σ: how long after its deadline something that the program began may still take effect.
    stop_grace: Duration,
    asked: bool,
    streams: usize,
    /// Until when somebody on a stream may act.
    told_on_streams: Option<Standing>,
    /// Until when somebody else may act.
    told_elsewhere: Option<Standing>,
    /// The last stream was closed, and promises made elsewhere are not yet over.
    resigning: bool,
}

/// A promise that may still be relied upon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Standing {
    from: Moment,
    length: Duration,
}

impl Program {
    /// `asks`: as if the program had asked already.
    pub fn new(asks: bool, stop_grace: Duration) -> Self {
        Self {
            stop_grace,
            asked: asks,
            streams: 0,
            told_on_streams: None,
            told_elsewhere: None,
            resigning: false,
        }
    }

    /// Is this pod a candidate on behalf of its program?
    pub fn has_asked(&self) -> bool {
        self.asked
    }

    /// How many `/v1/lead` streams are open.
    pub fn streams(&self) -> usize {
        self.streams
    }

    /// Must every answer be no, whatever the elector says?
    pub fn is_resigning(&self) -> bool {
        self.resigning
    }

    /// The program asked whether it leads.
    pub fn ask(&mut self) -> Option<Order> {
        let first = !std::mem::replace(&mut self.asked, true);
        (first && !self.resigning).then_some(Order::Willing(true))
    }

    /// A `/v1/lead` stream was opened: that is asking, too.
    pub fn open_stream(&mut self) -> Option<Order> {
        self.streams += 1;
        self.ask()
    }

    /// A `/v1/lead` stream is closed.
    pub fn close_stream(&mut self, now: Moment, closed: Closed) -> Vec<Order> {
        self.streams = self.streams.saturating_sub(1);
        if closed == Closed::ByUs {
            // Which of the readers was told last is not known; the latest promise covers each.
            self.told_elsewhere = longer(now, self.told_elsewhere, self.told_on_streams);
        }
        if self.streams > 0 {
            return Vec::new();
        }
        self.told_on_streams = None;
        self.asked = false;
        self.resigning = true;
        let mut orders = vec![Order::Willing(false)];
        orders.extend(self.tick(now));
        orders
    }

    /// Somebody was told that this pod leads for `valid_for` from now on.
    pub fn told(&mut self, now: Moment, channel: Channel, valid_for: Duration) {
        // A kernel may slew the clock with which the program counts by 10 %: an eighth more covers it.
        let standing = Some(Standing { from: now, length: valid_for + valid_for / 8 + self.stop_grace });
        let told = match channel {
            Channel::Lead => &mut self.told_on_streams,
            Channel::Elsewhere => &mut self.told_elsewhere,
        };
        *told = longer(now, *told, standing);
    }

    /// In how long [`Self::tick`] has something to say.
    pub fn timeout(&self, now: Moment) -> Option<Duration> {
        self.resigning.then(|| self.told_elsewhere.map_or(Duration::ZERO, |standing| standing.left(now)))
    }

    /// Time went on. May be called at any time.
    pub fn tick(&mut self, now: Moment) -> Vec<Order> {
        if self.timeout(now) != Some(Duration::ZERO) {
            return Vec::new();
        }
        self.resigning = false;
        self.told_elsewhere = None;
        let asked_meanwhile = self.asked.then_some(Order::Willing(true));
        [Some(Order::Stopped), asked_meanwhile].into_iter().flatten().collect()
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

    const STOP_GRACE: Duration = Duration::from_secs(3);
    /// On a slow clock it stands for 4.5 s, and then comes the stop grace.
    const PROMISE: Duration = Duration::from_secs(4);
    const WILLING: Order = Order::Willing(true);
    const UNWILLING: Order = Order::Willing(false);

    fn at(milliseconds: u64) -> Moment {
        let time = Duration::from_millis(100_000 + milliseconds);
        Moment::from_uptime(time)
    }

    fn program() -> Program {
        Program::new(false, STOP_GRACE)
    }

    #[test]
    fn asking_makes_a_candidate_once() {
        let mut program = program();
        assert_eq!(program.ask(), Some(WILLING));
        assert_eq!(program.ask(), None);
        assert!(program.has_asked());
        assert_eq!(Program::new(true, STOP_GRACE).ask(), None);
    }

    #[test]
    fn closing_the_last_stream_is_a_resignation_and_closing_another_is_nothing() {
        let mut program = program();
        assert_eq!(program.open_stream(), Some(WILLING));
        assert_eq!(program.open_stream(), None);
        program.told(at(0), Channel::Lead, PROMISE);
        assert_eq!(program.close_stream(at(1), Closed::ByProgram), []);
        assert_eq!(program.close_stream(at(2), Closed::ByProgram), [UNWILLING, Order::Stopped]);
        assert!(!program.has_asked() && !program.is_resigning());
        assert_eq!(program.open_stream(), Some(WILLING));
    }

    #[test]
    fn what_was_promised_elsewhere_is_waited_for() {
        let mut program = program();
        program.open_stream();
        program.told(at(0), Channel::Elsewhere, PROMISE);
        program.told(at(1_000), Channel::Lead, PROMISE);
        assert_eq!(program.close_stream(at(2_000), Closed::ByProgram), [UNWILLING]);
        assert!(program.is_resigning());
        assert_eq!(program.timeout(at(2_000)), Some(Duration::from_millis(5_500)));
        assert_eq!(program.tick(at(7_499)), []);
        assert_eq!(program.tick(at(7_500)), [Order::Stopped]);
        assert!(!program.is_resigning());
        assert_eq!(program.tick(at(7_501)), []);
    }

    #[test]
    fn a_promise_made_elsewhere_that_is_over_delays_nothing() {
        let mut program = program();
        program.open_stream();
        program.told(at(0), Channel::Elsewhere, PROMISE);
        assert_eq!(program.close_stream(at(7_500), Closed::ByProgram), [UNWILLING, Order::Stopped]);
    }

    #[test]
    fn a_reader_that_was_dropped_is_waited_for() {
        let mut program = program();
        program.open_stream();
        program.told(at(0), Channel::Lead, PROMISE);
        assert_eq!(program.close_stream(at(10), Closed::ByUs), [UNWILLING]);
        assert_eq!(program.tick(at(7_500)), [Order::Stopped]);
    }

    #[test]
    fn a_reader_that_was_dropped_is_waited_for_even_if_another_closes_after_it() {
        let mut program = program();
        program.open_stream();
        program.open_stream();
        program.told(at(0), Channel::Lead, PROMISE);
        assert_eq!(program.close_stream(at(10), Closed::ByUs), []);
        assert_eq!(program.close_stream(at(20), Closed::ByProgram), [UNWILLING]);
        assert_eq!(program.tick(at(7_500)), [Order::Stopped]);
    }

    #[test]
    fn who_asks_while_the_resignation_waits_is_a_candidate_after_it() {
        let mut program = program();
        program.open_stream();
        program.told(at(0), Channel::Elsewhere, PROMISE);
        program.close_stream(at(10), Closed::ByProgram);
        assert_eq!(program.ask(), None);
        assert!(program.is_resigning());
        assert_eq!(program.tick(at(7_500)), [Order::Stopped, WILLING]);
    }

    #[test]
    fn a_shorter_promise_does_not_shorten_a_longer_one() {
        let mut program = program();
        program.open_stream();
        program.told(at(0), Channel::Elsewhere, PROMISE);
        program.told(at(100), Channel::Elsewhere, Duration::from_secs(1));
        program.close_stream(at(200), Closed::ByProgram);
        assert_eq!(program.tick(at(7_400)), []);
    }
}
