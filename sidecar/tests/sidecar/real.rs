//! Real sidecar processes, a Lease on a real API server, and programs that ask over a socket.

use k8s_openapi::api::{coordination::v1::Lease, core::v1::Namespace};
use kube::{
    Api, Client, Config,
    api::{DeleteParams, Patch, PatchParams, PostParams},
    config::{KubeConfigOptions, Kubeconfig},
};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use std::{
    env,
    fs::File,
    io::{BufRead, BufReader, Read, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    path::PathBuf,
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};
use tokio::runtime::Runtime;

const KUBECONFIG: &str = "CONCH_TEST_KUBECONFIG";
const BINARY: &str = env!("CARGO_BIN_EXE_conch-sidecar");
pub(crate) const IMAGE: &str = "conch:1";

/// The shortest lease that leaves three attempts beside these.
pub(crate) const LEASE: Duration = Duration::from_secs(4);
pub(crate) const STOP_GRACE: Duration = Duration::from_millis(500);
pub(crate) const MAX_PROMISE: Duration = Duration::from_secs(1);

/// A namespace with a fresh Lease; deleted when dropped.
pub(crate) struct Election {
    runtime: Runtime,
    client: Client,
    kubeconfig: PathBuf,
    namespace: String,
}

/// A sidecar process; killed when dropped.
pub(crate) struct Sidecar {
    child: Child,
    port: u16,
}

/// An open stream of events.
pub(crate) struct Events {
    lines: BufReader<TcpStream>,
}

/// Says that this test could not run here, in the form that is counted.
pub(crate) fn skipped(why: &str) {
    let thread = std::thread::current();
    let line = format!("SKIPPED {}: {why}\n", thread.name().unwrap_or("a test"));
    // Not by println, which is shown of failed tests only.
    std::io::stdout().write_all(line.as_bytes()).unwrap();
}

impl Election {
    /// `None`, said aloud, where there is no cluster to test against.
    pub(crate) fn new() -> Option<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let Some(kubeconfig) = env::var_os(KUBECONFIG).map(PathBuf::from) else {
            skipped(&format!("{KUBECONFIG} names no cluster"));
            return None;
        };
        let _ = rustls::crypto::ring::default_provider().install_default();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let read = Kubeconfig::read_from(&kubeconfig).unwrap();
        let client = runtime.block_on(async {
            let config = Config::from_custom_kubeconfig(read, &KubeConfigOptions::default()).await.unwrap();
            Client::try_from(config).unwrap()
        });
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let namespace = format!("conch-sidecar-{}-{number}", std::process::id());
        let election = Self { runtime, client, kubeconfig, namespace };
        election.create();
        Some(election)
    }

    fn create(&self) {
        let namespace = json!({ "metadata": { "name": self.namespace } });
        let lease = json!({ "metadata": { "name": "conch-e" } });
        self.runtime.block_on(async {
            let namespaces = Api::<Namespace>::all(self.client.clone());
            let parameters = PostParams::default();
            namespaces.create(&parameters, &serde_json::from_value(namespace).unwrap()).await.unwrap();
            let leases = self.leases();
            let lease = leases.create(&parameters, &serde_json::from_value(lease).unwrap()).await.unwrap();
            let fresh = json!({ "metadata": { "annotations": { "conch.rs/fresh": lease.metadata.uid } } });
            leases.patch("conch-e", &PatchParams::default(), &Patch::Merge(fresh)).await.unwrap();
        });
    }

    fn leases(&self) -> Api<Lease> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// What the operator writes when it sees that this pod is being deleted.
    pub(crate) fn mark_deletion(&self, pod: &str, grace_seconds: u32) {
        let pod_uid = format!("uid-{pod}");
        let deletion = json!({ "podUid": pod_uid, "graceSeconds": grace_seconds, "sidecarImage": IMAGE });
        let patch =
            json!({ "metadata": { "annotations": { "conch.rs/pod-deletion": deletion.to_string() } } });
        let (leases, parameters) = (self.leases(), PatchParams::default());
        self.runtime.block_on(leases.patch("conch-e", &parameters, &Patch::Merge(patch))).unwrap();
    }

    /// What a person with rights does to the Lease: somebody else holds it.
    pub(crate) fn take_away(&self) {
        let patch = json!({ "spec": { "holderIdentity": "somebody" } });
        let (leases, parameters) = (self.leases(), PatchParams::default());
        self.runtime.block_on(leases.patch("conch-e", &parameters, &Patch::Merge(patch))).unwrap();
    }

    /// What a person or a controller writes who wants this pod to lead.
    pub(crate) fn transfer_to(&self, pod: &str) {
        let patch = json!({ "metadata": { "annotations": { "conch.rs/transfer-to": pod } } });
        let (leases, parameters) = (self.leases(), PatchParams::default());
        self.runtime.block_on(leases.patch("conch-e", &parameters, &Patch::Merge(patch))).unwrap();
    }

    /// Who is wanted, as the Lease says.
    pub(crate) fn wanted(&self) -> Option<String> {
        let lease = self.runtime.block_on(self.leases().get("conch-e")).unwrap();
        lease.metadata.annotations.and_then(|all| all.get("conch.rs/transfer-to").cloned())
    }

    /// Starts a sidecar for this pod, on a port of its own, and waits until it is ready.
    pub(crate) fn start(&self, pod: &str) -> Sidecar {
        self.start_with(pod, &[])
    }

    /// The same with more in its environment.
    pub(crate) fn start_with(&self, pod: &str, environment: &[(&str, &str)]) -> Sidecar {
        let port = two_free_ports();
        let more = environment.iter().copied();
        let child = self.command(pod, port).envs(more).stderr(log(pod)).spawn().unwrap();
        let sidecar = Sidecar { child, port };
        assert!(sidecar.run("ready").status.success());
        sidecar
    }

    /// The command that the pod's container runs: everything comes from the environment.
    pub(crate) fn command(&self, pod: &str, port: u16) -> Command {
        let mut command = Command::new(BINARY);
        let environment = [
            ("CONCH_POD_NAME", pod.to_owned()),
            ("CONCH_POD_UID", format!("uid-{pod}")),
            ("CONCH_NAMESPACE", self.namespace.clone()),
            ("CONCH_ELECTION", "e".to_owned()),
            ("CONCH_LEASE", "conch-e".to_owned()),
            ("CONCH_LEASE_DURATION_MS", LEASE.as_millis().to_string()),
            ("CONCH_RENEW_INTERVAL_MS", "500".to_owned()),
            ("CONCH_STOP_GRACE_MS", STOP_GRACE.as_millis().to_string()),
            ("CONCH_MAX_PROMISE_MS", MAX_PROMISE.as_millis().to_string()),
            ("CONCH_IMAGE", IMAGE.to_owned()),
            ("CONCH_PORT", port.to_string()),
        ];
        command.env_clear().envs(environment).env("CONCH_KUBECONFIG", &self.kubeconfig);
        command
    }
}

impl Drop for Election {
    fn drop(&mut self) {
        let namespaces = Api::<Namespace>::all(self.client.clone());
        let _ = self.runtime.block_on(namespaces.delete(&self.namespace, &DeleteParams::background()));
    }
}

impl Sidecar {
    /// A process whose API is on this port.
    pub(crate) fn new(child: Child, port: u16) -> Self {
        Self { child, port }
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn connect(&self) -> TcpStream {
        TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).unwrap()
    }

    /// `GET` with the status and the JSON of the answer.
    pub(crate) fn get(&self, path: &str) -> (u16, Value) {
        self.exchange(&format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"))
    }

    fn exchange(&self, request: &str) -> (u16, Value) {
        let mut stream = self.connect();
        stream.set_read_timeout(Some(Duration::from_mins(1))).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, serde_json::from_str(body).unwrap_or(Value::String(body.to_owned())))
    }

    /// `POST` with the status and the JSON of the answer.
    pub(crate) fn post(&self, path: &str, body: &str) -> (u16, Value) {
        let length = body.len();
        self.exchange(&format!(
            "POST {path} HTTP/1.1\r\nHost: localhost\r\nConch-Request: 1\r\nContent-Length: {length}\r\n\
             Connection: close\r\n\r\n{body}"
        ))
    }

    /// Waits until this pod leads; returns the answer.
    pub(crate) fn lead(&self) -> Value {
        let (status, answer) = self.get("/v1/leader?wait=30s");
        assert_eq!(status, 200, "{answer}");
        answer
    }

    /// A program that holds the lead.
    pub(crate) fn hold(&self) -> Events {
        let mut stream = self.connect();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        write!(stream, "GET /v1/lead HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
        Events { lines: BufReader::new(stream) }
    }

    /// Runs another command of the binary beside it, as the kubelet does.
    pub(crate) fn run(&self, command: &str) -> Output {
        Command::new(BINARY).arg(command).env("CONCH_PORT", self.port.to_string()).output().unwrap()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits for the process to end, at most this long.
    pub(crate) fn ends_within(&mut self, limit: Duration) -> ExitStatus {
        let began = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(began.elapsed() < limit, "the sidecar runs on");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Events {
    /// Waits for an event that says so.
    pub(crate) fn until(&mut self, leader: bool) -> Value {
        let mut line = String::new();
        loop {
            line.clear();
            assert!(self.lines.read_line(&mut line).unwrap() > 0, "the stream is closed");
            let data = line.strip_prefix("data: ").map(|data| serde_json::from_str::<Value>(data).unwrap());
            if let Some(data) = data.filter(|data| data["leader"] == leader) {
                return data;
            }
        }
    }
}

/// A port whose next one is free as well.
pub(crate) fn two_free_ports() -> u16 {
    loop {
        let first = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = first.local_addr().unwrap().port();
        if port < u16::MAX && TcpListener::bind((Ipv4Addr::UNSPECIFIED, port + 1)).is_ok() {
            return port;
        }
    }
}

/// What the processes say goes to a file of this test run, to be read where a test failed.
fn log(pod: &str) -> Stdio {
    let path = env::temp_dir().join(format!("conch-sidecar-{}-{pod}.log", std::process::id()));
    File::options().create(true).append(true).open(path).unwrap().into()
}
