//! Container images without Docker.
//!
//! Each image is one layer with one static binary, so there is nothing that a builder with a base image, a package
//! manager or a network could add. The archive depends on the binary and the name alone: the same input gives the same
//! digest on every machine.

mod archive;
mod build;
#[cfg(test)]
mod dockerfile;

pub use archive::{Archive, Image, ImageError};
pub use build::{Build, BuildError, Built, Program, SIDECAR_IMAGE_MAX_BYTES, workspace_directory};
