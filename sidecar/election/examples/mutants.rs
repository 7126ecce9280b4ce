//! Switches off one safety rule after the other in a copy of this crate, and shows that the tests notice.
//!
//! Each file of `mutants/` is a mutant: the rule, who must catch it (the simulation by an `overlap`, the `simulation` by
//! anything, or the `rules` where the rule keeps something that the simulation does not claim), and replacements of source text, each of which must match exactly once. The elector
//! itself has no switches. `mutants [NAME...]`; `RUNS=n` sets after how many seeds the simulation gives up.
//!
//! One line for each mutant: by which rule tests it is caught, and after how many runs of the simulation, with what.
//! The last line is `N passed, N failed`; a mutant that does not compile, or does not match, is a failure of its own kind.

#![expect(clippy::unwrap_used, clippy::panic, reason = "it is a test")]

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

const RUNS: &str = "20000";
/// For what the simulation need not catch.
const FEW_RUNS: &str = "1000";
/// A mutant may wait for ever; no mutant that does not needs so long.
const TIMEOUT_S: &str = "300";

/// The copy is a crate of its own: no workspace, no lints, no debug information.
const MANIFEST: &str = r#"
[package]
name = "conch-election"
version = "0.0.0"
edition = "2024"

[workspace]

[profile.dev]
opt-level = 2
debug = false
"#;

struct Mutant {
    name: String,
    rule: String,
    by: By,
    replacements: Vec<Replacement>,
}

/// Who must catch it.
#[derive(Clone, Copy, PartialEq)]
enum By {
    /// The simulation, by two programs that rightly believe that they lead.
    Overlap,
    /// The simulation, by whatever must not happen.
    Simulation,
    Rules,
}

struct Replacement {
    file: String,
    search: String,
    replace: String,
}

enum Verdict {
    Caught(String),
    Missed(String),
    Broken(String),
}

/// What one kind of test made of a mutant: `None` if it passed.
type Catch = Option<String>;

fn main() -> ExitCode {
    let origin = Path::new(env!("CARGO_MANIFEST_DIR"));
    let copy = origin.join("../../target/mutants");
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    let mutants: Vec<Mutant> = read_mutants(&origin.join("mutants"))
        .into_iter()
        .filter(|mutant| wanted.is_empty() || wanted.contains(&mutant.name))
        .collect();
    refresh(origin, &copy);
    match test(&copy, By::Rules) {
        Ok((None, None)) => println!("the unaltered elector passes"),
        Ok(catches) => panic!("the unaltered elector fails: {catches:?}"),
        Err(errors) => panic!("the unaltered elector does not compile: {errors}"),
    }
    let (mut passed, mut failed) = (0, 0);
    for mutant in &mutants {
        refresh(origin, &copy);
        let (word, what) = match judge(mutant, &copy) {
            Verdict::Caught(what) => ("caught", what),
            Verdict::Missed(what) => ("MISSED", what),
            Verdict::Broken(what) => ("BROKEN", what),
        };
        println!("{word} {}: {what}  ({})", mutant.name, mutant.rule);
        if word == "caught" { passed += 1 } else { failed += 1 }
    }
    println!("{passed} passed, {failed} failed");
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn judge(mutant: &Mutant, copy: &Path) -> Verdict {
    for Replacement { file, search, replace } in &mutant.replacements {
        let path = copy.join(file);
        let source = fs::read_to_string(&path).unwrap();
        let matches = source.matches(search.as_str()).count();
        if matches != 1 {
            return Verdict::Broken(format!("matches {matches} times in {file}"));
        }
        fs::write(&path, source.replacen(search.as_str(), replace, 1)).unwrap();
    }
    match test(copy, mutant.by) {
        Err(errors) => Verdict::Broken(format!("does not compile: {errors}")),
        Ok((rules, simulation)) => {
            let caught = if mutant.by == By::Rules { rules.is_some() } else { simulation.is_some() };
            let text = format!(
                "{}; {}",
                rules.as_deref().unwrap_or("by no rule test"),
                simulation.as_deref().unwrap_or("not by the simulation"),
            );
            if caught { Verdict::Caught(text) } else { Verdict::Missed(text) }
        }
    }
}

/// What the rule tests say, and what the simulation says; or why nothing could be built.
fn test(copy: &Path, by: By) -> Result<(Catch, Catch), String> {
    cargo(copy, &["test", "--no-run", "--lib", "--test", "rules"])?;
    cargo(copy, &["build", "--example", "simulate"])?;
    let rules = match cargo(
        copy,
        &["test", "--no-fail-fast", "--lib", "--test", "rules", "--", "--format", "pretty"],
    ) {
        Ok(_) => None,
        Err(output) => Some(failed_tests(&output)),
    };
    let runs = std::env::var("RUNS").unwrap_or_else(|_| RUNS.to_owned());
    let simulation = match by {
        By::Overlap => cargo(copy, &["run", "--example", "simulate", "--", &runs, "overlap"]),
        By::Simulation => cargo(copy, &["run", "--example", "simulate", "--", &runs]),
        By::Rules => cargo(copy, &["run", "--example", "simulate", "--", FEW_RUNS]),
    };
    let simulation = match simulation {
        Ok(_) => None,
        Err(output) => Some(failed_seed(&output)),
    };
    Ok((rules, simulation))
}

fn failed_tests(output: &str) -> String {
    let mut names: Vec<&str> =
        output.lines().filter_map(|line| line.strip_prefix("test ")?.strip_suffix(" ... FAILED")).collect();
    names.sort_unstable();
    match names[..] {
        [] => "by rule tests that do not end".to_owned(),
        [one] => format!("by {one}"),
        [first, ..] => format!("by {} rule tests, e.g. {first}", names.len()),
    }
}

fn failed_seed(output: &str) -> String {
    let Some(violation) = output.lines().find_map(|line| line.strip_prefix("seed ")) else {
        let last = output.lines().last().unwrap_or("nothing");
        return format!("by a simulation that breaks off ({last})");
    };
    let (seed, violation) = violation.split_once(": ").unwrap_or((violation, ""));
    let kind = violation.split(':').next().unwrap_or_default();
    let runs = seed.parse::<u64>().map_or(0, |seed| seed + 1);
    format!("by the simulation after {runs} runs ({kind})")
}

/// What the command printed; as an error if it failed or did not end.
fn cargo(copy: &Path, arguments: &[&str]) -> Result<String, String> {
    let output = Command::new("timeout")
        .args([TIMEOUT_S, "cargo", "--quiet"])
        .args(arguments)
        .current_dir(copy)
        .env("CARGO_TARGET_DIR", copy.join("target"))
        .env("RUST_BACKTRACE", "0")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    if output.status.success() { Ok(text) } else { Err(text) }
}

/// Makes the copy as the origin is. Files that are the same stay, so that cargo builds no more than it must.
fn refresh(origin: &Path, copy: &Path) {
    write_if_new(&copy.join("Cargo.toml"), MANIFEST.as_bytes());
    for folder in ["src", "tests/rules", "tests/simulation", "tests/simulation/world"] {
        for file in files_in(&origin.join(folder)) {
            let name = file.file_name().unwrap();
            write_if_new(&copy.join(folder).join(name), &fs::read(&file).unwrap());
        }
    }
    let simulate = "examples/simulate.rs";
    write_if_new(&copy.join(simulate), &fs::read(origin.join(simulate)).unwrap());
}

fn write_if_new(path: &Path, content: &[u8]) {
    if fs::read(path).is_ok_and(|present| present == content) {
        return;
    }
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}

fn files_in(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_file())
        .collect();
    files.sort();
    files
}

fn read_mutants(folder: &Path) -> Vec<Mutant> {
    files_in(folder).iter().map(|path| parse(path)).collect()
}

fn parse(path: &Path) -> Mutant {
    let name = path.file_stem().unwrap().to_string_lossy().into_owned();
    let text = fs::read_to_string(path).unwrap();
    let mut parts = text.split("\n--- ");
    let head = parts.next().unwrap_or_default();
    let (rule, by) =
        head.trim().split_once("\ncaught by: ").unwrap_or_else(|| panic!("{name}: who catches it?"));
    let by = match by {
        "overlap" => By::Overlap,
        "simulation" => By::Simulation,
        "rules" => By::Rules,
        other => panic!("{name}: nobody is called {other}"),
    };
    let replacements: Vec<_> = parts.map(|part| replacement(&name, part)).collect();
    assert!(!replacements.is_empty(), "{name}: changes nothing");
    Mutant { name, rule: rule.to_owned(), by, replacements }
}

fn replacement(name: &str, part: &str) -> Replacement {
    let parsed = part.split_once("\n<<<<\n").and_then(|(file, rest)| {
        let (search, rest) = rest.split_once("\n====\n")?;
        let (replace, _) = rest.split_once("\n>>>>")?;
        Some(Replacement { file: file.to_owned(), search: search.to_owned(), replace: replace.to_owned() })
    });
    parsed.unwrap_or_else(|| panic!("{name}: no replacement: {part}"))
}
