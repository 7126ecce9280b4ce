//! The network between pods and store: delays, losses, and streams of changes that break and lag.

use super::{
    super::{
        checker::SETTLED,
        scenario::{QUIET, SECOND},
    },
    Happening, OPERATOR, World,
};

impl World<'_> {
    /// The present state, or one that was true a little earlier, as a cache or a member that lags tells it.
    pub(super) fn as_seen_by(&mut self, index: usize) -> usize {
        let random = &mut self.nodes[index].random;
        let lags = self.now < QUIET && random.per_mille(self.scenario.network.stale_per_mille);
        let back = if lags { usize::try_from(random.between(1, 4)).unwrap() } else { 0 };
        self.store.latest().saturating_sub(back)
    }

    /// The object is not what it was: the operator looks at it, and whoever watches hears of it.
    pub(crate) fn changed(&mut self) {
        if self.store.current().is_some_and(|stored| stored.longest_lease != self.store.longest_lease) {
            self.schedule(self.now + OPERATOR, Happening::Stamp);
        }
        self.tell_changes();
    }

    /// Each stream hears of each change, late, and now and then from a cache that lags.
    pub(crate) fn tell_changes(&mut self) {
        for index in 0..self.nodes.len() {
            if self.nodes[index].gone {
                continue;
            }
            let process = self.nodes[index].process;
            let deaf = self.unreachable(index) || self.nodes[index].deaf_until > self.now;
            if let (false, Some(delay)) = (deaf, self.delay(index)) {
                let state = self.as_seen_by(index);
                self.schedule(self.now + delay, Happening::Change { node: index, process, state });
                if state == self.store.latest() {
                    continue;
                }
            }
            let reopened = self.now + self.nodes[index].random.between(SECOND / 10, 5 * SECOND);
            self.schedule(
                reopened.min(SETTLED.max(self.now + 1)),
                Happening::Reopen { node: index, process },
            );
        }
    }

    pub(super) fn reopen(&mut self, index: usize, process: u32) {
        let deaf = self.unreachable(index) || self.nodes[index].deaf_until > self.now;
        match self.delay(index) {
            Some(delay) if !deaf => {
                let state = self.store.latest();
                self.schedule(self.now + delay, Happening::Change { node: index, process, state });
            }
            _ => self.schedule(self.now + SECOND, Happening::Reopen { node: index, process }),
        }
    }

    pub(super) fn unreachable(&mut self, index: usize) -> bool {
        let node = &mut self.nodes[index];
        node.cut_until > self.now
            || (self.now < QUIET && node.random.per_mille(self.scenario.network.lost_per_mille))
    }

    /// How long a message takes. `None`: the faults end before it arrives, and its connection with them.
    pub(super) fn delay(&mut self, index: usize) -> Option<u64> {
        let random = &mut self.nodes[index].random;
        let max = if self.now < QUIET { self.scenario.network.delay_max } else { 5_000 };
        // Most messages are quick, some take as long as they can.
        let max = if random.per_mille(800) { max / 10 } else { max };
        let delay = 100 + random.below(max);
        (self.now >= QUIET || self.now + delay < SETTLED).then_some(delay)
    }
}
