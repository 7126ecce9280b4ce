//! See the library.

use anyhow::{Context, Result};
use conch_sidecar::{
    args::{Args, Command, HoldArgs, exit_status},
    client,
    run::{self, Task},
    wrap::{
        copy_self,
        guard::{exec, guard},
    },
};
use std::{future::Future, process::ExitCode};

fn main() -> ExitCode {
    run_command().unwrap_or_else(|error| {
        eprintln!("Error: {error:#}");
        exit_status(&error).into()
    })
}

fn run_command() -> Result<ExitCode> {
    match Args::read()? {
        Command::Serve(args) => hold(args.hold, Task::Serve(args.program)),
        Command::Run(args) => hold(args.hold, Task::Run(args.command)),
        Command::Ready(api) => Ok(done(client::ready(api.port)?)),
        Command::Prestop(api) => Ok(done(client::pre_stop(api.port)?)),
        Command::Status(args) => {
            let status = client::status(args.api.port)?;
            if args.json {
                println!("{status}");
            } else {
                print!("{}", client::describe(&status));
            }
            Ok(ExitCode::SUCCESS)
        }
        Command::Copy(args) => copy_self(&args.to).map(done),
        Command::Guard(args) => block_on(guard(args)).map(done),
        Command::Exec(args) => Ok(exec(&args)?.into()),
    }
}

fn done((): ()) -> ExitCode {
    ExitCode::SUCCESS
}

fn hold(args: HoldArgs, task: Task) -> Result<ExitCode> {
    conch_process::log::init(&args.log, args.log_format)?;
    let _ = rustls::crypto::ring::default_provider().install_default(); // fails only if it was done before
    Ok(block_on(run::run_and_log(args, task))?.into())
}

/// So many tasks may run before timers and sockets are looked at. A busy connection works for a tenth of a millisecond each
/// time that it runs, and a renewal need not wait for 61 of them, which is Tokio's default.
const TASKS_PER_LOOK: u32 = 16;

/// On this thread alone.
fn block_on<T>(task: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .event_interval(TASKS_PER_LOOK)
        .enable_all()
        .build()
        .context("failed to start the runtime")?;
    runtime.block_on(task)
}
