//! The shell around the plan: reads the Secret, does what the plan says, serves, publishes, waits.

use super::{
    current::CurrentCertificate,
    issue::IssueError,
    material::Material,
    plan::{Lifetimes, RotationPlan, plan_rotation},
    publish::bundle_patch,
};
use conch_crds::names::{self, operator_objects};
use conch_process::readiness::Latch;
use futures::StreamExt;
use jiff::Timestamp;
use k8s_openapi::api::{admissionregistration::v1::MutatingWebhookConfiguration, core::v1::Secret};
use kube::{
    Api, Client,
    api::{ObjectMeta, Patch, PatchParams, PostParams},
    runtime::{WatchStreamExt, watcher::watch_object},
};
use prometheus_client::{metrics::gauge::Gauge, registry::Registry};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

/// How often the Secret is read again in one turn, where another replica was faster.
const ATTEMPTS: usize = 5;

/// The shortest time from one turn to the next, whoever else writes the configuration.
const PAUSE: Duration = Duration::from_millis(100);

/// How long one turn may take: the client itself waits for ever on a connection that is dead.
const TURN_TIMEOUT: Duration = Duration::from_secs(30);

/// How soon the first certificate is tried for again.
const FIRST_RETRY: Duration = Duration::from_secs(1);

/// What the certificates are for and where they are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateConfig {
    /// Namespace of the Secret and of the Service.
    pub namespace: String,
    /// Name of the Secret.
    pub secret: String,
    /// Name of the `MutatingWebhookConfiguration`.
    pub configuration: String,
    /// The names under which the API server calls.
    pub dns_names: Vec<String>,
    /// How long certificates live.
    pub lifetimes: Lifetimes,
}

/// Why a turn failed. The next one tries again.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// The Secret could not be read.
    #[error("failed to read the Secret of the webhook's certificate")]
    ReadSecret(#[source] kube::Error),
    /// The Secret could not be written.
    #[error("failed to write the Secret of the webhook's certificate")]
    WriteSecret(#[source] kube::Error),
    /// Other replicas wrote it each time.
    #[error(
        "failed to write the Secret of the webhook's certificate before another replica did, {ATTEMPTS} times"
    )]
    Contended,
    /// The webhook configuration could not be read.
    #[error("failed to read the webhook configuration")]
    ReadConfiguration(#[source] kube::Error),
    /// The webhook configuration could not be written.
    #[error("failed to write caBundle into the webhook configuration")]
    WriteConfiguration(#[source] kube::Error),
    /// The API server did not answer.
    #[error("failed to look at the webhook's certificates within {} s", TURN_TIMEOUT.as_secs())]
    TimedOut,
    /// A certificate could not be made or used.
    #[error(transparent)]
    Issue(#[from] IssueError),
}

/// When the certificate that is served expires.
#[derive(Clone, Debug, Default)]
pub struct CertificateMetrics {
    expiry: Gauge,
}

/// Keeps the webhook's certificates.
pub struct Certificates {
    config: CertificateConfig,
    client: Client,
    current: Arc<CurrentCertificate>,
    metrics: CertificateMetrics,
    /// The next authority, and since when it has been seen published.
    published: Option<(String, Instant)>,
}

impl CertificateConfig {
    /// For the operator's own objects in this namespace.
    pub fn new(namespace: &str) -> Self {
        let service = format!("{}.{namespace}.svc", operator_objects::SERVICE);
        Self {
            namespace: namespace.to_owned(),
            secret: operator_objects::CERTIFICATE_SECRET.to_owned(),
            configuration: operator_objects::WEBHOOK_CONFIGURATION.to_owned(),
            dns_names: vec![format!("{service}.cluster.local"), service],
            lifetimes: Lifetimes::default(),
        }
    }
}

impl CertificateMetrics {
    /// Makes the metric known.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "conch_webhook_certificate_expiry_timestamp_seconds",
            "When the certificate that this replica serves expires",
            self.expiry.clone(),
        );
    }
}

impl Certificates {
    /// Nothing is done before [`Self::run`].
    pub fn new(
        config: CertificateConfig,
        client: Client,
        current: Arc<CurrentCertificate>,
        metrics: CertificateMetrics,
    ) -> Self {
        Self { config, client, current, metrics, published: None }
    }

    /// Keeps the certificates until `shutdown` completes. Releases `latch` as soon as one can be served.
    pub async fn run(mut self, latch: Latch, shutdown: impl Future<Output = ()>) {
        let mut latch = Some(latch);
        // An upgrade of the chart may take the bundle away: it is put back at once, not at the next interval.
        let changes = watch_object(self.configurations(), &self.config.configuration).default_backoff();
        tokio::pin!(shutdown, changes);
        loop {
            let turned = tokio::select! {
                () = &mut shutdown => return,
                turned = tokio::time::timeout(TURN_TIMEOUT, self.turn()) => turned,
            };
            if let Err(error) = turned.unwrap_or(Err(CertificateError::TimedOut)) {
                tracing::warn!(error = %WithSources(&error), "failed to keep the webhook's certificates");
            }
            let is_set = self.current.is_set();
            if is_set && let Some(latch) = latch.take() {
                latch.release();
            }
            let interval = if is_set { self.config.lifetimes.interval } else { FIRST_RETRY };
            let again = async {
                tokio::time::sleep(PAUSE).await;
                tokio::select! {
                    () = tokio::time::sleep(interval) => {}
                    Some(Ok(_)) = changes.next() => {}
                }
            };
            tokio::select! {
                () = &mut shutdown => return,
                () = again => {}
            }
        }
    }

    /// One look at everything: the Secret is brought up to date, its certificate served, its authorities published.
    pub async fn turn(&mut self) -> Result<(), CertificateError> {
        let material = self.settle().await?;
        if let Some(leaf) = material.leaf() {
            let expiry = leaf.certificate.window.until;
            if self.current.set(leaf.certified()?) {
                tracing::info!(%expiry, "serves a new certificate");
            }
            self.metrics.expiry.set(expiry.as_second());
        }
        let is_published = self.publish(&material.bundle(Timestamp::now())).await?;
        self.remember(material.next_pem().filter(|_| is_published));
        Ok(())
    }

    async fn settle(&self) -> Result<Material, CertificateError> {
        let secrets: Api<Secret> = Api::namespaced(self.client.clone(), &self.config.namespace);
        let CertificateConfig { dns_names, lifetimes, .. } = &self.config;
        for _ in 0..ATTEMPTS {
            let stored = secrets.get_opt(&self.config.secret).await.map_err(CertificateError::ReadSecret)?;
            let data = stored.as_ref().and_then(|secret| secret.data.as_ref());
            let material = data.and_then(|data| Material::read(data, dns_names));
            let now = Timestamp::now();
            let rotation = material.as_ref().map(|material| material.rotation(self.published_for(material)));
            let plan = plan_rotation(now, rotation.as_ref(), lifetimes);
            let after = Material::after(plan, material, dns_names, now, lifetimes)?;
            if plan == RotationPlan::Keep {
                return Ok(after);
            }
            match self.write(&secrets, stored, &after).await {
                Ok(()) => {
                    tracing::info!(?plan, "renewed the webhook's certificates");
                    return Ok(after);
                }
                // Another replica was faster, or the Secret is gone again: look again.
                Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {}
                Err(error) => return Err(CertificateError::WriteSecret(error)),
            }
        }
        Err(CertificateError::Contended)
    }

    /// A compare-and-set: a creation, or a replacement of the version that was read.
    async fn write(
        &self,
        secrets: &Api<Secret>,
        stored: Option<Secret>,
        after: &Material,
    ) -> kube::Result<()> {
        let parameters =
            PostParams { field_manager: Some(names::OPERATOR.to_owned()), ..PostParams::default() };
        let data = Some(after.data());
        let name = &self.config.secret;
        let written = if let Some(stored) = stored {
            secrets.replace(name, &parameters, &Secret { data, ..stored }).await
        } else {
            let metadata = ObjectMeta { name: Some(name.clone()), ..ObjectMeta::default() };
            secrets.create(&parameters, &Secret { metadata, data, ..Secret::default() }).await
        };
        written.map(drop)
    }

    /// Puts the bundle where the API server looks for it. Tells whether it is there; without a configuration it is not.
    async fn publish(&self, bundle: &[u8]) -> Result<bool, CertificateError> {
        let configurations = self.configurations();
        let name = &self.config.configuration;
        let found = configurations.get_opt(name).await.map_err(CertificateError::ReadConfiguration)?;
        let Some(configuration) = found else {
            tracing::debug!("there is no webhook configuration");
            return Ok(false);
        };
        if let Some(patch) = bundle_patch(&configuration, bundle) {
            let parameters =
                PatchParams { field_manager: Some(names::OPERATOR.to_owned()), ..PatchParams::default() };
            let patched = configurations.patch(name, &parameters, &Patch::<()>::Json(patch)).await;
            patched.map_err(CertificateError::WriteConfiguration)?;
            tracing::info!("wrote caBundle into the webhook configuration");
        }
        Ok(true)
    }

    fn remember(&mut self, published: Option<&str>) {
        match (published, &self.published) {
            (Some(next), Some((known, _))) if next == known => {}
            (Some(next), _) => self.published = Some((next.to_owned(), Instant::now())),
            (None, _) => self.published = None,
        }
    }

    fn published_for(&self, material: &Material) -> Option<Duration> {
        let (next, since) = self.published.as_ref()?;
        (material.next_pem() == Some(next)).then(|| since.elapsed())
    }

    fn configurations(&self) -> Api<MutatingWebhookConfiguration> {
        Api::all(self.client.clone())
    }
}

/// An error and its sources in one line.
pub(crate) struct WithSources<'a>(pub(crate) &'a dyn std::error::Error);

impl std::fmt::Display for WithSources<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}", self.0)?;
        let mut source = self.0.source();
        while let Some(error) = source {
            write!(formatter, ": {error}")?;
            source = error.source();
        }
        Ok(())
    }
}
