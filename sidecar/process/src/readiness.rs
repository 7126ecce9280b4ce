//! Readiness by latches: ready when every latch is dropped, and never unready again.

use std::sync::{Arc, Weak};

/// Tells whether all latches are gone.
#[derive(Clone, Debug)]
pub struct Readiness(Weak<()>);

/// Something that is still to be done before this process is ready. Clone it for each such thing; drop it when it is done.
#[derive(Clone, Debug)]
pub struct Latch(Arc<()>);

impl Readiness {
    /// A readiness and its first latch.
    pub fn new() -> (Self, Latch) {
        let latch = Arc::new(());
        (Self(Arc::downgrade(&latch)), Latch(latch))
    }

    /// Is every latch dropped?
    pub fn is_ready(&self) -> bool {
        self.0.strong_count() == 0
    }
}

impl Latch {
    /// The same as dropping it, for those who read.
    pub fn release(self) {
        drop(self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_is_when_the_last_latch_is_released() {
        let (readiness, first) = Readiness::new();
        let second = first.clone();
        assert!(!readiness.is_ready());
        first.release();
        assert!(!readiness.is_ready());
        second.release();
        assert!(readiness.is_ready());
    }
}
