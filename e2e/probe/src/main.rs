//! `conch-probe run`: asks every 10 ms and writes down the answers. `conch-probe get PATH`: asks once, for people.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use conch_probe::{Connection, Form, Options, Way, run};

/// The program of Conch's tests.
#[derive(Debug, Parser)]
struct Arguments {
    /// Base URL of the sidecar.
    #[arg(long, env = "CONCH_URL", default_value = "http://127.0.0.1:4040", global = true)]
    url: String,
    #[command(subcommand)]
    command: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Ask who leads, again and again, until SIGTERM. SIGUSR2: resign.
    Run {
        /// Milliseconds from one question to the next.
        #[arg(long, default_value_t = 10)]
        interval_ms: u64,
        /// Hold a stream instead of asking. SIGUSR1: close it for a second.
        #[arg(long, conflicts_with_all = ["path", "status_alone"])]
        stream: bool,
        /// What to ask for.
        #[arg(long, default_value = "/v1/leader")]
        path: String,
        /// The status alone is the answer, as of sidecars that know no deadline: it is believed until the next question.
        #[arg(long)]
        status_alone: bool,
        /// Directory of the log [default: standard output]
        #[arg(long, env = "PROBE_DIRECTORY")]
        directory: Option<PathBuf>,
        /// Name of the log file.
        #[arg(long, env = "PROBE_NAME", default_value = "probe")]
        name: String,
        /// Milliseconds from SIGTERM to the exit.
        #[arg(long, default_value_t = 0)]
        exit_delay_ms: u64,
    },
    /// Ask once and print the answer; exit 1 unless the status is 2xx.
    Get {
        /// Path of the API.
        #[arg(default_value = "/v1/leader")]
        path: String,
    },
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    match arguments.command {
        Action::Run { interval_ms, stream, path, status_alone, directory, name, exit_delay_ms } => {
            let interval = Duration::from_millis(interval_ms);
            let exit_delay = Duration::from_millis(exit_delay_ms);
            let form = if status_alone { Form::StatusAlone } else { Form::Deadline };
            let way = if stream { Way::Stream } else { Way::Poll { path, form, interval } };
            run(&Options { url: arguments.url, way, directory, name, exit_delay }).await?;
            Ok(ExitCode::SUCCESS)
        }
        Action::Get { path } => {
            let reply = Connection::new(&arguments.url)?.get(&path).await?;
            std::io::stdout().write_all(&reply.body)?;
            println!();
            Ok(if reply.status.is_success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
    }
}
