//! `kubectl` and `helm`, as a user would call them.

use std::ffi::OsStr;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::error::{Error, Result};

/// How often a condition is looked at.
const PAUSE: Duration = Duration::from_millis(100);

/// The command line tools, pointed at one cluster.
#[derive(Debug, Clone)]
pub struct Tools {
    kubeconfig: PathBuf,
    /// Searched before `PATH`.
    directory: Option<PathBuf>,
}

impl Tools {
    /// Tools of a directory (or of `PATH`) for the cluster of a kubeconfig.
    pub fn new(kubeconfig: &Path, directory: Option<&Path>) -> Self {
        Self { kubeconfig: kubeconfig.to_owned(), directory: directory.map(Path::to_owned) }
    }

    /// The kubeconfig.
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// A command with `KUBECONFIG` set, not started yet.
    pub fn command(&self, program: &str) -> Command {
        let path = self.directory.as_ref().map(|directory| directory.join(program));
        let mut command = Command::new(path.unwrap_or_else(|| program.into()));
        command.env("KUBECONFIG", &self.kubeconfig);
        command
    }

    /// What `kubectl` prints.
    ///
    /// # Errors
    /// It ends with an error; the message holds what it wrote to standard error.
    pub fn kubectl<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Result<String> {
        run(self.command("kubectl").args(arguments))
    }

    /// What `helm` prints.
    ///
    /// # Errors
    /// It ends with an error.
    pub fn helm<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Result<String> {
        run(self.command("helm").args(arguments))
    }

    /// `kubectl get … -o json`.
    ///
    /// # Errors
    /// There is no such object, or the API server does not answer.
    pub fn get(&self, arguments: &[&str]) -> Result<Value> {
        let arguments = [&["get", "-o", "json"], arguments].concat();
        let text = self.kubectl(&arguments)?;
        let line = || format!("kubectl {}", arguments.join(" "));
        serde_json::from_str(&text).map_err(|source| Error::Json { line: line(), source })
    }

    /// `kubectl apply -f -`.
    ///
    /// # Errors
    /// The API server refuses the object.
    pub fn apply(&self, object: &Value) -> Result<String> {
        run_with_input(self.command("kubectl").args(["apply", "-f", "-"]), &object.to_string())
    }

    /// Looks again and again until there is a value.
    ///
    /// # Errors
    /// There is none after `limit`; the error says what the last look gave instead.
    pub fn wait_for<T>(
        what: &str,
        limit: Duration,
        mut look: impl FnMut() -> Result<std::result::Result<T, String>>,
    ) -> Result<T> {
        let deadline = Instant::now() + limit;
        loop {
            let last = match look() {
                Ok(Ok(value)) => return Ok(value),
                Ok(Err(instead)) => instead,
                // A cut-off node or a restarted server is part of the test.
                Err(error) => error.to_string(),
            };
            if Instant::now() >= deadline {
                return Err(Error::Late { what: what.to_owned(), seconds: limit.as_secs(), last });
            }
            thread::sleep(PAUSE);
        }
    }
}

/// Runs a command and returns what it printed.
///
/// # Errors
/// It cannot be started or ends with an error.
pub fn run(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).output().map_err(|source| start_error(command, source))?;
    check(command, &output)
}

fn run_with_input(command: &mut Command, input: &str) -> Result<String> {
    let pipes = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = pipes.spawn().map_err(|source| start_error(command, source))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A command that ends before it has read everything says why itself.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output().map_err(|source| start_error(command, source))?;
    check(command, &output)
}

fn start_error(command: &Command, source: std::io::Error) -> Error {
    Error::Start { program: command.get_program().into(), source }
}

fn check(command: &Command, output: &Output) -> Result<String> {
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let program = Path::new(command.get_program()).file_name().unwrap_or_default();
    let words = std::iter::once(program).chain(command.get_args());
    let words: Vec<_> = words.map(OsStr::to_string_lossy).collect();
    Err(Error::Program {
        line: words.join(" "),
        status: output.status.to_string(),
        output: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
    })
}
