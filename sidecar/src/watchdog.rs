//! A thread that aborts the process when its one loop is stuck.
//!
//! There is no liveness probe: its kubelet would restart the sidecar for a slow answer, too. A stuck loop can do no harm
//! (answers carry their deadline, and renewals stop), but nobody would lead until somebody looked.

use conch_stores::driver::TURN_MAX;
use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

/// So many checks in a row, one each [`TURN_MAX`], must find no turn of the loop. They are counted, not timed: a process that was
/// stopped or suspended did not check either, and wakes up with the count that it had.
const CHECKS: u32 = 4;

const STACK_BYTES: usize = 64 * 1024;

/// Counts the turns of the loop. Clones count together.
#[derive(Clone, Debug, Default)]
pub struct LoopTurns {
    turns: Arc<AtomicU64>,
}

/// Decides from what each check finds.
#[derive(Debug, Default)]
struct Watch {
    seen: u64,
    missed: u32,
}

impl LoopTurns {
    /// The loop turned.
    pub fn turned(&self) {
        self.turns.fetch_add(1, Ordering::Relaxed);
    }

    /// Starts the thread.
    pub fn watch(&self) -> io::Result<()> {
        let turns = Arc::clone(&self.turns);
        let guard = move || {
            let mut watch = Watch::default();
            loop {
                thread::sleep(TURN_MAX);
                if watch.is_stuck(turns.load(Ordering::Relaxed)) {
                    // Without a word: the loop may be stuck in writing its log, and hold the lock of it.
                    std::process::abort();
                }
            }
        };
        thread::Builder::new().name("watchdog".to_owned()).stack_size(STACK_BYTES).spawn(guard)?;
        Ok(())
    }
}

impl Watch {
    fn is_stuck(&mut self, turns: u64) -> bool {
        self.missed = if turns == self.seen { self.missed + 1 } else { 0 };
        self.seen = turns;
        self.missed >= CHECKS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loop_is_stuck_when_several_checks_in_a_row_find_no_turn() {
        let mut watch = Watch::default();
        let turns = LoopTurns::default();
        let mut check = || watch.is_stuck(turns.turns.load(Ordering::Relaxed));
        turns.turned();
        assert!(!check());
        for _ in 0..CHECKS - 1 {
            assert!(!check());
        }
        turns.turned();
        assert!(!check());
        for _ in 0..CHECKS - 1 {
            assert!(!check());
        }
        assert!(check());
    }
}
