//! A real cluster from its start to its end, with every fault, on this machine.
//!
//! Runs as root only, and not where `CONCH_KUBECONFIG` names another cluster; what is skipped is named.

#![allow(clippy::unwrap_used, clippy::panic)] // Helpers of tests count as other code.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use conch_cluster::{Cluster, Component, Options};
use serde_json::Value;

/// A program that does nothing, in an image that every node has.
const PODS: &str = r#"{"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": "idle"}, "spec": {
    "selector": {"matchLabels": {"app": "idle"}},
    "template": {"metadata": {"labels": {"app": "idle"}}, "spec": {
        "terminationGracePeriodSeconds": 1,
        "containers": [{"name": "idle", "image": "conch.local/pause:1", "imagePullPolicy": "Never"}]}}}}"#;

/// Ends its cluster whatever happens to the test.
struct Ended(String);

impl Drop for Ended {
    fn drop(&mut self) {
        if let Err(error) = Cluster::down(&self.0) {
            say(&format!("{}: {error}", self.0));
        }
    }
}

/// Prints past the test runner, which keeps what a passing test prints to itself.
fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "lifecycle: {text}");
}

fn skip(test: &str) -> bool {
    let reason = if std::env::var_os("CONCH_KUBECONFIG").is_some() {
        "CONCH_KUBECONFIG names a cluster that has no fault verbs"
    } else if !rustix::process::geteuid().is_root() {
        "a cluster needs root"
    } else {
        return false;
    };
    say(&format!("SKIPPED {test}: {reason}"));
    true
}

fn name(suffix: &str) -> String {
    format!("t-{}-{suffix}", std::process::id())
}

fn kubectl(cluster: &Cluster, arguments: &[&str]) -> Result<String, String> {
    let output = Command::new(cluster.tools_directory().join("kubectl"))
        .arg("--kubeconfig")
        .arg(cluster.kubeconfig())
        .arg("--request-timeout=3s")
        .args(arguments)
        .env("KUBECACHEDIR", cluster.cache_directory())
        .output()
        .unwrap();
    if output.status.success() {
        Ok(String::from_utf8(output.stdout).unwrap())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

fn eventually(what: &str, done: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_mins(1);
    while !done() {
        assert!(Instant::now() < deadline, "not within a minute: {what}");
        thread::sleep(Duration::from_millis(200));
    }
}

/// Whether the API server reaches a node's kubelet.
fn reaches(cluster: &Cluster, node: usize) -> bool {
    kubectl(cluster, &["get", "--raw", &format!("/api/v1/nodes/node-{node}/proxy/healthz")]).is_ok()
}

fn api_answers(cluster: &Cluster) -> bool {
    kubectl(cluster, &["get", "--raw", "/api/v1/namespaces/default"]).is_ok()
}

/// The UID of the idle pod on a node.
fn pod_uid(cluster: &Cluster, node: usize) -> Option<String> {
    let text = kubectl(cluster, &["get", "pods", "--selector=app=idle", "--output=json"]).ok()?;
    let list: Value = serde_json::from_str(&text).unwrap();
    let on_node = |pod: &&Value| pod["spec"]["nodeName"] == format!("node-{node}");
    Some(list["items"].as_array()?.iter().find(on_node)?["metadata"]["uid"].as_str()?.to_owned())
}

fn processes(cluster: &Cluster, node: usize) -> Vec<u32> {
    pod_uid(cluster, node).map(|uid| cluster.container_processes(node, &uid, "idle")).unwrap_or_default()
}

fn start_pods(cluster: &Cluster) {
    let file = cluster.cache_directory().with_file_name("idle.json");
    fs::write(&file, PODS).unwrap();
    kubectl(cluster, &["apply", "--filename", file.to_str().unwrap()]).unwrap();
    eventually("a process of the pod on each node", || {
        (1..=2).all(|node| !processes(cluster, node).is_empty())
    });
}

#[test]
fn a_cluster_lives_breaks_and_leaves_nothing() {
    if skip("a_cluster_lives_breaks_and_leaves_nothing") {
        return;
    }
    let before = (interfaces(), directories());
    let options = Options { name: name("a"), nodes: 2 };
    let guard = Ended(options.name.clone());
    let begun = Instant::now();
    let cluster = Cluster::up(&options).unwrap();
    say(&format!("up in {:.1} s", begun.elapsed().as_secs_f64()));
    assert_eq!(cluster.node_names(), ["node-1", "node-2"]);
    let begun = Instant::now();
    Cluster::up(&options).unwrap();
    let again = begun.elapsed();
    say(&format!("second up in {:.1} s", again.as_secs_f64()));
    assert!(again < Duration::from_secs(5), "the second up took {again:?}");

    names_resolve(&cluster);
    start_pods(&cluster);
    images_are_loaded(&cluster);
    a_cut_node_is_unreachable_until_healed(&cluster);
    a_frozen_node_stands_still_until_thawed(&cluster);
    a_killed_node_comes_back(&cluster);
    the_death_of_a_node_leaves_the_others_connected(&cluster);
    the_control_plane_stops_and_dies(&cluster);
    let second = another_lives_beside_it(&cluster);
    it_comes_up_after_an_unclean_end(&cluster, &options);

    let directory = cluster.kubeconfig().parent().unwrap().to_owned();
    let begun = Instant::now();
    drop(guard);
    say(&format!("down in {:.1} s", begun.elapsed().as_secs_f64()));
    for gone in [&directory, &second] {
        nothing_is_left_of(gone);
    }
    assert_eq!((interfaces(), directories()), before);
}

/// Asks the cluster's DNS over TCP through a forwarded port, which proves port-forward as well.
fn names_resolve(cluster: &Cluster) {
    let mut forward = Command::new(cluster.tools_directory().join("kubectl"))
        .arg("--kubeconfig")
        .arg(cluster.kubeconfig())
        .args(["--namespace=kube-system", "port-forward", "service/kube-dns", ":53"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = [0; 128];
    let length = forward.stdout.as_mut().unwrap().read(&mut line).unwrap();
    let line = String::from_utf8_lossy(&line[..length]).into_owned();
    // "Forwarding from 127.0.0.1:40001 -> 53"
    let port: u16 = line.split("127.0.0.1:").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
    let ask = |name: &str| -> Option<[u8; 4]> {
        let mut question = vec![0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        for label in name.split('.') {
            question.push(u8::try_from(label.len()).unwrap());
            question.extend(label.as_bytes());
        }
        question.extend([0, 0, 1, 0, 1]);
        let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.write_all(&u16::try_from(question.len()).unwrap().to_be_bytes()).unwrap();
        stream.write_all(&question).unwrap();
        let mut length = [0; 2];
        stream.read_exact(&mut length).unwrap();
        let mut answer = vec![0; usize::from(u16::from_be_bytes(length))];
        stream.read_exact(&mut answer).unwrap();
        // With one answer and nothing behind it, the address ends the message.
        (answer[7] == 1).then(|| answer[answer.len() - 4..].try_into().unwrap())
    };
    assert_eq!(ask("kubernetes.default.svc.cluster.local"), Some([10, 96, 0, 1]));
    assert_eq!(ask("no.such.name"), None);
    forward.kill().unwrap();
    forward.wait().unwrap();
}

fn images_are_loaded(cluster: &Cluster) {
    let images = cluster.kubeconfig().with_file_name("images");
    let copy = tempfile::tempdir().unwrap();
    let archive = copy.path().join("copy.tar");
    fs::copy(images.join("pause.tar"), &archive).unwrap();
    cluster.load_image(&archive).unwrap();
    assert!(images.join("copy.tar").exists(), "not kept for nodes that are restarted");
}

fn a_cut_node_is_unreachable_until_healed(cluster: &Cluster) {
    assert!(reaches(cluster, 1));
    cluster.cut_node(1).unwrap();
    assert!(!reaches(cluster, 1), "a cut node was reached");
    assert!(reaches(cluster, 2), "the other node is cut as well");
    cluster.heal_node(1).unwrap();
    eventually("a healed node is reached", || reaches(cluster, 1));
    assert!(cluster.cut_node(3).unwrap_err().to_string().contains("no node 3"));
}

fn a_frozen_node_stands_still_until_thawed(cluster: &Cluster) {
    let pod = processes(cluster, 2)[0];
    cluster.freeze_node(2).unwrap();
    assert!(!reaches(cluster, 2), "a frozen node answered");
    assert_eq!(processes(cluster, 2), [pod], "a frozen pod's process is not found");
    // A frozen process does not even die.
    let pid = rustix::process::Pid::from_raw(i32::try_from(pod).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    thread::sleep(Duration::from_millis(300));
    assert!(Path::new(&format!("/proc/{pod}")).exists(), "a frozen pod's process went on");
    cluster.thaw_node(2).unwrap();
    eventually("a thawed pod goes on", || !Path::new(&format!("/proc/{pod}")).exists());
    eventually("a thawed node is reached", || reaches(cluster, 2));
}

/// Whether a pod on a node can open a connection to the API server, past all Services.
fn pod_reaches_api(cluster: &Cluster, node: usize) -> bool {
    let pid = processes(cluster, node)[0].to_string();
    let attempt = ["--target", &pid, "--net", "timeout", "3", "bash", "-c", "</dev/tcp/10.88.0.1/6443"];
    Command::new("nsenter").args(attempt).status().unwrap().success()
}

/// Both in turn, because of two nodes only one has the lower hardware address.
fn the_death_of_a_node_leaves_the_others_connected(cluster: &Cluster) {
    for (dies, stays) in [(1, 2), (2, 1)] {
        assert!(pod_reaches_api(cluster, stays), "node {stays} before");
        cluster.kill_node(dies).unwrap();
        // The kernel takes a dead node's link off the bridge a little later.
        for _ in 0..4 {
            assert!(pod_reaches_api(cluster, stays), "node {stays} lost the API server with node {dies}");
            thread::sleep(Duration::from_millis(500));
        }
        cluster.restart_node(dies).unwrap();
        eventually("the pod of a restarted node runs", || !processes(cluster, dies).is_empty());
    }
}

fn a_killed_node_comes_back(cluster: &Cluster) {
    let before = processes(cluster, 1);
    cluster.freeze_node(1).unwrap();
    cluster.kill_node(1).unwrap();
    assert!(before.iter().all(|pid| !Path::new(&format!("/proc/{pid}")).exists()), "a pod outlived its node");
    assert!(!reaches(cluster, 1), "a dead node answered");
    let begun = Instant::now();
    cluster.restart_node(1).unwrap();
    say(&format!("node Ready {:.1} s after its start", begun.elapsed().as_secs_f64()));
    eventually("the pod of a restarted node runs", || {
        let now = processes(cluster, 1);
        !now.is_empty() && now.iter().all(|pid| !before.contains(pid))
    });
    assert!(reaches(cluster, 1));
}

fn the_control_plane_stops_and_dies(cluster: &Cluster) {
    for component in [Component::Etcd, Component::ApiServer] {
        cluster.stop_component(component).unwrap();
        assert!(!api_answers(cluster), "{component:?} is stopped");
        cluster.continue_component(component).unwrap();
        eventually("the API server answers after a stop", || api_answers(cluster));
        cluster.kill_component(component).unwrap();
        assert!(!api_answers(cluster), "{component:?} is dead");
        thread::sleep(Duration::from_secs(2));
        assert!(cluster.stop_component(component).is_err(), "{component:?} came back by itself");
        cluster.restart_component(component).unwrap();
        eventually("the API server answers after a restart", || api_answers(cluster));
    }
}

/// Gives the directory of the second cluster.
fn another_lives_beside_it(cluster: &Cluster) -> PathBuf {
    let other = Options { name: name("b"), nodes: 1 };
    let _guard = Ended(other.name.clone());
    let second = Cluster::up(&other).unwrap();
    assert!(api_answers(&second) && api_answers(cluster));
    second.kill_component(Component::ApiServer).unwrap();
    assert!(api_answers(cluster), "a fault of one cluster reached another");
    second.kubeconfig().parent().unwrap().to_owned()
}

fn it_comes_up_after_an_unclean_end(cluster: &Cluster, options: &Options) {
    // A kubeconfig that somebody copied names the port only.
    let server = |cluster: &Cluster| {
        let text = fs::read_to_string(cluster.kubeconfig()).unwrap();
        serde_json::from_str::<Value>(&text).unwrap()["clusters"][0]["cluster"]["server"].clone()
    };
    let before = server(cluster);
    cluster.freeze_node(2).unwrap();
    let holder = fs::read_to_string(cluster.kubeconfig().with_file_name("holder.json")).unwrap();
    let holder = serde_json::from_str::<Value>(&holder).unwrap()["pid"].as_u64().unwrap();
    // The supervisor rather than the holder, which then lives on until the kernel has ended all others.
    let supervisor = child_of(holder);
    let pid = rustix::process::Pid::from_raw(i32::try_from(supervisor).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    let again = Cluster::up(options).unwrap();
    assert_eq!(server(&again), before, "the port changed");
    assert!(reaches(&again, 1) && reaches(&again, 2));
}

fn child_of(parent: u64) -> u64 {
    let is_child = |pid: &u64| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        status.lines().any(|line| line == format!("PPid:\t{parent}"))
    };
    let pids =
        fs::read_dir("/proc").unwrap().filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok());
    pids.into_iter().find(is_child).unwrap()
}

fn interfaces() -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir("/sys/class/net")
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// Which of the fixed directories of Kubernetes' programs the machine has.
fn directories() -> Vec<&'static str> {
    let fixed =
        ["/var/lib/kubelet", "/var/lib/cni", "/opt/containerd", "/usr/libexec/kubernetes", "/run/containerd"];
    fixed.into_iter().filter(|directory| Path::new(directory).exists()).collect()
}

/// No process, mount, control group or file of a cluster.
fn nothing_is_left_of(directory: &Path) {
    let text = directory.to_str().unwrap();
    assert!(!directory.exists(), "{text} is left");
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let command = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        assert!(!String::from_utf8_lossy(&command).contains(text), "{} is left", entry.path().display());
        let mounts = fs::read_to_string(entry.path().join("mountinfo")).unwrap_or_default();
        assert!(!mounts.contains(text), "a mount is left in {}", entry.path().display());
    }
    let group = format!("conch-{}-", directory.file_name().unwrap().to_str().unwrap());
    let mut open = vec![PathBuf::from("/sys/fs/cgroup")];
    while let Some(next) = open.pop() {
        for entry in fs::read_dir(&next).into_iter().flatten().flatten().filter(|entry| entry.path().is_dir())
        {
            let name = entry.file_name().into_string().unwrap();
            assert!(!name.starts_with(&group), "{} is left", entry.path().display());
            open.push(entry.path());
        }
    }
}
