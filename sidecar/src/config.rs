//! A file with what can also be said by flags: one key for each flag, under the flag's name.
//!
//! What the file says becomes the default of its flag. So flags beat the environment, the environment beats the file, and every
//! value is checked in the same way, wherever it stands.

use anyhow::{Context, Result, bail};
use clap::Command;
use conch_crds::names::sidecar_env;
use std::{
    collections::BTreeMap,
    env,
    ffi::{OsStr, OsString},
    fs,
    path::{Path, PathBuf},
};

const FLAG: &str = "config";

/// The command line, with the defaults of the file that `arguments` or the environment name, if they name one.
pub fn with_file(command: Command, arguments: &[OsString]) -> Result<Command> {
    let chosen = arguments.get(1).and_then(|name| command.find_subcommand(name));
    let Some(chosen) =
        chosen.filter(|chosen| chosen.get_arguments().any(|flag| flag.get_long() == Some(FLAG)))
    else {
        return Ok(command);
    };
    let Some(path) = named(arguments).or_else(|| env::var_os(sidecar_env::CONFIG).map(PathBuf::from)) else {
        return Ok(command);
    };
    let name = chosen.get_name().to_owned();
    let context = || format!("failed to use the configuration {}", path.display());
    let values = read(&path).with_context(context)?;
    check(chosen, &values).with_context(context)?;
    Ok(command.mut_subcommand(name, |chosen| with_values(chosen, &values)))
}

/// The last `--config PATH` or `--config=PATH` before a `--`, after which the program's own arguments come.
fn named(arguments: &[OsString]) -> Option<PathBuf> {
    let own = arguments.split(|argument| argument == "--").next().unwrap_or_default();
    let flag = format!("--{FLAG}");
    let after = own.windows(2).filter(|pair| *pair[0] == *flag).map(|pair| pair[1].as_os_str());
    let joined = own
        .iter()
        .filter_map(|argument| argument.to_str()?.strip_prefix(&flag)?.strip_prefix('=').map(OsStr::new));
    after.chain(joined).last().map(PathBuf::from)
}

fn read(path: &Path) -> Result<BTreeMap<String, String>> {
    let text = fs::read_to_string(path)?;
    let values = serde_saphyr::from_str::<Option<BTreeMap<String, String>>>(&text)?;
    Ok(values.unwrap_or_default())
}

fn with_values(chosen: Command, values: &BTreeMap<String, String>) -> Command {
    chosen.mut_args(|argument| match argument.get_long().and_then(|long| values.get(long)) {
        // Read once in the life of the process, and needed as long as it lives.
        Some(value) => argument.required(false).default_value(&*value.clone().leak()),
        None => argument,
    })
}

/// A key is a flag that has a value, except the one that names the file.
fn check(chosen: &Command, values: &BTreeMap<String, String>) -> Result<()> {
    let flags = chosen.get_arguments().filter(|flag| flag.get_action().takes_values());
    let mut known: Vec<&str> =
        flags.filter_map(|flag| flag.get_long()).filter(|long| *long != FLAG).collect();
    known.sort_unstable();
    if let Some(unknown) = values.keys().find(|key| !known.contains(&key.as_str())) {
        bail!("unknown key {unknown:?}; known are {}", known.join(", "));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Args, Command as Chosen, HoldArgs};
    use clap::{CommandFactory, FromArgMatches};
    use std::io::Write;

    fn serve(file: &str, flags: &[&str]) -> Result<HoldArgs> {
        let mut config = tempfile::NamedTempFile::new()?;
        config.write_all(file.as_bytes())?;
        let path = config.path().to_str().unwrap();
        let arguments = ["conch-sidecar", "serve", "--config", path].into_iter().chain(flags.iter().copied());
        let arguments: Vec<OsString> = arguments.map(OsString::from).collect();
        let matches = with_file(Args::command(), &arguments)?.try_get_matches_from(&arguments)?;
        match Args::from_arg_matches(&matches)?.command {
            Chosen::Serve(serve) => Ok(serve.hold),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_file_says_what_flags_say_and_flags_beat_it() {
        let file = "election: jobs # of the night\nport: 4444\nlease-duration-ms: 20000\nfencing-offset: 18446744073709551615\n";
        let from_file = serve(file, &[]).unwrap();
        assert_eq!((from_file.election.as_str(), from_file.api.port), ("jobs", 4_444));
        assert_eq!((from_file.timing.lease_duration_ms, from_file.fencing_offset), (20_000, u64::MAX));
        assert_eq!(serve(file, &["--port", "5555"]).unwrap().api.port, 5_555);
    }

    #[test]
    fn what_is_not_known_or_not_right_is_refused_by_name() {
        let said = |file: &str| format!("{:#}", serve(file, &["--election", "jobs"]).unwrap_err());
        let unknown = said("elektion: jobs\n");
        assert!(unknown.contains("\"elektion\"") && unknown.contains("election"), "{unknown}");
        assert!(said("config: other.yaml\n").contains("unknown key"));
        assert!(said("help: true\n").contains("unknown key"));
        assert!(said("port: 0\n").contains("--port"));
        assert!(said("port: [1]\n").contains("failed to use"));
        assert!(said("port: 1\nport: 2\n").contains("failed to use"));
        assert!(serve("", &["--election", "jobs"]).is_ok());
    }

    #[test]
    fn the_file_is_named_before_the_program_begins() {
        let named = |arguments: &[&str]| {
            let arguments: Vec<OsString> = arguments.iter().map(OsString::from).collect();
            named(&arguments)
        };
        assert_eq!(named(&["c", "run", "--config", "a", "--", "x", "--config", "b"]), Some("a".into()));
        assert_eq!(named(&["c", "serve", "--config=a"]), Some("a".into()));
        assert_eq!(named(&["c", "run", "--", "--config=a"]), None);
    }
}
