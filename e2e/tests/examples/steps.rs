//! What the resource wrote down, and the checker's verdict over it.

use std::fs;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use conch_e2e::checker::{History, Run, Verdict};
use conch_probe::Line;

/// One attempt to write, accepted or not. Times are nanoseconds of the wall clock: one resource, one clock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Step {
    pub(crate) at: u64,
    /// The address of the pod.
    pub(crate) by: String,
    pub(crate) token: String,
}

/// Now, on the clock of the steps.
pub(crate) fn now() -> u64 {
    u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos()).unwrap()
}

/// All of a log that whole lines tell: of the ledger, or of PostgreSQL.
pub(crate) fn read(log: &Path) -> Vec<Step> {
    let text = fs::read_to_string(log).unwrap_or_default();
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    whole.lines().filter_map(|line| of_ledger(line).or_else(|| of_postgres(line))).collect()
}

/// `1763856000123456789 10.89.1.4 00000000000000000123 200`
fn of_ledger(line: &str) -> Option<Step> {
    let words: Vec<_> = line.split(' ').collect();
    let [at, by, token, _] = words[..] else { return None };
    Some(Step { at: at.parse().ok()?, by: by.to_owned(), token: token.to_owned() })
}

/// `1763856000.123 10.89.1.4 LOG:  statement: SELECT conch_fence('payments', '00000000000000000123');`
fn of_postgres(line: &str) -> Option<Step> {
    let (prefix, statement) = line.split_once(" LOG:  statement: SELECT conch_fence('payments', '")?;
    let (at, by) = prefix.split_once(' ')?;
    let (seconds, milliseconds) = at.split_once('.')?;
    let milliseconds: u64 = format!("{seconds}{milliseconds:0<3}").parse().ok()?;
    let token = statement.split('\'').next()?.to_owned();
    Some(Step { at: milliseconds * 1_000_000, by: by.to_owned(), token })
}

/// A pod is at work in a term from its first step with the term's token to its last one.
pub(crate) fn judge(steps: &[Step]) -> Verdict {
    let mut history = History::default();
    for step in steps {
        let same = |other: &&Step| (&other.by, &other.token) == (&step.by, &step.token);
        let last = steps.iter().filter(same).map(|step| step.at).max().unwrap_or(step.at);
        let token = step.token.parse().expect("a step without a token");
        let line = Line::Yes { asked: step.at, answered: step.at, deadline: last + 1, token };
        match history.runs.iter_mut().find(|run| run.pod == step.by) {
            Some(run) => run.lines.push(line),
            None => history.runs.push(Run { pod: step.by.clone(), lines: vec![line], died: None }),
        }
    }
    history.judge()
}

#[test]
fn the_lines_of_both_resources_are_read_and_others_are_not() {
    let text = "7000000 10.89.1.4 00000000000000000123 412\n\
        0.009 10.89.2.5 LOG:  statement: SELECT conch_fence('payments', '00000000000000000124');\n\
        0.009 10.89.2.5 LOG:  statement: BEGIN;\n8000000 10.89.1.4 0000";
    let log = tempfile::NamedTempFile::new().unwrap();
    fs::write(log.path(), text).unwrap();
    let step = |at, by: &str, token: &str| Step { at, by: by.to_owned(), token: token.to_owned() };
    let first = step(7_000_000, "10.89.1.4", "00000000000000000123");
    assert_eq!(read(log.path()), [first, step(9_000_000, "10.89.2.5", "00000000000000000124")]);
}

#[test]
fn work_of_one_pod_between_two_steps_of_another_is_an_overlap() {
    let step = |at, by: &str, token: u32| Step { at, by: by.to_owned(), token: format!("{token:020}") };
    let fine = [step(1, "a", 5), step(9, "a", 5), step(20, "b", 6), step(30, "b", 6)];
    assert_eq!(judge(&fine).faults(), Vec::<String>::new());
    let torn = [step(1, "a", 5), step(9, "b", 6), step(20, "a", 5)];
    let verdict = judge(&torn);
    assert!(verdict.overlap > 0 && verdict.token_fault.is_some(), "{verdict}");
}
