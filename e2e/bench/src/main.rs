//! `make bench`: Conch and a sidecar over client-go on one cluster, in turn, under the same faults, with the same programs
//! and the same checker. Writes `docs/benchmarks.md` and its plots.

mod contender;
mod election;
mod machine;
mod peer;
mod plots;
mod report;
mod results;
mod scenarios;
mod statistics;
mod svg;
mod targets;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context as _, Result};
use clap::Parser;
use conch_cluster::{Cluster, Options};
use conch_e2e::{Environment, Tools, image_file};
use conch_images::{Program, workspace_directory};

use contender::{Contender, Timing};
use machine::Machine;
use report::Report;
use results::Side;
use scenarios::{Rounds, costs, graceful, overlap, power, streams};

const NODES: usize = 2;

/// Measures Conch against client-go.
#[derive(Debug, Parser)]
struct Arguments {
    /// Graceful deletions; the other things are done in proportion.
    #[arg(long, default_value_t = 25, value_parser = clap::value_parser!(u16).range(1..=1000))]
    rounds: u16,
    /// Name of the cluster; an old one is ended first, and the new one at the end.
    #[arg(long, default_value = "conch-bench")]
    cluster: String,
    /// Where the report goes [default: docs in the root of the repository]
    #[arg(long)]
    output: Option<PathBuf>,
}

fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    let began = Instant::now();
    let output = arguments.output.unwrap_or_else(|| workspace_directory().join("docs"));
    let peer_image = peer::build()?;
    Cluster::down(&arguments.cluster)?;
    let cluster = Cluster::up_with_fsync(&Options { name: arguments.cluster.clone(), nodes: NODES })?;
    let tools = Tools::new(cluster.kubeconfig(), Some(cluster.tools_directory()));
    let machine =
        Machine::describe(cluster.kubeconfig().parent().context("the kubeconfig is in no directory")?)?;
    println!("{}", machine.line());
    cluster.load_image(&peer_image)?;
    let environment = Environment { tools, cluster: Some(cluster) };
    environment.load_images()?;
    environment.install()?;

    let rounds = Rounds::new(usize::from(arguments.rounds));
    let mut conch = measure(&environment, Contender::Conch, rounds);
    attempt(&environment, &mut conch, "streams", |side| streams::run(&environment, side, rounds));
    conch.costs.image_bytes = size(&image_file(Program::Sidecar))?;
    let mut client_go = measure(&environment, Contender::ClientGo, rounds);
    client_go.costs.image_bytes = size(&peer_image)?;
    Cluster::down(&arguments.cluster)?;

    let report = Report { machine, rounds, took: began.elapsed(), conch, client_go };
    report.write(&output)?;
    Ok(if report.print() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
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
