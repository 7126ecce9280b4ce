//! See the library.

use anyhow::{Context, Result};
use clap::Parser;
use conch_operator::{
    args::{Args, Command},
    check, run, uninstall,
};

fn main() -> Result<()> {
    let args = Args::parse();
    let common = args.common.clone();
    let command = args.command_or_run();
    conch_process::log::init(&common.log, common.log_format)?;
    let _ = rustls::crypto::ring::default_provider().install_default(); // fails only if it was done before
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("failed to start the runtime")?;
    runtime.block_on(async {
        match command {
            Command::Run(args) => run::run(common, *args).await,
            Command::Uninstall => uninstall::uninstall(&common.namespace).await,
            Command::Check => check::check(&common.namespace).await,
        }
    })
}
