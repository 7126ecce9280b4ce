//! See the library.

use anyhow::{Context, Result};
use clap::Parser;
use conch_sidecar::{
    args::{Args, Command, ServeArgs},
    client, run,
};

fn main() -> Result<()> {
    match Args::parse().command_or_serve() {
        Command::Serve(args) => serve(*args),
        Command::Ready(api) => Ok(client::ready(api.port)?),
        Command::Prestop(api) => Ok(client::pre_stop(api.port)?),
        Command::Status(api) => {
            print!("{}", client::describe(&client::status(api.port)?));
            Ok(())
        }
    }
}

fn serve(args: ServeArgs) -> Result<()> {
    conch_process::log::init(&args.log, args.log_format)?;
    let _ = rustls::crypto::ring::default_provider().install_default(); // fails only if it was done before
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("failed to start the runtime")?;
    runtime.block_on(run::run(args))
}
