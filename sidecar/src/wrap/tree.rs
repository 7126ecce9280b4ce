//! Everything that a process has started, however often it forked: found, signalled, and proven dead.
//!
//! A process that made itself the reaper of its descendants (`PR_SET_CHILD_SUBREAPER`) becomes the parent of each whose own parent
//! dies, daemons too. So all of them can be found from `/proc` by their parents, and when it has no child left, no
//! descendant is left.

use rustix::{
    io::Errno,
    process::{
        Pid, PidfdFlags, Signal, WaitOptions, WaitStatus, getpid, pidfd_open, pidfd_send_signal,
        set_child_subreaper, wait,
    },
};
use std::{collections::HashMap, fs, io};

/// From now on every orphan among this process's descendants becomes its child.
pub fn adopt_orphans() -> io::Result<()> {
    Ok(set_child_subreaper(Some(getpid()))?)
}

/// Takes note of the children that have ended, and calls `ended` for each. `false`: there is no child, dead or alive.
pub fn reap(mut ended: impl FnMut(Pid, WaitStatus)) -> io::Result<bool> {
    loop {
        match wait(WaitOptions::NOHANG) {
            Ok(Some((pid, status))) => ended(pid, status),
            Ok(None) => return Ok(true),
            Err(Errno::CHILD) => return Ok(false),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Sends a signal to every descendant of this process. Those that are started meanwhile are for the next call; those that
/// may not be signalled (another user's) are left, and will be seen as children that do not end.
pub fn signal_descendants(signal: Signal) -> io::Result<()> {
    let processes = list()?;
    let own = getpid().as_raw_nonzero().get();
    for (pid, process) in &processes {
        if !descends(&processes, *pid, own) {
            continue;
        }
        let Some(number) = Pid::from_raw(*pid) else { continue };
        let Ok(handle) = pidfd_open(number, PidfdFlags::empty()) else { continue };
        // The number may have been given to another process since the list was made; the handle stays with its own.
        if read(*pid).is_some_and(|now| now.started == process.started) {
            let _ = pidfd_send_signal(handle, signal); // it may have ended meanwhile
        }
    }
    Ok(())
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Process {
    parent: i32,
    /// Clock ticks since the machine's start: together with the number this is one process for ever.
    started: u64,
}

fn list() -> io::Result<HashMap<i32, Process>> {
    let mut processes = HashMap::new();
    for entry in fs::read_dir("/proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        // One that ended meanwhile is no loss.
        if let Some(process) = read(pid) {
            processes.insert(pid, process);
        }
    }
    Ok(processes)
}

fn read(pid: i32) -> Option<Process> {
    parse(&String::from_utf8_lossy(&fs::read(format!("/proc/{pid}/stat")).ok()?))
}

/// proc(5), `/proc/PID/stat`: the name stands in parentheses and may hold any character, parentheses too.
fn parse(stat: &str) -> Option<Process> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace();
    let parent = fields.nth(1)?.parse().ok()?; // field 4
    let started = fields.nth(17)?.parse().ok()?; // field 22
    Some(Process { parent, started })
}

fn descends(processes: &HashMap<i32, Process>, pid: i32, ancestor: i32) -> bool {
    let mut current = pid;
    // The list is no snapshot: parents that changed meanwhile must not make a circle of it.
    for _ in 0..processes.len() {
        match processes.get(&current) {
            Some(process) if process.parent == ancestor => return true,
            Some(process) => current = process.parent,
            None => return false,
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_read_whatever_its_name_is() {
        let rest = "S 7 42 42 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 987654 1 2";
        for name in ["sh", "a b", ") S 1 (", "a\nb"] {
            let process = parse(&format!("42 ({name}) {rest}"));
            assert_eq!(process, Some(Process { parent: 7, started: 987_654 }), "{name}");
        }
        assert_eq!(parse("42 (sh"), None);
        assert_eq!(parse("42 (sh) S 7"), None);
        let parent = std::os::unix::process::parent_id();
        assert_eq!(read(std::process::id().cast_signed()).unwrap().parent, parent.cast_signed());
    }

    #[test]
    fn descendants_are_found_through_any_number_of_parents_and_circles_end() {
        let process = |parent| Process { parent, started: 0 };
        let processes = HashMap::from([
            (1, process(0)),
            (10, process(1)),
            (11, process(10)),
            (12, process(11)),
            (20, process(1)),
            (30, process(31)),
            (31, process(30)),
        ]);
        let found = |ancestor| {
            let mut found: Vec<i32> =
                processes.keys().copied().filter(|pid| descends(&processes, *pid, ancestor)).collect();
            found.sort_unstable();
            found
        };
        assert_eq!(found(10), [11, 12]);
        assert_eq!(found(1), [10, 11, 12, 20]);
        assert_eq!(found(12), [] as [i32; 0]);
    }
}
