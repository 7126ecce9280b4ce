//! The process: binds, starts, joins, ends.

use crate::{
    args::ServeArgs,
    check,
    gate::Rules,
    http,
    metrics::{LeaderStatus, Metrics},
    program::Program,
    shutdown::Shutdown,
    sidecar::Sidecar,
    view::About,
    watchdog::Heartbeat,
    witness::Witness,
};
use anyhow::{Context, Result, bail};
use conch_crds::names::{METRICS_PORT_OFFSET, SIDECAR};
use conch_election::{Config, Identity, Timing};
use conch_process::{
    health::health_router,
    readiness::Readiness,
    serve::{Limits, serve},
    signal::Signals,
};
use conch_stores::{
    Store, clock,
    driver::{Candidate, Driver, draw_nonce},
    kubernetes::KubernetesStore,
};
use kube::config::{KubeConfigOptions, Kubeconfig};
use prometheus_client::registry::Registry;
use std::{
    fs, future,
    io::{self, ErrorKind},
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    path::Path,
    sync::Arc,
    time::Duration,
};
use tokio::{
    net::{TcpListener, TcpSocket},
    sync::watch,
    task::JoinSet,
};

/// Of the API: generous for one pod, and no way to hold its memory.
pub const API_LIMITS: Limits = Limits {
    connections: 256,
    header_bytes: 16 * 1024,
    header_timeout: Duration::from_mins(1),
    stall_timeout: Duration::from_secs(10),
    drain_timeout: Duration::from_millis(200),
};

/// Of metrics and health, which every pod of the cluster can reach.
const METRICS_LIMITS: Limits = Limits { connections: 16, ..API_LIMITS };

const SEND_BUFFER_BYTES: u32 = 16 * 1024;

/// Connections that the kernel holds while the loop is busy.
const BACKLOG: u32 = 128;

const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// The sockets. Whoever holds them knows that no earlier process of this pod answers any more.
struct Listeners {
    api: Vec<TcpListener>,
    metrics: TcpListener,
}

/// Holds the election and answers the program until the process is told to end and nothing is left to do.
pub async fn run(args: ServeArgs) -> Result<()> {
    let (timing, longest_lease) = args.timing.validate()?;
    let (rules, checked) = args.program.validate()?;
    let signals = Signals::new().context("failed to listen for signals")?;
    let listeners = Listeners::bind(args.api.port)?;
    let store = connect(&args, timing.renew_interval()).await?;
    let deletions = store.pod_deletion();

    let mut registry = Registry::default();
    let heartbeat = Heartbeat::default();
    let witness = Arc::new(Witness::new(Metrics::register(&mut registry), heartbeat.clone()));
    let config = config(&args, timing, longest_lease)?;
    let about = about(&args, store.clone())?;
    let (driver, candidate) = Driver::new(store, config, clock::now, witness.clone());
    let sidecar = Arc::new(join(args, rules, &timing, candidate, about, witness));
    let status_of = sidecar.clone();
    let election = sidecar.about().election.clone();
    registry.register_collector(Box::new(LeaderStatus { election, leads: move || status_of.leads() }));

    heartbeat.watch().context("failed to start the watchdog")?;
    let (end_servers, servers_end) = watch::channel(false);
    let mut servers = listeners.serve(sidecar.clone(), registry, &servers_end);
    tokio::select! {
        ended = driver.run() => ended?,
        Some(ended) = servers.join_next() => bail!("a listener ended: {ended:?}"),
        second = follow_signals(&sidecar, signals) => bail!("ends at once on a second signal, {second}"),
        () = sidecar.follow_deletions(deletions) => {}
        () = sidecar.run_timers() => {}
        () = check::run(checked, |passed| sidecar.checked(passed)) => {}
    }
    tracing::info!("ends: nothing is left to do");
    end_servers.send_replace(true);
    while let Some(ended) = servers.join_next().await {
        ended??;
    }
    Ok(())
}

/// The first signal is the sidecar's, the second one the caller's.
async fn follow_signals(sidecar: &Sidecar, mut signals: Signals) -> &'static str {
    sidecar.signalled(signals.next().await);
    signals.next().await
}

fn config(args: &ServeArgs, timing: Timing, longest_lease: Duration) -> Result<Config> {
    let nonce = draw_nonce().context("failed to draw a nonce")?;
    let (pod, pod_uid) = (args.pod_name.clone(), args.pod_uid.clone());
    let fencing_offset = args.fencing_offset;
    Ok(Config { identity: Identity { pod, pod_uid, nonce }, timing, longest_lease, fencing_offset })
}

fn about(args: &ServeArgs, store: KubernetesStore) -> Result<About> {
    let boot_id = fs::read_to_string(BOOT_ID).context("failed to read the machine's boot id")?;
    Ok(About {
        election: format!("{}/{}", args.namespace, args.election),
        pod: args.pod_name.clone(),
        pod_uid: args.pod_uid.clone(),
        boot_id: boot_id.trim().to_owned(),
        store: store.name(),
        fencing: Box::new(move || store.fencing()),
    })
}

fn join(
    args: ServeArgs,
    rules: Rules,
    timing: &Timing,
    candidate: Candidate,
    about: About,
    witness: Arc<Witness>,
) -> Sidecar {
    let program = Program::new(args.program.presence, rules, timing.stop_grace());
    let shutdown = Shutdown::new(args.pod_uid, args.image);
    Sidecar::new(candidate, clock::now, about, witness, program, shutdown)
}

async fn connect(args: &ServeArgs, renew_interval: Duration) -> Result<KubernetesStore> {
    let (namespace, lease) = (args.namespace.as_str(), args.lease.as_str());
    let Some(path) = &args.kubeconfig else {
        return Ok(KubernetesStore::in_cluster(namespace, lease, SIDECAR, renew_interval)?);
    };
    let config = kubeconfig(path).await.with_context(|| format!("failed to use {}", path.display()))?;
    Ok(KubernetesStore::new(config, namespace, lease, SIDECAR, renew_interval)?)
}

async fn kubeconfig(path: &Path) -> Result<kube::Config> {
    let kubeconfig = Kubeconfig::read_from(path)?;
    Ok(kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?)
}

impl Listeners {
    fn bind(port: u16) -> Result<Self> {
        let context =
            || format!("failed to listen on port {port} of the loopback address; does the program use it?");
        let mut api = vec![listen((Ipv4Addr::LOCALHOST, port).into()).with_context(context)?];
        match listen((Ipv6Addr::LOCALHOST, port).into()) {
            Ok(listener) => api.push(listener),
            Err(error) if lacks_ipv6(&error) => tracing::debug!(%error, "serves IPv4 only"),
            // Somebody else would answer those to whom localhost means ::1.
            Err(error) => return Err(error).with_context(context),
        }
        let port = port + METRICS_PORT_OFFSET;
        let metrics = listen_everywhere(port).with_context(|| {
            format!("failed to listen on port {port} for metrics; does the program use it?")
        })?;
        Ok(Self { api, metrics })
    }

    fn serve(
        self,
        sidecar: Arc<Sidecar>,
        registry: Registry,
        end: &watch::Receiver<bool>,
    ) -> JoinSet<io::Result<()>> {
        let mut servers = JoinSet::new();
        let router = http::router(sidecar);
        for listener in self.api {
            servers.spawn(serve(listener, router.clone(), API_LIMITS, ended(end.clone())));
        }
        // Ready is not leader, or a rollout would never go on: it is ready when its sockets answer.
        let (readiness, starting) = Readiness::new();
        let health = health_router(Arc::new(registry), readiness);
        servers.spawn(serve(self.metrics, health, METRICS_LIMITS, ended(end.clone())));
        starting.release();
        servers
    }
}

async fn ended(mut end: watch::Receiver<bool>) {
    if end.wait_for(|end| *end).await.is_err() {
        future::pending::<()>().await; // the process ends
    }
}

/// IPv6 takes IPv4 along, where the machine has it.
fn listen_everywhere(port: u16) -> io::Result<TcpListener> {
    match listen((Ipv6Addr::UNSPECIFIED, port).into()) {
        Err(error) if lacks_ipv6(&error) => listen((Ipv4Addr::UNSPECIFIED, port).into()),
        result => result,
    }
}

/// A listener whose connections buffer no more than a few answers: what a reader does not take would otherwise grow to
/// megabytes of this container's memory, and go unnoticed for as long.
fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // Without it, connections of an earlier process that linger would hold the port. Two can still not listen at a time.
    socket.set_reuseaddr(true)?;
    socket.set_send_buffer_size(SEND_BUFFER_BYTES)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

fn lacks_ipv6(error: &io::Error) -> bool {
    const ADDRESS_FAMILY_NOT_SUPPORTED: i32 = 97; // EAFNOSUPPORT
    error.kind() == ErrorKind::AddrNotAvailable || error.raw_os_error() == Some(ADDRESS_FAMILY_NOT_SUPPORTED)
}
