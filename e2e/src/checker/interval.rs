//! Sets of instants on one clock.

/// From (included) until (excluded), in nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Interval {
    pub(super) from: u64,
    pub(super) until: u64,
}

/// The same instants in as few intervals as possible, in order.
pub(super) fn merge(mut intervals: Vec<Interval>) -> Vec<Interval> {
    intervals.retain(|interval| interval.from < interval.until);
    intervals.sort_unstable();
    let mut merged: Vec<Interval> = Vec::new();
    for interval in intervals {
        match merged.last_mut() {
            Some(last) if interval.from <= last.until => last.until = last.until.max(interval.until),
            _ => merged.push(interval),
        }
    }
    merged
}

/// For how long at least two of the sets hold at one time. Each set must be merged.
pub(super) fn overlap(sets: &[Vec<Interval>]) -> u64 {
    let mut edges: Vec<(u64, bool)> = Vec::new();
    for interval in sets.iter().flatten() {
        edges.push((interval.from, true));
        edges.push((interval.until, false));
    }
    // At one instant an end comes before a beginning: the end is excluded.
    edges.sort_unstable();
    let mut total = 0;
    let mut holding = 0_usize;
    let mut since = 0;
    for (at, begins) in edges {
        if holding >= 2 {
            total += at - since;
        }
        holding = if begins { holding + 1 } else { holding - 1 };
        since = at;
    }
    total
}
