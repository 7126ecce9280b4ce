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
    webhook::{self, Policies, WatchedPolicies, Webhook, WebhookMetrics},
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
use std::{
    net::{Ipv4Addr, Ipv6Addr},
    sync::Arc,
    time::Duration,
};
use tokio::{net::TcpListener, sync::watch, task::JoinSet};

/// Of metrics and health, which every pod of the cluster can reach.
const METRICS_LIMITS: Limits = Limits {
    connections: 64,
    header_bytes: 16 * 1024,
    header_timeout: Duration::from_mins(1),
    stall_timeout: Duration::from_secs(10),
    drain_timeout: Duration::from_secs(1),
};

type Tasks = JoinSet<Result<()>>;

/// What every part of the process is given.
struct Process {
    tasks: Tasks,
    registry: Registry,
    ended: watch::Receiver<bool>,
}

/// Serves and reconciles until the process is told to end.
pub async fn run(common: CommonArgs, args: RunArgs) -> Result<()> {
    let mut signals = Signals::new().context("failed to listen for signals")?;
    let (client, config) = cluster::connect().await?;
    let (end, ended) = watch::channel(false);
    let mut process = Process { tasks: Tasks::new(), registry: Registry::default(), ended };
    let metrics = Metrics::new(&mut process.registry);
    let (readiness, latch) = Readiness::new();

    leadership::make_lease(&client, &common.namespace).await;
    let leadership = Leadership::new(config, &common.namespace, &args.pod_name, &args.pod_uid)?;
    let settings = Settings {
        sidecar_image: args.sidecar(),
        instance: Some(args.pod_name.clone()),
        may_write: Arc::new(leadership.leads()),
        leadership: leadership.changes(),
    };
    let controller = Controller::new(client.clone(), settings, metrics);
    let policies = WatchedPolicies::new(controller.copies(), client.clone());
    process.admit(&common, &args, &client, policies, latch.clone()).await?;
    let Process { mut tasks, registry, ended } = process;
    let (stopped, stop_seen) = watch::channel(false);
    tasks.spawn(reconcile(client, controller, latch, ended.clone(), stopped));
    tasks.spawn(async move { Ok(leadership.run(told(stop_seen)).await?) });
    let listener = listen(args.metrics_port).await?;
    let health = health_router(Arc::new(registry), readiness);
    tasks.spawn(async move { Ok(serve(listener, health, METRICS_LIMITS, told(ended)).await?) });

    let signal = tokio::select! {
        signal = signals.next() => signal,
        Some(task) = tasks.join_next() => bail!("a part of the operator ended: {task:?}"),
    };
    tracing::info!(signal, "ends");
    end.send_replace(true);
    tokio::select! {
        joined = join(&mut tasks) => joined,
        () = signals.abort_on_next() => Ok(()),
    }
}

impl Process {
    /// Starts the webhook and what keeps its certificates.
    async fn admit(
        &mut self,
        common: &CommonArgs,
        args: &RunArgs,
        client: &Client,
        policies: impl Policies,
        latch: Latch,
    ) -> Result<()> {
        let current = Arc::new(CurrentCertificate::default());
        let certificate_metrics = CertificateMetrics::default();
        certificate_metrics.register(&mut self.registry);
        let config = CertificateConfig::new(&common.namespace);
        let certificates =
            Certificates::new(config, client.clone(), Arc::clone(&current), certificate_metrics);
        let until = told(self.ended.clone());
        self.tasks.spawn(async move {
            certificates.run(latch, until).await;
            Ok(())
        });
        let metrics = WebhookMetrics::default();
        metrics.register(&mut self.registry);
        let webhook = Arc::new(Webhook { image: args.sidecar(), policies, metrics });
        let listener = listen(args.webhook_port).await?;
        let until = told(self.ended.clone());
        self.tasks.spawn(async move { Ok(webhook::serve(listener, current, webhook, until).await?) });
        Ok(())
    }
}

/// On every address of the pod; on a machine without IPv6, of IPv4.
async fn listen(port: u16) -> Result<TcpListener> {
    if let Ok(listener) = TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).await {
        return Ok(listener);
    }
    TcpListener::bind((Ipv4Addr::UNSPECIFIED, port))
        .await
        .with_context(|| format!("failed to listen on port {port}"))
}

async fn join(tasks: &mut Tasks) -> Result<()> {
    while let Some(task) = tasks.join_next().await {
        task??;
    }
    Ok(())
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
