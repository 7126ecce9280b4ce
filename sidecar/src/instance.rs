//! Who a sidecar is that runs in no pod: an instance id, which one process at a time may use.
//!
//! A lock on a file keeps a second process out. The file also holds what stands in for the UID of a pod: a process that
//! finds the earlier one's record with its own UID may lead on at once (rule 8 in ARCHITECTURE.md), which is right only if
//! that one is dead, as the lock proves. So the UID must never be on two machines: it names this start of the machine and this
//! file, besides what was drawn when the file was made. A copy of the file is another one.

use crate::args::HoldArgs;
use anyhow::{Context, Result, bail, ensure};
use conch_crds::names::object_name;
use conch_stores::driver::draw_nonce;
use rustix::process::geteuid;
use std::{
    env,
    fs::{self, File, TryLockError},
    io::{Read, Seek, SeekFrom, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
const HOST_NAME: &str = "/proc/sys/kernel/hostname";

/// Longer ids are of no use to people, and a file's name has 255 bytes.
const ID_LENGTH_MAX: usize = 63;
const LOCK_INTERVAL: Duration = Duration::from_millis(50);

/// An instance that is this process's alone, as long as [`Self::lock`] is open.
#[derive(Debug)]
pub struct Instance {
    /// What stands in for the UID of a pod.
    pub uid: String,
    /// Whoever holds it, or inherits it, is this instance.
    pub lock: File,
}

/// Who this process is, and in which election.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Names {
    /// Name of the pod, or the instance id.
    pub pod: String,
    /// UID of the pod, or what stands in for it.
    pub pod_uid: String,
    /// Namespace of the election.
    pub namespace: String,
    /// Name of the election in its namespace.
    election: String,
    /// Name of the Lease.
    pub lease: String,
}

impl Names {
    /// What the arguments say; outside a pod, and where `lock` asks for it, after the instance was claimed.
    pub fn claim(args: &HoldArgs, lock: bool, patience: Duration) -> Result<(Self, Option<File>)> {
        let election = args.election.clone();
        let mut names = Self {
            pod: String::new(),
            pod_uid: String::new(),
            namespace: args.namespace.clone(),
            lease: args.lease.clone().unwrap_or_else(|| object_name(&election)),
            election,
        };
        let directory = args.state_directory.clone().unwrap_or_else(default_directory);
        let claim = |names: &Self, id: &str| Instance::claim(&directory, &names.election(), id, patience);
        if let (Some(name), Some(uid)) = (&args.pod_name, &args.pod_uid) {
            (names.pod, names.pod_uid) = (name.clone(), uid.clone());
            let instance = lock.then(|| claim(&names, uid)).transpose()?;
            return Ok((names, instance.map(|instance| instance.lock)));
        }
        let id = args.instance_id.clone().map_or_else(default_id, Ok)?;
        let Instance { uid, lock } = claim(&names, &id)?;
        (names.pod, names.pod_uid) = (id, uid);
        Ok((names, Some(lock)))
    }

    /// `namespace/name`.
    pub fn election(&self) -> String {
        format!("{}/{}", self.namespace, self.election)
    }
}

/// The machine's id of this start.
pub fn boot_id() -> Result<String> {
    let boot_id = fs::read_to_string(BOOT_ID).context("failed to read the machine's boot id")?;
    Ok(boot_id.trim().to_owned())
}

/// The machine's name; in a pod, what all its containers have in `HOSTNAME`.
pub fn host_name() -> Result<String> {
    let name = fs::read_to_string(HOST_NAME).context("failed to read the machine's name")?;
    Ok(name.trim().to_owned())
}

/// The id of an instance that was given none: the machine's name.
pub fn default_id() -> Result<String> {
    Ok(host_name()?.to_lowercase())
}

/// Where locks are, if nothing else is said: a place that is empty after the machine's start, if there is one.
pub fn default_directory() -> PathBuf {
    if geteuid().is_root() {
        return "/run".into();
    }
    env::var_os("XDG_RUNTIME_DIR").map_or_else(env::temp_dir, PathBuf::from)
}

impl Instance {
    /// Becomes this instance of this election, waiting at most `patience` for another process that is about to end.
    pub fn claim(directory: &Path, election: &str, id: &str, patience: Duration) -> Result<Self> {
        check_id(id)?;
        let path = directory.join(format!("conch_{}_{id}.lock", election.replace('/', "_")));
        let mut lock = File::options()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .mode(0o600)
            .open(&path)
            .with_context(|| {
                format!("failed to open {}; name another place with --state-directory", path.display())
            })?;
        take(&mut lock, &path, id, election, patience)?;
        let uid = uid(&mut lock).with_context(|| format!("failed to use {}", path.display()))?;
        Ok(Self { uid, lock })
    }
}

fn check_id(id: &str) -> Result<()> {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-.".contains(&byte);
    let whole = !id.is_empty() && id.len() <= ID_LENGTH_MAX && id.bytes().all(allowed);
    ensure!(
        whole,
        "the instance id {id:?} must have 1 to {ID_LENGTH_MAX} characters of a-z, 0-9, \"-\" and \".\"; give one with --instance-id"
    );
    Ok(())
}

fn take(lock: &mut File, path: &Path, id: &str, election: &str, patience: Duration) -> Result<()> {
    let began = Instant::now();
    loop {
        match lock.try_lock() {
            Ok(()) => return Ok(()),
            Err(TryLockError::WouldBlock) if began.elapsed() < patience => thread::sleep(LOCK_INTERVAL),
            Err(TryLockError::WouldBlock) => {
                let content = read(lock).unwrap_or_default();
                let pid = content.lines().next().unwrap_or("unknown");
                bail!(
                    "instance {id} of election {election} is taken by the process {pid}, which holds {}: give each \
                     process an --instance-id of its own",
                    path.display()
                );
            }
            Err(TryLockError::Error(error)) => {
                return Err(error).with_context(|| format!("failed to lock {}", path.display()));
            }
        }
    }
}

/// The UID, drawn if the file has none. Writes this process's id for whoever finds the lock taken.
fn uid(lock: &mut File) -> Result<String> {
    let content = read(lock)?;
    let drawn = match content.lines().nth(1).filter(|line| line.len() == 32) {
        Some(drawn) => drawn.to_owned(),
        None => format!("{:032x}", draw_nonce()?.0),
    };
    lock.set_len(0)?;
    lock.seek(SeekFrom::Start(0))?;
    write!(lock, "{}\n{drawn}\n", std::process::id())?;
    let metadata = lock.metadata()?;
    Ok(format!("{drawn}.{}.{:x}.{:x}", boot_id()?, metadata.dev(), metadata.ino()))
}

fn read(lock: &mut File) -> Result<String> {
    let mut content = String::new();
    lock.seek(SeekFrom::Start(0))?;
    lock.take(4_096).read_to_string(&mut content)?;
    Ok(content)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(directory: &Path, id: &str) -> Result<Instance> {
        Instance::claim(directory, "default/jobs", id, Duration::ZERO)
    }

    #[test]
    fn one_at_a_time_is_an_instance_and_the_next_one_is_the_same() {
        let directory = tempfile::tempdir().unwrap();
        let first = claim(directory.path(), "a").unwrap();
        let refused = format!("{:#}", claim(directory.path(), "a").unwrap_err());
        let file = directory.path().join("conch_default_jobs_a.lock");
        for part in [&std::process::id().to_string(), file.to_str().unwrap(), "--instance-id"] {
            assert!(refused.contains(part), "{refused}");
        }
        let other = claim(directory.path(), "b").unwrap();
        assert_ne!(first.uid, other.uid);
        let uid = first.uid.clone();
        drop(first);
        assert_eq!(claim(directory.path(), "a").unwrap().uid, uid);
    }

    #[test]
    fn who_inherits_the_lock_keeps_the_instance() {
        let directory = tempfile::tempdir().unwrap();
        let first = claim(directory.path(), "a").unwrap();
        let inherited = first.lock.try_clone().unwrap();
        drop(first);
        assert!(claim(directory.path(), "a").is_err());
        drop(inherited);
        assert!(claim(directory.path(), "a").is_ok());
    }

    #[test]
    fn a_copy_of_the_file_is_another_instance() {
        let directory = tempfile::tempdir().unwrap();
        let uid = claim(directory.path(), "a").unwrap().uid;
        let of = |id: &str| directory.path().join(format!("conch_default_jobs_{id}.lock"));
        fs::copy(of("a"), of("b")).unwrap();
        assert_ne!(claim(directory.path(), "b").unwrap().uid, uid);
        assert_eq!(claim(directory.path(), "a").unwrap().uid, uid);
    }

    #[test]
    fn an_id_is_the_name_of_no_other_file_and_a_place_that_is_missing_is_said() {
        let directory = tempfile::tempdir().unwrap();
        for id in ["", "..//x", "a/b", "a b", "A", &"a".repeat(64)] {
            assert!(claim(directory.path(), id).is_err(), "{id}");
        }
        let missing = format!("{:#}", claim(&directory.path().join("missing"), "a").unwrap_err());
        assert!(missing.contains("--state-directory"), "{missing}");
    }
}
