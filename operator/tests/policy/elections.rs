//! What is made for a workload, and what becomes of it.

use crate::cluster::{Cluster, wait_for};
use conch_crds::{CoordinationPolicy, Election, names};
use conch_operator::webhook::Knowledge;
use k8s_openapi::api::{
    admissionregistration::v1::{ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding},
    apps::v1::Deployment,
    authorization::v1::SubjectAccessReview,
    coordination::v1::{Lease, LeaseSpec},
    core::v1::Pod,
    rbac::v1::{Role, RoleBinding},
};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, PostParams},
};
use serde_json::json;
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::watch;

#[tokio::test]
async fn an_annotated_workload_gets_its_objects_and_then_nothing_more_is_written() {
    let Some(cluster) = Cluster::new("objects").await else { return };
    let operator = cluster.operator().await;
    let start = Instant::now();
    let deployment = cluster.deployment("payments", "default", None).await;
    let lease = wait_for("fresh Lease", async || {
        cluster
            .get::<Lease>("conch-payments")
            .await
            .filter(|lease| lease.annotations().contains_key(names::FRESH))
    })
    .await;
    eprintln!("from the workload to a fresh Lease: {:?}", start.elapsed());
    assert_eq!(lease.annotations()[names::LONGEST_LEASE], "15000");
    assert_eq!(lease.owner_references()[0].uid, deployment.uid().unwrap());
    assert!(lease.spec.is_none_or(|spec| spec == LeaseSpec::default()));
    operator.settle().await;
    assert!(cluster.get::<Role>("conch-payments").await.is_some());
    assert!(cluster.get::<CoordinationPolicy>("default").await.is_some());
    let election = cluster.get::<Election>("payments").await.unwrap();
    assert!(election.owner_references().is_empty());
    assert_eq!(election.status.unwrap().policy, "default");
    assert!(cluster.events("payments").await.iter().any(|(reason, _)| reason == "PolicyCreated"));

    // A status of somebody else, a pod that does not concern us, a renewal: nothing is written.
    let before = operator.settle().await;
    let versions = versions(&cluster).await;
    cluster.merge::<Deployment>("payments", json!({"metadata": {"annotations": {"foreign": "1"}}})).await;
    operator.settle().await;
    assert_eq!(operator.metrics.writes.get(), before);
    assert_eq!(self::versions(&cluster).await, versions);

    // Nor by an operator that starts anew.
    operator.stop().await;
    let operator = cluster.operator().await;
    assert_eq!(operator.settle().await, 0);
    assert_eq!(self::versions(&cluster).await, versions);
    cluster.end().await;
}

async fn versions(cluster: &Cluster) -> Vec<Option<String>> {
    let name = "conch-payments";
    vec![
        cluster.get::<Lease>(name).await.and_then(|object| object.resource_version()),
        cluster.get::<Role>(name).await.and_then(|object| object.resource_version()),
        cluster.get::<RoleBinding>(name).await.and_then(|object| object.resource_version()),
        cluster.get::<Election>("payments").await.and_then(|object| object.resource_version()),
        cluster.get::<CoordinationPolicy>("default").await.and_then(|object| object.resource_version()),
    ]
}

#[tokio::test]
async fn a_sidecar_may_use_its_own_lease_and_nothing_else() {
    let Some(cluster) = Cluster::new("rights").await else { return };
    let operator = cluster.operator().await;
    cluster.deployment("payments", "default", None).await;
    cluster.pod("payments-0", "payments", "teller").await;
    operator.settle().await;
    for account in ["teller", "default"] {
        for verb in ["get", "update", "watch", "create"] {
            assert!(may(&cluster, account, verb, "conch-payments").await, "{account} {verb}");
        }
        assert!(!may(&cluster, account, "list", "conch-payments").await);
        assert!(!may(&cluster, account, "delete", "conch-payments").await);
        assert!(!may(&cluster, account, "get", "conch-ledger").await);
    }
    assert!(!may(&cluster, "somebody", "get", "conch-payments").await);
    // A pod that is gone takes its right with it.
    cluster.delete::<Pod>("payments-0").await;
    cluster.merge::<Pod>("payments-0", json!({"metadata": {"finalizers": null}})).await;
    operator.settle().await;
    assert!(!may(&cluster, "teller", "get", "conch-payments").await);
    cluster.end().await;
}

async fn may(cluster: &Cluster, account: &str, verb: &str, lease: &str) -> bool {
    let review = json!({"metadata": {}, "spec": {
        "user": format!("system:serviceaccount:{}:{account}", cluster.namespace),
        "resourceAttributes": {"namespace": cluster.namespace, "verb": verb, "group": "coordination.k8s.io",
            "resource": "leases", "name": lease},
    }});
    let reviews: Api<SubjectAccessReview> = Api::all(cluster.client.clone());
    let review =
        reviews.create(&PostParams::default(), &serde_json::from_value(review).unwrap()).await.unwrap();
    review.status.unwrap().allowed
}

#[tokio::test]
async fn a_lease_that_is_not_ours_is_never_touched() {
    let Some(cluster) = Cluster::new("foreign").await else { return };
    let operator = cluster.operator().await;
    let foreign = json!({"metadata": {"name": "conch-payments"}, "spec": {"holderIdentity": "somebody"}});
    let before: Lease = cluster.create(foreign).await;
    cluster.deployment("payments", "default", None).await;
    let message = cluster.wait_for_reason("payments", "Ready", "NotOurs").await;
    assert!(message.contains("Lease conch-payments"), "{message}");
    operator.settle().await;
    let after = cluster.get::<Lease>("conch-payments").await.unwrap();
    assert_eq!(after.resource_version(), before.resource_version());
    assert!(cluster.events("payments").await.iter().any(|(reason, _)| reason == "NotOurs"));
    cluster.end().await;
}

#[tokio::test]
async fn the_oldest_workload_keeps_an_election_until_the_policy_shares_it() {
    let Some(cluster) = Cluster::new("shared").await else { return };
    let operator = cluster.operator().await;
    cluster.create::<CoordinationPolicy>(policy("both", "15s")).await;
    let first = cluster.deployment("first", "both", Some("ledger")).await;
    tokio::time::sleep(Duration::from_millis(1_100)).await; // creation times have whole seconds
    let second = cluster.deployment("second", "both", Some("ledger")).await;
    let message = cluster.wait_for_reason("ledger", "Ready", "NotShared").await;
    assert!(message.contains("Deployment second"), "{message}");
    assert_eq!(cluster.status("ledger").await.workload.name, "first");
    operator.settle().await;
    assert!(cluster.events("second").await.iter().any(|(reason, _)| reason == "ElectionNotShared"));

    cluster.merge::<CoordinationPolicy>("both", json!({"spec": {"sharedElections": ["ledger"]}})).await;
    cluster.wait_for_reason("ledger", "Ready", "NoCandidates").await;
    let lease = cluster.get::<Lease>("conch-ledger").await.unwrap();
    let owners: Vec<_> = lease.owner_references().iter().map(|owner| owner.uid.clone()).collect();
    assert_eq!(owners, [first.uid().unwrap(), second.uid().unwrap()]);
    cluster.end().await;
}

#[tokio::test]
async fn what_a_workload_gets_wrong_is_said_on_its_election() {
    let Some(cluster) = Cluster::new("wrong").await else { return };
    let operator = cluster.operator().await;
    cluster.deployment("nameless", "missing", None).await;
    cluster.wait_for_reason("nameless", "Ready", "PolicyNotFound").await;
    cluster.create::<CoordinationPolicy>(policy("missing", "15s")).await;
    cluster.wait_for_reason("nameless", "Ready", "NoCandidates").await;

    cluster.deployment("host", "default", None).await;
    cluster.merge::<Deployment>("host", json!({"spec": {"template": {"spec": {"hostNetwork": true}}}})).await;
    cluster.wait_for_reason("host", "Injected", "HostNetwork").await;

    let unstamped = json!({"spec": {"template": {"metadata": {"labels": {names::ELECTION_LABEL: null}}}}});
    cluster.deployment("unstamped", "default", None).await;
    cluster.merge::<Deployment>("unstamped", unstamped).await;
    cluster.wait_for_reason("unstamped", "Injected", "NotStamped").await;
    operator.settle().await;
    let reasons = cluster.events("nameless").await;
    assert!(reasons.iter().any(|(reason, _)| reason == "PolicyNotFound"), "{reasons:?}");
    let reasons = cluster.events("host").await;
    assert!(reasons.iter().any(|(reason, _)| reason == "InjectionRefused"), "{reasons:?}");
    cluster.end().await;
}

#[tokio::test]
async fn what_the_api_server_answers_to_a_touch_that_it_refuses_is_said_on_the_election() {
    let Some(cluster) = Cluster::new("refused").await else { return };
    let _operator = cluster.operator().await;
    let unstamped = json!({"spec": {"template": {"metadata": {"labels": {names::ELECTION_LABEL: null}}}}});
    cluster.deployment("refused", "default", None).await;
    cluster.merge::<Deployment>("refused", unstamped).await;
    let rule = json!({"apiGroups": ["apps"], "apiVersions": ["v1"], "operations": ["UPDATE"], "resources": ["deployments"]});
    let here = json!({"matchLabels": {"kubernetes.io/metadata.name": cluster.namespace}});
    let policy = json!({"metadata": {"name": cluster.namespace}, "spec": {
        "matchConstraints": {"resourceRules": [rule], "namespaceSelector": here},
        "validations": [{"expression": "false", "message": "nothing is changed here"}]}});
    let binding = json!({"metadata": {"name": cluster.namespace}, "spec": {
        "policyName": cluster.namespace, "validationActions": ["Deny"]}});
    let policies: Api<ValidatingAdmissionPolicy> = Api::all(cluster.client.clone());
    let bindings: Api<ValidatingAdmissionPolicyBinding> = Api::all(cluster.client.clone());
    policies.create(&PostParams::default(), &serde_json::from_value(policy).unwrap()).await.unwrap();
    bindings.create(&PostParams::default(), &serde_json::from_value(binding).unwrap()).await.unwrap();
    // The touches before the API server knows of the policy change nothing, because no webhook answers.
    wait_for("refusal", async || {
        let message = cluster.wait_for_reason("refused", "Injected", "NotStamped").await;
        (message.contains("nothing is changed here") && message.contains("Write the workload")).then_some(())
    })
    .await;
    policies.delete(&cluster.namespace, &DeleteParams::default()).await.unwrap();
    bindings.delete(&cluster.namespace, &DeleteParams::default()).await.unwrap();
    cluster.end().await;
}

#[tokio::test]
async fn an_election_that_nobody_asks_for_is_removed_when_nobody_can_believe_to_lead_it() {
    let Some(cluster) = Cluster::new("gone").await else { return };
    let operator = cluster.operator().await;
    cluster.create::<CoordinationPolicy>(policy("short", "3s")).await;
    cluster.deployment("payments", "short", None).await;
    operator.settle().await;
    let unannotated = Instant::now();
    cluster
        .merge::<Deployment>("payments", json!({"metadata": {"annotations": {names::POLICY: null}}}))
        .await;
    wait_for("end of the Election", async || {
        cluster.get::<Election>("payments").await.is_none().then_some(())
    })
    .await;
    let took = unannotated.elapsed();
    assert!(took >= Duration::from_secs(3), "{took:?}");
    assert!(cluster.get::<Lease>("conch-payments").await.is_none());
    assert!(cluster.get::<Role>("conch-payments").await.is_none());
    assert!(cluster.get::<RoleBinding>("conch-payments").await.is_none());
    cluster.end().await;
}

#[tokio::test]
async fn a_replica_that_does_not_lead_knows_when_a_longer_lease_came_out_of_use() {
    let Some(cluster) = Cluster::new("onlooker").await else { return };
    let operator = cluster.operator_with(Arc::new(|| false), watch::channel(()).1).await;
    cluster.create::<CoordinationPolicy>(policy("p", "8s")).await;
    cluster.deployment("payments", "p", None).await;
    let longest = || operator.copies.longest_lease(&cluster.namespace, "payments");
    let long = Some(Duration::from_secs(8));
    wait_for("the long lease", async || (longest() == long).then_some(())).await;
    cluster.merge::<CoordinationPolicy>("p", json!({"spec": {"timing": {"leaseDuration": "3s"}}})).await;
    // Nobody asks before it is over: nine eighths of the lease, and two seconds for the watch.
    tokio::time::sleep(Duration::from_secs(11)).await;
    assert_eq!(longest(), Some(Duration::from_secs(3)));
    cluster.end().await;
}

#[tokio::test]
async fn objects_stay_while_a_pod_of_an_election_lives() {
    let Some(cluster) = Cluster::new("kept").await else { return };
    let operator = cluster.operator().await;
    cluster.create::<CoordinationPolicy>(policy("short", "3s")).await;
    cluster.deployment("payments", "short", None).await;
    cluster.pod("payments-0", "payments", "default").await;
    operator.settle().await;
    cluster
        .merge::<Deployment>("payments", json!({"metadata": {"annotations": {names::POLICY: null}}}))
        .await;
    // The pod asks for 15 s: long past those of the policy, everything is there.
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(cluster.get::<Lease>("conch-payments").await.is_some());
    assert!(may(&cluster, "default", "update", "conch-payments").await);
    assert_eq!(
        cluster.get::<Lease>("conch-payments").await.unwrap().annotations()[names::LONGEST_LEASE],
        "15000"
    );
    cluster.end().await;
}

fn policy(name: &str, lease: &str) -> serde_json::Value {
    json!({"metadata": {"name": name}, "spec": {"timing": {
        "leaseDuration": lease, "renewInterval": "500ms", "stopGrace": "100ms", "maxPromise": "1s"}}})
}
