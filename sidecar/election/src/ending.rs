//! When a process that was told to end may exit.

use crate::{
    elector::Elector,
    term::{Attempt, InFlight, Purpose, Role},
    time::{Moment, Span},
};
use std::time::Duration;

impl Elector {
    /// After [`crate::Input::Terminate`]: nothing is left to do, the process may exit. Until then it should go on as long as it
    /// is let. A release that fails is not tried for ever: once the others waited for the whole lease, they need none.
    pub fn is_done(&self, now: Moment) -> bool {
        self.terminating
            && !matches!(self.role, Role::Leading(_))
            && !matches!(self.in_flight, Some(InFlight::Write(_)))
            && self.claimed_for(now).is_zero()
    }

    /// For how long this process, which leads no more, may still have something to release.
    pub(crate) fn claimed_for(&self, now: Moment) -> Duration {
        let Role::Stopping(term) = &self.role else {
            return self.acquiring_for(now);
        };
        let longest_lease = self.config.timing.lease().max(self.config.longest_lease);
        let renewals = self.unsettled.iter().filter(|attempt| !matches!(attempt.purpose, Purpose::Release));
        let sent = renewals.map(|attempt| attempt.sent).chain([term.validity.from]);
        sent.map(|sent| Span::new(sent, longest_lease).possibly_left(now)).max().unwrap_or_default()
    }

    /// For how long a write of unknown outcome may yet give this process a term that it has to release. One that lands after
    /// its validity gives none.
    pub(crate) fn acquiring_for(&self, now: Moment) -> Duration {
        let acquiring =
            self.unsettled.iter().filter(|attempt| matches!(attempt.purpose, Purpose::Acquire { .. }));
        let left =
            |attempt: &Attempt| Span::new(attempt.sent, self.config.timing.validity()).surely_left(now);
        acquiring.map(left).max().unwrap_or_default()
    }
}
