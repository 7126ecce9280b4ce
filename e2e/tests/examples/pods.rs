//! Each example in three pods of the real cluster: its sidecar stands still, its program is killed, its pod is deleted, and
//! the resource's log shows that one pod works at a time.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::thread;
use std::time::Duration;

use conch_crds::names;
use conch_e2e::checker::Verdict;
use conch_e2e::{CONTAINER, Environment, KUBECONFIG_VARIABLE, Namespace, Tools, image_reference};
use conch_images::Program;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::languages::{Example, GO, JAVA, NODE, PYTHON, RUST, SHELL, Way};
use crate::resource::Resource;
use crate::skip;
use crate::steps::{self, Step};

const REPLICAS: usize = 3;
/// A new leader must be there within the lease of 15 s, the default, and what a busy machine takes.
pub(crate) const LEASE_LIMIT: Duration = Duration::from_secs(30);
/// Less than a lease: the lead was given away.
pub(crate) const HAND_OVER_LIMIT: Duration = Duration::from_secs(12);
/// With all examples side by side on two cores.
const START_LIMIT: Duration = Duration::from_mins(3);
/// Of the machine, what a container gets to read: programs, libraries, and the settings of Debian's JDK.
const DIRECTORIES: &[&str] =
    &["/usr", "/bin", "/lib", "/lib64", "/etc/alternatives", "/etc/java-17-openjdk", "/etc/java-21-openjdk"];

/// The cluster with Conch on it, prepared by the first test that asks.
pub(crate) fn environment() -> &'static Environment {
    static ENVIRONMENT: OnceLock<Result<Environment, String>> = OnceLock::new();
    let prepare = || {
        let environment = Environment::open()?;
        environment.load_images()?;
        environment.install()?;
        Ok::<_, conch_e2e::Error>(environment)
    };
    let prepared = ENVIRONMENT.get_or_init(|| prepare().map_err(|error| error.to_string()));
    prepared.as_ref().unwrap()
}

/// A container that runs a command line of the machine, and may write to `directory`.
pub(crate) fn container(command: &[String], environment: &[Value], directory: &Path) -> Value {
    let mounts = mounted().map(|path| json!({"name": volume(path), "mountPath": path, "readOnly": true}));
    let mounts = mounts.chain([json!({"name": "work", "mountPath": directory})]);
    json!({
        "name": CONTAINER,
        "image": image_reference(Program::Probe),
        "imagePullPolicy": "IfNotPresent",
        "command": command,
        "env": environment,
        "volumeMounts": mounts.chain([json!({"name": "tmp", "mountPath": "/tmp"})]).collect::<Vec<_>>(),
        "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}},
    })
}

/// A pod with one such container.
pub(crate) fn pod(container: &Value) -> Value {
    let directory =
        container["volumeMounts"].as_array().unwrap().iter().find(|mount| mount["name"] == "work");
    let directory = directory.unwrap()["mountPath"].clone();
    let volumes = mounted().map(|path| json!({"name": volume(path), "hostPath": {"path": path}}));
    let volumes = volumes.chain([
        json!({"name": "work", "hostPath": {"path": directory}}),
        json!({"name": "tmp", "emptyDir": {}}),
    ]);
    json!({"spec": {"containers": [container], "volumes": volumes.collect::<Vec<_>>()}})
}

fn mounted() -> impl Iterator<Item = &'static str> {
    DIRECTORIES.iter().copied().filter(|path| Path::new(path).is_dir())
}

fn volume(path: &str) -> String {
    path.trim_start_matches('/').replace('/', "-")
}

/// The pods that run one program, and the log of the resource that it writes to.
pub(crate) struct Team<'a> {
    pub(crate) namespace: &'a Namespace<'a>,
    /// Value of the label `app` on its pods.
    pub(crate) app: &'static str,
    pub(crate) log: PathBuf,
}

impl<'a> Team<'a> {
    /// Deploys what is in the directory, and waits for its first steps.
    fn start(namespace: &'a Namespace<'a>, example: Example, resource: &Resource, directory: &Path) -> Self {
        let team = Self { namespace, app: "worker", log: resource.start(namespace, directory) };
        let command = example.command(directory);
        let mut template = pod(&container(&command, &resource.environment(), directory));
        template["metadata"] = json!({"labels": {"app": "worker"}});
        let deployment = json!({
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"name": "worker", "annotations": {names::POLICY: names::DEFAULT_POLICY}},
            "spec": {"replicas": REPLICAS, "selector": {"matchLabels": {"app": "worker"}}, "template": template},
        });
        namespace.apply(deployment).unwrap();
        namespace.kubectl(&["rollout", "status", "deployment/worker", "--timeout=3m"]).unwrap();
        team.wait_first_steps();
        team
    }

    pub(crate) fn steps(&self) -> Vec<Step> {
        steps::read(&self.log)
    }

    pub(crate) fn wait_first_steps(&self) {
        self.wait_steps("first steps", 0, START_LIMIT, |_| true);
    }

    /// Waits for the steps of another pod, and returns how long after `event` the first one was.
    pub(crate) fn wait_successor(&self, worker: &Worker<'_>, event: u64, limit: Duration) -> Duration {
        self.wait_steps("step of another pod", event, limit, |step| step.by != worker.address)
    }

    /// Waits for three steps after a time, and returns how long after it the first one was.
    fn wait_steps(
        &self,
        what: &str,
        after: u64,
        limit: Duration,
        counts: impl Fn(&Step) -> bool,
    ) -> Duration {
        Tools::wait_for(what, limit, || {
            let steps = self.steps();
            let mut found = steps.iter().filter(|step| step.at > after && counts(step));
            let first = found.next().map(|step| Duration::from_nanos(step.at - after));
            Ok(first.filter(|_| found.count() >= 2).ok_or_else(|| format!("{:?}", steps.last())))
        })
        .unwrap()
    }

    /// The pod that works.
    pub(crate) fn worker(&self) -> Worker<'_> {
        let address = self.steps().last().unwrap().by.clone();
        let pods = self.namespace.list(&["pods", "--selector", &format!("app={}", self.app)]).unwrap();
        let pod = pods.into_iter().find(|pod| pod["status"]["podIP"] == address.as_str());
        Worker { namespace: self.namespace, pod: pod.expect("the worker is no pod"), address }
    }

    /// The sidecar answers nothing more: its program must stop by itself before another begins.
    fn stop_sidecar(&self) -> Duration {
        let worker = self.worker();
        let event = steps::now();
        worker.signal(names::SIDECAR_CONTAINER, Signal::STOP);
        let taken = self.wait_successor(&worker, event, LEASE_LIMIT);
        // Whoever does not look at the deadline still works now.
        thread::sleep(Duration::from_secs(3));
        worker.signal(names::SIDECAR_CONTAINER, Signal::CONT);
        thread::sleep(Duration::from_secs(2));
        taken
    }

    /// A stream that closes is a resignation. Who asks is started again beside its sidecar, and leads on.
    fn kill_program(&self, way: Way) -> Duration {
        let worker = self.worker();
        let event = steps::now();
        worker.signal(CONTAINER, Signal::KILL);
        let other = |step: &Step| way == Way::Asks || step.by != worker.address;
        self.wait_steps("step after the kill", event, HAND_OVER_LIMIT, other)
    }

    /// The program stops on `terminating`, so that another begins long before the grace of 30 s is over.
    pub(crate) fn delete_pod(&self) -> Duration {
        let worker = self.worker();
        let event = steps::now();
        let name = worker.pod["metadata"]["name"].as_str().unwrap();
        self.namespace.kubectl(&["delete", "pod", name, "--wait=false"]).unwrap();
        self.wait_successor(&worker, event, HAND_OVER_LIMIT)
    }

    pub(crate) fn judge(&self) -> Verdict {
        steps::judge(&self.steps())
    }
}

pub(crate) struct Worker<'a> {
    namespace: &'a Namespace<'a>,
    pod: Value,
    pub(crate) address: String,
}

impl Worker<'_> {
    /// The processes of one of its containers, by the numbers of the machine.
    pub(crate) fn processes(&self, container: &str) -> Vec<u32> {
        let cluster = self.namespace.environment.cluster.as_ref().unwrap();
        let node = cluster.node_names().iter().position(|node| self.pod["spec"]["nodeName"] == node.as_str());
        let uid = self.pod["metadata"]["uid"].as_str().unwrap();
        let processes = cluster.container_processes(node.unwrap() + 1, uid, container);
        assert!(!processes.is_empty(), "container {container} has no process");
        processes
    }

    fn signal(&self, container: &str, signal: Signal) {
        for process in self.processes(container) {
            let process = i32::try_from(process).ok().and_then(Pid::from_raw);
            // One that has ended meanwhile, as those of a shell do, needs no signal.
            let _ = kill_process(process.unwrap(), signal);
        }
    }
}

/// A directory for the program and the log that every node has, or why this cannot run here.
fn prepare(namespace: &Namespace<'_>, example: Example) -> Result<PathBuf, String> {
    let directory = new_directory(namespace);
    example.prepare(&directory).map(|()| directory)
}

/// An empty directory that every node has.
pub(crate) fn new_directory(namespace: &Namespace<'_>) -> PathBuf {
    let directory = namespace.environment.shared_directory().unwrap().join(&namespace.name);
    // A namespace of the same name may have been here before.
    let _ = fs::remove_dir_all(&directory);
    fs::create_dir_all(&directory).unwrap();
    // The programs are not root.
    fs::set_permissions(&directory, fs::Permissions::from_mode(0o777)).unwrap();
    directory
}

fn with_team(title: &str, words: &str, example: Example, spoil: fn(String) -> String, course: fn(&Team<'_>)) {
    let environment = environment();
    if environment.cluster.is_none() {
        return skip(title, &format!("the cluster of {KUBECONFIG_VARIABLE} is not ours to break"));
    }
    let namespace = Namespace::new(environment, words).unwrap();
    let uses_sql = example.file == SHELL.file;
    let resource = if uses_sql { Resource::postgres() } else { Ok(Resource::Ledger) };
    let (resource, directory) = match (resource, prepare(&namespace, example)) {
        (Ok(resource), Ok(directory)) => (resource, directory),
        (Err(missing), _) | (_, Err(missing)) => return skip(title, &missing),
    };
    let program = directory.join(example.file);
    let text = fs::read_to_string(&program).unwrap();
    fs::write(&program, spoil(text)).unwrap();
    course(&Team::start(&namespace, example, &resource, &directory));
}

/// What every example must stand.
fn stands(words: &str, example: Example, course: fn(&Team<'_>)) {
    with_team(&format!("{} in pods", example.file), words, example, |text| text, course);
}

fn faults(team: &Team<'_>, example: Example) {
    let stopped = team.stop_sidecar();
    let killed = team.kill_program(example.way);
    let deleted = team.delete_pod();
    let verdict = team.judge();
    println!(
        "RESULT example {}: {} steps, {} terms, overlap {} ns; next step after: sidecar stopped {stopped:.1?}, \
        program killed {killed:.1?}, pod deleted {deleted:.1?}",
        example.file,
        team.steps().len(),
        verdict.terms,
        verdict.overlap,
    );
    assert_eq!(verdict.faults(), Vec::<String>::new());
    let terms = if example.way == Way::Asks { 3 } else { 4 };
    assert!(verdict.terms >= terms, "{verdict}");
}

#[test]
fn a_shell_script_works_in_one_pod_at_a_time() {
    stands("example-shell", SHELL, |team| faults(team, SHELL));
}

#[test]
fn a_go_program_works_in_one_pod_at_a_time() {
    stands("example-go", GO, |team| faults(team, GO));
}

#[test]
fn a_python_program_works_in_one_pod_at_a_time() {
    stands("example-python", PYTHON, |team| faults(team, PYTHON));
}

#[test]
fn a_java_program_works_in_one_pod_at_a_time() {
    stands("example-java", JAVA, |team| faults(team, JAVA));
}

#[test]
fn a_node_program_works_in_one_pod_at_a_time() {
    stands("example-node", NODE, |team| faults(team, NODE));
}

#[test]
fn a_rust_program_works_in_one_pod_at_a_time() {
    stands("example-rust", RUST, |team| faults(team, RUST));
}

/// The positive control: without the look at the clock the same checker finds two at work.
#[test]
fn a_program_that_ignores_its_deadline_is_caught() {
    let spoil = |text: String| {
        let spoilt = text.replace("< deadline and", "> 0 and token and");
        assert_ne!(spoilt, text, "leader.py has no deadline to ignore");
        spoilt
    };
    with_team("a program that ignores its deadline", "example-control", PYTHON, spoil, |team| {
        team.stop_sidecar();
        let verdict = team.judge();
        println!("RESULT example that ignores its deadline: {}", verdict.faults().join("; "));
        assert!(verdict.overlap > 0 && verdict.token_fault.is_some(), "{verdict}");
    });
}
