//! What is being done, with the time since the start, for a person who waits.

use std::time::Instant;

/// A clock and a voice.
#[derive(Debug)]
pub(crate) struct Progress {
    start: Instant,
}

impl Progress {
    pub(crate) fn start() -> Self {
        Self { start: Instant::now() }
    }

    /// Prints a line to standard error, where it does not mix with a command's result.
    pub(crate) fn say(&self, what: &str) {
        eprintln!("{:6.1} s  {what}", self.start.elapsed().as_secs_f64());
    }
}
