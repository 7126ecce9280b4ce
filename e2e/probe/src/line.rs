//! What a probe writes down, one line for each thing that happened. Times are nanoseconds of `CLOCK_BOOTTIME`.

use std::fmt;
use std::str::FromStr;

/// One line of a probe's log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Line {
    /// The program began.
    Start {
        /// When.
        at: u64,
    },
    /// The sidecar said that this pod leads.
    Yes {
        /// Before the question was sent; on a stream, where nobody asks, the same as `answered`.
        asked: u64,
        /// After the answer had come.
        answered: u64,
        /// Until when the answer is good, as the most hopeful reader would have it.
        deadline: u64,
        /// The term's fencing token; 0 from a sidecar that has none.
        token: u128,
    },
    /// The sidecar said that this pod does not lead.
    No {
        /// Before the question was sent.
        asked: u64,
        /// After the answer had come.
        answered: u64,
    },
    /// No answer: refused, reset, or none in time.
    None {
        /// Before the question was sent.
        asked: u64,
        /// When the probe gave up.
        answered: u64,
    },
    /// An answer that breaks the promise of its form, e.g. status 200 with `"leader":false`.
    Bad {
        /// Before the question was sent.
        asked: u64,
        /// After the answer had come.
        answered: u64,
    },
    /// The program stopped acting as the leader and is about to say so: no earlier answer counts any more.
    Resigned {
        /// When.
        at: u64,
    },
    /// The program ends because it was told to: its last line.
    Exit {
        /// When.
        at: u64,
    },
}

/// A line that no probe wrote whole.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no line of a probe: {0:?}")]
pub struct MalformedLine(pub String);

impl Line {
    /// When the question was asked to which this is the answer.
    pub fn asked(&self) -> Option<u64> {
        match self {
            Self::Yes { asked, .. }
            | Self::No { asked, .. }
            | Self::None { asked, .. }
            | Self::Bad { asked, .. } => Some(*asked),
            Self::Start { .. } | Self::Resigned { .. } | Self::Exit { .. } => None,
        }
    }
}

impl fmt::Display for Line {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Start { at } => write!(formatter, "start {at}"),
            Self::Yes { asked, answered, deadline, token } => {
                write!(formatter, "yes {asked} {answered} {deadline} {token}")
            }
            Self::No { asked, answered } => write!(formatter, "no {asked} {answered}"),
            Self::None { asked, answered } => write!(formatter, "none {asked} {answered}"),
            Self::Bad { asked, answered } => write!(formatter, "bad {asked} {answered}"),
            Self::Resigned { at } => write!(formatter, "resigned {at}"),
            Self::Exit { at } => write!(formatter, "exit {at}"),
        }
    }
}

impl FromStr for Line {
    type Err = MalformedLine;

    fn from_str(text: &str) -> Result<Self, MalformedLine> {
        let malformed = || MalformedLine(text.to_owned());
        let number = |word: &str| word.parse::<u64>().map_err(|_| malformed());
        let words: Vec<&str> = text.split(' ').collect();
        match words[..] {
            ["start", at] => Ok(Self::Start { at: number(at)? }),
            ["exit", at] => Ok(Self::Exit { at: number(at)? }),
            ["resigned", at] => Ok(Self::Resigned { at: number(at)? }),
            ["yes", asked, answered, deadline, token] => Ok(Self::Yes {
                asked: number(asked)?,
                answered: number(answered)?,
                deadline: number(deadline)?,
                token: token.parse().map_err(|_| malformed())?,
            }),
            ["no", asked, answered] => Ok(Self::No { asked: number(asked)?, answered: number(answered)? }),
            ["none", asked, answered] => {
                Ok(Self::None { asked: number(asked)?, answered: number(answered)? })
            }
            ["bad", asked, answered] => Ok(Self::Bad { asked: number(asked)?, answered: number(answered)? }),
            _ => Err(malformed()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn lines() -> impl Strategy<Value = Line> {
        prop_oneof![
            any::<u64>().prop_map(|at| Line::Start { at }),
            any::<u64>().prop_map(|at| Line::Exit { at }),
            any::<u64>().prop_map(|at| Line::Resigned { at }),
            any::<(u64, u64)>().prop_map(|(asked, answered)| Line::No { asked, answered }),
            any::<(u64, u64)>().prop_map(|(asked, answered)| Line::None { asked, answered }),
            any::<(u64, u64)>().prop_map(|(asked, answered)| Line::Bad { asked, answered }),
            any::<(u64, u64, u64, u128)>().prop_map(|(asked, answered, deadline, token)| Line::Yes {
                asked,
                answered,
                deadline,
                token
            }),
        ]
    }

    proptest! {
        #[test]
        fn every_line_reads_back_as_it_was_written(line in lines()) {
            prop_assert_eq!(line.to_string().parse::<Line>(), Ok(line));
        }

        #[test]
        fn no_text_makes_the_reader_panic(text in ".*") {
            let _ = text.parse::<Line>();
        }
    }

    #[test]
    fn a_line_that_a_kill_cut_short_is_no_line() {
        let whole = Line::Yes { asked: 1, answered: 2, deadline: 3, token: 4 }.to_string();
        assert!("yes 1 2 3".parse::<Line>().is_err());
        assert!("".parse::<Line>().is_err());
        assert!(format!("{whole} 5").parse::<Line>().is_err());
    }
}
