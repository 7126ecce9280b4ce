//! What is to be done with the certificates now: pure.

use jiff::{SignedDuration, Timestamp};
use std::time::Duration;

/// How long certificates live. They are renewed when two thirds of it are over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lifetimes {
    /// Of an authority.
    pub authority: Duration,
    /// Of the certificate that is served.
    pub leaf: Duration,
    /// How long an authority must have been published before its first certificate is served: every API server has
    /// heard of it by then.
    pub publication: Duration,
    /// How often everything is looked at again.
    pub interval: Duration,
}

/// From when until when a certificate is valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// The first moment.
    pub from: Timestamp,
    /// The last moment.
    pub until: Timestamp,
}

/// What there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rotation {
    /// The authority that signs.
    pub authority: Window,
    /// The one that follows it.
    pub next: Option<Window>,
    /// How long the next authority has been seen published; `None` if it has not.
    pub published_for: Option<Duration>,
    /// The certificate that is served, if the authority signed it for the names that are wanted.
    pub leaf: Option<Window>,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RotationPlan {
    /// Nothing.
    Keep,
    /// Make an authority and a certificate: there is nothing to build on.
    StartOver,
    /// Make the next authority, so that it can be published.
    PrepareNext,
    /// The next authority takes over: a certificate by it is served.
    Switch,
    /// Make a new certificate by the same authority.
    IssueLeaf,
}

impl Default for Lifetimes {
    fn default() -> Self {
        Self {
            authority: Duration::from_hours(365 * 24),
            leaf: Duration::from_hours(90 * 24),
            publication: Duration::from_secs(30),
            interval: Duration::from_secs(10),
        }
    }
}

impl Window {
    /// Is `now` in it?
    pub fn contains(&self, now: Timestamp) -> bool {
        self.from <= now && now < self.until
    }

    /// Are two thirds of it over?
    fn is_due(&self, now: Timestamp) -> bool {
        let whole: SignedDuration = self.until.duration_since(self.from);
        now.duration_since(self.from) >= whole * 2 / 3
    }
}

/// Decides what is to be done at `now`, by the wall clock, with what there is; `None`: with nothing.
pub fn plan_rotation(now: Timestamp, rotation: Option<&Rotation>, lifetimes: &Lifetimes) -> RotationPlan {
    let Some(rotation) = rotation else {
        return RotationPlan::StartOver;
    };
    let next = rotation.next.filter(|next| next.contains(now));
    let authority_holds = rotation.authority.contains(now);
    let published = rotation.published_for.is_some_and(|published| published >= lifetimes.publication);
    match (authority_holds, next) {
        (true, Some(_)) if published => RotationPlan::Switch,
        // Too late for patience: the API server trusts nothing else.
        (false, Some(_)) => RotationPlan::Switch,
        (false, None) => RotationPlan::StartOver,
        (true, None) if rotation.authority.is_due(now) => RotationPlan::PrepareNext,
        (true, _) => match rotation.leaf {
            Some(leaf) if leaf.contains(now) && !leaf.is_due(now) => RotationPlan::Keep,
            _ => RotationPlan::IssueLeaf,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: i64 = 86_400;

    fn days(from: i64, until: i64) -> Window {
        Window {
            from: Timestamp::from_second(from * DAY).unwrap(),
            until: Timestamp::from_second(until * DAY).unwrap(),
        }
    }

    fn rotation(leaf: Option<Window>) -> Rotation {
        Rotation { authority: days(0, 365), next: None, published_for: None, leaf }
    }

    fn plan(day: i64, rotation: Option<Rotation>) -> RotationPlan {
        plan_rotation(Timestamp::from_second(day * DAY).unwrap(), rotation.as_ref(), &Lifetimes::default())
    }

    #[test]
    fn where_there_is_nothing_everything_is_made() {
        assert_eq!(plan(0, None), RotationPlan::StartOver);
    }

    #[test]
    fn a_certificate_is_renewed_when_two_thirds_of_its_life_are_over() {
        let rotation = rotation(Some(days(0, 90)));
        for (day, expected) in [
            (0, RotationPlan::Keep),
            (59, RotationPlan::Keep),
            (60, RotationPlan::IssueLeaf),
            (91, RotationPlan::IssueLeaf),
        ] {
            assert_eq!(plan(day, Some(rotation)), expected, "day {day}");
        }
    }

    #[test]
    fn a_certificate_that_is_missing_or_not_of_this_authority_is_made() {
        assert_eq!(plan(1, Some(rotation(None))), RotationPlan::IssueLeaf);
    }

    #[test]
    fn an_authority_is_replaced_in_two_steps() {
        let fresh = rotation(Some(days(240, 330)));
        assert_eq!(plan(243, Some(fresh)), RotationPlan::Keep);
        assert_eq!(plan(244, Some(fresh)), RotationPlan::PrepareNext);

        let prepared = Rotation { next: Some(days(244, 609)), ..fresh };
        assert_eq!(plan(245, Some(prepared)), RotationPlan::Keep, "not published yet");
        let seen = Rotation { published_for: Some(Duration::from_secs(29)), ..prepared };
        assert_eq!(plan(245, Some(seen)), RotationPlan::Keep, "not published long enough");
        let published = Rotation { published_for: Some(Duration::from_secs(30)), ..prepared };
        assert_eq!(plan(245, Some(published)), RotationPlan::Switch);
    }

    #[test]
    fn a_certificate_is_still_renewed_while_the_next_authority_waits_to_be_published() {
        let waiting = Rotation { next: Some(days(244, 609)), ..rotation(Some(days(190, 280))) };
        assert_eq!(plan(245, Some(waiting)), RotationPlan::Keep);
        assert_eq!(plan(251, Some(waiting)), RotationPlan::IssueLeaf);
    }

    #[test]
    fn an_authority_that_expired_is_replaced_at_once() {
        let expired = rotation(Some(days(300, 365)));
        assert_eq!(plan(366, Some(expired)), RotationPlan::StartOver);
        let with_next = Rotation { next: Some(days(244, 609)), ..expired };
        assert_eq!(plan(366, Some(with_next)), RotationPlan::Switch);
        assert_eq!(plan(700, Some(with_next)), RotationPlan::StartOver);
    }

    #[test]
    fn what_a_clock_ahead_made_is_made_again() {
        assert_eq!(plan(-1, Some(rotation(Some(days(0, 90))))), RotationPlan::StartOver);
    }

    #[test]
    fn a_next_authority_that_expired_unused_is_made_again() {
        let stale = Rotation {
            authority: days(0, 1000),
            next: Some(days(600, 700)),
            ..rotation(Some(days(690, 780)))
        };
        assert_eq!(plan(701, Some(stale)), RotationPlan::PrepareNext);
    }
}
