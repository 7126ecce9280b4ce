//! Keeping daemons alive: the first process of each pid namespace starts them, restarts those that end
//! by themselves, and reaps every orphan.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::OpenOptions;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitOptions, WaitStatus, getpid, kill_process, wait, waitpid};

use crate::command::{command, output};
use crate::error::{Context, Error, Result};

/// How often ended children are looked for.
const REAP_INTERVAL: Duration = Duration::from_millis(100);
/// How long a daemon that ended by itself stays down.
const RESTART_DELAY: Duration = Duration::from_secs(1);
/// How long a killed daemon may take to be gone.
const DEATH_LIMIT: Duration = Duration::from_secs(20);

/// A program that is kept running.
#[derive(Debug, Clone)]
pub(crate) struct Daemon {
    pub(crate) name: String,
    pub(crate) program: PathBuf,
    pub(crate) arguments: Vec<OsString>,
    pub(crate) log: PathBuf,
    /// Whether it is started again when it ends by itself.
    pub(crate) restart: bool,
}

struct Entry {
    daemon: Daemon,
    pid: Option<Pid>,
    /// When to start it again, if it ended by itself.
    due: Option<Instant>,
}

/// The daemons of one pid namespace.
#[derive(Default)]
pub(crate) struct Keeper {
    daemons: Mutex<BTreeMap<String, Entry>>,
    /// Held while a child is waited for by its starter, so that the reaper does not take its exit status.
    commands: Mutex<()>,
}

impl Keeper {
    /// A keeper with its reaping thread.
    pub(crate) fn begin() -> Arc<Self> {
        let keeper = Arc::new(Self::default());
        let reaper = Arc::clone(&keeper);
        std::thread::spawn(move || {
            loop {
                reaper.reap();
                reaper.start_due();
                std::thread::sleep(REAP_INTERVAL);
            }
        });
        keeper
    }

    fn daemons(&self) -> MutexGuard<'_, BTreeMap<String, Entry>> {
        self.daemons.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs a program to its end.
    pub(crate) fn run(&self, program: impl Into<PathBuf>, arguments: &[&str]) -> Result<String> {
        let _guard = self.commands.lock().unwrap_or_else(PoisonError::into_inner);
        output(command(program).args(arguments))
    }

    /// Starts a daemon, unless it runs.
    pub(crate) fn start(&self, daemon: Daemon) -> Result<u32> {
        // The lock is held over the start, so that the reaper never sees a child that is not listed.
        let mut daemons = self.daemons();
        if let Some(pid) = daemons.get(&daemon.name).and_then(|entry| entry.pid) {
            return Ok(number(pid));
        }
        let pid = spawn(&daemon)?;
        daemons.insert(daemon.name.clone(), Entry { daemon, pid: Some(pid), due: None });
        Ok(number(pid))
    }

    /// Starts a daemon of before again.
    pub(crate) fn start_again(&self, name: &str) -> Result<u32> {
        let daemon = self.daemons().get(name).map(|entry| entry.daemon.clone());
        self.start(daemon.ok_or_else(|| Error::Refused(format!("{name} was never started")))?)
    }

    /// The pid of a daemon, if it runs.
    pub(crate) fn pid(&self, name: &str) -> Option<u32> {
        self.daemons().get(name).and_then(|entry| entry.pid).map(number)
    }

    /// Sends a signal to a daemon that runs.
    pub(crate) fn signal(&self, name: &str, signal: Signal) -> Result<()> {
        let daemons = self.daemons();
        let pid = daemons.get(name).and_then(|entry| entry.pid);
        let pid = pid.ok_or_else(|| Error::Refused(format!("{name} does not run; restart it first")))?;
        kill_process(pid, signal).doing(|| format!("cannot signal {name}"))
    }

    /// Kills a daemon for good and waits until it is gone; fine if it does not run.
    pub(crate) fn kill(&self, name: &str) -> Result<()> {
        if let Some(entry) = self.daemons().get_mut(name) {
            entry.daemon.restart = false;
            entry.due = None;
            if let Some(pid) = entry.pid {
                // It may have gone by itself.
                let _ = kill_process(pid, Signal::KILL);
            }
        }
        let deadline = Instant::now() + DEATH_LIMIT;
        while self.pid(name).is_some() {
            self.reap();
            if Instant::now() > deadline {
                return Err(Error::Refused(format!("{name} did not die within {} s", DEATH_LIMIT.as_secs())));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// Sets whether a daemon is started again when it ends by itself.
    pub(crate) fn set_restart(&self, name: &str, restart: bool) {
        if let Some(entry) = self.daemons().get_mut(name) {
            entry.daemon.restart = restart;
        }
    }

    fn reap(&self) {
        let _guard = self.commands.lock().unwrap_or_else(PoisonError::into_inner);
        // The first process of a namespace inherits every orphan; any other has no child but the daemons.
        if getpid().is_init() {
            while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
                self.ended(pid, status);
            }
            return;
        }
        let pids: Vec<Pid> = self.daemons().values().filter_map(|entry| entry.pid).collect();
        for pid in pids {
            if let Ok(Some((pid, status))) = waitpid(Some(pid), WaitOptions::NOHANG) {
                self.ended(pid, status);
            }
        }
    }

    fn ended(&self, pid: Pid, status: WaitStatus) {
        if let Some(entry) = self.daemons().values_mut().find(|entry| entry.pid == Some(pid)) {
            entry.pid = None;
            entry.due = entry.daemon.restart.then(|| Instant::now() + RESTART_DELAY);
            eprintln!("{} ended: {status:?}", entry.daemon.name);
        }
    }

    fn start_due(&self) {
        let now = Instant::now();
        for entry in self.daemons().values_mut() {
            if entry.due.is_some_and(|due| due <= now) {
                eprintln!("starting {} again", entry.daemon.name);
                match spawn(&entry.daemon) {
                    Ok(pid) => (entry.pid, entry.due) = (Some(pid), None),
                    Err(error) => {
                        eprintln!("{error}");
                        entry.due = Some(now + RESTART_DELAY);
                    }
                }
            }
        }
    }
}

fn number(pid: Pid) -> u32 {
    pid.as_raw_nonzero().get().unsigned_abs()
}

fn spawn(daemon: &Daemon) -> Result<Pid> {
    let log = OpenOptions::new().create(true).append(true).open(&daemon.log).at("open", &daemon.log)?;
    let errors = log.try_clone().at("open", &daemon.log)?;
    let mut command = Command::new(&daemon.program);
    command.args(&daemon.arguments).stdin(Stdio::null()).stdout(log).stderr(errors);
    let child = command.spawn().at("start", &daemon.program)?;
    // The reaper waits for it.
    Ok(Pid::from_child(&child))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn daemon(directory: &tempfile::TempDir, script: &str) -> Daemon {
        Daemon {
            name: "d".into(),
            program: "/bin/sh".into(),
            arguments: vec!["-c".into(), script.into()],
            log: directory.path().join("log"),
            restart: true,
        }
    }

    #[test]
    fn daemons_are_restarted_unless_killed_for_good() {
        let directory = tempfile::tempdir().unwrap();
        let keeper = Keeper::begin();
        keeper.start(daemon(&directory, "echo begun; sleep 0.2")).unwrap();
        let count = || std::fs::read_to_string(directory.path().join("log")).unwrap().lines().count();
        let deadline = Instant::now() + Duration::from_secs(20);
        while count() < 2 {
            assert!(Instant::now() < deadline, "not restarted");
            std::thread::sleep(Duration::from_millis(20));
        }
        keeper.kill("d").unwrap();
        let before = count();
        std::thread::sleep(RESTART_DELAY * 2);
        assert_eq!((keeper.pid("d"), count()), (None, before));
        assert!(keeper.signal("d", Signal::STOP).unwrap_err().to_string().contains("does not run"));
        assert_eq!(keeper.run("echo", &["fine"]).unwrap(), "fine\n");
    }
}
