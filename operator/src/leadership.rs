//! Which replica of the operator writes: an election like any other, over a Lease in the operator's own namespace.
//!
//! What the operator writes is safe to write twice (each write names the UID that it is meant for, and says how things
//! should be, not how to change them). So two writing replicas would cost requests, never correctness; the election keeps
//! them apart all the same.

use conch_crds::names::{self, operator_objects};
use conch_election::{Config as ElectionConfig, Identity, Timing, UnsafeTiming};
use conch_stores::{
    clock,
    driver::{Candidate, ChangesEnded, Driver, draw_nonce},
    kubernetes::{ConnectError, KubernetesStore},
};
use k8s_openapi::api::coordination::v1::Lease;
use kube::{
    Api, Client, Config,
    api::{ObjectMeta, PostParams},
};
use std::{io, sync::Arc, time::Duration};
use tokio::{sync::watch, time::timeout};

const LEASE: Duration = Duration::from_secs(10);
const RENEW_INTERVAL: Duration = Duration::from_secs(2);
/// From the look before a write to its arrival.
const STOP_GRACE: Duration = Duration::from_secs(1);
const MAX_PROMISE: Duration = Duration::from_secs(5);
/// How long the end may take.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(5);

/// Why the election could not begin.
#[derive(Debug, thiserror::Error)]
pub enum LeadershipError {
    /// The durations above do not fit.
    #[error("failed to build the operator's timing")]
    Timing(#[from] UnsafeTiming),
    /// No random number.
    #[error("failed to draw a nonce")]
    Nonce(#[source] io::Error),
    /// No client.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// No candidate any more.
    #[error(transparent)]
    Ended(#[from] ChangesEnded),
}

/// A candidate for the lead among the replicas of the operator.
pub struct Leadership {
    driver: Driver<KubernetesStore>,
    candidate: Candidate,
}

impl Leadership {
    /// A candidate over the Lease [`operator_objects::LEASE`] of `namespace`.
    pub fn new(config: Config, namespace: &str, pod: &str, pod_uid: &str) -> Result<Self, LeadershipError> {
        let timing = Timing::new(LEASE, RENEW_INTERVAL, STOP_GRACE, MAX_PROMISE)?;
        let nonce = draw_nonce().map_err(LeadershipError::Nonce)?;
        let (lease, manager) = (operator_objects::LEASE, names::OPERATOR);
        let store = KubernetesStore::new(config, namespace, lease, manager, RENEW_INTERVAL)?;
        let identity = Identity { pod: pod.to_owned(), pod_uid: pod_uid.to_owned(), nonce };
        let config = ElectionConfig { identity, timing, longest_lease: LEASE, fencing_offset: 0 };
        let (driver, candidate) = Driver::new(store, config, clock::now, Arc::new(()));
        candidate.set_willing(true);
        Ok(Self { driver, candidate })
    }

    /// Does this replica lead?
    pub fn leads(&self) -> impl Fn() -> bool + Send + Sync + 'static {
        let candidate = self.candidate.clone();
        move || candidate.leads()
    }

    /// Told whenever the answer may have changed.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.candidate.subscribe()
    }

    /// Takes part until `shutdown` completes, which must mean that nothing is written any more; then releases.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> Result<(), LeadershipError> {
        let Self { driver, candidate } = self;
        let driving = driver.run();
        tokio::pin!(driving);
        tokio::select! {
            ended = &mut driving => return Ok(ended?),
            () = shutdown => {}
        }
        candidate.program_stopped();
        candidate.terminate();
        if let Ok(ended) = timeout(RELEASE_TIMEOUT, driving).await {
            return Ok(ended?);
        }
        tracing::warn!("failed to release the lead in time: the next replica waits for its end");
        Ok(())
    }
}

/// Makes the Lease of the operator's own election, if there is none, in a form that nobody has to wait for: two replicas
/// that both lead for a moment do no harm.
pub async fn make_lease(client: &Client, namespace: &str) {
    let leases: Api<Lease> = Api::namespaced(client.clone(), namespace);
    let metadata = ObjectMeta { name: Some(operator_objects::LEASE.to_owned()), ..ObjectMeta::default() };
    let parameters = PostParams { field_manager: Some(names::OPERATOR.to_owned()), ..PostParams::default() };
    let made = async {
        let mut lease = leases.create(&parameters, &Lease { metadata, spec: None }).await?;
        // Before that it has no uid to be marked with. Whoever wrote it meanwhile makes this a conflict.
        let mark = lease.metadata.uid.clone().unwrap_or_default();
        lease.metadata.annotations = Some([(names::FRESH.to_owned(), mark)].into());
        leases.replace(operator_objects::LEASE, &parameters, &lease).await
    };
    match made.await {
        Ok(_) => tracing::info!("made the Lease of the operator's own election"),
        Err(kube::Error::Api(status)) if status.code == 409 => {}
        // The election makes it, later.
        Err(error) => tracing::warn!(%error, "failed to make the Lease of the operator's own election"),
    }
}
