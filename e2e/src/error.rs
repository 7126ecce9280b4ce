//! What can go wrong outside of what is tested.

use std::io;
use std::path::{Path, PathBuf};

/// The crate's result.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a step of a test or of the demo failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A program ended with an error.
    #[error("`{line}` ended with {status}: {output}")]
    Program {
        /// The command line.
        line: String,
        /// Its exit status.
        status: String,
        /// What it wrote to standard error.
        output: String,
    },
    /// A program could not be started.
    #[error("failed to start {program}")]
    Start {
        /// Which.
        program: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// A file could not be read, written or made.
    #[error("failed to {action} {}", path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// Something did not happen in time.
    #[error("no {what} within {seconds} s; last seen: {last}")]
    Late {
        /// What was waited for.
        what: String,
        /// How long.
        seconds: u64,
        /// What was there instead.
        last: String,
    },
    /// An answer is no JSON.
    #[error("failed to read the JSON of `{line}`")]
    Json {
        /// The command line.
        line: String,
        /// Where it breaks.
        source: serde_json::Error,
    },
    /// A probe's log has a line that no probe writes.
    #[error("failed to read {}", path.display())]
    Log {
        /// The file.
        path: PathBuf,
        /// The line.
        source: conch_probe::MalformedLine,
    },
    /// The cluster.
    #[error("failed to run the cluster")]
    Cluster(#[from] conch_cluster::Error),
    /// The images.
    #[error("failed to build the images")]
    Images(#[from] conch_images::BuildError),
    /// The system cannot do what the test needs; the text says what to do.
    #[error("{0}")]
    Unusable(String),
}

/// Adds to a file error what was tried on which file.
pub(crate) fn at(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::File { action, path, source }
}
