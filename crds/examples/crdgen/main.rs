//! Writes the `CustomResourceDefinition`s and the README's table of values into the chart: `cargo run -p conch-crds --example crdgen`.

mod manifests;
mod readme;

use std::{error::Error, fs};

fn main() -> Result<(), Box<dyn Error>> {
    for manifest in manifests::crds()?.into_iter().chain([readme::readme()?]) {
        fs::write(&manifest.path, manifest.content)?;
        println!("wrote {}", manifest.path.display());
    }
    Ok(())
}
