//! Durations as people write them in a policy: `15s`, `1m30s`, `250ms`.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::{borrow::Cow, fmt, str::FromStr, time::Duration};

/// What the API server accepts, and the parser below: hours, minutes, seconds, milliseconds, in this order, each at most
/// once. A subset of what Go parses, without signs and with nothing below a millisecond, because the sidecar is given
/// whole milliseconds.
pub const PATTERN: &str = r"^([0-9]{1,6}h)?([0-9]{1,6}m)?([0-9]{1,6}(\.[0-9]{1,3})?s)?([0-9]{1,6}ms)?$";

/// Longest text. Together with [`PATTERN`] it keeps every value far from overflow, in Rust and in CEL.
pub const LENGTH_MAX: u32 = 24;

/// A duration in whole milliseconds, written as `15s`, `1m30s` or `250ms`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DurationText(Duration);

/// Why a text is no duration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "\"{0}\" is no duration: write hours, minutes, seconds, milliseconds in this order, each as a number of at most 6 \
     digits with its unit, e.g. 15s, 1m30s, 1.5s or 250ms"
)]
pub struct InvalidDuration(String);

impl DurationText {
    /// A duration of whole seconds.
    pub const fn from_secs(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds))
    }

    /// The duration.
    pub const fn get(self) -> Duration {
        self.0
    }
}

impl FromStr for DurationText {
    type Err = InvalidDuration;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse(text).map(Self).ok_or_else(|| InvalidDuration(text.to_owned()))
    }
}

/// The units in the order in which they may appear, in milliseconds.
const UNITS: [(&str, u64); 4] = [("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

/// The largest number of a unit.
const NUMBER_MAX: u128 = 999_999;

fn parse(text: &str) -> Option<Duration> {
    if text.is_empty() || text.len() > LENGTH_MAX as usize {
        return None;
    }
    let mut rest = text;
    let mut units = UNITS.iter();
    let mut milliseconds = 0;
    while !rest.is_empty() {
        let number_end = rest.find(|symbol: char| symbol != '.' && !symbol.is_ascii_digit())?;
        let (number, tail) = rest.split_at(number_end);
        let unit_end = tail.find(|symbol: char| symbol.is_ascii_digit()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_end);
        // Going on in the same iterator refuses a unit that comes twice or out of order.
        let (_, scale) = units.find(|(name, _)| *name == unit)?;
        milliseconds += count(number, *scale)?;
        rest = tail;
    }
    Some(Duration::from_millis(milliseconds))
}

/// `number` units of `scale` milliseconds. Only seconds may have a fraction.
fn count(number: &str, scale: u64) -> Option<u64> {
    let (whole, fraction) = match number.split_once('.') {
        Some((whole, fraction)) if scale == 1_000 => (whole, fraction),
        Some(_) => return None,
        None => (number, "0"),
    };
    if whole.len() > 6 || fraction.len() > 3 {
        return None;
    }
    let thousandths: u64 = format!("{fraction:0<3}").parse().ok().filter(|_| !fraction.is_empty())?;
    let whole: u64 = whole.parse().ok()?;
    Some(whole * scale + thousandths)
}

/// The shortest form: `15s`, `1m30s`, `1.5s`, `250ms`, `0s`. What a number of six digits cannot hold is left to the next unit.
impl fmt::Display for DurationText {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0.as_millis();
        let mut take = |unit: u128, most: u128| {
            let count = (rest / unit).min(most);
            rest -= count * unit;
            count
        };
        let (hours, minutes) = (take(3_600_000, NUMBER_MAX), take(60_000, NUMBER_MAX));
        let thousandths = take(1, NUMBER_MAX * 1_000 + 999);
        let (seconds, millis) = (thousandths / 1_000, thousandths % 1_000);
        let longer = hours > 0 || minutes > 0;
        if hours > 0 {
            write!(formatter, "{hours}h")?;
        }
        if minutes > 0 {
            write!(formatter, "{minutes}m")?;
        }
        match (seconds, millis) {
            (0, 0) if longer => {}
            (0, 1..) if !longer => write!(formatter, "{millis}ms")?,
            (_, 0) => write!(formatter, "{seconds}s")?,
            (_, 1..) => {
                let fraction = format!("{millis:03}");
                write!(formatter, "{seconds}.{}s", fraction.trim_end_matches('0'))?;
            }
        }
        if rest > 0 {
            write!(formatter, "{rest}ms")?;
        }
        Ok(())
    }
}

impl Serialize for DurationText {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for DurationText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<'_, str>::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

impl JsonSchema for DurationText {
    fn schema_name() -> Cow<'static, str> {
        "DurationText".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            // The API server hands the field to CEL rules as a duration.
            "format": "duration",
            "minLength": 2,
            "maxLength": LENGTH_MAX,
            "pattern": PATTERN,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn milliseconds(text: &str) -> Option<u128> {
        text.parse::<DurationText>().ok().map(|duration| duration.get().as_millis())
    }

    #[test]
    fn people_write_durations_as_in_go() {
        assert_eq!(milliseconds("15s"), Some(15_000));
        assert_eq!(milliseconds("1m30s"), Some(90_000));
        assert_eq!(milliseconds("1h"), Some(3_600_000));
        assert_eq!(milliseconds("1.5s"), Some(1_500));
        assert_eq!(milliseconds("2s250ms"), Some(2_250));
        assert_eq!(milliseconds("0s"), Some(0));
    }

    #[test]
    fn what_is_no_duration_is_refused_with_an_example() {
        for text in [
            "", "0", "15", "s", "-1s", "+1s", "1.5m", "1s1m", "1s1s", "1.s", ".5s", "1.2345s", "1us", "1 s",
            "1S",
        ] {
            assert_eq!(milliseconds(text), None, "{text}");
        }
        let message = "fifteen".parse::<DurationText>().unwrap_err().to_string();
        assert!(message.contains("\"fifteen\"") && message.contains("15s"), "{message}");
    }

    #[test]
    fn a_unit_holds_six_digits_and_leaves_more_to_the_next() {
        for (text, written) in [
            ("999999h999999m", "999999h999999m"),
            ("999999h60m", "999999h60m"),
            ("999998h60m", "999999h"),
            ("999999h999999m999999s", "999999h999999m999999s"),
            ("999999h9999m999999.999s", "999999h26665m39.999s"),
            ("999999h999999m9s999999ms", "999999h999999m1008.999s"),
        ] {
            assert_eq!(text.parse::<DurationText>().unwrap().to_string(), written);
            assert_eq!(milliseconds(text), milliseconds(written));
        }
    }

    proptest! {
        #[test]
        fn the_pattern_and_the_parser_accept_the_same(text in PATTERN.trim_matches(['^', '$'])) {
            prop_assert_eq!(milliseconds(&text).is_some(), !text.is_empty() && text.len() <= LENGTH_MAX as usize);
        }

        #[test]
        fn what_is_read_is_written_so_that_it_can_be_read(text in PATTERN.trim_matches(['^', '$'])) {
            if let Ok(duration) = text.parse::<DurationText>() {
                prop_assert_eq!(duration.to_string().parse(), Ok(duration));
            }
        }

        #[test]
        fn what_is_written_is_read_back(milliseconds in 0..=3_600_000_000_u64) {
            let duration = DurationText(Duration::from_millis(milliseconds));
            prop_assert_eq!(duration.to_string().parse::<DurationText>(), Ok(duration));
        }
    }
}
