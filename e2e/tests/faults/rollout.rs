//! F. Pods that are replaced, evicted, added and taken away while they lead.

use std::time::Duration;

use conch_cluster::Relay;
use conch_e2e::{Candidate, run};
use conch_images::Program;
use serde_json::{Value, json};

use crate::shared::FAIL_OVER_LIMIT;
use crate::stage::{Course, Scenario, Stage, sleep};

impl Stage<'_> {
    /// From the end of the leader's program to the next leader.
    fn hand_over(&self, event: u64, leader: &Candidate, within: Duration) -> Course {
        let exit = self.probes.wait_exit(leader, Duration::from_mins(2)).unwrap();
        let fail_over = self.probes.wait_next_term(exit, 2 * FAIL_OVER_LIMIT).unwrap();
        Course::new_terms(event, exit, vec![fail_over], within)
    }

    fn scale(&self, replicas: usize) {
        self.kubectl(&["scale", self.probes.reference(), &format!("--replicas={replicas}")]);
    }
}

fn container(manifest: &mut Value) -> &mut Value {
    &mut manifest["spec"]["template"]["spec"]["containers"][0]
}

/// Sets an argument of the program.
fn set(manifest: &mut Value, option: &str, value: &str) {
    let arguments = container(manifest)["args"].as_array_mut().unwrap();
    let at = arguments.iter().position(|argument| argument == option).unwrap();
    arguments[at + 1] = json!(value);
}

fn grace_of_three_seconds(manifest: &mut Value) {
    manifest["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] = json!(3);
}

/// The program is killed at the end of its grace, without a last word.
fn overstay(stage: &Stage<'_>) -> Course {
    let event = conch_probe::now();
    stage.kubectl(&["delete", "pod", &stage.leader.name, "--wait=false"]);
    stage.new_term_within(event, event, Duration::from_secs(3) + stage.timing.limit())
}

#[test]
fn a_program_that_outstays_its_grace_is_not_replaced_too_early() {
    let title = "64 the leader deleted; its program ignores SIGTERM for longer than the grace of 3 s";
    let stubborn = Scenario::new(title, "stubborn").shape(|manifest| {
        grace_of_three_seconds(manifest);
        set(manifest, "--exit-delay-ms", "60000");
    });
    stubborn.run(overstay);
}

#[test]
fn a_pre_stop_that_outlasts_the_grace_is_not_waited_for_in_vain() {
    let title = "65 the leader deleted; its preStop takes longer than the grace of 3 s";
    let slow = Scenario::new(title, "pre-stop").shape(|manifest| {
        grace_of_three_seconds(manifest);
        let endless = ["/conch-probe", "get", "/v1/watch"];
        container(manifest)["lifecycle"] = json!({"preStop": {"exec": {"command": endless}}});
    });
    slow.run(overstay);
}

fn roll(stage: &Stage<'_>) -> Course {
    let event = conch_probe::now();
    stage.kubectl(&["rollout", "restart", stage.probes.reference()]);
    stage.kubectl(&["rollout", "status", stage.probes.reference(), "--timeout=2m"]);
    let course = stage.hand_over(event, &stage.leader, stage.timing.limit());
    let terms = stage.probes.history().unwrap().judge().terms;
    assert!(terms <= 4, "{terms} terms: more than one for each pod that was replaced");
    course
}

#[test]
fn a_rolling_update_with_a_surplus_pod_moves_the_lead_once_for_each_leader() {
    let surge = Scenario::new("66 rolling update, maxSurge 1, maxUnavailable 0", "surge").shape(|manifest| {
        manifest["spec"]["strategy"] = json!({"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}});
    });
    surge.run(roll);
}

#[test]
fn a_rolling_update_of_two_pods_at_a_time_moves_the_lead_once_for_each_leader() {
    let pairs = Scenario::new("66 rolling update, maxSurge 0, maxUnavailable 2", "pairs").shape(|manifest| {
        manifest["spec"]["strategy"] = json!({"rollingUpdate": {"maxSurge": 0, "maxUnavailable": 2}});
    });
    pairs.run(roll);
}

#[test]
fn a_workload_is_scaled_to_none_to_fifty_and_to_one() {
    let title = "67, 68 scaled 3, 0, 50, 1; the leader of 50 is deleted";
    let crowd = Scenario::new(title, "crowd").alone().shape(|manifest| {
        set(manifest, "--interval-ms", "100");
    });
    crowd.run(|stage| {
        let probes = stage.probes;
        let begin = conch_probe::now();
        stage.scale(0);
        stage.kubectl(&["wait", "--for=delete", "pods", "--selector=app=probe", "--timeout=1m"]);
        stage.kubectl(&["get", "lease", &probes.lease()]);
        stage.scale(50);
        probes.wait_complete(50).unwrap();
        let puts =
            || stage.environment.requests(&|resource, verb| resource == "leases" && verb == "PUT").unwrap();
        let (leader, before) = (probes.leader().unwrap(), puts());
        stage.kubectl(&["delete", "pod", &leader.name, "--wait=false"]);
        let exit = probes.wait_exit(&leader, FAIL_OVER_LIMIT).unwrap();
        let fail_over = probes.wait_next_term(exit, FAIL_OVER_LIMIT).unwrap();
        sleep(5);
        let puts = puts() - before;
        println!("RESULT 68 writes of Leases by a cluster with 50 candidates while the lead moved: {puts}");
        // One attempt for each, and what renewals and nodes write meanwhile.
        assert!(puts <= 80, "{puts} writes");
        probes.wait_complete(50).unwrap();
        stage.scale(1);
        probes.wait_complete(1).unwrap();
        let healed = conch_probe::now();
        let course = Course::new_terms(begin, healed, vec![fail_over], stage.timing.limit());
        Course { replicas: 1, ..course }
    });
}

#[test]
fn a_drained_node_hands_the_lead_over() {
    Scenario::new("72 kubectl drain of the leader's node", "drain").alone().run(|stage| {
        let event = conch_probe::now();
        let cordon = stage.cordon(stage.leader.node);
        let node = &stage.cluster().node_names()[stage.leader.node - 1];
        stage.kubectl(&["drain", node, "--pod-selector=app=probe", "--ignore-daemonsets", "--timeout=2m"]);
        let course = stage.hand_over(event, &stage.leader, stage.timing.limit());
        drop(cordon);
        course
    });
}

/// A proxy in the leader's pod, through which its sidecar's way to the API server leads, as in a service mesh.
fn mesh(stage: &Stage<'_>) -> Relay {
    let mesh = stage.cluster().relay_in_pod(stage.sidecar(&stage.leader)).unwrap();
    sleep(5);
    assert!(mesh.connections() > 0, "the sidecar's way leads around the mesh");
    mesh
}

#[test]
fn a_leader_in_a_mesh_hands_over_through_a_proxy_that_ends_after_it() {
    Scenario::new("62, 97 the leader deleted, in a mesh whose proxy ends late", "mesh").run(|stage| {
        let mesh = mesh(stage);
        let event = conch_probe::now();
        stage.kubectl(&["delete", "pod", &stage.leader.name, "--wait=false"]);
        // The release finds its way out through the proxy: nobody waits for the lease.
        let course = stage.hand_over(event, &stage.leader, Duration::from_secs(2));
        sleep(3);
        drop(mesh);
        course
    });
}

#[test]
fn a_leader_whose_mesh_ends_before_it_is_replaced_after_the_lease() {
    Scenario::new("62, 97 the leader deleted, in a mesh whose proxy ends first", "mesh-gone").run(|stage| {
        let mesh = mesh(stage);
        let event = conch_probe::now();
        stage.kubectl(&["delete", "pod", &stage.leader.name, "--wait=false"]);
        mesh.end();
        stage.hand_over(event, &stage.leader, stage.timing.limit())
    });
}

/// `kubectl set image` of the sidecar of a running pod.
fn set_sidecar_image(stage: &Stage<'_>, image: &str) {
    let pod = format!("pod/{}", stage.leader.name);
    stage.kubectl(&["set", "image", &pod, &format!("{}={image}", conch_crds::names::SIDECAR_CONTAINER)]);
}

#[test]
fn a_sidecar_whose_image_is_changed_in_place_leads_on_in_its_pod() {
    Scenario::new("7 the image of the leader's sidecar changed in place", "image").run(|stage| {
        let image = Program::Sidecar.reference();
        let other = format!("{}:other", Program::Sidecar.repository());
        let kubeconfig = stage.cluster().kubeconfig();
        let node = &stage.cluster().node_names()[stage.leader.node - 1];
        let socket = kubeconfig.with_file_name(node).join("containerd.sock");
        let socket = socket.to_str().unwrap();
        let tag = ["--address", socket, "--namespace", "k8s.io", "images", "tag", "--force", &image, &other];
        run(stage.environment.tools.command("ctr").args(tag)).unwrap();
        // The kubelet sees a new name of an image a little later.
        sleep(3);
        let event = conch_probe::now();
        set_sidecar_image(stage, &other);
        let course = stage.new_term(event, event);
        assert_eq!(stage.probes.leader().unwrap(), stage.leader, "another pod leads");
        course
    });
}

#[test]
fn a_sidecar_whose_new_image_does_not_exist_is_replaced() {
    let title = "8 the image of the leader's sidecar changed in place to one that does not exist";
    Scenario::new(title, "no-image").run(|stage| {
        let event = conch_probe::now();
        set_sidecar_image(stage, "conch.local/nothing:1");
        stage.probes.wait_next_term(event, 2 * FAIL_OVER_LIMIT).unwrap();
        let successor = stage.probes.leader().unwrap();
        assert_ne!(successor.name, stage.leader.name);
        set_sidecar_image(stage, &Program::Sidecar.reference());
        stage.new_term(event, conch_probe::now())
    });
}
