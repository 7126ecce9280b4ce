//! An election on a real API server, and its pods: a sidecar and a program each, as processes of this machine.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::net::{Ipv4Addr, TcpListener};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, AtomicU32, Ordering};
use std::sync::mpsc::Sender;
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use clap::ValueEnum as _;
use conch_crds::names::{self, sidecar_env};
use k8s_openapi::api::{coordination::v1::Lease, core::v1::Namespace};
use kube::api::{DeleteParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};
use rustix::process::Signal;
use serde_json::json;
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::Setting;
use crate::history::Event;
use crate::resource::Guard;
use crate::servers::{Process, log, mortal, new_runtime};

/// D: short, so that the tests are quick, with room for a machine that is busy.
const LEASE: Duration = Duration::from_secs(2);
const RENEW_INTERVAL: Duration = Duration::from_millis(300);
const STOP_GRACE: Duration = Duration::from_millis(500);
const MAX_PROMISE: Duration = Duration::from_secs(1);
/// Not less than V = D·(1−ρ)/(1+ρ) − σ.
pub(crate) const VALIDITY: Duration = Duration::from_millis(1_500);
const LEASE_NAME: &str = "conch-e";
const START_LIMIT: Duration = Duration::from_secs(20);

/// A namespace with a fresh Lease; deleted when dropped.
pub(crate) struct Election {
    runtime: Runtime,
    client: Client,
    kubeconfig: PathBuf,
    sidecar: PathBuf,
    namespace: String,
    logs: TempDir,
}

/// A sidecar and the program beside it.
pub(crate) struct Pod {
    sidecar: Process,
    program: Process,
}

impl Election {
    pub(crate) fn create(setting: &Setting) -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let _ = rustls::crypto::ring::default_provider().install_default(); // fails only if it was done before
        let runtime = new_runtime()?;
        let read = Kubeconfig::read_from(&setting.kubeconfig)?;
        let client = runtime.block_on(async {
            let config = Config::from_custom_kubeconfig(read, &KubeConfigOptions::default()).await?;
            anyhow::Ok(Client::try_from(config)?)
        })?;
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let election = Self {
            runtime,
            client,
            kubeconfig: setting.kubeconfig.clone(),
            sidecar: setting.sidecar.clone(),
            namespace: format!("conch-fencing-{}-{number}", std::process::id()),
            logs: tempfile::Builder::new().prefix("conch-fencing-").tempdir()?,
        };
        election.create_objects().context("failed to create the namespace and the Lease")?;
        Ok(election)
    }

    fn create_objects(&self) -> Result<()> {
        let namespace = serde_json::from_value(json!({ "metadata": { "name": self.namespace } }))?;
        let fresh = BTreeMap::from([(names::FRESH, "true")]);
        let lease = json!({ "metadata": { "name": LEASE_NAME, "annotations": fresh } });
        let leases = Api::<Lease>::namespaced(self.client.clone(), &self.namespace);
        self.runtime.block_on(async {
            let parameters = PostParams::default();
            Api::<Namespace>::all(self.client.clone()).create(&parameters, &namespace).await?;
            leases.create(&parameters, &serde_json::from_value(lease)?).await?;
            Ok(())
        })
    }

    /// Starts a pod; what its program says is sent with the pod's number.
    pub(crate) fn start(
        &self,
        setting: &Setting,
        (guard, address): (Guard, &str),
        number: usize,
        events: Sender<(usize, Event)>,
    ) -> Result<Pod> {
        let name = format!("pod{number}");
        let port = two_free_ports()?;
        let mut serve = mortal(&self.sidecar);
        serve.envs(self.environment(&name, port)).env(sidecar_env::KUBECONFIG, &self.kubeconfig);
        let output = log(&self.logs, &format!("{name}-sidecar.log"))?;
        let mut sidecar = Process::start(serve.stdout(Stdio::null()).stderr(output))?;
        self.wait_ready(&mut sidecar, port)?;
        let guard = guard.to_possible_value().context("the guard has no name")?;
        let mut lead = mortal(&setting.client);
        lead.args(["client", "--guard", guard.get_name(), "--address", address, "--name", &name]);
        lead.env("CONCH_URL", format!("http://127.0.0.1:{port}")).stdout(Stdio::piped());
        let mut program = Process::start(lead.stderr(log(&self.logs, &format!("{name}-program.log"))?))?;
        forward(program.child(), number, events)?;
        Ok(Pod { sidecar, program })
    }

    fn environment(&self, name: &str, port: u16) -> [(&'static str, String); 10] {
        [
            (sidecar_env::POD_NAME, name.to_owned()),
            (sidecar_env::POD_UID, format!("uid-{name}")),
            (sidecar_env::NAMESPACE, self.namespace.clone()),
            (sidecar_env::ELECTION, "e".to_owned()),
            (sidecar_env::LEASE, LEASE_NAME.to_owned()),
            (sidecar_env::LEASE_DURATION, LEASE.as_millis().to_string()),
            (sidecar_env::RENEW_INTERVAL, RENEW_INTERVAL.as_millis().to_string()),
            (sidecar_env::STOP_GRACE, STOP_GRACE.as_millis().to_string()),
            (sidecar_env::MAX_PROMISE, MAX_PROMISE.as_millis().to_string()),
            (sidecar_env::PORT, port.to_string()),
        ]
    }

    fn wait_ready(&self, sidecar: &mut Process, port: u16) -> Result<()> {
        let began = Instant::now();
        loop {
            let mut ready = Command::new(&self.sidecar);
            let output = ready.arg("ready").env(sidecar_env::PORT, port.to_string()).output()?;
            let ended = sidecar.child().try_wait()?;
            ensure!(ended.is_none(), "the sidecar ended: see {}", self.logs.path().display());
            if output.status.success() {
                return Ok(());
            }
            ensure!(began.elapsed() < START_LIMIT, "the sidecar is not ready after {START_LIMIT:?}");
        }
    }
}

impl Drop for Election {
    fn drop(&mut self) {
        let namespaces = Api::<Namespace>::all(self.client.clone());
        let _ = self.runtime.block_on(namespaces.delete(&self.namespace, &DeleteParams::background()));
    }
}

impl Pod {
    /// Stops all that runs in it, as a frozen machine does.
    pub(crate) fn pause(&self) -> Result<()> {
        self.program.signal(Signal::STOP)?;
        self.sidecar.signal(Signal::STOP)
    }

    pub(crate) fn resume(&self) -> Result<()> {
        self.program.signal(Signal::CONT)?;
        self.sidecar.signal(Signal::CONT)
    }

    /// Lets the program end, after the step that it may be in.
    pub(crate) fn end(mut self) -> Result<()> {
        self.program.signal(Signal::TERM)?;
        let status = self.program.child().wait()?;
        ensure!(status.success(), "the program ended: {status}");
        Ok(())
    }
}

/// Reads the program's lines as they come. Ends with the program.
fn forward(program: &mut Child, number: usize, events: Sender<(usize, Event)>) -> Result<()> {
    let lines = BufReader::new(program.stdout.take().context("the program's output is not piped")?).lines();
    thread::spawn(move || {
        for event in lines.map_while(Result::ok).filter_map(|line| line.parse().ok()) {
            if events.send((number, event)).is_err() {
                return;
            }
        }
    });
    Ok(())
}

/// A port for the API and the next one for metrics. Below the range from which the kernel gives ports to connections, so
/// that it is still free a moment later.
fn two_free_ports() -> Result<u16> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let base = 16_384 + u16::try_from(std::process::id() % 64)? * 128;
    for _ in 0..64 {
        let port = base + NEXT.fetch_add(2, Ordering::Relaxed) % 128;
        let free = |address: Ipv4Addr, port: u16| TcpListener::bind((address, port)).is_ok();
        if free(Ipv4Addr::LOCALHOST, port) && free(Ipv4Addr::UNSPECIFIED, port + 1) {
            return Ok(port);
        }
        sleep(Duration::from_millis(1));
    }
    anyhow::bail!("no two free ports from {base} on")
}
