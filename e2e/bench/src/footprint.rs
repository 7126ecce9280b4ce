//! `make footprint`: what a sidecar costs in a real pod, and how fast it answers. Writes `docs/footprint.md`.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use conch_e2e::{CONTAINER, Environment, Namespace, image_file};
use conch_images::Program;
use jiff::Zoned;

use crate::contender::{Contender, Shape, Timing};
use crate::election::{Election, deploy};
use crate::machine::{Machine, minutes};
use crate::report::bytes;
use crate::size;
use crate::statistics::{Times, show};
use crate::targets::{Target, at_most, print, table};
use crate::usage::{read, usages};

/// Two on each node: as soon as a node has two, the pages of the sidecar's program are no longer private to one of them.
const CANDIDATES: usize = 4;
/// The first reads and writes of new candidates are over, and nothing runs any more that was needed to begin.
const SETTLE: Duration = Duration::from_secs(20);
const FILE: &str = "footprint.md";

type ShowRole = fn(&Role) -> String;

const IMAGE_MAX_BYTES: f64 = 10e6;
const RESIDENT_MAX_BYTES: f64 = 10e6;
const PRIVATE_MAX_BYTES: f64 = 1.5e6;
const PROCESSOR_MAX_MILLICORES: f64 = 1.0;
const KEPT_P50_MAX: Duration = Duration::from_micros(60);
const KEPT_P99_MAX: Duration = Duration::from_millis(1);

/// How long and how often to measure.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Effort {
    /// For processor time.
    pub(crate) time: Duration,
    /// Answers that are timed, over a kept connection and over new ones.
    pub(crate) requests: usize,
}

/// What one sidecar uses while its program asks once a second: the leader's, or the mean of the followers'.
#[derive(Debug, Clone, Copy, Default)]
struct Role {
    millicores: f64,
    memory: Memory,
}

/// Of a process, in bytes, as the kernel counts it.
#[derive(Debug, Clone, Copy, Default)]
struct Memory {
    resident: f64,
    /// No other process has these pages.
    private: f64,
    /// Private pages that differ from the program's file: what one more sidecar on a node costs at least.
    private_dirty: f64,
    /// The resident pages, each divided by the number of its users.
    proportional: f64,
}

/// Everything that was measured.
#[derive(Debug)]
struct Footprint {
    machine: Machine,
    effort: Effort,
    images: [(Program, u64); 2],
    leader: Role,
    follower: Role,
    kept: Times,
    new: Times,
    took: Duration,
}

/// Measures on a cluster with Conch on it, writes the report into a directory, and returns whether all targets were reached.
pub(crate) fn run(
    environment: &Environment,
    machine: Machine,
    effort: Effort,
    directory: &Path,
) -> Result<bool> {
    let began = Instant::now();
    let namespace = Namespace::new(environment, "footprint")?;
    let shape = Shape { replicas: CANDIDATES, interval_ms: 1_000 };
    let elections = deploy(Contender::Conch, &namespace, Timing::Default, 1, shape)?;
    let election = elections.first().context("no election")?;
    election.wait_complete(CANDIDATES)?;
    thread::sleep(SETTLE);
    let (leader, follower) = roles(&elections, effort.time)?;
    let (kept, new) = (answers(election, effort, false)?, answers(election, effort, true)?);
    let image = |program| Ok::<_, anyhow::Error>((program, size(&image_file(program))?));
    let footprint = Footprint {
        machine,
        effort,
        images: [image(Program::Sidecar)?, image(Program::Operator)?],
        leader,
        follower,
        kept,
        new,
        took: began.elapsed(),
    };
    let path = directory.join(FILE);
    fs::write(&path, footprint.text()).with_context(|| format!("failed to write {}", path.display()))?;
    println!("wrote {}\n\n{}", path.display(), footprint.tables());
    Ok(print(&footprint.targets(), began.elapsed()))
}

/// Processor time over a while, and memory at its end.
fn roles(elections: &[Election<'_>], time: Duration) -> Result<(Role, Role)> {
    let before = usages(elections)?;
    println!("# processor time over {} s", time.as_secs());
    thread::sleep(time);
    let (mut leader, mut followers) = (Vec::new(), Vec::new());
    for (uid, after) in usages(elections)? {
        let before = before.get(&uid).filter(|before| before.leads == after.leads);
        let before = before.context("another pod leads than at the beginning")?;
        let rollup = PathBuf::from(format!("/proc/{}/smaps_rollup", after.process));
        let memory =
            Memory::parse(&read(&rollup)?).with_context(|| format!("{} lacks a field", rollup.display()))?;
        let role = Role { millicores: 1_000.0 * after.share_since(before), memory };
        println!("  leads: {}, {role:?}", after.leads);
        if after.leads { &mut leader } else { &mut followers }.push(role);
    }
    ensure!(leader.len() == 1 && followers.len() == CANDIDATES - 1, "not one leader and all followers");
    Ok((mean(&leader), mean(&followers)))
}

fn mean(roles: &[Role]) -> Role {
    let mean = |value: fn(&Role) -> f64| roles.iter().map(value).sum::<f64>() / bytes(roles.len() as u64);
    Role {
        millicores: mean(|role| role.millicores),
        memory: Memory {
            resident: mean(|role| role.memory.resident),
            private: mean(|role| role.memory.private),
            private_dirty: mean(|role| role.memory.private_dirty),
            proportional: mean(|role| role.memory.proportional),
        },
    }
}

/// Times the leader's answers to a client in its program's container.
fn answers(election: &Election<'_>, effort: Effort, new_connections: bool) -> Result<Times> {
    let leader = election.leader()?;
    println!("# {} answers, new connections: {new_connections}", effort.requests);
    let requests = effort.requests.to_string();
    let mut line =
        vec!["exec", &leader.name, "-c", CONTAINER, "--", "/conch-probe", "time", "--requests", &requests];
    if new_connections {
        line.push("--new-connections");
    }
    let text = election.first().namespace.kubectl(&line)?;
    let times =
        text.lines().map(|line| Ok(Duration::from_nanos(line.parse()?))).collect::<Result<Times>>()?;
    ensure!(times.all().len() == effort.requests, "{} answers", times.all().len());
    Ok(times)
}

impl Memory {
    /// From the text of `/proc/PID/smaps_rollup`.
    fn parse(rollup: &str) -> Option<Self> {
        let field = |name: &str| {
            let value = rollup.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
            Some(value.trim().strip_suffix(" kB")?.parse::<f64>().ok()? * 1024.0)
        };
        let private_dirty = field("Private_Dirty")?;
        Some(Self {
            resident: field("Rss")?,
            private: field("Private_Clean")? + private_dirty,
            private_dirty,
            proportional: field("Pss")?,
        })
    }
}

impl Footprint {
    fn targets(&self) -> Vec<Target> {
        let roles = [("leader", &self.leader), ("follower", &self.follower)];
        let [(_, image), _] = self.images;
        let mut targets = vec![number("the sidecar's image", bytes(image), IMAGE_MAX_BYTES, megabytes)];
        for (name, role) in roles {
            let memory = role.memory;
            targets.extend([
                number(&format!("{name}: resident memory"), memory.resident, RESIDENT_MAX_BYTES, megabytes),
                number(&format!("{name}: private memory"), memory.private, PRIVATE_MAX_BYTES, megabytes),
                number(
                    &format!("{name}: processor time"),
                    role.millicores,
                    PROCESSOR_MAX_MILLICORES,
                    millicores,
                ),
            ]);
        }
        let kept = |percent| self.kept.percentile(percent);
        targets.push(at_most("`GET /v1/leader`, connection kept, p50", kept(50), KEPT_P50_MAX));
        targets.push(at_most("`GET /v1/leader`, connection kept, p99", kept(99), KEPT_P99_MAX));
        targets
    }

    fn text(&self) -> String {
        format!(
            "# Footprint of a sidecar\n\n\
             Written by `make footprint` on {}, which ran for {}. Do not edit: run it again.\n\n\
             {}. Kubernetes 1.37.1 with two nodes, everything in namespaces of this one machine.\n\n{}\n\
             ## How it was measured\n\n{}",
            Zoned::now().date(),
            minutes(self.took),
            self.machine.line(),
            self.tables(),
            self.method(),
        )
    }

    fn tables(&self) -> String {
        let Self { leader, follower, .. } = self;
        let mut text = "## What Conch wants to reach\n\n".to_owned();
        text += &table(&self.targets());
        text += "\n## Everything\n\n| | Leader | Follower |\n|---|---|---|\n";
        let kinds: [(&str, ShowRole); 5] = [
            ("resident memory", |role| megabytes(role.memory.resident)),
            ("its private part", |role| megabytes(role.memory.private)),
            ("what of that was written to", |role| megabytes(role.memory.private_dirty)),
            ("proportional share", |role| megabytes(role.memory.proportional)),
            ("processor time", |role| millicores(role.millicores)),
        ];
        for (what, shown) in kinds {
            let _ = writeln!(text, "| {what} | {} | {} |", shown(leader), shown(follower));
        }
        text += "\n| `GET /v1/leader` | p50 | p99 | p99.9 | slowest |\n|---|---|---|---|---|\n";
        for (way, times) in [("connection kept", &self.kept), ("a new connection each", &self.new)] {
            let [p50, p99, p999, slowest] =
                [500, 990, 999, 1000].map(|permille| times.permille(permille).map_or_else(String::new, show));
            let _ = writeln!(text, "| {way} | {p50} | {p99} | {p999} | {slowest} |");
        }
        text += "\n| Image, not compressed | |\n|---|---|\n";
        for (program, size) in self.images {
            let _ = writeln!(text, "| {} | {} |", program.name(), megabytes(bytes(size)));
        }
        text
    }

    fn method(&self) -> String {
        format!(
            "* {CANDIDATES} candidates of one election with the default policy, two on each node; each program asks once a \
             second, which the processor time includes. Numbers of followers are the mean of {}.\n\
             * **Memory**: the kernel's `smaps_rollup` of the sidecar's process. Pages of its program are counted as private \
             on a node with one sidecar, and as shared as soon as it has two, as here.\n\
             * **Processor time**: of the sidecar's control group, over {} s, in thousandths of a core.\n\
             * **Answers**: the leader's, to `conch-probe time` in the program's container: {} questions one after the other, \
             after 10000 that do not count; from before the question is sent, and before the connection is opened where it is \
             new, until the answer was read whole. The client's own time is in it.\n",
            CANDIDATES - 1,
            self.effort.time.as_secs(),
            self.effort.requests,
        )
    }
}

fn number(what: &str, measured: f64, limit: f64, shown: fn(f64) -> String) -> Target {
    Target {
        text: format!("{what}: at most {}", shown(limit)),
        measured: shown(measured),
        reached: measured <= limit,
    }
}

fn megabytes(bytes: f64) -> String {
    format!("{:.2} MB", bytes / 1e6)
}

fn millicores(millicores: f64) -> String {
    format!("{millicores:.2} millicores")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_from_the_kernels_summary() {
        let rollup = "55-7f ---p 00000000 00:00 0   [rollup]\nRss:    6000 kB\nPss:    3000 kB\nPss_Dirty:  900 kB\n\
            Private_Clean:   100 kB\nPrivate_Dirty:   900 kB\n";
        let Memory { resident, private, private_dirty, proportional } = Memory::parse(rollup).unwrap();
        let kib = [resident, private, private_dirty, proportional].map(|bytes| (bytes / 1024.0).to_string());
        assert_eq!(kib, ["6000", "1000", "900", "3000"]);
        assert!(Memory::parse("Rss: 1 kB\n").is_none());
    }

    #[test]
    fn a_number_above_its_limit_is_missed() {
        let target = |measured| number("image", measured, IMAGE_MAX_BYTES, megabytes);
        assert!(target(10e6).reached && !target(10_000_001.0).reached);
        assert_eq!(target(6_600_000.0).measured, "6.60 MB");
    }
}
