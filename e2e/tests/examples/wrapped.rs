//! A program that knows nothing of leading, in the Deployment of `docs/wrapper.md`: the wrapper is stopped, the program is
//! killed, the pod is deleted, and the resource's log shows that one pod works at a time.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::Duration;

use conch_e2e::{CONTAINER, KUBECONFIG_VARIABLE, Namespace, image_reference};
use conch_images::{Program, workspace_directory};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::languages::program_of_machine;
use crate::pods::{HAND_OVER_LIMIT, LEASE_LIMIT, Team, Worker, container, environment, new_directory, pod};
use crate::resource::Resource;
use crate::{skip, steps};

const TITLE: &str = "a wrapped program in pods";
/// Name of the document's block.
const BLOCK: &str = "wrapped-by-hand";
const APP: &str = "nightly";
/// One step, for ever: it neither asks nor looks at a clock, and would go on if it could.
const PROGRAM: &str = r#"while sleep 0.1; do curl -sS -o /dev/null -m 1 -X POST -H "Conch-Token: $CONCH_TOKEN" "$LEDGER_URL"; done"#;

/// The objects of the document.
fn documented(namespace: &Namespace<'_>, directory: &Path) -> Vec<Value> {
    let document = fs::read_to_string(workspace_directory().join("docs/wrapper.md")).unwrap();
    let (_, block) = document.split_once(&format!("```yaml name={BLOCK}\n")).unwrap();
    let (block, _) = block.split_once("```").unwrap();
    let file = directory.join("documented.yaml");
    fs::write(&file, block).unwrap();
    let file = file.display().to_string();
    let read = ["create", "--dry-run=client", "--output=jsonpath={@}{\"\\n\"}", "--filename", file.as_str()];
    let objects = namespace.kubectl(&read).unwrap();
    objects.lines().map(|object| serde_json::from_str(object).unwrap()).collect()
}

/// The Deployment of the document, with images of this cluster and a program of this machine.
fn with_program(mut deployment: Value, resource: &Resource, directory: &Path) -> Value {
    let shell = program_of_machine("sh").unwrap().display().to_string();
    let program = [shell, "-c".to_owned(), PROGRAM.to_owned()];
    let ours = pod(&container(&program, &resource.environment(), directory));
    let (ours, our_container) = (&ours["spec"], &ours["spec"]["containers"][0]);
    let spec = &mut deployment["spec"]["template"]["spec"];
    extend(&mut spec["volumes"], &ours["volumes"]);
    let copy = &mut spec["initContainers"][0];
    copy["image"] = json!(image_reference(Program::Sidecar));
    copy["imagePullPolicy"] = json!("IfNotPresent");
    let container = &mut spec["containers"][0];
    container["args"] = our_container["command"].clone();
    for field in ["image", "imagePullPolicy", "securityContext"] {
        container[field] = our_container[field].clone();
    }
    for field in ["env", "volumeMounts"] {
        extend(&mut container[field], &our_container[field]);
    }
    deployment
}

fn extend(list: &mut Value, more: &Value) {
    list.as_array_mut().unwrap().extend(more.as_array().unwrap().iter().cloned());
}

/// The first process of the container: what is started by it dies in time all the same.
fn wrapper(worker: &Worker<'_>) -> Pid {
    let is_first = |process: &u32| {
        let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
        status.lines().any(|line| line.starts_with("NSpid:") && line.ends_with("\t1"))
    };
    let first = worker.processes(CONTAINER).into_iter().find(is_first);
    Pid::from_raw(i32::try_from(first.expect("the container has no first process")).unwrap()).unwrap()
}

/// The wrapper is stopped: its guard ends the program before another pod may begin.
fn stop_wrapper(team: &Team<'_>) -> Duration {
    let worker = team.worker();
    let (event, wrapper) = (steps::now(), wrapper(&worker));
    kill_process(wrapper, Signal::STOP).unwrap();
    let taken = team.wait_successor(&worker, event, LEASE_LIMIT);
    thread::sleep(Duration::from_secs(3)); // whatever would still work would do so now
    kill_process(wrapper, Signal::CONT).unwrap();
    thread::sleep(Duration::from_secs(2));
    taken
}

/// The shell is killed: it has exited, and so the lead is given away.
fn kill_program(team: &Team<'_>) -> Duration {
    let worker = team.worker();
    let is_shell = |process: &u32| {
        let command = fs::read(format!("/proc/{process}/cmdline")).unwrap_or_default();
        let mut words = command.split(|byte| *byte == 0);
        words.next().is_some_and(|program| program.ends_with(b"sh")) && words.next() == Some(b"-c")
    };
    let event = steps::now();
    let shell = worker.processes(CONTAINER).into_iter().find(is_shell).expect("no program runs");
    kill_process(Pid::from_raw(i32::try_from(shell).unwrap()).unwrap(), Signal::KILL).unwrap();
    team.wait_successor(&worker, event, HAND_OVER_LIMIT)
}

#[test]
fn a_program_that_knows_nothing_of_leading_works_in_one_pod_at_a_time() {
    let environment = environment();
    if environment.cluster.is_none() {
        return skip(TITLE, &format!("the cluster of {KUBECONFIG_VARIABLE} is not ours to break"));
    }
    if program_of_machine("curl").is_none() {
        return skip(TITLE, "curl is missing: install curl");
    }
    let namespace = Namespace::new(environment, "wrapped").unwrap();
    let directory = new_directory(&namespace);
    let resource = Resource::Ledger;
    let team = Team { namespace: &namespace, app: APP, log: resource.start(&namespace, &directory) };
    for object in documented(&namespace, &directory) {
        let is_deployment = object["kind"] == "Deployment";
        let object = if is_deployment { with_program(object, &resource, &directory) } else { object };
        namespace.apply(object).unwrap();
    }
    team.wait_first_steps();

    let stopped = stop_wrapper(&team);
    let killed = kill_program(&team);
    let deleted = team.delete_pod();
    let verdict = team.judge();
    println!(
        "RESULT wrapped program: {} steps, {} terms, overlap {} ns; next step after: wrapper stopped {stopped:.1?}, \
        program killed {killed:.1?}, pod deleted {deleted:.1?}",
        team.steps().len(),
        verdict.terms,
        verdict.overlap,
    );
    assert_eq!(verdict.faults(), Vec::<String>::new());
    assert!(verdict.terms >= 4, "{verdict}");
}
