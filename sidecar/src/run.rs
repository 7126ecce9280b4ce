//! The process: binds, starts, joins, ends.

use crate::{
    args::{HoldArgs, StoreKind, WrongArguments, exit_status},
    check::{self, Check},
    descriptors::Caps,
    gate::Rules,
    http,
    instance::{self, Names},
    metrics::{LeaderStatus, Metrics},
    program::Program,
    program_args::ProgramArgs,
    shutdown::Shutdown,
    sidecar::Sidecar,
    view::About,
    watchdog::LoopTurns,
    witness::Witness,
    wrap::Wrapper,
};
use anyhow::{Context, Result, bail, ensure};
use axum::Router;
use conch_crds::{
    PodDeletion,
    names::{METRICS_PORT_OFFSET, SIDECAR},
    program::{Compatibility, Presence},
};
use conch_election::{Config, Content, Identity, Timing};
use conch_process::{
    health::health_router,
    readiness::Readiness,
    serve::{Limits, serve},
    signal::Signals,
};
use conch_stores::{
    Store, clock,
    driver::{Driver, draw_nonce},
    kubernetes::KubernetesStore,
    memory::MemoryStore,
};
use kube::config::{KubeConfigOptions, Kubeconfig};
use prometheus_client::registry::Registry;
use std::{
    cell::OnceCell,
    ffi::OsString,
    future,
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

/// Beside its streams, each listener of the API can always take so many connections.
const CONNECTIONS_BESIDE_STREAMS: usize = 16;

/// Of the API: generous for one pod, and no way to hold its memory. Fewer connections where the process may open few files.
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

/// How long a guard may take after its program is dead.
const GUARD_END: Duration = Duration::from_secs(1);

/// The sockets. Whoever holds them knows that no earlier process of this pod answers any more.
struct Listeners {
    api: Vec<TcpListener>,
    metrics: TcpListener,
    caps: Caps,
}

/// What the process is for.
pub enum Task {
    /// To answer programs that run by themselves.
    Serve(ProgramArgs),
    /// To run this one while it leads.
    Run(Vec<OsString>),
}

/// What the process does besides holding the election.
enum Foreground {
    /// Waits for signals. With the machine's name, it also answers programs that were written for another elector.
    Serve(Signals, Option<String>),
    /// Runs a program while it leads.
    Wrap(Box<Wrapper>),
}

/// The same as [`run`], with a failure in the log, in its format, and as the exit code.
pub async fn run_and_log(args: HoldArgs, task: Task) -> Result<u8> {
    run(args, task).await.or_else(|error| {
        tracing::error!("failed: {error:#}");
        Ok(exit_status(&error))
    })
}

/// Holds the election until the process is told to end and nothing is left to do, or until the program that it runs has
/// ended. Returns the exit code.
pub async fn run(args: HoldArgs, task: Task) -> Result<u8> {
    let (timing, _) = args.timing.validate().context(WrongArguments)?;
    match task {
        Task::Serve(program) => {
            let signals = Signals::new().context("failed to listen for signals")?;
            let conditions = (program.presence, program.validate().context(WrongArguments)?);
            let (names, _claims) = Names::claim(&args, false, Duration::ZERO).await?;
            let host_name = match program.compatibility {
                Compatibility::NotNeeded => None,
                Compatibility::LeaderElector => Some(instance::host_name()?),
            };
            hold_in_store(&args, names, conditions, Foreground::Serve(signals, host_name)).await
        }
        Task::Run(command) => {
            let mut wrapper = Wrapper::new(command, timing.stop_grace(), args.api.port)?;
            // A wrapper that died may have left a guard behind, which ends what it started.
            let (names, mut claims) = tokio::select! {
                claimed = Names::claim(&args, true, timing.stop_grace() + GUARD_END) => claimed?,
                signal = wrapper.told_to_end_at_once() => bail!("ends on {signal:?}: the instance is not free yet"),
            };
            wrapper.hold_lock(claims.file.take().context("the instance has no lock")?);
            // The wrapper is the program that asks, by holding a stream.
            let conditions = (Presence::Stream, (Rules::NONE, None));
            hold_in_store(&args, names, conditions, Foreground::Wrap(Box::new(wrapper))).await
        }
    }
}

/// What others write on the record for this process.
struct News {
    deletions: watch::Receiver<Option<PodDeletion>>,
    transfers: watch::Receiver<Option<String>>,
}

/// What makes a candidate, what decides whether it is fit, and what is checked for that.
type Conditions = (Presence, (Rules, Option<Check>));

async fn hold_in_store(
    args: &HoldArgs,
    names: Names,
    conditions: Conditions,
    foreground: Foreground,
) -> Result<u8> {
    // Before the store is asked: whoever owns these knows that no earlier process of this pod answers.
    let listeners = Listeners::bind(args.api.port)?;
    match args.store {
        StoreKind::Kubernetes => {
            let store = connect(args, &names).await?;
            let news = News { deletions: store.pod_deletion(), transfers: store.transfer_to() };
            hold(args, names, store, news, conditions, listeners, foreground).await
        }
        StoreKind::Memory => {
            let store = MemoryStore::new();
            store.overwrite(Content::Fresh); // nobody else can ever have led
            let (deletions, transfers) = (watch::Sender::default(), watch::Sender::default());
            let news = News { deletions: deletions.subscribe(), transfers: transfers.subscribe() };
            hold(args, names, store, news, conditions, listeners, foreground).await
        }
        StoreKind::Postgres => {
            let store = args.postgres.store(names.election(), args.timing.validate()?.0)?;
            let (deletions, transfers) = (watch::Sender::default(), watch::Sender::default());
            let news = News { deletions: deletions.subscribe(), transfers: transfers.subscribe() };
            hold(args, names, store, news, conditions, listeners, foreground).await
        }
    }
}

async fn hold<S: Store + Clone>(
    args: &HoldArgs,
    names: Names,
    store: S,
    news: News,
    (presence, (rules, checked)): Conditions,
    listeners: Listeners,
    foreground: Foreground,
) -> Result<u8> {
    let (timing, longest_lease) = args.timing.validate()?;
    let mut registry = Registry::default();
    let turns = LoopTurns::default();
    let witness = Arc::new(Witness::new(Metrics::register(&mut registry), turns.clone()));
    let config = config(args, &names, timing, longest_lease)?;
    let about = about(&names, store.clone())?;
    let (driver, candidate) = Driver::new(store, config, clock::now, witness.clone());
    let program = Program::new(presence, rules, timing.stop_grace());
    let shutdown = Shutdown::new(names.pod_uid, args.image.clone(), args.pod_completes);
    let sidecar = Arc::new(Sidecar::new(candidate, clock::now, about, witness, program, shutdown));
    let status_of = sidecar.clone();
    let election = sidecar.about().election.clone();
    registry.register_collector(Box::new(LeaderStatus { election, leads: move || status_of.leads() }));

    turns.watch().context("failed to start the watchdog")?;
    let (end_servers, servers_end) = watch::channel(false);
    let mut servers = listeners.serve(&foreground.router(&sidecar), registry, &servers_end);
    let code = OnceCell::new();
    tokio::select! {
        ended = driver.run() => ended?,
        Some(ended) = servers.join_next() => bail!("a listener ended: {ended:?}"),
        ended = foreground.run(&sidecar, &code) => ended?,
        () = sidecar.follow_deletions(news.deletions) => {}
        () = sidecar.follow_transfers(news.transfers) => {}
        () = sidecar.run_timers() => {}
        () = check::run(checked, |passed| sidecar.checked(passed)) => {}
    }
    tracing::info!("ends");
    end_servers.send_replace(true);
    while let Some(ended) = servers.join_next().await {
        ended??;
    }
    Ok(code.get().copied().unwrap_or(0))
}

impl Foreground {
    /// What is served: not everything while it is this process that runs the program.
    fn router(&self, sidecar: &Arc<Sidecar>) -> Router {
        match self {
            Self::Serve(_, None) => http::router(sidecar.clone()),
            Self::Serve(_, Some(host_name)) => http::router_with_elector(sidecar.clone(), host_name.clone()),
            Self::Wrap(_) => http::wrapped_router(sidecar.clone()),
        }
    }

    /// Returns only if the process is to end at once. Otherwise the driver ends when nothing is left to do.
    async fn run(self, sidecar: &Sidecar, code: &OnceCell<u8>) -> Result<()> {
        match self {
            Self::Serve(signals, _) => follow_signals(sidecar, signals).await,
            Self::Wrap(mut wrapper) => {
                let _ = code.set(wrapper.run(sidecar).await?); // set once
                let signal = wrapper.told_to_end_at_once().await;
                tracing::warn!(?signal, "ends at once: whoever waits for the lead waits for the whole lease");
                Ok(())
            }
        }
    }
}

/// The first signal is the sidecar's, the second one the caller's.
async fn follow_signals(sidecar: &Sidecar, mut signals: Signals) -> Result<()> {
    sidecar.signalled(signals.next().await);
    tokio::select! {
        second = signals.next() => bail!("ends at once on a second signal, {second}"),
        () = sidecar.ends_alone() => {
            tracing::info!("nobody deletes this pod: ends without a release, so that its next sidecar leads on");
            Ok(())
        }
    }
}

fn config(args: &HoldArgs, names: &Names, timing: Timing, longest_lease: Duration) -> Result<Config> {
    let nonce = draw_nonce().context("failed to draw a nonce")?;
    let identity = Identity { pod: names.pod.clone(), pod_uid: names.pod_uid.clone(), nonce };
    Ok(Config { identity, timing, longest_lease, fencing_offset: args.fencing_offset })
}

fn about<S: Store>(names: &Names, store: S) -> Result<About> {
    Ok(About {
        election: names.election(),
        pod: names.pod.clone(),
        pod_uid: names.pod_uid.clone(),
        boot_id: instance::boot_id()?,
        store: store.name(),
        fencing: Box::new(move || store.fencing()),
    })
}

async fn connect(args: &HoldArgs, names: &Names) -> Result<KubernetesStore> {
    let renew_interval = args.timing.validate()?.0.renew_interval();
    let (namespace, lease) = (names.namespace.as_str(), names.lease.as_str());
    let Some(path) = &args.kubeconfig else {
        return KubernetesStore::in_cluster(namespace, lease, SIDECAR, renew_interval).context(
            "outside a pod, name a cluster with --kubeconfig FILE, or try the API with --store memory",
        );
    };
    let config = kubeconfig(path).await.with_context(|| format!("failed to use {}", path.display()))?;
    Ok(KubernetesStore::new(config, namespace, lease, SIDECAR, renew_interval)?)
}

async fn kubeconfig(path: &Path) -> Result<kube::Config> {
    let kubeconfig = Kubeconfig::read_from(path)?;
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    // It would run before renewals, for as long as it likes: during an outage of whoever signs in, for minutes.
    ensure!(
        config.auth_info.exec.is_none() && config.auth_info.auth_provider.is_none(),
        "it signs in by running a program, which would hold up renewals: make a kubeconfig with a token file or a client \
         certificate, as docs/wrapper.md shows"
    );
    Ok(config)
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
        let most = Caps { api: API_LIMITS.connections, metrics: METRICS_LIMITS.connections };
        let least = http::STREAMS_MAX + CONNECTIONS_BESIDE_STREAMS;
        let caps = Caps::of_this_process(most, least, api.len())?;
        Ok(Self { api, metrics, caps })
    }

    fn serve(
        self,
        router: &Router,
        registry: Registry,
        end: &watch::Receiver<bool>,
    ) -> JoinSet<io::Result<()>> {
        let mut servers = JoinSet::new();
        let limits = Limits { connections: self.caps.api, ..API_LIMITS };
        for listener in self.api {
            servers.spawn(serve(listener, router.clone(), limits, ended(end.clone())));
        }
        // Ready is not leader, or a rollout would never go on: it is ready when its sockets answer.
        let (readiness, starting) = Readiness::new();
        let health = health_router(Arc::new(registry), readiness);
        let limits = Limits { connections: self.caps.metrics, ..METRICS_LIMITS };
        servers.spawn(serve(self.metrics, health, limits, ended(end.clone())));
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
