//! What a node sees of the machine's files: all of them, but with directories of its own where its
//! programs write to fixed places, so that nodes do not meet there and nothing stays on the machine.

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use rustix::mount::{
    MountFlags, MountPropagationFlags, mount, mount_bind, mount_bind_recursive, mount_change,
};

use crate::description::Description;
use crate::error::{Context, Result};
use crate::layout::Layout;

/// Replaced by empty directories in memory. `/var/log` because kubelets that share it delete each other's
/// logs; `/var/lib` because of kubelet's device plugins and the network plugins' cache.
const OWN_DIRECTORIES: &[&str] = &["/run", "/var/log", "/var/lib"];

/// A kubelet sets these for the whole machine, which is not the cluster's to change: it gets files instead.
const OWN_SETTINGS: &[(&str, &str)] = &[
    ("vm/overcommit_memory", "1"),
    ("vm/panic_on_oom", "0"),
    ("kernel/panic", "10"),
    ("kernel/panic_on_oops", "1"),
    ("kernel/keys/root_maxkeys", "1000000"),
    ("kernel/keys/root_maxbytes", "25000000"),
];

/// Prepares the mount namespace of the calling process.
pub(crate) fn prepare(layout: &Layout, description: &Description) -> Result<()> {
    let root = Path::new("/");
    mount_change(root, MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .at("make private", root)?;
    let mut keep = vec![layout.root().to_owned()];
    keep.extend(description.binaries.folders().iter().cloned());
    for directory in OWN_DIRECTORIES {
        replace(Path::new(directory), &keep)?;
    }
    for directory in ["/run/lock", "/run/netns", "/var/log/pods", "/var/log/containers"] {
        fs::create_dir_all(directory).at("create", Path::new(directory))?;
    }
    for (name, value) in OWN_SETTINGS {
        replace_setting(name, value)?;
    }
    // Mounts that kubelet makes must reach containerd and its containers.
    mount_change(root, MountPropagationFlags::SHARED | MountPropagationFlags::REC).at("share", root)
}

/// Puts an empty directory over another, except for what is to be kept below it.
fn replace(directory: &Path, keep: &[PathBuf]) -> Result<()> {
    let mut kept = Vec::new();
    for path in keep {
        let real = fs::canonicalize(path).at("find", path)?;
        if real.starts_with(directory) {
            kept.push((File::open(&real).at("open", &real)?, real));
        }
    }
    mount("tmpfs", directory, "tmpfs", MountFlags::empty(), None).at("mount a directory over", directory)?;
    for (open, path) in kept {
        fs::create_dir_all(&path).at("create", &path)?;
        // The open file still leads below the new mount.
        mount_bind_recursive(format!("/proc/self/fd/{}", open.as_raw_fd()), &path).at("keep", &path)?;
    }
    Ok(())
}

fn replace_setting(name: &str, value: &str) -> Result<()> {
    let setting = Path::new("/proc/sys").join(name);
    if !setting.exists() {
        return Ok(());
    }
    let own = Path::new("/run/conch").join(name);
    let directory = own.parent().unwrap_or(&own);
    fs::create_dir_all(directory).at("create", directory)?;
    fs::write(&own, value).at("write", &own)?;
    mount_bind(&own, &setting).at("mount over", &setting)
}
