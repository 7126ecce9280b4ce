//! The command line and the environment, and what they mean.

use clap::{Parser, Subcommand};
use conch_crds::{
    names::{self, sidecar_env},
    policy::Presence,
};
use conch_election::{Timing, UnsafeTiming};
use conch_process::log::Format;
use std::{ops::RangeInclusive, path::PathBuf, time::Duration};

/// Metrics need the port after the API's.
const PORTS: RangeInclusive<i64> = 1..=65_534;

/// The sidecar of Conch: answers over localhost whether this pod leads its election, and until when.
#[derive(Debug, Parser)]
#[command(name = "conch-sidecar", version)]
pub struct Args {
    /// What to do; `serve` if nothing is said.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Hold the election and answer the program. What runs if no command is given.
    Serve(Box<ServeArgs>),
    /// Exit with 0 as soon as the API answers, or with 1 after most of a second. For the startup probe.
    Ready(ApiArgs),
    /// Tell the sidecar of this pod that the kubelet announced the end. For the preStop hook.
    Prestop(ApiArgs),
    /// Show what the sidecar of this pod answers.
    Status(ApiArgs),
}

/// Where the sidecar of this pod listens.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct ApiArgs {
    /// Port of the API.
    #[arg(long, env = sidecar_env::PORT, default_value_t = names::API_PORT, value_parser = clap::value_parser!(u16).range(PORTS))]
    pub port: u16,
}

/// How to hold the election.
#[derive(Clone, Debug, clap::Args)]
pub struct ServeArgs {
    /// Where the API listens, on the loopback addresses; metrics and health are on the next port of every address.
    #[command(flatten)]
    pub api: ApiArgs,
    /// Name of this pod.
    #[arg(long, env = sidecar_env::POD_NAME)]
    pub pod_name: String,
    /// UID of this pod.
    #[arg(long, env = sidecar_env::POD_UID)]
    pub pod_uid: String,
    /// Namespace of this pod and of its election.
    #[arg(long, env = sidecar_env::NAMESPACE)]
    pub namespace: String,
    /// Name of the election.
    #[arg(long, env = sidecar_env::ELECTION)]
    pub election: String,
    /// Name of the Lease.
    #[arg(long, env = sidecar_env::LEASE)]
    pub lease: String,
    /// Durations of the policy.
    #[command(flatten)]
    pub timing: TimingArgs,
    /// Added to each fence to give the token.
    #[arg(long, env = sidecar_env::FENCING_OFFSET, default_value_t = 0)]
    pub fencing_offset: u64,
    /// Asked: lead only once the program has asked. None: lead as soon as this runs.
    #[arg(long, env = sidecar_env::PRESENCE, default_value = "Asked", value_parser = parse_presence)]
    pub presence: Presence,
    /// The image that was injected into the pod.
    #[arg(long, env = sidecar_env::IMAGE, default_value = "")]
    pub image: String,
    /// text or json.
    #[arg(long, env = sidecar_env::LOG_FORMAT, default_value_t = Format::Text)]
    pub log_format: Format,
    /// What to log: a level, or target=level pairs separated by commas.
    #[arg(long, env = sidecar_env::LOG, default_value = "info")]
    pub log: String,
    /// Reach the API server by this file instead of as a pod: to try the sidecar outside a cluster.
    #[arg(long, env = "KUBECONFIG")]
    pub kubeconfig: Option<PathBuf>,
}

/// The policy's durations, in whole milliseconds.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct TimingArgs {
    /// How long a follower waits after it last saw the leader write.
    #[arg(long, env = sidecar_env::LEASE_DURATION, default_value_t = 15_000)]
    pub lease_duration_ms: u64,
    /// From one renewal to the next.
    #[arg(long, env = sidecar_env::RENEW_INTERVAL, default_value_t = 2_000)]
    pub renew_interval_ms: u64,
    /// Longest time from the program's last check of its deadline to its last effect.
    #[arg(long, env = sidecar_env::STOP_GRACE, default_value_t = 3_000)]
    pub stop_grace_ms: u64,
    /// Longest time that one answer is valid.
    #[arg(long, env = sidecar_env::MAX_PROMISE, default_value_t = 5_000)]
    pub max_promise_ms: u64,
    /// The longest lease that any living pod of the election counts with; the own one if it is longer.
    #[arg(long, env = sidecar_env::LONGEST_LEASE, default_value_t = 0)]
    pub longest_lease_ms: u64,
}

impl Args {
    /// The command; without one `serve`, all of whose arguments can come from the environment. Ends the process with a usage
    /// message where they do not.
    pub fn command_or_serve(self) -> Command {
        self.command.unwrap_or_else(|| {
            Self::parse_from(["conch-sidecar", "serve"])
                .command
                .unwrap_or_else(|| unreachable!("serve was named"))
        })
    }
}

impl TimingArgs {
    /// The timing, if it is safe, and the longest lease.
    pub fn validate(self) -> Result<(Timing, Duration), UnsafeTiming> {
        let Self { lease_duration_ms, renew_interval_ms, stop_grace_ms, max_promise_ms, longest_lease_ms } =
            self;
        let timing = Timing::new(
            Duration::from_millis(lease_duration_ms),
            Duration::from_millis(renew_interval_ms),
            Duration::from_millis(stop_grace_ms),
            Duration::from_millis(max_promise_ms),
        )?;
        Ok((timing, timing.lease().max(Duration::from_millis(longest_lease_ms))))
    }
}

/// The spelling is the policy's.
fn parse_presence(text: &str) -> Result<Presence, serde_json::Error> {
    serde_json::from_value(text.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    const REQUIRED: [&str; 10] =
        ["--pod-name", "p", "--pod-uid", "u", "--namespace", "n", "--election", "e", "--lease", "conch-e"];

    fn serve(more: &[&str]) -> Result<ServeArgs, clap::Error> {
        let arguments = ["conch-sidecar", "serve"].iter().chain(&REQUIRED).chain(more);
        match Args::try_parse_from(arguments)?.command {
            Some(Command::Serve(serve)) => Ok(*serve),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn the_defaults_are_the_default_policy() {
        let serve = serve(&[]).unwrap();
        let (timing, longest_lease) = serve.timing.validate().unwrap();
        assert_eq!(timing.lease(), Duration::from_secs(15));
        assert_eq!(longest_lease, timing.lease());
        assert_eq!((serve.api.port, serve.presence), (names::API_PORT, Presence::Asked));
    }

    #[test]
    fn what_cannot_be_served_is_refused() {
        assert!(serve(&["--port", "65535"]).is_err());
        assert!(serve(&["--port", "0"]).is_err());
        assert!(serve(&["--presence", "asked"]).is_err());
        assert!(serve(&["--log-format", "xml"]).is_err());
        assert!(Args::try_parse_from(["conch-sidecar", "serve", "--pod-name", "p"]).is_err());
        let unsafe_timing = serve(&["--lease-duration-ms", "6000", "--stop-grace-ms", "5000"]).unwrap();
        assert!(unsafe_timing.timing.validate().is_err());
    }

    #[test]
    fn presence_is_spelled_as_in_the_policy() {
        assert_eq!(serve(&["--presence", "None"]).unwrap().presence, Presence::NotNeeded);
    }

    #[test]
    fn a_longer_lease_of_others_counts_and_a_shorter_one_does_not() {
        let longest = |ms: &str| serve(&["--longest-lease-ms", ms]).unwrap().timing.validate().unwrap().1;
        assert_eq!(longest("60000"), Duration::from_mins(1));
        assert_eq!(longest("1000"), Duration::from_secs(15));
    }
}
