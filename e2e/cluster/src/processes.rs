//! Looking at processes through /proc.

use std::fs;

use rustix::process::{Pid, Signal, kill_process};

/// Kills a process; fine if there is none.
pub(crate) fn kill(pid: u32) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        let _ = kill_process(pid, Signal::KILL);
    }
}

/// What /proc says of a process.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Stat {
    pub(crate) state: char,
    pub(crate) parent: u32,
    /// When it began, in ticks since the machine's start: tells a process from a later one with its pid.
    pub(crate) begun: u64,
}

/// A process's state, unless there is no such process.
pub(crate) fn stat(pid: u32) -> Option<Stat> {
    parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

fn parse(text: &str) -> Option<Stat> {
    // The name may hold spaces and parentheses; the last one ends it.
    let mut fields = text.get(text.rfind(')')? + 1..)?.split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    let parent = fields.next()?.parse().ok()?;
    let begun = fields.nth(17)?.parse().ok()?;
    Some(Stat { state, parent, begun })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_is_no_trap() {
        let text = "7 (a) b (c) S 3 7 7 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 4242 0 0";
        assert_eq!(parse(text), Some(Stat { state: 'S', parent: 3, begun: 4242 }));
    }

    #[test]
    fn this_process_is_there() {
        let me = stat(std::process::id()).unwrap();
        assert_eq!(me.parent, std::os::unix::process::parent_id());
        assert!(stat(u32::MAX).is_none());
    }
}
