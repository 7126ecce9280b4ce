//! `make bench`: Conch and a sidecar over client-go on one cluster, in turn, under the same faults, with the same programs
//! and the same checker. Writes `docs/benchmarks.md` and its plots. `make footprint`: what Conch's sidecar costs.

mod contender;
mod election;
mod footprint;
mod machine;
mod peer;
mod plots;
mod report;
mod results;
mod scenarios;
mod statistics;
mod svg;
mod targets;
mod usage;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand};
use conch_cluster::{Cluster, Options};
use conch_e2e::{Environment, Tools, image_file};
use conch_images::{Program, workspace_directory};

use contender::{Contender, Timing};
use footprint::Effort;
use machine::Machine;
use report::Report;
use results::Side;
use scenarios::{Rounds, costs, graceful, overlap, power, streams};

const NODES: usize = 2;

/// Measures Conch.
#[derive(Debug, Parser)]
struct Arguments {
    #[command(subcommand)]
    what: What,
    /// Name of the cluster; an old one is ended first, and the new one at the end.
    #[arg(long, default_value = "conch-bench", global = true)]
    cluster: String,
    /// Where the report goes [default: docs in the root of the repository]
    #[arg(long, global = true)]
    output: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, Subcommand)]
enum What {
    /// Conch and client-go, under the same faults.
    Compare {
        /// Graceful deletions; the other things are done in proportion.
        #[arg(long, default_value_t = 25, value_parser = clap::value_parser!(u16).range(1..=1000))]
        rounds: u16,
    },
    /// The size of the sidecar, what it uses, and how fast it answers.
    Footprint {
        /// Over how many seconds processor time is measured.
        #[arg(long, default_value_t = 600, value_parser = clap::value_parser!(u64).range(1..))]
        seconds: u64,
        /// How many answers are timed.
        #[arg(long, default_value_t = 100_000)]
        requests: usize,
    },
}

fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    let output = arguments.output.clone().unwrap_or_else(|| workspace_directory().join("docs"));
    let reached = match arguments.what {
        What::Compare { rounds } => compare(&arguments.cluster, usize::from(rounds), &output),
        What::Footprint { seconds, requests } => {
            let effort = Effort { time: Duration::from_secs(seconds), requests };
            prepare(&arguments.cluster, None)
                .and_then(|(environment, machine)| footprint::run(&environment, machine, effort, &output))
        }
    };
    Cluster::down(&arguments.cluster)?;
    Ok(if reached? { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Brings up a cluster with Conch on it, and another image if there is one.
fn prepare(name: &str, image: Option<&Path>) -> Result<(Environment, Machine)> {
    Cluster::down(name)?;
    let cluster = Cluster::up_with_fsync(&Options { name: name.to_owned(), nodes: NODES })?;
    let tools = Tools::new(cluster.kubeconfig(), Some(cluster.tools_directory()));
    let machine =
        Machine::describe(cluster.kubeconfig().parent().context("the kubeconfig is in no directory")?)?;
    println!("{}", machine.line());
    if let Some(image) = image {
        cluster.load_image(image)?;
    }
    let environment = Environment { tools, cluster: Some(cluster) };
    environment.load_images()?;
    environment.install()?;
    Ok((environment, machine))
}

fn compare(cluster: &str, rounds: usize, output: &Path) -> Result<bool> {
    let began = Instant::now();
    let peer_image = peer::build()?;
    let (environment, machine) = prepare(cluster, Some(&peer_image))?;
    let rounds = Rounds::new(rounds);
    let mut conch = measure(&environment, Contender::Conch, rounds);
    attempt(&environment, &mut conch, "streams", |side| streams::run(&environment, side, rounds));
    conch.costs.image_bytes = size(&image_file(Program::Sidecar))?;
    let mut client_go = measure(&environment, Contender::ClientGo, rounds);
    client_go.costs.image_bytes = size(&peer_image)?;
    let report = Report { machine, rounds, took: began.elapsed(), conch, client_go };
    report.write(output)?;
    Ok(report.print())
}

/// Everything that is done to both.
fn measure(environment: &Environment, contender: Contender, rounds: Rounds) -> Side {
    let mut side = Side::new(contender);
    attempt(environment, &mut side, "costs", |side| costs::run(environment, side, rounds));
    attempt(environment, &mut side, "graceful", |side| graceful::run(environment, side, rounds));
    for (part, timing) in [("power cuts", Timing::Default), ("power cuts, 3 s leases", Timing::Short)] {
        attempt(environment, &mut side, part, |side| power::run(environment, side, rounds, timing));
    }
    attempt(environment, &mut side, "two leaders", |side| overlap::run(environment, side));
    side
}

/// Measures a part. What fails is kept for the report: the other parts are worth having.
fn attempt(
    environment: &Environment,
    side: &mut Side,
    part: &str,
    run: impl FnOnce(&mut Side) -> Result<()>,
) {
    let name = side.contender.slug();
    println!("# {name}: {part}");
    if let Err(error) = run(side) {
        println!("  interrupted: {error:#}");
        side.interrupted.push(format!("{name}, {part}: {error:#}"));
        for node in 1..=NODES {
            mend(environment, node);
        }
    }
}

/// Whatever a part that was interrupted left broken.
fn mend(environment: &Environment, node: usize) {
    let Some(cluster) = &environment.cluster else { return };
    if let Err(error) = cluster.heal_node(node).and_then(|()| cluster.restart_node(node)) {
        println!("  node {node} stays broken: {error}");
    }
}

fn size(path: &Path) -> Result<u64> {
    let data = std::fs::metadata(path).with_context(|| format!("failed to look at {}", path.display()))?;
    Ok(data.len())
}
