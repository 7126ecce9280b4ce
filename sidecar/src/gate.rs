//! Is the program fit to lead? Pure: whoever runs the checks and reads the clock tells it.
//!
//! A program is fit while its last heartbeat is young enough, where the policy asks for one, and while its check passes, where
//! there is one. A check has two thresholds, so that one odd result changes nothing.
//!
//! * A candidate that is not fit is none.
//! * A leader that is not fit gives the lead away: every answer is no at once, and the next pod leads as soon as every promise
//!   is over. It leaves the lead to others for a while (the cool-down), and twice as long each time that it fails again soon.
//! * With `KeepLast` it takes the lead back, unfit as it is, if nobody fit takes it. It offers it again after a minute, then
//!   after two, up to [`OFFERS_MAX`] doublings: each offer costs the time in which nobody leads.

use conch_crds::program::WhenAllUnhealthy;
use conch_election::{Moment, Reason};
use std::time::Duration;

/// How often a cool-down is doubled at most.
const DOUBLINGS_MAX: u32 = 5;
/// How long a leader that is not fit leads before it offers the lead for the second time.
const OFFER_AGAIN_AFTER: Duration = Duration::from_mins(1);
/// How often that is doubled at most.
const OFFERS_MAX: u32 = 4;

/// What the policy asks of the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// How long a heartbeat counts; `None`: none is asked for.
    pub heartbeat_timeout: Option<Duration>,
    /// The thresholds of the check; `None`: nothing is checked.
    pub check: Option<Thresholds>,
    /// How long the lead is left to others, for the first time.
    pub cool_down: Duration,
    /// Who leads when nobody is fit.
    pub when_all_unhealthy: WhenAllUnhealthy,
}

/// How many results in a row count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thresholds {
    /// Failures that make the program unhealthy.
    pub failures: u32,
    /// Successes that make it healthy.
    pub successes: u32,
}

/// Where the lead is, as far as this pod knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lead {
    /// This pod leads.
    Here,
    /// It does not, and nobody has led since it did.
    Left,
    /// Anything else.
    Elsewhere,
}

/// A moment, and what is known then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// When.
    pub at: Moment,
    /// Where the lead is.
    pub lead: Lead,
}

/// What is known of the program's fitness.
#[derive(Clone, Debug)]
pub struct Gate {
    rules: Rules,
    beat: Option<Moment>,
    healthy: bool,
    /// Results in a row that speak against `healthy`.
    against: u32,
    course: Course,
    fit_since: Option<Moment>,
    cool_down: Option<(Moment, Duration)>,
    /// How often the lead was given away, each time soon after the last one.
    losses: u32,
}

/// What this pod does about the lead while its program is not fit. The number is how often it was offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Course {
    /// It has nothing to do with the lead.
    Aside,
    /// It gave the lead away and takes it back if nobody wants it.
    Offering(u32),
    /// It took it back at this moment.
    Keeping(u32, Moment),
}

impl Rules {
    /// Nothing is asked of the program.
    pub const NONE: Self = Self {
        heartbeat_timeout: None,
        check: None,
        cool_down: Duration::ZERO,
        when_all_unhealthy: WhenAllUnhealthy::Nobody,
    };
}

impl Gate {
    /// Before the first heartbeat and the first check, no program is fit of which they are asked.
    pub fn new(rules: Rules) -> Self {
        Self {
            rules,
            beat: None,
            healthy: rules.check.is_none(),
            against: 0,
            course: Course::Aside,
            fit_since: None,
            cool_down: None,
            losses: 0,
        }
    }

    /// The program says that it is alive.
    pub fn beat(&mut self, at: Moment) {
        self.beat = Some(at);
    }

    /// A check ended.
    pub fn checked(&mut self, passed: bool) {
        let Some(Thresholds { failures, successes }) = self.rules.check else { return };
        self.against = if passed == self.healthy { 0 } else { self.against.saturating_add(1) };
        if self.against >= if self.healthy { failures } else { successes } {
            self.healthy = passed;
            self.against = 0;
        }
    }

    /// What the program lacks to be fit.
    pub fn ailment(&self, at: Moment) -> Option<Reason> {
        let is_late = |timeout: Duration| self.beat.is_none_or(|beat| at.shortest_since(beat) >= timeout);
        if self.rules.heartbeat_timeout.is_some_and(is_late) {
            Some(Reason::HeartbeatMissing)
        } else if self.healthy {
            None
        } else {
            Some(Reason::Unhealthy)
        }
    }

    /// Why this pod must be no candidate.
    pub fn objection(&self, now: Now) -> Option<Reason> {
        if self.course != Course::Aside {
            return None;
        }
        self.ailment(now.at).or_else(|| self.is_cooling_down(now).then_some(Reason::CoolingDown))
    }

    /// Time went on, or something else changed. `true`: the lead must be given away.
    pub fn update(&mut self, now: Now) -> bool {
        if self.ailment(now.at).is_none() {
            self.fit_since.get_or_insert(now.at);
            self.course = Course::Aside;
            return false;
        }
        let fit_since = self.fit_since.take();
        match (self.course, now.lead) {
            (Course::Aside, Lead::Here) => {
                self.cool_down(now.at, fit_since);
                if self.rules.when_all_unhealthy == WhenAllUnhealthy::KeepLast {
                    self.course = Course::Offering(0);
                }
                true
            }
            (Course::Keeping(offers, since), Lead::Here)
                if time_to_offer(offers, since, now.at).is_zero() =>
            {
                self.course = Course::Offering((offers + 1).min(OFFERS_MAX));
                true
            }
            (Course::Offering(offers), Lead::Here) => {
                self.course = Course::Keeping(offers, now.at);
                false
            }
            (_, Lead::Elsewhere) => {
                self.course = Course::Aside;
                false
            }
            _ => false,
        }
    }

    /// In how long [`Self::update`] may have something to say although nothing happens.
    pub fn timeout(&self, now: Now) -> Option<Duration> {
        let heartbeat = self.rules.heartbeat_timeout.zip(self.beat).map(|(timeout, beat)| (beat, timeout));
        let beats =
            heartbeat.into_iter().chain(self.cool_down).map(|(from, length)| left(from, length, now.at));
        let offer = match self.course {
            Course::Keeping(offers, since) => Some(time_to_offer(offers, since, now.at)),
            Course::Aside | Course::Offering(_) => None,
        };
        beats.chain(offer).filter(|left| !left.is_zero()).min()
    }

    /// Cooling down is for those who would take the lead from others, or before them: not for the leader, nor for one that
    /// would have kept the lead had it stayed unfit.
    fn is_cooling_down(&self, now: Now) -> bool {
        let keeps = self.rules.when_all_unhealthy == WhenAllUnhealthy::KeepLast;
        now.lead != Lead::Here
            && !(keeps && now.lead == Lead::Left)
            && self.cool_down.is_some_and(|(from, length)| !left(from, length, now.at).is_zero())
    }

    fn cool_down(&mut self, at: Moment, fit_since: Option<Moment>) {
        let longest = self.rules.cool_down * (1 << DOUBLINGS_MAX);
        if fit_since.is_some_and(|since| at.shortest_since(since) >= longest) {
            self.losses = 0;
        }
        self.cool_down = Some((at, self.rules.cool_down * (1 << self.losses)));
        self.losses = (self.losses + 1).min(DOUBLINGS_MAX);
    }
}

fn time_to_offer(offers: u32, since: Moment, at: Moment) -> Duration {
    left(since, OFFER_AGAIN_AFTER * (1 << offers), at)
}

fn left(from: Moment, length: Duration, at: Moment) -> Duration {
    length.saturating_sub(at.shortest_since(from))
}

#[cfg(test)]
#[path = "gate_tests.rs"]
mod tests;
