//! The main job: annotate a workload, ask who leads.

use conch_crds::names;
use conch_e2e::{Namespace, Workload};
use serde_json::json;

use crate::support::{environment, is_injected, name_of, pods, status, wait_condition, wait_leader};

#[test]
fn the_only_pod_of_an_annotated_deployment_says_that_it_leads() {
    let namespace = Namespace::new(environment(), "first").unwrap();
    let workload = Workload { replicas: 1, policy: Some("default"), ..Workload::deployment("solo") };
    namespace.apply(workload.manifest()).unwrap();
    namespace.wait_rolled_out(&workload.reference()).unwrap();

    let (pod, answer) = wait_leader(&namespace, "solo");
    assert_eq!(answer["election"], format!("{}/solo", namespace.name));
    assert_eq!([&answer["pod"], &answer["holder"]], [pod.as_str(), pod.as_str()]);
    let token = answer["token"].as_str().unwrap();
    assert!(token.len() == 20 && token.bytes().all(|byte| byte.is_ascii_digit()), "{token}");
    assert!((1..=5_000).contains(&answer["validForMs"].as_u64().unwrap()), "{answer}");

    let policy = namespace.get(&["coordinationpolicy", "default"]).unwrap();
    assert_eq!(policy["spec"]["timing"]["leaseDuration"], "15s");
    let lease = namespace.get(&["lease", "conch-solo"]).unwrap();
    let uid = pods(&namespace, "solo").unwrap()[0]["metadata"]["uid"].clone();
    let holder = lease["spec"]["holderIdentity"].as_str().unwrap();
    assert!(holder.starts_with(&format!("{pod}_{}_", uid.as_str().unwrap())), "{holder}");
    wait_condition(&namespace, "election/solo", "Ready", "True", "Led");
    let table = namespace.kubectl(&["get", "elections"]).unwrap();
    assert!(table.starts_with("NAME") && table.contains("LEADER") && table.contains(&pod), "{table}");
}

#[test]
fn one_of_three_pods_leads_and_the_others_name_it() {
    let namespace = Namespace::new(environment(), "three").unwrap();
    let workload = Workload { policy: Some("default"), ..Workload::deployment("trio") };
    namespace.apply(workload.manifest()).unwrap();
    namespace.wait_rolled_out(&workload.reference()).unwrap();
    let (leader, _) = wait_leader(&namespace, "trio");
    for pod in pods(&namespace, "trio").unwrap() {
        assert!(is_injected(&pod));
        let answer = status(&namespace, name_of(&pod)).unwrap();
        assert_eq!(answer["holder"], leader.as_str(), "{answer}");
        assert_eq!(answer["leader"], json!(name_of(&pod) == leader), "{answer}");
    }
}

#[test]
fn two_workloads_share_an_election_only_where_the_policy_says_so() {
    let namespace = Namespace::new(environment(), "shared").unwrap();
    let policy = |shared: &[&str]| {
        json!({
            "apiVersion": format!("{}/{}", names::GROUP, names::VERSION), "kind": "CoordinationPolicy",
            "metadata": {"name": "shop"}, "spec": {"sharedElections": shared},
        })
    };
    namespace.apply(policy(&[])).unwrap();
    for name in ["blue", "green"] {
        let workload = Workload { replicas: 1, policy: Some("shop"), ..Workload::deployment(name) };
        let mut manifest = workload.manifest();
        manifest["metadata"]["annotations"][names::ELECTION] = json!("payments");
        namespace.apply(manifest).unwrap();
    }
    let condition = wait_condition(&namespace, "election/payments", "Ready", "False", "NotShared");
    assert!(condition["message"].as_str().unwrap().contains("sharedElections"), "{condition}");
    crate::support::wait_event(&namespace, "ElectionNotShared");
    namespace.apply(policy(&["payments"])).unwrap();
    wait_condition(&namespace, "election/payments", "Ready", "True", "Led");
    for name in ["blue", "green"] {
        namespace.wait_rolled_out(&format!("deployment/{name}")).unwrap();
    }
    let answers = ["blue", "green"].map(|app| {
        let pods = pods(&namespace, app).unwrap();
        status(&namespace, name_of(&pods[0])).unwrap()
    });
    let leading = answers.iter().filter(|answer| answer["leader"] == true).count();
    assert_eq!(leading, 1, "{answers:?}");
}
