//! What the command line and the environment say of the program: the policy's `program`.

use crate::{
    check::{Check, Target},
    gate::{Rules, Thresholds},
};
use conch_crds::{
    names::sidecar_env,
    program::{Compatibility, Presence, WhenAllUnhealthy},
};
use serde::de::DeserializeOwned;
use std::{ops::RangeInclusive, time::Duration};

const SECOND_TO_HOUR_MS: RangeInclusive<u64> = 1_000..=3_600_000;
const PERIOD_MS: RangeInclusive<u64> = 500..=3_600_000;
const IN_A_ROW: RangeInclusive<i64> = 1..=100;

/// What is asked of the program. Durations are whole milliseconds.
#[derive(Clone, Debug, clap::Args)]
pub struct ProgramArgs {
    /// Be a candidate once the program has asked (Asked), while it sends heartbeats (Heartbeat), while it holds /v1/lead
    /// (Stream), or as soon as this runs (None).
    #[arg(long, env = sidecar_env::PRESENCE, default_value = "Asked", value_parser = word::<Presence>)]
    pub presence: Presence,
    /// With presence Heartbeat: how long a heartbeat counts.
    #[arg(long, env = sidecar_env::HEARTBEAT_TIMEOUT, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(SECOND_TO_HOUR_MS))]
    pub heartbeat_timeout_ms: u64,
    /// Check the program: `http://localhost:PORT/PATH` or `tcp://localhost:PORT`.
    #[arg(long, env = sidecar_env::CHECK)]
    pub check: Option<Target>,
    /// From one check to the next.
    #[arg(long, env = sidecar_env::CHECK_PERIOD, default_value_t = 2_000, value_parser = clap::value_parser!(u64).range(PERIOD_MS))]
    pub check_period_ms: u64,
    /// How long one check may take; at most the period.
    #[arg(long, env = sidecar_env::CHECK_TIMEOUT, default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub check_timeout_ms: u64,
    /// So many failures in a row make the program unhealthy.
    #[arg(long, env = sidecar_env::CHECK_FAILURES, default_value_t = 3, value_parser = clap::value_parser!(u32).range(IN_A_ROW))]
    pub check_failures: u32,
    /// So many successes in a row make it healthy.
    #[arg(long, env = sidecar_env::CHECK_SUCCESSES, default_value_t = 2, value_parser = clap::value_parser!(u32).range(IN_A_ROW))]
    pub check_successes: u32,
    /// How long the lead is left to others after the program was found unhealthy; doubled each time that it happens soon.
    #[arg(long, env = sidecar_env::COOL_DOWN, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(SECOND_TO_HOUR_MS))]
    pub cool_down_ms: u64,
    /// Who leads when no candidate is healthy: Nobody, or whoever led last (`KeepLast`).
    #[arg(long, env = sidecar_env::WHEN_ALL_UNHEALTHY, default_value = "Nobody", value_parser = word::<WhenAllUnhealthy>)]
    pub when_all_unhealthy: WhenAllUnhealthy,
    /// Also answer programs that were written for nais/elector or the retired leader-elector, on / and /sse (`LeaderElector`), or
    /// not (None). Such an answer has no deadline: it is a hint.
    #[arg(long, env = sidecar_env::COMPATIBILITY, default_value = "None", value_parser = word::<Compatibility>)]
    pub compatibility: Compatibility,
}

/// What cannot be asked of a program. The policy's own rules say the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Impossible {
    /// A check would begin before the last one is over.
    #[error(
        "the timeout of the check is {timeout_ms} ms: it must be at most its period, {period_ms} ms; shorten the timeout or \
         lengthen the period"
    )]
    CheckOverlaps {
        /// Of one check.
        timeout_ms: u64,
        /// From one check to the next.
        period_ms: u64,
    },
    /// Nothing would ever be kept.
    #[error("KeepLast needs presence Heartbeat or a check, or nothing can be unhealthy")]
    NothingToBeUnhealthy,
}

impl ProgramArgs {
    /// What decides, and what is checked.
    pub fn validate(&self) -> Result<(Rules, Option<Check>), Impossible> {
        let (timeout_ms, period_ms) = (self.check_timeout_ms, self.check_period_ms);
        if self.check.is_some() && timeout_ms > period_ms {
            return Err(Impossible::CheckOverlaps { timeout_ms, period_ms });
        }
        let beats = self.presence == Presence::Heartbeat;
        if self.when_all_unhealthy == WhenAllUnhealthy::KeepLast && !beats && self.check.is_none() {
            return Err(Impossible::NothingToBeUnhealthy);
        }
        let thresholds = Thresholds { failures: self.check_failures, successes: self.check_successes };
        let rules = Rules {
            heartbeat_timeout: beats.then_some(Duration::from_millis(self.heartbeat_timeout_ms)),
            check: self.check.as_ref().map(|_| thresholds),
            cool_down: Duration::from_millis(self.cool_down_ms),
            when_all_unhealthy: self.when_all_unhealthy,
        };
        let check = self.check.clone().map(|target| Check {
            target,
            period: Duration::from_millis(period_ms),
            timeout: Duration::from_millis(timeout_ms),
        });
        Ok((rules, check))
    }
}

/// A word of the API: the spelling is the policy's.
fn word<T: DeserializeOwned>(text: &str) -> Result<T, serde_json::Error> {
    serde_json::from_value(text.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;
    use conch_crds::program::{HealthCheckSpec, ProgramSpec};

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        program: ProgramArgs,
    }

    fn parse(arguments: &[&str]) -> Result<ProgramArgs, clap::Error> {
        Line::try_parse_from(["line"].iter().chain(arguments)).map(|line| line.program)
    }

    #[test]
    fn the_defaults_are_the_default_policy() {
        let (rules, check) = parse(&[]).unwrap().validate().unwrap();
        let policy = ProgramSpec::default();
        assert_eq!(parse(&[]).unwrap().presence, policy.presence);
        assert_eq!(parse(&[]).unwrap().compatibility, policy.compatibility);
        let expected = Rules {
            heartbeat_timeout: None,
            check: None,
            cool_down: policy.cool_down.get(),
            when_all_unhealthy: policy.when_all_unhealthy,
        };
        assert_eq!((rules, check), (expected, None));
        let (rules, _) = parse(&["--presence", "Heartbeat"]).unwrap().validate().unwrap();
        assert_eq!(rules.heartbeat_timeout, Some(policy.heartbeat_timeout.get()));

        let (rules, check) = parse(&["--check", "tcp://localhost:80"]).unwrap().validate().unwrap();
        let (spec, check) = (HealthCheckSpec::default(), check.unwrap());
        assert_eq!((check.period, check.timeout), (spec.period.get(), spec.timeout.get()));
        let thresholds = Thresholds { failures: spec.failure_threshold, successes: spec.success_threshold };
        assert_eq!(rules.check, Some(thresholds));
    }

    #[test]
    fn words_are_spelled_as_in_the_policy() {
        for word in ["Asked", "Heartbeat", "Stream", "None"] {
            assert!(parse(&["--presence", word]).is_ok(), "{word}");
        }
        for word in ["asked", "NotNeeded", ""] {
            assert!(parse(&["--presence", word]).is_err(), "{word}");
        }
        assert!(parse(&["--when-all-unhealthy", "keepLast"]).is_err());
        assert!(parse(&["--compatibility", "LeaderElector"]).is_ok());
        assert!(parse(&["--compatibility", "NotNeeded"]).is_err());
    }

    #[test]
    fn what_a_policy_may_not_say_is_refused_here_too() {
        for [name, value] in [
            ["--heartbeat-timeout-ms", "999"],
            ["--cool-down-ms", "0"],
            ["--check-period-ms", "499"],
            ["--check-timeout-ms", "0"],
            ["--check-failures", "0"],
            ["--check-successes", "101"],
            ["--check", "http://example.org:80/"],
        ] {
            assert!(parse(&[name, value]).is_err(), "{name} {value}");
        }
        let refused = |arguments: &[&str]| parse(arguments).unwrap().validate().unwrap_err();
        let late = refused(&["--check", "tcp://localhost:80", "--check-timeout-ms", "2001"]);
        assert_eq!(late, Impossible::CheckOverlaps { timeout_ms: 2_001, period_ms: 2_000 });
        assert_eq!(refused(&["--when-all-unhealthy", "KeepLast"]), Impossible::NothingToBeUnhealthy);
    }
}
