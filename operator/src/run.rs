//! The process: starts, joins, ends.

use crate::{
    args::{CommonArgs, RunArgs},
    certs::{CertificateConfig, CertificateMetrics, Certificates, CurrentCertificate},
    cluster,
    leadership::{self, Leadership},
    policy::{
        controller::{Controller, Settings},
        metrics::Metrics,
    },
};
use anyhow::{Context, Result, bail};
use conch_process::{
    health::health_router,
    readiness::{Latch, Readiness},
    serve::{Limits, serve},
    signal::Signals,
};
use kube::Client;
use prometheus_client::registry::Registry;
use std::{net::Ipv4Addr, sync::Arc, time::Duration};
use tokio::{net::TcpListener, sync::watch, task::JoinSet};

/// Of metrics and health, which every pod of the cluster can reach.
const METRICS_LIMITS: Limits = Limits {
    connections: 64,
    header_bytes: 16 * 1024,
    header_timeout: Duration::from_mins(1),
    stall_timeout: Duration::from_secs(10),
    drain_timeout: Duration::from_secs(1),
};

/// Serves and reconciles until the process is told to end.
pub async fn run(common: CommonArgs, args: RunArgs) -> Result<()> {
    let mut signals = Signals::new().context("failed to listen for signals")?;
    let (client, config) = cluster::connect().await?;
    let mut registry = Registry::default();
    let metrics = Metrics::new(&mut registry);
    let certificate_metrics = CertificateMetrics::default();
    certificate_metrics.register(&mut registry);
    let (readiness, latch) = Readiness::new();
    let (end, ended) = watch::channel(false);
    let mut tasks: JoinSet<Result<()>> = JoinSet::new();

    let current = Arc::new(CurrentCertificate::default());
    let certificates =
        Certificates::new(CertificateConfig::new(&common.namespace), client.clone(), current, certificate_metrics);
    let (certified, until) = (latch.clone(), told(ended.clone()));
    tasks.spawn(async move {
        certificates.run(certified, until).await;
        Ok(())
    });

    leadership::make_lease(&client, &common.namespace).await;
    let leadership = Leadership::new(config, &common.namespace, &args.pod_name, &args.pod_uid)?;
    let settings = Settings {
        sidecar_image: args.sidecar(),
        instance: Some(args.pod_name.clone()),
        may_write: Arc::new(leadership.leads()),
        leadership: leadership.changes(),
    };
    let controller = Controller::new(client.clone(), settings, metrics);
    let (stopped, stop_seen) = watch::channel(false);
    tasks.spawn(reconcile(client, controller, latch, ended.clone(), stopped));
    tasks.spawn(async move { Ok(leadership.run(told(stop_seen)).await?) });

    let health = TcpListener::bind((Ipv4Addr::UNSPECIFIED, args.metrics_port))
        .await
        .with_context(|| format!("failed to listen on port {} for metrics", args.metrics_port))?;
    let router = health_router(Arc::new(registry), readiness);
    let until = told(ended);
    tasks.spawn(async move { Ok(serve(health, router, METRICS_LIMITS, until).await?) });

    let signal = tokio::select! {
        signal = signals.next() => signal,
        Some(task) = tasks.join_next() => bail!("a part of the operator ended: {task:?}"),
    };
    tracing::info!(signal, "ends");
    end.send_replace(true);
    let joined = async {
        while let Some(task) = tasks.join_next().await {
            task??;
        }
        Ok(())
    };
    tokio::select! {
        joined = joined => joined,
        () = signals.abort_on_next() => Ok(()),
    }
}

/// Runs the controller once there is something to watch, until it is told to end; then says that nothing is written any
/// more.
async fn reconcile(
    client: Client,
    controller: Controller,
    latch: Latch,
    ended: watch::Receiver<bool>,
    stopped: watch::Sender<bool>,
) -> Result<()> {
    let controlling = async {
        cluster::wait_for_definitions(&client).await;
        controller.run(move || latch.release()).await
    };
    let result = tokio::select! {
        ended = controlling => Err(ended.into()),
        () = told(ended) => Ok(()),
    };
    stopped.send_replace(true);
    result
}

/// Completes when it is told so, or when nobody can tell any more.
async fn told(mut ended: watch::Receiver<bool>) {
    let _ = ended.wait_for(|ended| *ended).await;
}
