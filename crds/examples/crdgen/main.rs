//! Writes the `CustomResourceDefinition`s into the chart: `cargo run -p conch-crds --example crdgen`.

mod manifests;

use std::{error::Error, fs};

fn main() -> Result<(), Box<dyn Error>> {
    for manifest in manifests::all()? {
        fs::write(&manifest.path, manifest.content)?;
        println!("wrote {}", manifest.path.display());
    }
    Ok(())
}
