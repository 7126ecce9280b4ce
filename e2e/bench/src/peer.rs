//! The image of the sidecar over client-go.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use conch_cluster::build_go_program;
use conch_images::{Image, workspace_directory};

/// Reference of the image; it is never published.
pub(crate) const IMAGE: &str = "ghcr.io/conch-rs/client-go-sidecar:bench";
const NAME: &str = "client-go-sidecar";
const FILES: &[(&str, &str)] = &[
    ("go.mod", include_str!("../client-go/go.mod")),
    ("go.sum", include_str!("../client-go/go.sum")),
    ("main.go", include_str!("../client-go/main.go")),
];

/// Builds the program, if it is not cached, and writes its image. Returns the archive's path.
pub(crate) fn build() -> Result<PathBuf> {
    let program = build_go_program(NAME, FILES)?;
    let image = Image {
        name: IMAGE,
        binary_path: &format!("/{NAME}"),
        binary: &fs::read(&program).with_context(|| format!("failed to read {}", program.display()))?,
        architecture: match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        },
        description: "A leader-election sidecar over client-go, to compare with",
    };
    let path = workspace_directory().join("out").join(format!("{NAME}.tar"));
    fs::write(&path, image.archive()?.bytes)
        .with_context(|| format!("failed to write {}", path.display()))?;
    Ok(path)
}
