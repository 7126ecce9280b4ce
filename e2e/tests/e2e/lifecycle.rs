//! What a real kubelet does to the containers of a candidate, in which order, and what becomes of the lead.

use std::thread;
use std::time::Duration;

use conch_cluster::{Treatment, Ways};
use conch_crds::names;
use conch_e2e::{CONTAINER, Candidate, Namespace, Probes, Tools, image_reference, milliseconds};
use conch_images::Program;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::candidates::{
    LEASE, PROMISES, SOON, STOP_GRACE, answers, candidate, first_answer, manifest, others, start,
    with_stop_grace,
};
use crate::support::{
    FAIL_OVER_LIMIT, PATIENCE, breakable, is_injected, judge, judge_history, status, wait_event,
};

/// No program is asked for more than the default does.
fn asked() -> Value {
    json!({})
}

/// Waits for the exit of a pod's program, then for the next term, and returns how long that took.
fn wait_hand_over(probes: &Probes<'_>, leader: &Candidate) -> Duration {
    let exit = probes.wait_exit(leader, FAIL_OVER_LIMIT).unwrap();
    probes.wait_next_term(exit, FAIL_OVER_LIMIT).unwrap()
}

#[test]
fn a_deleted_leader_is_told_that_it_terminates_and_leads_on_until_its_program_has_ended() {
    let test = "62 kubectl delete pod of a leader whose program takes 5 s to stop";
    let Some(environment) = breakable(test) else { return };
    let namespace = Namespace::new(environment, "terminating").unwrap();
    let slow = |pod: &mut Value| {
        let arguments = pod["containers"][0]["args"].as_array_mut().unwrap();
        let at = arguments.iter().position(|argument| argument == "--exit-delay-ms").unwrap();
        arguments[at + 1] = json!("5000");
    };
    let probes = start(&namespace, 2, &asked(), slow);

    let leader = probes.leader().unwrap();
    assert_eq!(status(&namespace, &leader.name).unwrap()["terminating"], false);
    let event = conch_probe::now();
    namespace.kubectl(&["delete", "pod", &leader.name, "--wait=false"]).unwrap();
    let told = Tools::wait_for("word that the pod terminates", Duration::from_secs(4), || {
        let answer = status(&namespace, &leader.name)?;
        Ok(if answer["terminating"] == true { Ok(answer) } else { Err(answer.to_string()) })
    })
    .unwrap();
    let told_after = Duration::from_nanos(conch_probe::now() - event);
    assert_eq!(told["leader"], true, "its program still works: {told}");
    let hand_over = wait_hand_over(&probes, &leader);
    let more = format!("told after {}, hand-over {}", milliseconds(told_after), milliseconds(hand_over));
    judge(&probes, test, &more);
    // Its exit is proven: nobody waits for what was promised.
    assert!(hand_over <= SOON, "{hand_over:?}");
}

#[test]
fn a_sidecar_that_crashes_beside_a_healthy_program_leads_again_in_the_same_pod() {
    let test = "7 SIGKILL of the leader's sidecar, its program goes on";
    let Some(environment) = breakable(test) else { return };
    let namespace = Namespace::new(environment, "crashed").unwrap();
    let probes = start(&namespace, 3, &asked(), |_| {});

    let leader = probes.leader().unwrap();
    let event = conch_probe::now();
    probes.kill_sidecar(&leader).unwrap();
    let again = probes.wait_next_term(event, FAIL_OVER_LIMIT).unwrap();
    assert_eq!(probes.leader().unwrap(), leader, "another pod leads");
    judge(&probes, test, &format!("leads again after {}", milliseconds(again)));
    // Half a second on an idle machine, nearly all of it the kubelet's, which starts it anew. Nobody waited for the lease.
    assert!(again <= LEASE / 2, "{again:?}");
}

#[test]
fn a_program_that_needs_its_stop_grace_has_it_before_another_pod_leads() {
    let test = "43 nothing comes through between the leader and the API server; programs use their stopGrace";
    let Some(environment) = breakable(test) else { return };
    let namespace = Namespace::new(environment, "stop-grace").unwrap();
    let probes = start(&namespace, 3, &asked(), |_| {});

    let leader = probes.leader().unwrap();
    let relay = probes.cluster().relay().unwrap();
    relay.capture(probes.processes(&leader, names::SIDECAR_CONTAINER).unwrap()[0]).unwrap();
    // Past the first requests on this way, it renews as before.
    thread::sleep(LEASE);
    let leader_now = probes.leader().unwrap();
    let event = conch_probe::now();
    relay.treat(Ways { requests: Treatment::Hold, answers: Treatment::Hold });
    let fail_over = probes.wait_next_term(event, FAIL_OVER_LIMIT);
    drop(relay);
    assert_eq!(leader_now, leader);
    let fail_over = fail_over.unwrap();
    // It answered up to its last moment, and whoever was told so acts for stopGrace after that.
    let history = with_stop_grace(probes.history().unwrap());
    judge_history(&history, test, &format!("fail-over {}", milliseconds(fail_over)));
    assert!(fail_over <= LEASE + 3 * SOON, "{fail_over:?}");
}

/// A pod of its own, made of a candidate's, whose sidecar the kubelet asks every second whether it lives.
fn with_liveness_probe(pod: &Value, name: &str) -> Value {
    let mut spec = pod["spec"].clone();
    spec["nodeName"].take();
    let containers = spec["initContainers"].as_array_mut().unwrap();
    let sidecar = containers.iter_mut().find(|one| name_in(one) == names::SIDECAR_CONTAINER).unwrap();
    sidecar["livenessProbe"] = json!({"exec": {"command": [names::SIDECAR_BINARY, "ready"]},
        "periodSeconds": 1, "timeoutSeconds": 1, "failureThreshold": 2});
    let (mut labels, annotations) = (pod["metadata"]["labels"].clone(), &pod["metadata"]["annotations"]);
    labels["app"] = json!(name);
    // Or the Deployment would take it for one of its own.
    labels.as_object_mut().unwrap().remove("pod-template-hash");
    let metadata = json!({"name": name, "labels": labels, "annotations": annotations});
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})
}

#[test]
fn a_sidecar_that_fails_a_probe_is_restarted_beside_its_program_and_never_two_lead() {
    let test = "7 a liveness probe fails: the kubelet restarts the leader's sidecar, its program goes on";
    let Some(environment) = breakable(test) else { return };
    let namespace = Namespace::new(environment, "failed-probe").unwrap();
    let probes = Probes::start(&namespace, 1).unwrap();
    let model = &namespace.list(&["pods", "--selector", "app=probe"]).unwrap()[0];
    namespace.apply(with_liveness_probe(model, "probed")).unwrap();
    let alone = wait_running(&probes, "app=probed");
    transfer(&probes, &alone);

    let event = conch_probe::now();
    probes.signal(&alone, names::SIDECAR_CONTAINER, Signal::STOP).unwrap();
    let killing = wait_event(&namespace, "Killing");
    probes.signal(&alone, names::SIDECAR_CONTAINER, Signal::CONT).unwrap();
    assert!(killing.contains(names::SIDECAR_CONTAINER), "{killing}");
    let fail_over = probes.wait_next_term(event, 2 * FAIL_OVER_LIMIT).unwrap();
    let same = probes.leader().unwrap() == alone;
    probes.wait_complete(1).unwrap();
    let restarted = Tools::wait_for("restart of the sidecar", PATIENCE, || {
        let pod = namespace.get(&["pod", &alone.name])?;
        let states = pod["status"]["initContainerStatuses"].as_array().cloned().unwrap_or_default();
        let restarts: u64 = states.iter().filter_map(|one| one["restartCount"].as_u64()).sum();
        Ok(if restarts > 0 { Ok(restarts) } else { Err("none".to_owned()) })
    });
    assert_eq!(restarted.unwrap(), 1);
    let more = format!("fail-over {}, to the same pod: {same}", milliseconds(fail_over));
    judge(&probes, test, &more);
    assert!(fail_over <= FAIL_OVER_LIMIT, "{fail_over:?}");
}

/// Asks that this pod leads, and waits until it does.
fn transfer(probes: &Probes<'_>, to: &Candidate) -> Duration {
    let event = conch_probe::now();
    let wish = format!("{}={}", names::TRANSFER_TO, to.name);
    probes.namespace.kubectl(&["annotate", "lease", &probes.lease(), &wish]).unwrap();
    let hand_over = probes.wait_next_term(event, FAIL_OVER_LIMIT).unwrap();
    assert_eq!(probes.leader().unwrap(), *to, "another pod leads");
    hand_over
}

#[test]
fn a_transfer_tells_the_program_first_and_hands_over_when_every_promise_is_over() {
    let test = "kubectl annotate lease: another pod is to lead";
    let Some(environment) = breakable(test) else { return };
    let namespace = Namespace::new(environment, "transfer").unwrap();
    let probes = start(&namespace, 3, &asked(), |_| {});

    let leader = probes.leader().unwrap();
    let wanted = others(&probes, &leader).pop().unwrap();
    let event = conch_probe::now();
    let hand_over = transfer(&probes, &wanted);
    let history = with_stop_grace(probes.history().unwrap());
    let no = answers(&history, &leader).into_iter().filter(|(answered, leads)| *answered > event && !leads);
    let told = Duration::from_nanos(no.min().unwrap().0 - event);
    let more = format!("told after {}, hand-over {}", milliseconds(told), milliseconds(hand_over));
    judge_history(&history, test, &more);
    assert!(told + STOP_GRACE < hand_over, "it had no time to stop");
    assert!(hand_over <= PROMISES + SOON, "{hand_over:?}");
    let lease = namespace.get(&["lease", &probes.lease()]).unwrap();
    assert!(lease["metadata"]["annotations"][names::TRANSFER_TO].is_null(), "the wish stays");
}

#[test]
fn a_job_whose_program_ends_is_complete_and_its_lead_goes_on() {
    let test = "the program of a Job leads and ends";
    let Some(environment) = breakable(test) else { return };
    let namespace = Namespace::new(environment, "job").unwrap();
    let probes = start(&namespace, 1, &asked(), |_| {});
    // A Job's pods join by what the annotation of a workload puts on its pods.
    let mut job = manifest(&probes.workload(1), |pod| pod["restartPolicy"] = json!("Never"));
    let labels = &namespace.list(&["pods", "--selector", "app=probe"]).unwrap()[0]["metadata"]["labels"];
    let mut template = job["spec"]["template"].take();
    for label in [names::POLICY, names::ELECTION_LABEL, names::INJECTION] {
        template["metadata"]["labels"][label] = labels[label].clone();
    }
    template["metadata"]["labels"]["app"] = json!("work");
    job = json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "work"},
        "spec": {"backoffLimit": 0, "template": template}});
    namespace.apply(job).unwrap();
    let worker = wait_running(&probes, "app=work");

    let first = probes.leader().unwrap();
    transfer(&probes, &worker);
    // Its work is done.
    probes.signal(&worker, CONTAINER, Signal::TERM).unwrap();
    let exit = probes.wait_exit(&worker, FAIL_OVER_LIMIT).unwrap();
    namespace.kubectl(&["wait", "--for=condition=complete", "job/work", "--timeout=60s"]).unwrap();
    let complete = Duration::from_nanos(conch_probe::now() - exit);
    let hand_over = probes.wait_next_term(exit, FAIL_OVER_LIMIT).unwrap();
    assert_eq!(probes.leader().unwrap(), first);
    let more = format!("hand-over {}, complete after {}", milliseconds(hand_over), milliseconds(complete));
    judge(&probes, test, &more);
    // The pod is not being deleted, so nothing proves the exit: every promise is waited for, and the sidecar ends then.
    assert!(hand_over <= PROMISES + 2 * SOON, "{hand_over:?}");
    assert!(complete <= PROMISES + 10 * SOON, "{complete:?}");
}

/// The one pod with this label, once its program has been answered.
fn wait_running(probes: &Probes<'_>, selector: &str) -> Candidate {
    let namespace = probes.namespace;
    let candidate = Tools::wait_for("running pod", PATIENCE, || {
        let pods = namespace.list(&["pods", "--selector", selector])?;
        let candidate = pods.first().and_then(|pod| candidate(probes, pod));
        Ok(candidate.ok_or_else(|| format!("{} pods", pods.len())))
    })
    .unwrap();
    first_answer(probes, &candidate, 0);
    candidate
}

#[test]
fn init_containers_before_the_sidecar_end_or_go_on_and_the_lead_is_handed_over_before_theirs_ends() {
    let test = "62 kubectl delete pod of a leader with init containers, one of which runs on";
    let Some(environment) = breakable(test) else { return };
    let namespace = Namespace::new(environment, "init-containers").unwrap();
    let container = |name: &str, arguments: &[&str]| {
        json!({"name": name, "image": image_reference(Program::Probe), "imagePullPolicy": "IfNotPresent",
            "args": arguments})
    };
    let probes = start(&namespace, 2, &asked(), |pod| {
        // One that ends before the sidecar is there, and one that runs beside it and ends after it, as a proxy does.
        let migration = container("migration", &["--help"]);
        let mut proxy = container("proxy", &["run", "--path", "/v1/status", "--exit-delay-ms", "3000"]);
        proxy["restartPolicy"] = json!("Always");
        pod["initContainers"] = json!([migration, proxy]);
    });
    let leader = probes.leader().unwrap();
    let pod = namespace.get(&["pod", &leader.name]).unwrap();
    let names: Vec<_> = pod["spec"]["initContainers"].as_array().unwrap().iter().map(name_in).collect();
    assert_eq!(names, ["migration", "proxy", names::SIDECAR_CONTAINER]);
    assert!(is_injected(&pod));

    namespace.kubectl(&["delete", "pod", &leader.name, "--wait=false"]).unwrap();
    let hand_over = wait_hand_over(&probes, &leader);
    judge(&probes, test, &format!("hand-over {}", milliseconds(hand_over)));
    assert!(hand_over <= SOON, "{hand_over:?}");
}

fn name_in(container: &Value) -> &str {
    container["name"].as_str().unwrap_or_default()
}
