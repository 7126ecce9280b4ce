//! Several replicas of the operator: one writes.

use crate::cluster::{Cluster, wait_for};
use conch_crds::{Election, names::operator_objects};
use conch_operator::leadership::{self, Leadership};
use k8s_openapi::api::coordination::v1::Lease;
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{sync::oneshot, task::JoinHandle};

/// Of the operator's own election: whoever has to wait for somebody else's end waits so long.
const LEASE: Duration = Duration::from_secs(10);

struct Replica {
    leads: Box<dyn Fn() -> bool + Send + Sync>,
    operator: crate::cluster::Operator,
    election: JoinHandle<()>,
    stop: oneshot::Sender<()>,
}

impl Replica {
    async fn start(cluster: &Cluster, name: &str) -> Self {
        let leadership = Leadership::new(cluster.config().await, &cluster.namespace, name, name).unwrap();
        let leads = Box::new(leadership.leads());
        let operator = cluster.operator_with(Arc::new(leadership.leads()), leadership.changes()).await;
        let (stop, stopped) = oneshot::channel();
        let election = tokio::spawn(async move {
            let told = async {
                let _ = stopped.await;
            };
            leadership.run(told).await.unwrap();
        });
        Self { leads, operator, election, stop }
    }
}

#[tokio::test]
async fn one_replica_writes_and_another_takes_over_when_it_ends_or_dies() {
    let Some(cluster) = Cluster::new("replicas").await else { return };
    leadership::make_lease(&cluster.client, &cluster.namespace).await;
    let start = Instant::now();
    let first = Replica::start(&cluster, "first").await;
    wait_for("leader", async || (first.leads)().then_some(())).await;
    assert!(start.elapsed() < LEASE, "the first operator waits for nobody");
    let second = Replica::start(&cluster, "second").await;
    cluster.deployment("payments", "default", None).await;
    wait_for("Election", async || cluster.get::<Election>("payments").await).await;
    first.operator.settle().await;
    assert!((first.leads)() && !(second.leads)());
    assert_eq!(second.operator.metrics.writes.get(), 0);

    // An orderly end: the next one leads at once, and does what was left undone.
    first.operator.stop().await;
    cluster.deployment("ledger", "default", None).await;
    let end = Instant::now();
    first.stop.send(()).unwrap();
    first.election.await.unwrap();
    wait_for("second leader", async || (second.leads)().then_some(())).await;
    eprintln!("from the end of a replica to the next one's lead: {:?}", end.elapsed());
    assert!(end.elapsed() < LEASE, "what was released is taken at once: {:?}", end.elapsed());
    wait_for("Election of the interim", async || cluster.get::<Election>("ledger").await).await;

    // Death: the next one waits for the lease.
    let third = Replica::start(&cluster, "third").await;
    let death = Instant::now();
    second.election.abort();
    second.operator.stop().await;
    drop(second.stop);
    wait_for("third leader", async || (third.leads)().then_some(())).await;
    assert!(death.elapsed() > Duration::from_secs(5), "{:?}", death.elapsed());
    cluster.deployment("stock", "default", None).await;
    wait_for("third Election", async || cluster.get::<Election>("stock").await).await;
    assert!(cluster.get::<Lease>(operator_objects::LEASE).await.is_some());
    cluster.end().await;
}
