//! Running other programs to their end, with an error that shows what they said.

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use crate::error::{Context, Error, Result};

/// Where system programs live when PATH leaves them out, as it does for non-login root shells.
const SYSTEM_DIRECTORIES: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The caller's PATH with the system's directories behind it.
pub(crate) fn search_path() -> String {
    match std::env::var("PATH") {
        Ok(path) if !path.is_empty() => format!("{path}:{SYSTEM_DIRECTORIES}"),
        _ => SYSTEM_DIRECTORIES.to_owned(),
    }
}

/// The full path of a program, if it is installed.
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    search_path()
        .split(':')
        .map(|directory| PathBuf::from(directory).join(name))
        .find(|candidate| candidate.is_file())
}

/// A command for a program, with a PATH under which the system's programs are found.
pub(crate) fn command(program: impl Into<PathBuf>) -> Command {
    let program: PathBuf = program.into();
    let resolved = match program.to_str() {
        Some(name) if !name.contains('/') => find_program(name).unwrap_or(program),
        _ => program,
    };
    let mut command = Command::new(resolved);
    command.env("PATH", search_path()).stdin(Stdio::null());
    command
}

/// Runs a command to its end and gives what it printed.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let line = shown(command);
    let finished = command.output().doing(|| format!("cannot run `{line}`"))?;
    if finished.status.success() {
        return Ok(String::from_utf8_lossy(&finished.stdout).into_owned());
    }
    Err(failure(line, &finished))
}

/// The command line as a person would type it.
pub(crate) fn shown(command: &Command) -> String {
    let mut words = vec![command.get_program().to_string_lossy().into_owned()];
    words.extend(command.get_args().map(|word| word.to_string_lossy().into_owned()));
    words.join(" ")
}

fn failure(program: String, finished: &Output) -> Error {
    let mut text = String::from_utf8_lossy(&finished.stderr).into_owned();
    if text.trim().is_empty() {
        text = String::from_utf8_lossy(&finished.stdout).into_owned();
    }
    Error::Program { program, status: finished.status.to_string(), output: tail(text.trim(), 2000) }
}

/// The last `limit` bytes of a text, cut at a character.
fn tail(text: &str, limit: usize) -> String {
    let start = text.ceil_char_boundary(text.len().saturating_sub(limit));
    text.get(start..).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_shows_the_command_and_its_words() {
        let error = output(command("sh").args(["-c", "echo broken >&2; exit 3"])).unwrap_err().to_string();
        assert!(error.contains("exit 3"), "{error}");
        assert!(error.contains("broken"), "{error}");
    }

    #[test]
    fn a_long_output_is_cut_at_a_character() {
        assert_eq!(tail("äöü", 3), "ü");
        assert_eq!(tail("short", 100), "short");
    }
}
