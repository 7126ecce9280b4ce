//! What people are told of an election: one line for each change of who leads.
//!
//! An elector tells one change in up to two events: that the record names somebody else, and what this means for its own
//! term. Whoever counts lines would count such a change twice.

use conch_election::{EndCause, Event, Token};
use std::fmt;

/// A change of who leads, as this process sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transition {
    /// Who led before; `None`: nobody, or nobody knows.
    pub from: Option<String>,
    /// Who leads now; `None`: nobody, or nobody knows.
    pub to: Option<String>,
    /// Of the term of this process that began or ended; the terms of others have one that only they are told.
    pub token: Option<Token>,
    /// Why.
    pub cause: Cause,
}

/// Why the lead changed. A closed list; the names are stable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cause {
    /// This process acquired the lead.
    Acquired,
    /// It took the lead at once from an earlier process of its own pod.
    Reacquired,
    /// A term of this process ended, [`EndCause::NewTerm`]: and another one followed.
    Ended(EndCause),
    /// The record names somebody else than before.
    Observed,
}

impl Cause {
    /// Every cause there is.
    pub const ALL: [Self; 14] = [
        Self::Acquired,
        Self::Reacquired,
        Self::Observed,
        Self::Ended(EndCause::Expired),
        Self::Ended(EndCause::OtherHolder),
        Self::Ended(EndCause::RecordDeleted),
        Self::Ended(EndCause::RecordDeleting),
        Self::Ended(EndCause::RecordReplaced),
        Self::Ended(EndCause::Resigned),
        Self::Ended(EndCause::Unhealthy),
        Self::Ended(EndCause::Transferred),
        Self::Ended(EndCause::NewTerm),
        Self::Ended(EndCause::Terminated),
        Self::Ended(EndCause::HistoryLost),
    ];

    /// The stable name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Acquired => "Acquired",
            Self::Reacquired => "Reacquired",
            Self::Observed => "Observed",
            Self::Ended(cause) => match cause {
                EndCause::Expired => "Expired",
                EndCause::OtherHolder => "OtherHolder",
                EndCause::RecordDeleted => "RecordDeleted",
                EndCause::RecordDeleting => "RecordDeleting",
                EndCause::RecordReplaced => "RecordReplaced",
                EndCause::Resigned => "Resigned",
                EndCause::Unhealthy => "Unhealthy",
                EndCause::Transferred => "Transferred",
                EndCause::NewTerm => "NewTerm",
                EndCause::Terminated => "Terminated",
                EndCause::HistoryLost => "HistoryLost",
            },
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

impl Transition {
    /// The transitions in what an elector of the pod `own` told at one time, oldest first.
    pub fn of(own: &str, events: &[Event]) -> Vec<Self> {
        let me = || Some(own.to_owned());
        let mut transitions = Vec::new();
        // A change of the record, until it is known whether it is the end of a term.
        let mut holder: Option<(Option<String>, Option<String>)> = None;
        let mut followed_by_own = false;
        for event in events {
            match event {
                Event::HolderChanged { from, to } => {
                    transitions.extend(holder.take().and_then(|holder| observed(own, holder)));
                    holder = Some((from.clone(), to.clone()));
                }
                Event::TermEnded { cause: EndCause::NewTerm, .. } => followed_by_own = true,
                Event::TermEnded { token, cause } => {
                    let to = holder.take().and_then(|(_, to)| to).filter(|to| to != own);
                    let (token, cause) = (Some(*token), Cause::Ended(*cause));
                    transitions.push(Self { from: me(), to, token, cause });
                }
                Event::TermBegan { token, previous, reacquired } => {
                    holder = None;
                    let cause = match (std::mem::take(&mut followed_by_own), reacquired) {
                        (true, _) => Cause::Ended(EndCause::NewTerm),
                        (false, true) => Cause::Reacquired,
                        (false, false) => Cause::Acquired,
                    };
                    transitions.push(Self { from: previous.clone(), to: me(), token: Some(*token), cause });
                }
                Event::Renewed { .. }
                | Event::Released { .. }
                | Event::RequestFailed(_)
                | Event::HistoryLost => {}
            }
        }
        transitions.extend(holder.and_then(|holder| observed(own, holder)));
        transitions
    }

    /// Writes the one line.
    pub(crate) fn log(&self) {
        let (from, to) = (self.from.as_deref().unwrap_or_default(), self.to.as_deref().unwrap_or_default());
        let token = self.token.map(|token| token.to_string()).unwrap_or_default();
        let cause = self.cause.name();
        match self.cause {
            Cause::Observed => tracing::info!(from, to, token, cause, "the holder changed"),
            Cause::Acquired | Cause::Reacquired | Cause::Ended(EndCause::NewTerm) => {
                tracing::info!(from, to, token, cause, "leads");
            }
            Cause::Ended(_) => tracing::info!(from, to, token, cause, "leads no more"),
        }
    }
}

/// What a watch told. Of one's own terms it tells nothing new: their beginning and their end are told by themselves.
fn observed(own: &str, (from, to): (Option<String>, Option<String>)) -> Option<Transition> {
    let begins = to.as_deref() == Some(own);
    let ended = from.as_deref() == Some(own) && to.is_none();
    (!begins && !ended).then_some(Transition { from, to, token: None, cause: Cause::Observed })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ME: &str = "me";
    const TOKEN: Token = Token(7);

    fn name(name: &str) -> Option<String> {
        (!name.is_empty()).then(|| name.to_owned())
    }

    fn changed(from: &str, to: &str) -> Event {
        Event::HolderChanged { from: name(from), to: name(to) }
    }

    fn began(previous: &str, reacquired: bool) -> Event {
        Event::TermBegan { token: TOKEN, previous: name(previous), reacquired }
    }

    fn ended(cause: EndCause) -> Event {
        Event::TermEnded { token: TOKEN, cause }
    }

    fn lines(events: &[Event]) -> Vec<String> {
        let line = |transition: &Transition| {
            let Transition { from, to, token, cause } = transition;
            let part = |name: &Option<String>| name.clone().unwrap_or_default();
            format!("{}>{} {cause}{}", part(from), part(to), if token.is_some() { " 7" } else { "" })
        };
        Transition::of(ME, events).iter().map(line).collect()
    }

    #[test]
    fn each_change_is_one_line_however_many_events_tell_it() {
        let rows: &[(&[Event], &[&str])] = &[
            (&[], &[]),
            (&[began("other", false)], &["other>me Acquired 7"]),
            (&[began("me", true)], &["me>me Reacquired 7"]),
            // The watch was faster than the answer to the write.
            (&[changed("other", "me")], &[]),
            (&[changed("", "me"), began("", false)], &[">me Acquired 7"]),
            (&[changed("me", "other"), ended(EndCause::OtherHolder)], &["me>other OtherHolder 7"]),
            (&[changed("me", ""), ended(EndCause::RecordDeleted)], &["me> RecordDeleted 7"]),
            (&[ended(EndCause::Resigned)], &["me> Resigned 7"]),
            (&[changed("me", ""), Event::Released { token: TOKEN }], &[]),
            (&[ended(EndCause::Expired), changed("me", "other")], &["me> Expired 7", "me>other Observed"]),
            (&[ended(EndCause::NewTerm), began("me", false)], &["me>me NewTerm 7"]),
            (&[began("", false), ended(EndCause::Terminated)], &[">me Acquired 7", "me> Terminated 7"]),
            (&[changed("a", "b")], &["a>b Observed"]),
            (&[changed("a", ""), changed("", "b")], &["a> Observed", ">b Observed"]),
        ];
        for (events, expected) in rows {
            assert_eq!(lines(events), *expected, "{events:?}");
        }
    }

    #[test]
    fn names_of_causes_are_those_of_the_elector_and_each_is_another() {
        for cause in Cause::ALL {
            if let Cause::Ended(end) = cause {
                assert_eq!(cause.name(), format!("{end:?}"));
            }
        }
        let names: std::collections::BTreeSet<_> = Cause::ALL.into_iter().map(Cause::name).collect();
        assert_eq!(names.len(), Cause::ALL.len());
    }
}
