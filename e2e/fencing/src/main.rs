//! `conch-fencing check`: all checks, and the table of docs/fencing.md. `conch-fencing client`: the program that leads in
//! the set tests.

use std::env;
use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::{Parser, Subcommand};
use conch_cluster::{Cluster, Options};
use conch_fencing::{
    Setting, client, for_each_recipe, missing_packages, redis_recipes, report, set, sql_recipes,
};

const CLUSTER: &str = "conch-fencing";

/// Shows what the fencing token protects from.
#[derive(Debug, Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Run all checks on a cluster of their own and write the table into docs/fencing.md.
    Check {
        /// How many leaders are paused with each guard.
        #[arg(long, default_value_t = 20)]
        pauses: usize,
    },
    /// Append to a set while this pod leads.
    Client(client::Options),
}

/// Each check of a recipe, with what it shows.
macro_rules! named {
    ($($module:ident::$name:ident)*) => { [$((stringify!($name), $module::$name as fn() -> Result<()>)),*] };
}

fn main() -> Result<ExitCode> {
    match Arguments::parse().command {
        Action::Client(options) => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(client::run(options))?;
            Ok(ExitCode::SUCCESS)
        }
        Action::Check { pauses } => check(pauses),
    }
}

fn check(pauses: usize) -> Result<ExitCode> {
    let missing = missing_packages();
    if !missing.is_empty() {
        bail!("missing: install the packages {}", missing.join(" "));
    }
    let (mut passed, mut failed) = (0, 0);
    let mut count = |name: &str, result: Result<()>| match result {
        Ok(()) => {
            println!("ok      {name}");
            passed += 1;
        }
        Err(error) => {
            println!("FAILED  {name}: {error:#}");
            failed += 1;
        }
    };
    for (name, recipe) in for_each_recipe!(named) {
        count(&name.replace('_', " "), recipe());
    }
    let cluster = Cluster::up(&Options { name: CLUSTER.to_owned(), nodes: 1 })?;
    let client = env::current_exe()?;
    let sidecar = client.with_file_name("conch-fencing-sidecar");
    let setting = Setting { client, sidecar, kubeconfig: cluster.kubeconfig().to_owned(), pauses };
    let shown = [set::in_postgres(&setting), set::in_redis(&setting)];
    Cluster::down(CLUSTER)?;
    let mut rows = Vec::new();
    for result in shown {
        match result {
            Ok(shown) => rows.extend(shown),
            Err(error) => count("set test", Err(error)),
        }
    }
    for row in &rows {
        count(&format!("set test: {}", row.title()), row.check());
    }
    let table = report::table(&rows);
    println!("\n{table}");
    if failed == 0 {
        report::write(&table)?;
    }
    println!("{passed} passed, {failed} failed");
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
