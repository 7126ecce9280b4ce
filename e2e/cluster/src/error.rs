//! One error type for the whole crate; every message says what to do next or where to look.

use std::io;
use std::path::{Path, PathBuf};

/// What went wrong with a cluster.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The machine lacks something; the text says what to install.
    #[error("{0}")]
    Prerequisite(String),
    /// An operation on a file, socket or process failed.
    #[error("{doing}: {source}")]
    Io {
        /// What was being done, with the path.
        doing: String,
        /// The system's answer.
        source: io::Error,
    },
    /// A program ended with an error.
    #[error("`{program}` failed with {status}: {output}")]
    Program {
        /// The command line.
        program: String,
        /// Its exit status.
        status: String,
        /// The end of what it printed.
        output: String,
    },
    /// Something did not happen in time.
    #[error("{what} after {seconds} s; look into {}", look.display())]
    Late {
        /// What is missing.
        what: String,
        /// How long was waited.
        seconds: u64,
        /// The log to read.
        look: PathBuf,
    },
    /// The named cluster does not run.
    #[error("cluster {0} is not up; start it with `conch-cluster --name {0} up`")]
    NotUp(String),
    /// An argument or a file has a wrong value.
    #[error("{0}")]
    Invalid(String),
    /// The cluster's supervisor could not do what it was asked.
    #[error("{0}")]
    Refused(String),
    /// The certificates could not be made.
    #[error("cannot make a certificate: {0}")]
    Certificate(#[from] rcgen::Error),
}

/// The crate's result.
pub type Result<T> = std::result::Result<T, Error>;

/// Adds to an I/O error what was being done.
pub(crate) trait Context<T> {
    /// The error with the words `doing` in front.
    fn doing(self, doing: impl FnOnce() -> String) -> Result<T>;
    /// The error with an action and a path in front.
    fn at(self, action: &str, path: &Path) -> Result<T>;
}

impl<T, E: Into<io::Error>> Context<T> for std::result::Result<T, E> {
    fn doing(self, doing: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|error| Error::Io { doing: doing(), source: error.into() })
    }

    fn at(self, action: &str, path: &Path) -> Result<T> {
        self.doing(|| format!("cannot {action} {}", path.display()))
    }
}
