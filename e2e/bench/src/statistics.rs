//! Samples of times, and what is said of them.

use std::time::Duration;

/// Some times of one kind, in order of size.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Times(Vec<Duration>);

impl Times {
    /// Takes one more.
    pub(crate) fn add(&mut self, time: Duration) {
        let place = self.0.partition_point(|known| *known <= time);
        self.0.insert(place, time);
    }

    /// All of them, the shortest first.
    pub(crate) fn all(&self) -> &[Duration] {
        &self.0
    }

    /// The smallest time that at least this share of all do not exceed (nearest rank); none of none.
    pub(crate) fn percentile(&self, percent: usize) -> Option<Duration> {
        self.permille(10 * percent)
    }

    /// The same for a share in thousandths.
    pub(crate) fn permille(&self, permille: usize) -> Option<Duration> {
        let rank = (self.0.len() * permille).div_ceil(1000);
        self.0.get(rank.max(1) - 1).copied()
    }

    /// The longest.
    pub(crate) fn max(&self) -> Option<Duration> {
        self.0.last().copied()
    }
}

impl FromIterator<Duration> for Times {
    fn from_iter<I: IntoIterator<Item = Duration>>(times: I) -> Self {
        let mut all: Vec<_> = times.into_iter().collect();
        all.sort_unstable();
        Self(all)
    }
}

/// A time in the unit that suits it, for people. What is not zero is never shown as zero.
pub(crate) fn show(time: Duration) -> String {
    let seconds = time.as_secs_f64();
    if time.is_zero() {
        "0".to_owned()
    } else if seconds < 0.001 {
        format!("{:.0} µs", (seconds * 1e6).max(1.0))
    } else if seconds < 1.0 {
        format!("{:.1} ms", seconds * 1e3)
    } else {
        format!("{seconds:.2} s")
    }
}

/// How many times the first is the second, for people; a dash where one of them is missing or the first is nothing.
pub(crate) fn ratio(one: Option<f64>, other: Option<f64>) -> String {
    match (one, other) {
        (Some(one), Some(other)) if one > 0.0 => {
            let ratio = other / one;
            if ratio < 9.95 { format!("{ratio:.1} ×") } else { format!("{ratio:.0} ×") }
        }
        _ => "–".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times(milliseconds: &[u64]) -> Times {
        milliseconds.iter().map(|time| Duration::from_millis(*time)).collect()
    }

    #[test]
    fn percentiles_are_times_that_were_measured() {
        let hundred: Vec<u64> = (1..=100).rev().collect();
        let hundred = times(&hundred);
        let of = |times: &Times, percent| times.percentile(percent).map(|time| time.as_millis());
        assert_eq!([of(&hundred, 50), of(&hundred, 99), of(&hundred, 100)], [Some(50), Some(99), Some(100)]);
        let three = times(&[30, 10, 20]);
        assert_eq!([of(&three, 50), of(&three, 99)], [Some(20), Some(30)]);
        let thousand: Vec<u64> = (1..=1000).rev().collect();
        assert_eq!(times(&thousand).permille(999), Some(Duration::from_millis(999)));
        assert_eq!(three.max(), Some(Duration::from_millis(30)));
        assert_eq!(times(&[]).percentile(50), None);
    }

    #[test]
    fn times_are_shown_in_their_unit() {
        let shown = [0, 400, 12_345_678, 14_050_000_000].map(|time| show(Duration::from_nanos(time)));
        assert_eq!(shown, ["0", "1 µs", "12.3 ms", "14.05 s"]);
    }

    #[test]
    fn ratios_tell_how_many_times_the_other_is() {
        assert_eq!(ratio(Some(0.5), Some(1.0)), "2.0 ×");
        assert_eq!(ratio(Some(0.001), Some(1.0)), "1000 ×");
        assert_eq!([ratio(Some(0.0), Some(1.0)), ratio(None, Some(1.0))], ["–", "–"]);
    }
}
