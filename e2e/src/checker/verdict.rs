//! What the checker found, and how it is told.

use std::fmt;
use std::time::Duration;

/// What a history shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// For how long the programs of at least two pods rightly believed that they lead, in nanoseconds. Must be 0.
    pub overlap: u64,
    /// The longest time without a leader between two answers, in nanoseconds.
    pub longest_gap: u64,
    /// The first breach of the rules of tokens. Must be none.
    pub token_fault: Option<TokenFault>,
    /// How many terms there were.
    pub terms: usize,
    pub(super) count: Count,
}

/// How the tokens of a history broke their promise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenFault {
    /// A later term had a lower token.
    Fell {
        /// The highest token up to then.
        from: u128,
        /// What came after it.
        to: u128,
        /// Who was given it.
        pod: String,
    },
    /// Two pods were given one token.
    Shared {
        /// Which.
        token: u128,
        /// Whom.
        pods: [String; 2],
    },
}

/// How the questions were answered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Count {
    pub(super) yes: u64,
    pub(super) no: u64,
    pub(super) unanswered: u64,
    pub(super) bad: u64,
}

impl Verdict {
    /// What is wrong with the history, in words; empty if all promises were kept.
    pub fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        if self.overlap > 0 {
            faults.push(format!("two pods rightly believed to lead for {}", milliseconds(self.overlap)));
        }
        match &self.token_fault {
            Some(TokenFault::Fell { from, to, pod }) => {
                faults.push(format!("the token fell from {from} to {to} ({pod})"));
            }
            Some(TokenFault::Shared { token, pods: [one, other] }) => {
                faults.push(format!("{one} and {other} were both given token {token}"));
            }
            None => {}
        }
        if self.count.bad > 0 {
            faults.push(format!("{} answers contradict themselves", self.count.bad));
        }
        if self.count.yes == 0 {
            faults.push("nobody ever led, so nothing was tested".to_owned());
        }
        faults
    }

    /// How many questions the probes asked.
    pub fn requests(&self) -> u64 {
        let Count { yes, no, unanswered, bad } = self.count;
        yes + no + unanswered + bad
    }
}

/// One line for people.
impl fmt::Display for Verdict {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tokens = if self.token_fault.is_none() { "rise" } else { "DO NOT RISE" };
        write!(
            formatter,
            "overlap {}, longest gap {}, {} terms, tokens {tokens}, {} requests ({} yes, {} no, {} unanswered)",
            milliseconds(self.overlap),
            milliseconds(self.longest_gap),
            self.terms,
            self.requests(),
            self.count.yes,
            self.count.no,
            self.count.unanswered,
        )
    }
}

fn milliseconds(nanoseconds: u64) -> String {
    crate::measure::milliseconds(Duration::from_nanos(nanoseconds))
}
