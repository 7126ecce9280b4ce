//! `conch-images build`: the images of the operator, the sidecar and the tests' probe, as files.

use std::path::PathBuf;

use clap::{Parser, Subcommand};
use conch_images::{Build, Program, workspace_directory};

/// Container images without Docker.
#[derive(Debug, Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Build the programs statically and write an archive for each.
    Build {
        /// A profile of the root Cargo.toml; `release` is what is shipped.
        #[arg(long, default_value = "release")]
        profile: String,
        /// Where the archives go [default: out in the root of the repository]
        #[arg(long)]
        output: Option<PathBuf>,
        /// Which programs [default: all]
        #[arg(long, value_enum)]
        only: Vec<Program>,
    },
}

fn main() -> anyhow::Result<()> {
    let Action::Build { profile, output, only } = Arguments::parse().command;
    let output = output.unwrap_or_else(|| workspace_directory().join("out"));
    let programs = if only.is_empty() { Program::ALL.to_vec() } else { only };
    let build = Build { profile, output, programs };
    for built in build.run()? {
        println!("{}", built.program.reference());
        println!("  file    {}", built.path.display());
        println!("  digest  {}", built.digest);
        println!("  binary  {:>10} bytes", built.binary_bytes);
        println!("  image   {:>10} bytes", built.stored_bytes);
    }
    Ok(())
}
