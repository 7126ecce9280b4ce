//! What happened to the elements of a set, and what that says about the set.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use anyhow::{Error, bail};

/// An element and the place in the set that it was given: the numbers of an invoice book.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Entry {
    /// From 1.
    pub(crate) number: usize,
    /// Unique for ever.
    pub(crate) element: String,
}

/// How an attempt to append ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The database said that it is written.
    Acknowledged,
    /// The database refused it as stale.
    Refused,
    /// The connection broke: it may be written or not.
    Unknown,
}

/// One line of a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Event {
    /// It has read the set as the leader, and will now work and then append this.
    Read(Entry),
    /// What became of it.
    Ended(Outcome, Entry),
    /// The database refused already its read as stale.
    TurnedAway,
}

/// The sums of a set test.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// Elements that a leader set out to append.
    pub(crate) attempted: usize,
    /// Elements whose writer was told that they are written.
    pub(crate) acknowledged: usize,
    /// Elements whose writer was told that it is stale.
    pub(crate) refused: usize,
    /// Elements whose writer was told nothing.
    pub(crate) unknown: usize,
    /// Acknowledged, and not in the set in the end.
    pub(crate) lost: BTreeSet<String>,
    /// Numbers that were acknowledged to more than one element.
    pub(crate) duplicated: BTreeSet<usize>,
    /// Refused or never attempted, or there twice: and in the set all the same.
    pub(crate) unexpected: BTreeSet<String>,
}

impl Verdict {
    /// Holds what the clients were told against what the set holds in the end.
    pub(crate) fn of(events: &[Event], set: &[String]) -> Self {
        let mut verdict = Self::default();
        let mut present = BTreeSet::new();
        for element in set {
            if !present.insert(element) {
                verdict.unexpected.insert(element.clone());
            }
        }
        let (mut allowed, mut given) = (BTreeSet::new(), BTreeMap::new());
        for event in events {
            match event {
                Event::Read(entry) => {
                    verdict.attempted += 1;
                    allowed.insert(&entry.element);
                }
                Event::Ended(Outcome::Acknowledged, entry) => {
                    verdict.acknowledged += 1;
                    *given.entry(entry.number).or_insert(0) += 1;
                    if !present.contains(&entry.element) {
                        verdict.lost.insert(entry.element.clone());
                    }
                }
                Event::Ended(Outcome::Refused, entry) => {
                    verdict.refused += 1;
                    if present.contains(&entry.element) {
                        verdict.unexpected.insert(entry.element.clone());
                    }
                }
                Event::Ended(Outcome::Unknown, _) => verdict.unknown += 1,
                Event::TurnedAway => {}
            }
        }
        verdict.duplicated =
            given.into_iter().filter(|(_, times)| *times > 1).map(|(number, _)| number).collect();
        let strangers = present.into_iter().filter(|element| !allowed.contains(element)).cloned();
        verdict.unexpected.extend(strangers);
        verdict
    }

    /// Nothing lost, nothing given out twice, nothing there that should not be.
    pub(crate) fn is_clean(&self) -> bool {
        self.lost.is_empty() && self.duplicated.is_empty() && self.unexpected.is_empty()
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Acknowledged => "acknowledged",
            Self::Refused => "refused",
            Self::Unknown => "unknown",
        })
    }
}

impl fmt::Display for Event {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read(entry) => write!(formatter, "read {} {}", entry.number, entry.element),
            Self::Ended(outcome, entry) => write!(formatter, "{outcome} {} {}", entry.number, entry.element),
            Self::TurnedAway => formatter.write_str("turned-away"),
        }
    }
}

impl FromStr for Event {
    type Err = Error;

    fn from_str(line: &str) -> Result<Self, Error> {
        let words: Vec<&str> = line.split(' ').collect();
        let (word, entry) = match words[..] {
            ["turned-away"] => return Ok(Self::TurnedAway),
            [word, number, element] => (word, Entry { number: number.parse()?, element: element.to_owned() }),
            _ => bail!("no line of a client: {line:?}"),
        };
        Ok(match word {
            "read" => Self::Read(entry),
            "acknowledged" => Self::Ended(Outcome::Acknowledged, entry),
            "refused" => Self::Ended(Outcome::Refused, entry),
            "unknown" => Self::Ended(Outcome::Unknown, entry),
            _ => bail!("no line of a client: {line:?}"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(lines: &[&str], set: &[&str]) -> Verdict {
        let events: Vec<Event> = lines.iter().map(|line| line.parse().unwrap()).collect();
        Verdict::of(&events, &set.iter().map(|element| (*element).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn a_set_that_holds_what_was_acknowledged_is_clean() {
        let lines = ["read 1 a", "acknowledged 1 a", "read 2 b", "turned-away", "refused 2 b", "read 2 c"];
        let clean = verdict(&[&lines[..], &["unknown 2 c"]].concat(), &["a", "c"]);
        assert!(clean.is_clean(), "{clean:?}");
        assert_eq!((clean.attempted, clean.acknowledged, clean.refused, clean.unknown), (3, 1, 1, 1));
        assert!(verdict(&lines, &["a"]).is_clean(), "what nobody was told of may be missing");
    }

    #[test]
    fn what_was_acknowledged_and_is_missing_is_lost() {
        let found = verdict(&["read 1 a", "acknowledged 1 a", "read 2 b", "acknowledged 2 b"], &["b"]);
        assert_eq!(found.lost, BTreeSet::from(["a".to_owned()]));
        assert!(!found.is_clean());
    }

    #[test]
    fn a_number_that_two_were_given_is_duplicated() {
        let found = verdict(&["read 1 a", "read 1 b", "acknowledged 1 a", "acknowledged 1 b"], &["a", "b"]);
        assert_eq!(found.duplicated, BTreeSet::from([1]));
        assert!(!found.is_clean());
    }

    #[test]
    fn what_was_refused_or_never_written_and_is_there_twice_or_at_all_is_unexpected() {
        for (lines, set) in [
            (&["read 1 a", "refused 1 a"][..], &["a"][..]),
            (&[], &["a"]),
            (&["read 1 a", "acknowledged 1 a"], &["a", "a"]),
        ] {
            let found = verdict(lines, set);
            assert_eq!(found.unexpected, BTreeSet::from(["a".to_owned()]), "{lines:?}");
            assert!(!found.is_clean());
        }
    }

    #[test]
    fn a_line_reads_back_as_it_was_written_and_a_cut_one_does_not() {
        for line in ["read 1 a-1", "acknowledged 1 a-1", "refused 7 b", "unknown 7 b", "turned-away"] {
            assert_eq!(line.parse::<Event>().unwrap().to_string(), line);
        }
        for line in ["", "read", "read 1", "read x a", "wrote 1 a", "read 1 a b"] {
            assert!(line.parse::<Event>().is_err(), "{line}");
        }
    }
}
