//! The command line and the environment, and what they mean.

use crate::{config, postgres_args::PostgresArgs, program_args::ProgramArgs};
use anyhow::Context;
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};
use conch_crds::names::{self, InvalidElectionName, sidecar_env};
use conch_election::{Timing, UnsafeTiming};
use conch_process::log::Format;
use std::{env, ffi::OsString, ops::RangeInclusive, path::PathBuf, time::Duration};

/// Metrics need the port after the API's.
const PORTS: RangeInclusive<i64> = 1..=65_534;

const EXAMPLES: &str = "\
Examples:
  Try the API on this machine, with no other candidate:
      conch-sidecar serve --store memory --election jobs
      curl 'localhost:4040/v1/leader?wait=10s'

  Be a candidate outside the cluster whose Lease decides:
      conch-sidecar serve --kubeconfig ~/.kube/config --namespace shop --election payments

  The same, decided by a row of a database; the password is in the environment:
      CONCH_POSTGRES_URL=postgresql://conch@db/shop?sslmode=require conch-sidecar serve --store postgres --election payments

  Run a program that knows nothing of elections only while leading:
      conch-sidecar run --kubeconfig FILE --namespace shop --election payments -- worker --queue 7

Every flag of serve and run can also be a line of the file that --config names, and most can be
environment variables. Flags beat the environment, the environment beats the file. A key that is no
flag is an error:
      # payments.yaml
      namespace: shop
      election: payments
      lease-duration-ms: 10000

Exit status: 0 if it ended as it was told to, 1 if it failed, 2 if the arguments are wrong, 134 if
it stood still for so long that it ended itself. run exits with the program's status: 128 and the
signal's number if one killed it (137 also if the process that guards it was killed), 127 if it was
not found, 126 if it cannot be executed.";

const RUN_HELP: &str = "\
The program is started when this process leads, with CONCH_TOKEN (the term's fencing token) and
CONCH_URL (the API) in its environment. When the lead is lost, or its validity is about to end, the
program gets SIGTERM, and SIGKILL before the stop grace is over, it and everything that it started;
then this process waits for the lead again. When the program exits by itself, the lead is released
and this process exits with its status. SIGTERM, SIGINT, SIGQUIT, SIGHUP, SIGUSR1, SIGUSR2 and
SIGWINCH are passed on to the program; the first three also say that no other term is to begin.

Example:
  conch-sidecar run --store memory --election jobs -- sh -c 'echo \"$CONCH_TOKEN\"; sleep 60'";

/// The sidecar of Conch: answers over localhost whether this pod or machine leads its election, and until when.
#[derive(Debug, Parser)]
#[command(name = "conch-sidecar", version, max_term_width = 120, after_long_help = EXAMPLES)]
pub struct Args {
    /// What to do; `serve` if there is no argument.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Hold the election and answer programs. What runs if no command is given
    #[command(after_long_help = EXAMPLES)]
    Serve(Box<ServeArgs>),
    /// Run a program while this process leads, and only then
    #[command(after_long_help = RUN_HELP)]
    Run(Box<RunArgs>),
    /// Exit with 0 as soon as the API answers, or with 1 after most of a second. For the startup probe
    Ready(ApiArgs),
    /// Tell the sidecar of this pod that the kubelet announced the end. For the preStop hook
    Prestop(ApiArgs),
    /// Show what the sidecar of this pod answers and why; exits with 0 if it answered, whatever it said
    Status(StatusArgs),
    /// Copy this program, for a container whose image does not have it
    Copy(CopyArgs),
    /// The process between `run` and its program
    #[command(hide = true)]
    Guard(GuardArgs),
    /// Becomes the program
    #[command(hide = true)]
    Exec(ExecArgs),
}

/// Where the sidecar of this pod listens.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct ApiArgs {
    /// Port of the API on the loopback addresses; metrics and health are on the next port, of every address.
    #[arg(long, env = sidecar_env::PORT, default_value_t = names::API_PORT, value_parser = clap::value_parser!(u16).range(PORTS))]
    pub port: u16,
}

/// How to show the status.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct StatusArgs {
    /// Where the sidecar listens.
    #[command(flatten)]
    pub api: ApiArgs,
    /// Show it as the sidecar sends it, for programs.
    #[arg(long)]
    pub json: bool,
}

/// How to hold the election and what is asked of the program.
#[derive(Clone, Debug, clap::Args)]
pub struct ServeArgs {
    /// What `run` takes as well.
    #[command(flatten)]
    pub hold: HoldArgs,
    /// What is asked of the program.
    #[command(flatten, next_help_heading = "Program")]
    pub program: ProgramArgs,
}

/// How to hold the election, and what to run meanwhile.
#[derive(Clone, Debug, clap::Args)]
pub struct RunArgs {
    /// What `serve` takes as well.
    #[command(flatten)]
    pub hold: HoldArgs,
    /// The program and its arguments.
    #[arg(last = true, required = true, value_name = "PROGRAM")]
    pub command: Vec<OsString>,
}

/// Where the records of an election are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum StoreKind {
    /// A Lease of a Kubernetes cluster
    Kubernetes,
    /// This process alone: to try the API. There are no other candidates
    Memory,
    /// A row of a PostgreSQL table
    Postgres,
}

/// How to hold the election.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Election")]
pub struct HoldArgs {
    /// Name of the election.
    #[arg(long, env = sidecar_env::ELECTION, value_parser = election_name)]
    pub election: String,
    /// Where the election is held.
    #[arg(long, env = sidecar_env::STORE, value_enum, default_value_t = StoreKind::Kubernetes)]
    pub store: StoreKind,
    /// Namespace of the election.
    #[arg(long, env = sidecar_env::NAMESPACE, default_value = "default", value_parser = object_name)]
    pub namespace: String,
    /// Name of the Lease; the election's name after "conch-" if nothing is said.
    #[arg(long, env = sidecar_env::LEASE, value_parser = object_name)]
    pub lease: Option<String>,
    /// Reach the API server by this file instead of as a pod.
    #[arg(long, env = sidecar_env::KUBECONFIG)]
    pub kubeconfig: Option<PathBuf>,
    /// Added to each fence to give the token.
    #[arg(long, env = sidecar_env::FENCING_OFFSET, default_value_t = 0)]
    pub fencing_offset: u64,

    /// Where the row is.
    #[command(flatten, next_help_heading = "PostgreSQL")]
    pub postgres: PostgresArgs,

    /// Outside a pod: who this is, in place of a pod's name; the machine's name if nothing is said. Two processes with one id do
    /// not run at a time.
    #[arg(long, env = sidecar_env::INSTANCE_ID, help_heading = "Identity", conflicts_with = "pod_name")]
    pub instance_id: Option<String>,
    /// Where the lock of the instance is; /run for root, else `$XDG_RUNTIME_DIR`, else the directory for temporary files.
    #[arg(long, env = sidecar_env::STATE_DIRECTORY, help_heading = "Identity")]
    pub state_directory: Option<PathBuf>,
    /// In a pod: its name.
    #[arg(long, env = sidecar_env::POD_NAME, help_heading = "Identity", requires = "pod_uid")]
    pub pod_name: Option<String>,
    /// In a pod: its UID.
    #[arg(long, env = sidecar_env::POD_UID, help_heading = "Identity", requires = "pod_name")]
    pub pod_uid: Option<String>,
    /// In a pod: the sidecar image that was injected.
    #[arg(long, env = sidecar_env::IMAGE, default_value = "", help_heading = "Identity")]
    pub image: String,

    /// In a pod: it ends with its program (its restart policy is not Always), so SIGTERM need not mean that the sidecar is
    /// restarted or the pod deleted.
    #[arg(long, env = sidecar_env::POD_COMPLETES, help_heading = "Identity")]
    pub pod_completes: bool,

    /// The policy's durations.
    #[command(flatten, next_help_heading = "Timing")]
    pub timing: TimingArgs,
    /// Where the API listens.
    #[command(flatten, next_help_heading = "Process")]
    pub api: ApiArgs,
    /// text or json.
    #[arg(long, env = sidecar_env::LOG_FORMAT, default_value_t = Format::Text, help_heading = "Process")]
    pub log_format: Format,
    /// What to log: a level, or target=level pairs separated by commas.
    #[arg(long, env = sidecar_env::LOG, default_value = "info", help_heading = "Process")]
    pub log: String,
    /// A YAML file with "flag: value" lines for flags that are given neither here nor in the environment. Read before
    /// everything else.
    #[arg(long, env = sidecar_env::CONFIG, help_heading = "Process")]
    pub config: Option<PathBuf>,
}

/// Where to copy to.
#[derive(Clone, Debug, clap::Args)]
pub struct CopyArgs {
    /// The new file; one that exists is replaced.
    pub to: PathBuf,
}

/// What the wrapper tells the guard at its start.
#[derive(Clone, Debug, clap::Args)]
pub struct GuardArgs {
    /// Longest time from the last check of the deadline to the last effect.
    #[arg(long)]
    pub stop_grace_ms: u64,
    /// Until when the program may run, on `CLOCK_BOOTTIME`.
    #[arg(long)]
    pub deadline_ns: u64,
    /// The program and its arguments.
    #[arg(last = true, required = true)]
    pub command: Vec<OsString>,
}

/// What the guard tells the process that is to become the program.
#[derive(Clone, Debug, clap::Args)]
pub struct ExecArgs {
    /// The guard.
    #[arg(long)]
    pub parent: u32,
    /// The program and its arguments.
    #[arg(last = true, required = true)]
    pub command: Vec<OsString>,
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
    /// Reads the command line, the environment and the file that they name. Ends the process with a message where they are
    /// wrong, or where help is asked for.
    pub fn read() -> anyhow::Result<Command> {
        let mut arguments: Vec<OsString> = env::args_os().collect();
        if arguments.len() < 2 {
            // Everything that `serve` needs can come from the environment.
            arguments = [OsString::from("conch-sidecar"), OsString::from("serve")].into();
        }
        let command = config::with_file(Self::command(), &arguments).context(WrongArguments)?;
        let mut matches = command.get_matches_from(arguments);
        let args = Self::from_arg_matches_mut(&mut matches).unwrap_or_else(|error| error.exit());
        Ok(args.command)
    }
}

/// The arguments are understood, and cannot be served: exit status 2.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the arguments cannot be used")]
pub struct WrongArguments;

/// What a process exits with because of this error.
pub fn exit_status(error: &anyhow::Error) -> u8 {
    // As clap ends the process for what it refuses by itself.
    if error.downcast_ref::<WrongArguments>().is_some() { 2 } else { 1 }
}

fn election_name(text: &str) -> Result<String, InvalidElectionName> {
    names::election_name(Some(text), text)
}

fn object_name(text: &str) -> Result<String, String> {
    if names::is_subdomain(text) {
        Ok(text.to_owned())
    } else {
        Err("use lower-case letters, digits, '-' and '.', with a letter or digit at both ends".to_owned())
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

#[cfg(test)]
mod tests {
    use super::*;

    const REQUIRED: [&str; 10] =
        ["--pod-name", "p", "--pod-uid", "u", "--namespace", "n", "--election", "e", "--lease", "conch-e"];

    fn serve(more: &[&str]) -> Result<ServeArgs, clap::Error> {
        let arguments = ["conch-sidecar", "serve"].iter().chain(&REQUIRED).chain(more);
        match Args::try_parse_from(arguments)?.command {
            Command::Serve(serve) => Ok(*serve),
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
        let (timing, longest_lease) = serve.hold.timing.validate().unwrap();
        assert_eq!(timing.lease(), Duration::from_secs(15));
        assert_eq!(longest_lease, timing.lease());
        assert_eq!(serve.hold.api.port, names::API_PORT);
    }

    #[test]
    fn what_cannot_be_served_is_refused() {
        assert!(serve(&["--port", "65535"]).is_err());
        assert!(serve(&["--port", "0"]).is_err());
        assert!(serve(&["--log-format", "xml"]).is_err());
        for (flag, name) in [("--election", "Payments Nightly"), ("--lease", ""), ("--namespace", "a/b")] {
            let wrong = Args::try_parse_from(["conch-sidecar", "serve", flag, name]);
            assert!(wrong.unwrap_err().to_string().contains("lower-case"), "{flag} {name}");
        }
        assert!(Args::try_parse_from(["conch-sidecar", "serve", "--pod-name", "p"]).is_err());
        let unsafe_timing = serve(&["--lease-duration-ms", "6000", "--stop-grace-ms", "5000"]).unwrap();
        assert!(unsafe_timing.hold.timing.validate().is_err());
    }

    #[test]
    fn outside_a_pod_an_election_is_enough_and_half_a_pod_is_none() {
        let parse = |more: &[&str]| {
            Args::try_parse_from(["conch-sidecar", "serve", "--election", "e"].iter().chain(more))
        };
        assert!(parse(&[]).is_ok());
        assert!(parse(&["--pod-name", "p", "--pod-uid", "u"]).is_ok());
        assert!(parse(&["--pod-name", "p"]).is_err());
        assert!(parse(&["--pod-uid", "u"]).is_err());
        assert!(parse(&["--pod-name", "p", "--pod-uid", "u", "--instance-id", "i"]).is_err());
        assert!(parse(&["--store", "paper"]).is_err());
    }

    #[test]
    fn what_is_run_comes_after_two_dashes() {
        let parse = |more: &[&str]| {
            Args::try_parse_from(["conch-sidecar", "run", "--election", "e"].iter().chain(more))
        };
        let Command::Run(run) = parse(&["--", "sh", "-c", "--port"]).unwrap().command else {
            panic!("run was named");
        };
        assert_eq!(run.command, ["sh", "-c", "--port"]);
        for arguments in [&["sh"][..], &["--"], &[], &["--presence", "None", "--", "sh"]] {
            assert!(parse(arguments).is_err(), "{arguments:?}");
        }
    }

    #[test]
    fn a_longer_lease_of_others_counts_and_a_shorter_one_does_not() {
        let longest =
            |ms: &str| serve(&["--longest-lease-ms", ms]).unwrap().hold.timing.validate().unwrap().1;
        assert_eq!(longest("60000"), Duration::from_mins(1));
        assert_eq!(longest("1000"), Duration::from_secs(15));
    }
}
