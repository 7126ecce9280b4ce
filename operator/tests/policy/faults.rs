//! An operator that dies at any point, and what may be called fresh afterwards.

use crate::cluster::{Cluster, wait_for};
use conch_crds::{CoordinationPolicy, Election, names};
use k8s_openapi::api::{
    apps::v1::Deployment,
    coordination::v1::Lease,
    rbac::v1::{Role, RoleBinding},
};
use kube::ResourceExt;
use serde_json::json;

async fn is_fresh(cluster: &Cluster) -> bool {
    let lease = cluster.get::<Lease>("conch-payments").await.unwrap();
    lease.annotations().contains_key(names::FRESH)
}

#[tokio::test]
async fn whatever_write_an_operator_dies_after_the_next_one_finishes_the_work() {
    let Some(cluster) = Cluster::new("crash").await else { return };
    cluster.deployment("payments", "default", None).await;
    for asks in 1..24 {
        let operator = cluster.operator_for(asks).await;
        tokio::time::sleep(std::time::Duration::from_millis(250)).await;
        operator.stop().await;
    }
    let operator = cluster.operator().await;
    operator.settle().await;
    assert!(cluster.get::<Lease>("conch-payments").await.is_some());
    assert!(cluster.get::<Role>("conch-payments").await.is_some());
    assert!(cluster.get::<RoleBinding>("conch-payments").await.unwrap().subjects.is_some());
    assert!(cluster.get::<CoordinationPolicy>("default").await.unwrap().status.is_some());
    assert_eq!(cluster.status("payments").await.conditions.len(), 3);
    let before = operator.settle().await;
    operator.stop().await;
    assert!(before > 0 || cluster.get::<Election>("payments").await.is_some());
    // The way back, with the same deaths.
    cluster.delete::<Deployment>("payments").await;
    for asks in 1..6 {
        let operator = cluster.operator_for(asks).await;
        tokio::time::sleep(std::time::Duration::from_millis(250)).await;
        operator.stop().await;
    }
    let _operator = cluster.operator().await;
    wait_for("end of the Election", async || {
        cluster.get::<Election>("payments").await.is_none().then_some(())
    })
    .await;
    assert!(cluster.get::<Lease>("conch-payments").await.is_none());
    cluster.end().await;
}

#[tokio::test]
async fn a_lease_that_is_made_again_is_not_fresh() {
    let Some(cluster) = Cluster::new("again").await else { return };
    let operator = cluster.operator().await;
    cluster.deployment("payments", "default", None).await;
    operator.settle().await;
    assert!(is_fresh(&cluster).await);

    // While the operator looks on.
    cluster.delete::<Lease>("conch-payments").await;
    operator.settle().await;
    assert!(!is_fresh(&cluster).await);

    // While it is away: the Election is left, and tells that there was a Lease.
    operator.stop().await;
    cluster.delete::<Lease>("conch-payments").await;
    cluster.delete::<Role>("conch-payments").await;
    let operator = cluster.operator().await;
    operator.settle().await;
    assert!(!is_fresh(&cluster).await);

    // A workload of the same name, right after the first one was deleted while the operator was away.
    operator.stop().await;
    cluster.delete::<Deployment>("payments").await;
    wait_for("end of the Lease", async || {
        cluster.get::<Lease>("conch-payments").await.is_none().then_some(())
    })
    .await;
    cluster.deployment("payments", "default", None).await;
    let operator = cluster.operator().await;
    operator.settle().await;
    assert!(!is_fresh(&cluster).await);
    cluster.end().await;
}

#[tokio::test]
async fn a_lease_that_came_after_its_pods_is_not_fresh() {
    let Some(cluster) = Cluster::new("late").await else { return };
    let operator = cluster.operator().await;
    cluster.pod("payments-0", "payments", "default").await;
    tokio::time::sleep(std::time::Duration::from_millis(1_500)).await;
    cluster.deployment("payments", "default", None).await;
    operator.settle().await;
    assert!(!is_fresh(&cluster).await);
    cluster.end().await;
}

#[tokio::test]
async fn a_lease_that_a_sidecar_made_is_adopted_and_one_that_was_tampered_with_is_repaired() {
    let Some(cluster) = Cluster::new("adopt").await else { return };
    let operator = cluster.operator().await;
    let made = json!({"metadata": {"name": "conch-payments", "annotations": {names::RECORD: "x"}},
        "spec": {"holderIdentity": "p_u_n"}});
    cluster.create::<Lease>(made).await;
    cluster.deployment("payments", "default", None).await;
    cluster.wait_for_reason("payments", "Ready", "Led").await;
    operator.settle().await;
    assert!(!is_fresh(&cluster).await);
    let lease = cluster.get::<Lease>("conch-payments").await.unwrap();
    assert_eq!(lease.labels()[names::MANAGED], names::MANAGED_VALUE);
    assert_eq!(lease.spec.unwrap().holder_identity.as_deref(), Some("p_u_n"));

    let stranger =
        json!({"subjects": [{"kind": "User", "name": "stranger", "apiGroup": "rbac.authorization.k8s.io"}]});
    cluster.merge::<RoleBinding>("conch-payments", stranger).await;
    cluster.merge::<Role>("conch-payments", json!({"rules": []})).await;
    wait_for("repair", async || {
        let binding = cluster.get::<RoleBinding>("conch-payments").await?;
        let role = cluster.get::<Role>("conch-payments").await?;
        let subjects = binding.subjects?;
        (subjects.len() == 1 && subjects[0].name == "default" && role.rules?.len() == 1).then_some(())
    })
    .await;
    cluster.end().await;
}
