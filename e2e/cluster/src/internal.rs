//! What the program runs inside of a cluster's namespaces. Not for use by others.

use std::path::Path;

use crate::control;
use crate::error::{Error, Result};
use crate::layout::Layout;
use crate::node;

/// Runs the supervisor of the cluster in a directory.
pub fn control(directory: &Path) -> Result<()> {
    control::run(layout(directory)?)
}

/// Runs a node of the cluster in a directory.
pub fn node(directory: &Path, number: usize) -> Result<()> {
    node::run(layout(directory)?, number)
}

fn layout(directory: &Path) -> Result<Layout> {
    match (directory.parent(), directory.file_name().and_then(|name| name.to_str())) {
        (Some(parent), Some(name)) => Layout::under(parent, name),
        _ => Err(Error::Invalid(format!("{} is no cluster's directory", directory.display()))),
    }
}
