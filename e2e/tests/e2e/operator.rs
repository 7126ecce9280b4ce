//! The operator is needed to set an election up, never to hold one.

use std::time::Duration;

use conch_e2e::{Environment, Namespace, OPERATOR_NAMESPACE, Probes, Tools, Workload, milliseconds};

use serde_json::Value;

use crate::support::{
    FAIL_OVER_LIMIT, PATIENCE, Scaled, breakable, environment, is_injected, judge, name_of, pods, wait_leader,
};

#[test]
fn an_election_goes_on_while_the_operator_is_away() {
    let test = "the operator is away, and the leader is deleted";
    let Some(environment) = breakable(test) else { return };
    let namespace = Namespace::new(environment, "operator-away").unwrap();
    let probes = Probes::start(&namespace, 3).unwrap();
    let operator = Scaled::to(environment, 0);
    let leader = probes.leader().unwrap();
    namespace.kubectl(&["delete", "pod", &leader.name, "--wait=false"]).unwrap();
    let exit = probes.wait_exit(&leader, FAIL_OVER_LIMIT).unwrap();
    let fail_over = probes.wait_next_term(exit, 2 * FAIL_OVER_LIMIT).unwrap();

    // Whoever never asked for Conch does not notice.
    let plain = Workload { replicas: 1, ..Workload::deployment("plain") };
    namespace.apply(plain.manifest()).unwrap();
    namespace.wait_rolled_out(&plain.reference()).unwrap();

    drop(operator);
    probes.wait_complete(3).unwrap();
    judge(&probes, test, &format!("fail-over {}", milliseconds(fail_over)));
    assert!(fail_over <= FAIL_OVER_LIMIT, "{fail_over:?}");
}

#[test]
fn of_two_operators_one_works_and_the_other_takes_over() {
    let environment = environment();
    let operator = Scaled::to(environment, 2);
    let names: Vec<_> =
        environment.operator_pods().unwrap().iter().map(|pod| name_of(pod).to_owned()).collect();
    assert_eq!(names.len(), 2);
    let leader = || {
        Tools::wait_for("leading operator", PATIENCE, || {
            let leases = environment.tools.get(&["--namespace", OPERATOR_NAMESPACE, "leases"])?;
            let holders = leases["items"].as_array().into_iter().flatten();
            let holders: Vec<_> =
                holders.filter_map(|lease| lease["spec"]["holderIdentity"].as_str()).collect();
            let pods = environment.operator_pods()?;
            let leads = |pod: &&Value| holders.iter().any(|holder| holder.starts_with(name_of(pod)));
            Ok(pods
                .iter()
                .find(leads)
                .map(|pod| name_of(pod).to_owned())
                .ok_or_else(|| format!("{holders:?}")))
        })
        .unwrap()
    };
    let first = leader();
    operator.kubectl(&["delete", "pod", &first, "--wait=false"]);
    assert_ne!(leader(), first);

    let namespace = Namespace::new(environment, "two-operators").unwrap();
    let workload = Workload { replicas: 1, policy: Some("default"), ..Workload::deployment("app") };
    namespace.apply(workload.manifest()).unwrap();
    namespace.wait_rolled_out(&workload.reference()).unwrap();
    wait_leader(&namespace, "app");
}

#[test]
fn a_workload_that_was_annotated_while_the_operator_was_away_is_rolled_when_it_is_back() {
    let namespace = Namespace::new(environment(), "late-stamp").unwrap();
    let workload = Workload { replicas: 1, ..Workload::deployment("app") };
    namespace.apply(workload.manifest()).unwrap();
    namespace.wait_rolled_out(&workload.reference()).unwrap();
    let operator = Scaled::to(environment(), 0);
    namespace.kubectl(&["annotate", &workload.reference(), "conch.rs/policy=default"]).unwrap();
    assert!(pods(&namespace, "app").unwrap().iter().all(|pod| !is_injected(pod)));
    drop(operator);
    wait_leader(&namespace, "app");
}

/// Requests that change the objects of an operator, by the API server's own count.
fn writes(environment: &Environment) -> u64 {
    let resources =
        ["elections", "coordinationpolicies", "roles", "rolebindings", "deployments", "events", "secrets"];
    let verbs = ["POST", "PUT", "PATCH", "APPLY", "DELETE"];
    environment
        .requests(&|resource, verb| {
            let lease_change = resource == "leases" && ["PATCH", "APPLY", "DELETE"].contains(&verb);
            (resources.contains(&resource) && verbs.contains(&verb)) || lease_change
        })
        .unwrap()
}

#[test]
fn a_pass_with_nothing_to_do_writes_nothing() {
    let environment = environment();
    let namespace = Namespace::new(environment, "quiet").unwrap();
    let workload = Workload { policy: Some("default"), ..Workload::deployment("app") };
    namespace.apply(workload.manifest()).unwrap();
    namespace.wait_rolled_out(&workload.reference()).unwrap();
    wait_leader(&namespace, "app");
    crate::support::wait_condition(&namespace, "election/app", "UpToDate", "True", "AllCurrent");
    // What other tests left is still being removed, and Events are counted for a while.
    let mut before = writes(environment);
    let quiet = Duration::from_secs(20);
    Tools::wait_for("20 s without a write", Duration::from_mins(3), || {
        std::thread::sleep(quiet);
        let now = writes(environment);
        let new = now - std::mem::replace(&mut before, now);
        Ok(if new == 0 { Ok(()) } else { Err(format!("{new} writes in {quiet:?}")) })
    })
    .unwrap();
    // A pass of the operator that changes nothing: the workload's own metadata.
    namespace.kubectl(&["label", &workload.reference(), "team=shop"]).unwrap();
    std::thread::sleep(Duration::from_secs(5));
    let after = writes(environment) - before;
    assert!(after <= 1, "{after} writes: one is the label");
}

#[test]
fn a_certificate_that_is_deleted_is_made_again_and_pods_get_their_sidecars() {
    let environment = environment();
    let namespace = Namespace::new(environment, "certificate").unwrap();
    let bundles = || -> conch_e2e::Result<Vec<Value>> {
        let configuration = environment.tools.get(&["mutatingwebhookconfiguration", "conch-operator"])?;
        let webhooks = configuration["webhooks"].as_array().cloned().unwrap_or_default();
        Ok(webhooks.iter().map(|webhook| webhook["clientConfig"]["caBundle"].clone()).collect())
    };
    let secret = ["--namespace", OPERATOR_NAMESPACE, "secret", "conch-operator-certificate"];
    let before = (environment.tools.get(&secret).unwrap()["data"].clone(), bundles().unwrap());
    environment.tools.kubectl(&[&["delete"], &secret[..]].concat()).unwrap();
    Tools::wait_for("a new certificate, trusted by every webhook", PATIENCE, || {
        let after = (environment.tools.get(&secret)?["data"].clone(), bundles()?);
        let is_new = after.0 != before.0 && after.1.iter().zip(&before.1).all(|(new, old)| new != old);
        Ok(if is_new { Ok(()) } else { Err("the old one".to_owned()) })
    })
    .unwrap();
    let pod = serde_json::json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "asked", "namespace": namespace.name,
        "labels": {"conch.rs/policy": "default", "conch.rs/election": "e", "conch.rs/injection": "Required"}},
        "spec": {"containers": [{"name": "program", "image": "program"}]}});
    let file = std::env::temp_dir().join(format!("{}.json", namespace.name));
    std::fs::write(&file, pod.to_string()).unwrap();
    let asked = file.to_string_lossy();
    let admitted =
        || environment.tools.kubectl(&["create", "--dry-run=server", "--output=name", "-f", &asked]);
    // A replica that did not renew it itself reads it when it sees the new bundle.
    Tools::wait_for("admission", PATIENCE, || admitted().map(Ok)).unwrap();
    for _ in 0..20 {
        admitted().unwrap();
    }
    std::fs::remove_file(&file).unwrap();
    let workload = Workload { replicas: 1, policy: Some("default"), ..Workload::deployment("app") };
    namespace.apply(workload.manifest()).unwrap();
    namespace.wait_rolled_out(&workload.reference()).unwrap();
    wait_leader(&namespace, "app");
}
