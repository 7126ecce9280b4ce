//! Bringing a cluster up, finding out whether it is up, and leaving nothing of it.

use std::fs::{self, File};
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use conch_images::Image;
use rustix::mount::{UnmountFlags, unmount};
use rustix::process::{Pid, WaitOptions, waitpid};
use serde::{Deserialize, Serialize};

use crate::binaries::Binaries;
use crate::certificates;
use crate::cgroup::Cgroups;
use crate::command::{command, search_path};
use crate::components::AUDIT_POLICY;
use crate::description::{Description, Fsync, read_json, write_json};
use crate::error::{Context, Error, Result};
use crate::forward;
use crate::kubeconfig;
use crate::kubectl;
use crate::layout::{DNS_IMAGE, Layout, MOST_NODES, PAUSE_IMAGE};
use crate::messages::{Request, ask};
use crate::prerequisites;
use crate::processes;
use crate::progress::Progress;

/// How long a cluster may take until its nodes are Ready and its DNS answers.
const UP_LIMIT: Duration = Duration::from_mins(4);
/// How long a killed cluster may take to be gone.
const DEATH_LIMIT: Duration = Duration::from_secs(20);

/// The outermost process of a cluster: when it dies, the kernel ends everything.
#[derive(Debug, Serialize, Deserialize)]
struct Holder {
    pid: u32,
    /// Tells it from a later process with the same pid.
    begun: u64,
}

/// Whether the cluster's processes run.
pub(crate) fn is_running(layout: &Layout) -> bool {
    read_json::<Holder>(&layout.holder()).is_ok_and(|holder| holder_lives(&holder))
}

/// The outermost process of a running cluster: it is in the network of the control plane.
pub(crate) fn holder_process(layout: &Layout) -> Result<u32> {
    read_json::<Holder>(&layout.holder()).map(|holder| holder.pid)
}

fn holder_lives(holder: &Holder) -> bool {
    processes::stat(holder.pid).is_some_and(|stat| stat.begun == holder.begun && stat.state != 'Z')
}

/// Brings a cluster up, unless it is.
pub(crate) fn up(layout: &Layout, nodes: usize, fsync: Fsync) -> Result<()> {
    if !(1..=MOST_NODES).contains(&nodes) {
        return Err(Error::Invalid(format!("a cluster has 1 to {MOST_NODES} nodes, not {nodes}")));
    }
    let progress = Progress::start();
    prerequisites::ensure()?;
    let _lock = lock(layout)?;
    // The holder outlives a killed supervisor for as long as the kernel takes to end the rest.
    if is_running(layout) && ask(&layout.socket(), &Request::Status).is_ok() {
        return check_running(layout, nodes, fsync, &progress);
    }
    if layout.description().exists() {
        progress.say(&format!("cluster {} did not end cleanly: clearing what it left", layout.name()));
    }
    clear(layout)?;
    remove_old_files(layout)?;
    let binaries = Binaries::ensure_with(&progress)?;
    let (listener, port) = listen(layout)?;
    let description = Description {
        nodes,
        port,
        cgroup: cgroup(layout),
        plugins: prerequisites::plugin_directory()?,
        binaries,
        fsync,
    };
    write_files(layout, &description)?;
    progress.say("files written; starting etcd, the control plane and the nodes");
    start(layout, listener)?;
    if let Err(error) = wait(layout, nodes, &progress) {
        // What does not work is not left running; its logs stay.
        clear(layout)?;
        return Err(error);
    }
    progress.say(&format!("cluster {} is up; KUBECONFIG={}", layout.name(), layout.kubeconfig().display()));
    Ok(())
}

fn check_running(layout: &Layout, nodes: usize, fsync: Fsync, progress: &Progress) -> Result<()> {
    let description: Description = read_json(&layout.description())?;
    if fsync == Fsync::On && description.fsync == Fsync::Off {
        return Err(Error::Invalid(format!(
            "cluster {0} is up and its etcd does not wait for the disk; `conch-cluster --name {0} down` ends it",
            layout.name()
        )));
    }
    if description.nodes != nodes {
        return Err(Error::Invalid(format!(
            "cluster {0} is up with {1} nodes; `conch-cluster --name {0} down` ends it",
            layout.name(),
            description.nodes
        )));
    }
    if !layout.complete().exists() {
        progress.say("an earlier `up` was interrupted: waiting in its place");
        wait(layout, nodes, progress)?;
    }
    let api = if kubectl::is_ready(layout) { "answers" } else { "does not answer" };
    progress.say(&format!("cluster {} is up already; its API server {api}", layout.name()));
    Ok(())
}

/// Ends a cluster and removes its files; fine if there is none.
pub(crate) fn down(layout: &Layout) -> Result<()> {
    if !layout.root().exists() {
        return Ok(());
    }
    let _lock = lock(layout)?;
    clear(layout)?;
    fs::remove_dir_all(layout.root()).at("remove", layout.root())
}

/// One `up` or `down` of a cluster at a time.
fn lock(layout: &Layout) -> Result<File> {
    let root = layout.root();
    loop {
        fs::create_dir_all(root).at("create", root)?;
        let directory = File::open(root).at("open", root)?;
        directory.lock().at("lock", root)?;
        // A `down` that held the lock before may have removed the directory that was waited for.
        let locked = directory.metadata().at("read", root)?.ino();
        if fs::metadata(root).is_ok_and(|data| data.ino() == locked) {
            return Ok(directory);
        }
    }
}

fn cgroup(layout: &Layout) -> String {
    let parent = std::env::var("CONCH_CGROUP_PARENT").unwrap_or_default();
    let parent = parent.trim_matches('/');
    if parent.is_empty() { layout.cgroup_name() } else { format!("{parent}/{}", layout.cgroup_name()) }
}

/// Ends every process of a cluster, however the last run ended, and removes its control groups and mounts.
fn clear(layout: &Layout) -> Result<()> {
    let group =
        read_json::<Description>(&layout.description()).map_or_else(|_| cgroup(layout), |known| known.cgroup);
    let holder = read_json::<Holder>(&layout.holder()).ok().filter(holder_lives);
    if let Some(holder) = &holder {
        processes::kill(holder.pid);
    }
    let cgroups = Cgroups::find()?;
    // Normally the holder's end is enough, but frozen processes cannot die.
    for pid in cgroups.processes(&group) {
        processes::kill(pid);
    }
    cgroups.thaw_all(&group);
    if let Some(holder) = &holder {
        wait_for_death(holder)?;
    }
    cgroups.wait_empty(&group)?;
    cgroups.remove(&group)?;
    unmount_all(layout.root())
}

fn wait_for_death(holder: &Holder) -> Result<()> {
    let deadline = Instant::now() + DEATH_LIMIT;
    let pid = i32::try_from(holder.pid).ok().and_then(Pid::from_raw);
    loop {
        // It is this process's child if this process brought the cluster up; nobody else would reap it.
        let _ = waitpid(pid, WaitOptions::NOHANG);
        if !holder_lives(holder) {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(Error::Refused(format!("process {} does not die", holder.pid)));
        }
        thread::sleep(Duration::from_millis(5));
    }
}

/// Unmounts what is mounted below a directory: nothing, as long as all mounts are in the cluster's namespaces.
fn unmount_all(root: &Path) -> Result<()> {
    let path = Path::new("/proc/self/mountinfo");
    let text = fs::read_to_string(path).at("read", path)?;
    let mounts = text.lines().filter_map(|line| line.split(' ').nth(4)).map(PathBuf::from);
    let mut below: Vec<PathBuf> = mounts.filter(|mount| mount.starts_with(root)).collect();
    below.reverse();
    below.iter().try_for_each(|mount| unmount(mount, UnmountFlags::DETACH).at("unmount", mount))
}

/// Removes all files of an earlier cluster but the port and the images, which people go on using.
fn remove_old_files(layout: &Layout) -> Result<()> {
    let root = layout.root();
    for entry in fs::read_dir(root).at("read", root)?.flatten() {
        let path = entry.path();
        if path == layout.port() || path == layout.images() {
            continue;
        }
        let removed = if path.is_dir() && !path.is_symlink() {
            fs::remove_dir_all(&path)
        } else {
            fs::remove_file(&path)
        };
        removed.at("remove", &path)?;
    }
    Ok(())
}

/// A loopback port, the same as last time if it is free.
fn listen(layout: &Layout) -> Result<(TcpListener, u16)> {
    let before = fs::read_to_string(layout.port()).ok().and_then(|text| text.trim().parse::<u16>().ok());
    let listener = forward::bind(before).doing(|| "cannot listen on a loopback port".to_owned())?;
    let port = listener.local_addr().doing(|| "cannot read the loopback port".to_owned())?.port();
    fs::write(layout.port(), port.to_string()).at("write", &layout.port())?;
    Ok((listener, port))
}

fn write_files(layout: &Layout, description: &Description) -> Result<()> {
    let root = layout.root();
    for directory in ["certificates", "kubeconfigs", "log", "images", "tools", "etcd"] {
        let path = root.join(directory);
        fs::create_dir_all(&path).at("create", &path)?;
    }
    // etcd refuses a data directory that others can read.
    let private = <fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o700);
    fs::set_permissions(layout.etcd(), private).at("protect", &layout.etcd())?;
    certificates::write_all(layout, description.nodes)?;
    kubeconfig::write_all(layout, description.nodes, description.port)?;
    for tool in ["kubectl", "helm", "ctr"] {
        let link = layout.tools().join(tool);
        symlink(description.binaries.path(tool)?, &link).at("link", &link)?;
    }
    for (image, name) in [(PAUSE_IMAGE, "pause"), (DNS_IMAGE, "coredns")] {
        keep_own_image(layout, &description.binaries, image, name)?;
    }
    let manifest = root.join("coredns.yaml");
    // Where there are two nodes, names go on being found when one of them dies.
    let replicas = format!("replicas: {}", description.nodes.min(2));
    let text = include_str!("../assets/coredns.yaml").replace("replicas: 1", &replicas);
    fs::write(&manifest, text).at("write", &manifest)?;
    let audit = root.join(AUDIT_POLICY);
    fs::write(&audit, include_str!("../assets/audit-policy.yaml")).at("write", &audit)?;
    let program = own_program()?;
    fs::copy(&program, layout.program()).at("copy", &program)?;
    write_json(&layout.description(), description)
}

/// Puts an image of ours into the cluster's directory; its archive is made once and cached beside the program.
fn keep_own_image(layout: &Layout, binaries: &Binaries, image: &str, name: &str) -> Result<()> {
    let program = binaries.path(name)?;
    let cached = program.with_extension("tar");
    if !cached.exists() {
        let new = program.with_extension("new");
        fs::write(&new, archive(image, &program, name)?).at("write", &new)?;
        fs::rename(&new, &cached).at("write", &cached)?;
    }
    let kept = layout.images().join(format!("{name}.tar"));
    fs::copy(&cached, &kept).at("write", &kept).map(drop)
}

/// An image of one program.
fn archive(image: &str, program: &Path, name: &str) -> Result<Vec<u8>> {
    let image = Image {
        name: image,
        binary_path: &format!("/{name}"),
        binary: &fs::read(program).at("read", program)?,
        architecture: match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        },
        description: "A part of conch-cluster",
    };
    let archive =
        image.archive().map_err(|error| Error::Invalid(format!("{}: {error}", program.display())))?;
    Ok(archive.bytes)
}

/// The program `conch-cluster`: this one, or the one built beside the test or demo that uses the library.
fn own_program() -> Result<PathBuf> {
    let this = std::env::current_exe().doing(|| "cannot find this program".to_owned())?;
    let named = std::env::var_os("CONCH_CLUSTER_PROGRAM").map(PathBuf::from);
    // Tests and examples are one directory below the programs.
    let near = this.ancestors().skip(1).take(2).map(|directory| directory.join("conch-cluster"));
    named.into_iter().chain(near).find(|candidate| candidate.is_file()).ok_or_else(|| {
        Error::Prerequisite("build the program first: cargo build --package conch-cluster".into())
    })
}

/// Starts the supervisor in namespaces of its own, detached from the caller.
fn start(layout: &Layout, listener: TcpListener) -> Result<()> {
    let path = layout.log("supervisor");
    let log = File::create(&path).at("create", &path)?;
    let errors = log.try_clone().at("use", &path)?;
    let mut holder = command("setsid");
    holder
        .arg("unshare")
        .args(["--mount", "--net", "--pid", "--ipc", "--uts", "--fork", "--kill-child", "--mount-proc"])
        .arg(layout.program())
        .args(["internal", "control"])
        .arg(layout.root())
        // The caller's proxies and kubeconfigs must not reach the components.
        .env_clear()
        .env("PATH", search_path())
        .env("HOME", layout.root())
        .current_dir("/")
        .stdin(Stdio::from(OwnedFd::from(listener)))
        .stdout(log)
        .stderr(errors);
    let child = holder.spawn().doing(|| "cannot start unshare".to_owned())?;
    let pid = child.id();
    let begun = processes::stat(pid).map_or(0, |stat| stat.begun);
    write_json(&layout.holder(), &Holder { pid, begun })
}

/// Waits until every node is Ready and the DNS answers.
fn wait(layout: &Layout, nodes: usize, progress: &Progress) -> Result<()> {
    let deadline = Instant::now() + UP_LIMIT;
    poll(layout, deadline, "the API server is not ready", || layout.api_is_up().exists())?;
    progress.say("API server ready");
    let manifest = layout.root().join("coredns.yaml");
    poll(layout, deadline, "the DNS could not be installed", || kubectl::apply(layout, &manifest).is_ok())?;
    poll(layout, deadline, "the nodes are not Ready", || {
        kubectl::get(layout, &["nodes"]).is_ok_and(|list| kubectl::ready_nodes(&list).len() == nodes)
    })?;
    progress.say("nodes Ready");
    let dns = ["deployment", "coredns", "--namespace", "kube-system"];
    poll(layout, deadline, "the DNS does not answer", || {
        kubectl::get(layout, &dns).is_ok_and(|found| found["status"]["availableReplicas"].as_u64() >= Some(1))
    })?;
    progress.say("DNS running");
    fs::write(layout.complete(), "").at("write", &layout.complete())
}

fn poll(layout: &Layout, deadline: Instant, what: &str, mut done: impl FnMut() -> bool) -> Result<()> {
    while !done() {
        let (what, look) = (what.to_owned(), layout.root().join("log"));
        if !is_running(layout) {
            return Err(Error::Refused(format!(
                "the cluster's supervisor ended; look into {}",
                look.display()
            )));
        }
        if Instant::now() > deadline {
            return Err(Error::Late { what, seconds: UP_LIMIT.as_secs(), look });
        }
        thread::sleep(Duration::from_millis(200));
    }
    Ok(())
}
