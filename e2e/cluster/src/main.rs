//! The command `conch-cluster`.

mod arguments;

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode};

use arguments::{Action, Arguments, Internal};
use clap::Parser;
use conch_cluster::{Binaries, Cluster, Error, Options, Result, internal, prerequisites};

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("conch-cluster: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> Result<()> {
    let name = arguments.name;
    match arguments.action {
        Action::Up { nodes, fsync: false } => Cluster::up(&Options { name, nodes }).map(drop),
        Action::Up { nodes, fsync: true } => Cluster::up_with_fsync(&Options { name, nodes }).map(drop),
        Action::Down => down(&name),
        Action::List => list(),
        Action::Run { program } => run_program(&Cluster::open(&name)?, &program),
        Action::Shell => {
            let shell = std::env::var("SHELL").unwrap_or_else(|_| "/bin/sh".to_owned());
            run_program(&Cluster::open(&name)?, &[shell])
        }
        Action::Kubeconfig => {
            println!("{}", Cluster::open(&name)?.kubeconfig().display());
            Ok(())
        }
        Action::Load { archives } => {
            let cluster = Cluster::open(&name)?;
            archives.iter().try_for_each(|archive| cluster.load_image(archive))
        }
        Action::Logs { component } => logs(&Cluster::open(&name)?, &component),
        Action::Fault { fault } => fault.apply(&Cluster::open(&name)?),
        Action::Build => Binaries::ensure().map(drop),
        Action::Prerequisites => prerequisites::ensure(),
        Action::Internal { role: Internal::Control { directory } } => internal::control(&directory),
        Action::Internal { role: Internal::Node { directory, number } } => internal::node(&directory, number),
    }
}

fn down(name: &str) -> Result<()> {
    Cluster::down(name)?;
    eprintln!("cluster {name} is down");
    Ok(())
}

fn list() -> Result<()> {
    println!("{:<20}  {:<12}  {:<5}  API SERVER", "NAME", "STATE", "NODES");
    for cluster in Cluster::list()? {
        let state = if cluster.up { "up" } else { "ended" };
        println!(
            "{:<20}  {state:<12}  {:<5}  https://127.0.0.1:{}",
            cluster.name, cluster.nodes, cluster.port
        );
    }
    Ok(())
}

/// Becomes a program that finds the cluster and its tools.
fn run_program(cluster: &Cluster, program: &[String]) -> Result<()> {
    let Some((name, arguments)) = program.split_first() else { return Ok(()) };
    let before = std::env::var("PATH").unwrap_or_default();
    let path = format!("{}:{before}", cluster.tools_directory().display());
    // The name is looked up in the new PATH, so that `run -- kubectl` finds the cluster's own.
    let found = path
        .split(':')
        .map(|directory| Path::new(directory).join(name))
        .find(|candidate| candidate.is_file());
    let program = found.filter(|_| !name.contains('/')).unwrap_or_else(|| name.into());
    let source = Command::new(&program)
        .args(arguments)
        .env("PATH", path)
        .env("KUBECONFIG", cluster.kubeconfig())
        // Otherwise kubectl would leave a folder for every cluster in the caller's home.
        .env("KUBECACHEDIR", cluster.cache_directory())
        .exec();
    Err(Error::Io { doing: format!("cannot run {}", program.display()), source })
}

fn logs(cluster: &Cluster, component: &str) -> Result<()> {
    let path = cluster.log(component)?;
    let shown =
        std::fs::File::open(&path).and_then(|mut file| std::io::copy(&mut file, &mut std::io::stdout()));
    shown.map(drop).map_err(|source| Error::Io { doing: format!("cannot show {}", path.display()), source })
}
