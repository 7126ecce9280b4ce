//! What this process has seen of the row, whichever of its sessions saw it, so that nothing older is told after it.

use super::{problem::Problem, session::History};
use conch_election::{Stored, Version};
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::sync::{Notify, futures::Notified};

#[derive(Debug, Default)]
pub(super) struct Seen {
    state: Mutex<State>,
    answered: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// Counts what was told.
    turn: u64,
    /// What was told last; `None`: no row, or nothing was told yet.
    newest: Option<Stored>,
    history: Option<History>,
}

/// How much was told when a request was sent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Before(u64);

impl Seen {
    pub(super) fn before(&self) -> Before {
        Before(self.lock().turn)
    }

    /// Ends with the next answer, however late it is polled.
    pub(super) fn next_answer(&self) -> Notified<'_> {
        self.answered.notified()
    }

    /// What was told last, if it is this version.
    pub(super) fn is_newest(&self, version: &str) -> Option<Stored> {
        self.lock().newest.clone().filter(|stored| stored.version == Version(version.to_owned()))
    }

    /// Takes note of what a read found. `false`: something was told while the answer was on its way, and this may be older.
    /// What is older than something that was told *before* it was asked for is news: the server lost history.
    pub(super) fn found(&self, before: Before, found: Option<&Stored>) -> bool {
        let mut state = self.lock();
        let newer = match (found, &state.newest) {
            (Some(found), Some(newest)) => found.fence >= newest.fence,
            _ => false,
        };
        if state.turn != before.0 && !newer {
            return false;
        }
        self.tell(&mut state, found);
        true
    }

    /// Takes note of what was written, unless something newer was told meanwhile.
    pub(super) fn written(&self, before: Before, written: &Stored) {
        let mut state = self.lock();
        let newer = state.newest.as_ref().is_some_and(|newest| newest.fence < written.fence);
        if state.turn == before.0 || newer {
            self.tell(&mut state, Some(written));
        }
    }

    /// Takes note of the history that a server writes. Refused is an older one than was seen of the same database system:
    /// whoever was promoted since then may have let somebody else lead.
    pub(super) fn accept(&self, history: History) -> Result<(), Problem> {
        let mut state = self.lock();
        match state.history {
            Some(seen) if seen.system == history.system && seen.timeline > history.timeline => {
                Err(Problem::OldTimeline { found: history.timeline, seen: seen.timeline })
            }
            _ => {
                state.history = Some(history);
                Ok(())
            }
        }
    }

    fn tell(&self, state: &mut State, told: Option<&Stored>) {
        state.turn += 1;
        state.newest = told.cloned();
        self.answered.notify_waiters();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use conch_election::{Content, Fence, Incarnation};

    fn stored(fence: u128) -> Stored {
        Stored {
            version: Version(fence.to_string()),
            incarnation: Incarnation("i".to_owned()),
            fence: Some(Fence(fence)),
            deleting: false,
            longest_lease: None,
            content: Content::Fresh,
        }
    }

    #[test]
    fn an_answer_that_was_overtaken_is_not_told_unless_it_is_newer() {
        let seen = Seen::default();
        let before = seen.before();
        assert!(seen.found(before, Some(&stored(10))));
        assert!(!seen.found(before, Some(&stored(9))));
        assert!(!seen.found(before, None), "it may be from before the row was made");
        assert!(seen.found(before, Some(&stored(10))));
        assert!(seen.found(before, Some(&stored(11))));
        let before = seen.before();
        assert!(seen.found(before, None));
        assert!(!seen.found(before, Some(&stored(12))), "it may be from before the row was deleted");
    }

    #[test]
    fn an_answer_older_than_what_was_known_when_it_was_asked_for_is_told() {
        let seen = Seen::default();
        seen.found(seen.before(), Some(&stored(1_000)));
        assert!(seen.found(seen.before(), Some(&stored(900))), "the server lost history");
        assert_eq!(seen.is_newest("900"), Some(stored(900)));
    }

    #[test]
    fn what_was_written_is_the_newest_unless_something_newer_was_told() {
        let seen = Seen::default();
        let before = seen.before();
        seen.written(before, &stored(5));
        assert_eq!((seen.is_newest("5"), seen.is_newest("4")), (Some(stored(5)), None));
        seen.found(seen.before(), Some(&stored(7)));
        seen.written(before, &stored(6));
        assert_eq!(seen.is_newest("7"), Some(stored(7)));
        seen.found(seen.before(), None);
        seen.written(before, &stored(8));
        assert_eq!(seen.is_newest("8"), None, "it was deleted since");
    }

    #[test]
    fn an_older_timeline_of_the_same_system_is_refused_and_of_another_one_is_not() {
        let seen = Seen::default();
        let history = |system, timeline| History { system, timeline };
        seen.accept(history(1, 2)).unwrap();
        seen.accept(history(1, 3)).unwrap();
        let refused = seen.accept(history(1, 2)).unwrap_err();
        assert!(matches!(refused, Problem::OldTimeline { found: 2, seen: 3 }));
        seen.accept(history(1, 3)).unwrap();
        seen.accept(history(2, 1)).unwrap();
    }
}
