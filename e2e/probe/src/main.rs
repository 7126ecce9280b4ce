//! `conch-probe run`: asks every 10 ms and writes down the answers. `conch-probe get PATH`: asks once, for people.
//! `conch-probe time`: asks as fast as it is answered, and prints how long each answer took.

use std::future::pending;
use std::io::{BufWriter, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use conch_probe::{Connection, Form, Options, Timing, Way, run, serve_health, time};

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
        /// Port of the loopback address on which the program answers checks of its health [default: none]
        #[arg(long)]
        health_port: Option<u16>,
    },
    /// Ask once and print the answer; exit 1 unless the status is 2xx.
    Get {
        /// Path of the API.
        #[arg(default_value = "/v1/leader")]
        path: String,
    },
    /// Ask a sidecar that leads, and print how many nanoseconds each answer took, one line each.
    Time {
        /// How many answers are timed.
        #[arg(long, default_value_t = 100_000)]
        requests: usize,
        /// How many are asked for before them.
        #[arg(long, default_value_t = 10_000)]
        warm_up: usize,
        /// Open a connection for each question, in its time.
        #[arg(long)]
        new_connections: bool,
    },
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    match arguments.command {
        Action::Run {
            interval_ms,
            stream,
            path,
            status_alone,
            directory,
            name,
            exit_delay_ms,
            health_port,
        } => {
            let interval = Duration::from_millis(interval_ms);
            let exit_delay = Duration::from_millis(exit_delay_ms);
            let form = if status_alone { Form::StatusAlone } else { Form::Deadline };
            let way = if stream { Way::Stream } else { Way::Poll { path, form, interval } };
            let options = Options { url: arguments.url, way, directory, name, exit_delay };
            tokio::select! {
                ended = run(&options) => ended?,
                ended = health(health_port) => ended?,
            }
            Ok(ExitCode::SUCCESS)
        }
        Action::Get { path } => {
            let reply = Connection::new(&arguments.url)?.get(&path).await?;
            std::io::stdout().write_all(&reply.body)?;
            println!();
            Ok(if reply.status.is_success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        Action::Time { requests, warm_up, new_connections } => {
            let times = time(&Timing { url: arguments.url, requests, warm_up, new_connections }).await?;
            let mut output = BufWriter::new(std::io::stdout().lock());
            times.iter().try_for_each(|time| writeln!(output, "{}", time.as_nanos()))?;
            output.flush()?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// Returns only if the port cannot be served.
async fn health(port: Option<u16>) -> std::io::Result<()> {
    match port {
        Some(port) => serve_health(port).await,
        None => pending().await,
    }
}
