//! The cluster's control groups, on cgroup v1 and v2: joining, freezing, listing, removing.
//!
//! Layout: `CLUSTER/control` holds the control plane, `CLUSTER/node-N/system` a node's daemons and
//! `CLUSTER/node-N/kubepods` its pods, so that the group `node-N` is all that a node runs.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::error::{Context, Error, Result};

/// How long a freezer may take to stop every process.
const FREEZE_LIMIT: Duration = Duration::from_secs(10);
/// How long killed processes may take to leave their groups.
const EMPTY_LIMIT: Duration = Duration::from_secs(20);

/// One mounted hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Hierarchy {
    mount: PathBuf,
    /// The controllers of a version 1 hierarchy; none for version 2.
    controllers: Option<Vec<String>>,
}

impl Hierarchy {
    fn has(&self, controller: &str) -> bool {
        self.controllers.as_ref().is_some_and(|all| all.iter().any(|one| one == controller))
    }
}

/// The machine's control groups.
#[derive(Debug, Clone)]
pub(crate) struct Cgroups {
    hierarchies: Vec<Hierarchy>,
}

impl Cgroups {
    /// Finds the mounted hierarchies.
    pub(crate) fn find() -> Result<Self> {
        let path = Path::new("/proc/self/mountinfo");
        let hierarchies = parse_mounts(&fs::read_to_string(path).at("read", path)?);
        let found = Self { hierarchies };
        if found.is_v2() || found.freezer_v1().is_some() {
            return Ok(found);
        }
        Err(Error::Prerequisite(
            "no cgroups are mounted: mount cgroup2 at /sys/fs/cgroup, or the version 1 controllers below it"
                .into(),
        ))
    }

    /// Whether version 2 alone is in use; a hybrid machine counts as version 1, as it does for runc.
    pub(crate) fn is_v2(&self) -> bool {
        !self.hierarchies.is_empty() && self.hierarchies.iter().all(|one| one.controllers.is_none())
    }

    fn freezer_v1(&self) -> Option<&Hierarchy> {
        self.hierarchies.iter().find(|one| one.has("freezer"))
    }

    /// The hierarchy that is used for freezing and for finding processes.
    fn process_root(&self) -> PathBuf {
        let chosen = self.freezer_v1().or_else(|| self.hierarchies.first());
        chosen.map_or_else(|| PathBuf::from("/sys/fs/cgroup"), |one| one.mount.clone())
    }

    /// Creates a group (relative to the roots) in every hierarchy, ready to hold processes and groups.
    pub(crate) fn create(&self, group: &str) -> Result<()> {
        for hierarchy in &self.hierarchies {
            let mut directory = hierarchy.mount.clone();
            for part in Path::new(group).components() {
                if hierarchy.controllers.is_none() && self.is_v2() {
                    enable_controllers(&directory)?;
                }
                let parent = directory.clone();
                directory.push(part);
                fs::create_dir_all(&directory).at("create the control group", &directory)?;
                if hierarchy.has("cpuset") {
                    copy_cpuset(&parent, &directory)?;
                }
            }
        }
        Ok(())
    }

    /// Moves the calling process into a group, creating it.
    pub(crate) fn join(&self, group: &str) -> Result<()> {
        self.create(group)?;
        for hierarchy in &self.hierarchies {
            let file = hierarchy.mount.join(group).join("cgroup.procs");
            // 0 is the writer itself, whichever pid namespace it is in.
            fs::write(&file, "0").at("join the control group", &file)?;
        }
        Ok(())
    }

    /// Freezes or thaws a group with all below it, and waits until that is done.
    pub(crate) fn set_frozen(&self, group: &str, frozen: bool) -> Result<()> {
        let directory = self.process_root().join(group);
        if !directory.exists() {
            return Ok(());
        }
        let (file, value) = match (self.is_v2(), frozen) {
            (true, true) => ("cgroup.freeze", "1"),
            (true, false) => ("cgroup.freeze", "0"),
            (false, true) => ("freezer.state", "FROZEN"),
            (false, false) => ("freezer.state", "THAWED"),
        };
        let path = directory.join(file);
        fs::write(&path, value).at("write", &path)?;
        let deadline = Instant::now() + FREEZE_LIMIT;
        while frozen && !self.is_frozen(&directory)? {
            if Instant::now() > deadline {
                return Err(Error::Late {
                    what: format!("the processes of {group} were not frozen"),
                    seconds: FREEZE_LIMIT.as_secs(),
                    look: path,
                });
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// Thaws a group and all below it, as far as they exist.
    pub(crate) fn thaw_all(&self, group: &str) {
        let (file, value) = if self.is_v2() { ("cgroup.freeze", "0") } else { ("freezer.state", "THAWED") };
        for directory in below(&self.process_root().join(group)) {
            // A group that is just going away needs no thawing.
            let _ = fs::write(directory.join(file), value);
        }
    }

    fn is_frozen(&self, directory: &Path) -> Result<bool> {
        if self.is_v2() {
            let events = directory.join("cgroup.events");
            return Ok(fs::read_to_string(&events)
                .at("read", &events)?
                .lines()
                .any(|line| line == "frozen 1"));
        }
        let state = directory.join("freezer.state");
        Ok(fs::read_to_string(&state).at("read", &state)?.trim() == "FROZEN")
    }

    /// The processes of a group and of all groups below it, as this pid namespace numbers them.
    pub(crate) fn processes(&self, group: &str) -> Vec<u32> {
        let mut found = Vec::new();
        // Daemons are in every hierarchy, but only this one is sure to hold each container too.
        for directory in below(&self.process_root().join(group)) {
            let text = fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
            found.extend(text.lines().filter_map(|line| line.trim().parse::<u32>().ok()));
        }
        found
    }

    /// Waits until a group has no process.
    pub(crate) fn wait_empty(&self, group: &str) -> Result<()> {
        let deadline = Instant::now() + EMPTY_LIMIT;
        while !self.processes(group).is_empty() {
            if Instant::now() > deadline {
                return Err(Error::Late {
                    what: format!("killed processes of {group} were not gone"),
                    seconds: EMPTY_LIMIT.as_secs(),
                    look: self.process_root().join(group),
                });
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// Removes a group, and all below it, from every hierarchy; the processes must be gone.
    pub(crate) fn remove(&self, group: &str) -> Result<()> {
        for hierarchy in &self.hierarchies {
            let mut directories = below(&hierarchy.mount.join(group));
            directories.reverse();
            for directory in directories {
                remove_group(&directory)?;
            }
        }
        Ok(())
    }
}

/// Removes one group; the kernel may need a moment after the last process has gone.
fn remove_group(directory: &Path) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        match fs::remove_dir(directory) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) if Instant::now() > deadline => {
                return Err(error).at("remove the control group", directory);
            }
            Err(_) => std::thread::sleep(Duration::from_millis(10)),
        }
    }
}

/// A directory and all below it, parents first; nothing if it does not exist.
fn below(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![directory.to_owned()];
    while let Some(next) = open.pop() {
        let Ok(entries) = fs::read_dir(&next) else { continue };
        open.extend(entries.flatten().map(|entry| entry.path()).filter(|path| path.is_dir()));
        found.push(next);
    }
    found
}

/// Lets a version 2 group's children use every controller that it has itself and that kubelet knows.
fn enable_controllers(directory: &Path) -> Result<()> {
    let available = directory.join("cgroup.controllers");
    let text = fs::read_to_string(&available).at("read", &available)?;
    let file = directory.join("cgroup.subtree_control");
    let known = ["cpuset", "cpu", "io", "memory", "hugetlb", "pids"];
    for controller in text.split_whitespace().filter(|name| known.contains(name)) {
        match fs::write(&file, format!("+{controller}")) {
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
                return Err(Error::Prerequisite(format!(
                    "{} holds processes itself, so groups below it get no controllers: set CONCH_CGROUP_PARENT \
                     to the path of a delegated control group without processes of its own",
                    directory.display()
                )));
            }
            other => other.at("write", &file)?,
        }
    }
    Ok(())
}

/// A new version 1 cpuset is empty and takes no process until it has processors and memory.
fn copy_cpuset(parent: &Path, directory: &Path) -> Result<()> {
    for name in ["cpuset.cpus", "cpuset.mems"] {
        let file = directory.join(name);
        let current = fs::read_to_string(&file).at("read", &file)?;
        if current.trim().is_empty() {
            let from = parent.join(name);
            let value = fs::read_to_string(&from).at("read", &from)?;
            fs::write(&file, value.trim()).at("write", &file)?;
        }
    }
    Ok(())
}

/// The cgroup mounts of a `mountinfo` text.
fn parse_mounts(text: &str) -> Vec<Hierarchy> {
    let mut found: Vec<Hierarchy> = Vec::new();
    for line in text.lines() {
        let Some((left, right)) = line.split_once(" - ") else { continue };
        let Some(mount) = left.split(' ').nth(4) else { continue };
        let mut right = right.split(' ');
        let controllers = match right.next() {
            Some("cgroup") => Some(right.nth(1).unwrap_or_default().split(',').map(str::to_owned).collect()),
            Some("cgroup2") => None,
            _ => continue,
        };
        // A hierarchy that is mounted twice is one hierarchy; the first mount serves.
        let mount = PathBuf::from(mount);
        if found.iter().all(|one| one.mount != mount && (one.controllers != controllers)) {
            found.push(Hierarchy { mount, controllers });
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const V1: &str = "\
31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct
37 31 0:34 / /sys/fs/cgroup/freezer rw,relatime shared:9 - cgroup cgroup rw,freezer
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
";
    const V2: &str = "29 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";

    #[test]
    fn hybrid_hierarchies_count_as_version_1() {
        let cgroups = Cgroups { hierarchies: parse_mounts(V1) };
        assert_eq!(cgroups.hierarchies.len(), 4);
        assert!(!cgroups.is_v2());
        assert_eq!(cgroups.process_root(), Path::new("/sys/fs/cgroup/freezer"));
    }

    #[test]
    fn version_2_alone_is_recognised() {
        let cgroups = Cgroups { hierarchies: parse_mounts(V2) };
        assert!(cgroups.is_v2());
        assert_eq!(cgroups.process_root(), Path::new("/sys/fs/cgroup"));
    }

    /// On the version 2 hierarchy of a hybrid machine, which has no controllers but freezes.
    #[test]
    fn a_version_2_group_is_frozen_thawed_and_removed() {
        let mounts = parse_mounts(&fs::read_to_string("/proc/self/mountinfo").unwrap());
        let hierarchies: Vec<_> = mounts.into_iter().filter(|one| one.controllers.is_none()).collect();
        if hierarchies.is_empty() || !rustix::process::geteuid().is_root() {
            use io::Write;
            let _ = writeln!(
                io::stderr(),
                "SKIPPED a_version_2_group_is_frozen_thawed_and_removed: no root or no cgroup2"
            );
            return;
        }
        let cgroups = Cgroups { hierarchies };
        let group = format!("conch-test-{}", std::process::id());
        let leaf = format!("{group}/node-1/system");
        cgroups.create(&leaf).unwrap();
        let procs = cgroups.process_root().join(&leaf).join("cgroup.procs");
        let script = format!("echo 0 > {} && exec sleep 100", procs.display());
        let mut child = std::process::Command::new("sh").args(["-c", &script]).spawn().unwrap();
        while cgroups.processes(&group) != [child.id()] {
            std::thread::sleep(Duration::from_millis(5));
        }
        cgroups.set_frozen(&format!("{group}/node-1"), true).unwrap();
        assert!(cgroups.is_frozen(&cgroups.process_root().join(&leaf)).unwrap());
        cgroups.set_frozen(&format!("{group}/node-1"), false).unwrap();
        assert!(!cgroups.is_frozen(&cgroups.process_root().join(&leaf)).unwrap());
        cgroups.set_frozen(&group, true).unwrap();
        cgroups.thaw_all(&group);
        child.kill().unwrap();
        child.wait().unwrap();
        cgroups.wait_empty(&group).unwrap();
        cgroups.remove(&group).unwrap();
        assert!(!cgroups.process_root().join(&group).exists());
    }

    #[test]
    fn groups_below_come_after_their_parents() {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir_all(directory.path().join("a/b")).unwrap();
        let found = below(&directory.path().join("a"));
        assert_eq!(found, [directory.path().join("a"), directory.path().join("a/b")]);
        assert!(below(&directory.path().join("none")).is_empty());
    }
}
