//! A running cluster, as tests and demos hold it.

use std::fs;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::cgroup::Cgroups;
use crate::command::{command, output};
use crate::description::{Description, Fsync, read_json};
use crate::error::{Context, Error, Result};
use crate::images;
use crate::kubectl;
use crate::layout::{API_PORT, API_SERVICE_ADDRESS, CONTROL_ADDRESS, Layout, clusters_directory, node_name};
use crate::lifecycle;
use crate::messages::{Deed, Request, ask};
use crate::relay::{API_SERVICE_PORT, Relay};

/// How long a restarted node may take until it is Ready, or the API server until it answers.
const RETURN_LIMIT: Duration = Duration::from_mins(2);

/// What to bring up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// The cluster's name; clusters of different names live side by side.
    pub name: String,
    /// The number of worker nodes.
    pub nodes: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { name: "conch".to_owned(), nodes: 2 }
    }
}

/// A program of the control plane that faults can be done to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Component {
    /// `kube-apiserver`.
    ApiServer,
    /// `etcd`.
    Etcd,
}

impl Component {
    fn program(self) -> &'static str {
        match self {
            Self::ApiServer => "kube-apiserver",
            Self::Etcd => "etcd",
        }
    }
}

/// How a cluster is found in the state directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Its name.
    pub name: String,
    /// Whether its processes run.
    pub up: bool,
    /// The number of its nodes.
    pub nodes: usize,
    /// Where its API server listens outside of its namespaces.
    pub port: u16,
}

/// A cluster that is up. Dropping it leaves the cluster running; [`Cluster::down`] ends it.
#[derive(Debug, Clone)]
pub struct Cluster {
    layout: Layout,
    description: Description,
    kubeconfig: PathBuf,
    tools: PathBuf,
}

impl Cluster {
    /// Brings a cluster up, or finds that it is, and waits until its nodes are Ready and its DNS answers.
    pub fn up(options: &Options) -> Result<Self> {
        lifecycle::up(&Layout::named(&options.name)?, options.nodes, Fsync::Off)?;
        Self::open(&options.name)
    }

    /// The same with an etcd that waits until each write is on the disk, as users have it.
    pub fn up_with_fsync(options: &Options) -> Result<Self> {
        lifecycle::up(&Layout::named(&options.name)?, options.nodes, Fsync::On)?;
        Self::open(&options.name)
    }

    /// Takes hold of a cluster that is up.
    pub fn open(name: &str) -> Result<Self> {
        let layout = Layout::named(name)?;
        if !lifecycle::is_running(&layout) {
            return Err(Error::NotUp(name.to_owned()));
        }
        let description = read_json(&layout.description())?;
        Ok(Self { kubeconfig: layout.kubeconfig(), tools: layout.tools(), layout, description })
    }

    /// Ends a cluster and removes all that it left; fine if there is none.
    pub fn down(name: &str) -> Result<()> {
        lifecycle::down(&Layout::named(name)?)
    }

    /// All clusters in the state directory, those that ended uncleanly too.
    pub fn list() -> Result<Vec<Listed>> {
        let directory = clusters_directory()?;
        let Ok(entries) = fs::read_dir(&directory) else { return Ok(Vec::new()) };
        let mut names: Vec<String> =
            entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect();
        names.sort();
        let listed = names.into_iter().filter_map(|name| {
            let layout = Layout::named(&name).ok()?;
            let description: Description = read_json(&layout.description()).ok()?;
            let up = lifecycle::is_running(&layout);
            Some(Listed { name, up, nodes: description.nodes, port: description.port })
        });
        Ok(listed.collect())
    }

    /// The cluster's name.
    pub fn name(&self) -> &str {
        self.layout.name()
    }

    /// The administrator's kubeconfig, for programs outside of the cluster's namespaces.
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// A directory with `kubectl`, `helm` and `ctr`.
    pub fn tools_directory(&self) -> &Path {
        &self.tools
    }

    /// Where kubectl may keep what it remembers of the cluster (`KUBECACHEDIR`).
    pub fn cache_directory(&self) -> PathBuf {
        self.layout.kubectl_cache()
    }

    /// The names of the nodes; node `n` is the `n`th, counted from 1.
    pub fn node_names(&self) -> Vec<String> {
        (1..=self.description.nodes).map(node_name).collect()
    }

    /// The log file of a component: `etcd`, `kube-apiserver`, `kubelet-1`, …
    pub fn log(&self, component: &str) -> Result<PathBuf> {
        let path = self.layout.log(component);
        if path.is_file() {
            return Ok(path);
        }
        let directory = self.layout.root().join("log");
        let entries = fs::read_dir(&directory).at("read", &directory)?;
        let mut known: Vec<String> = entries
            .flatten()
            .filter_map(|entry| Some(entry.path().file_stem()?.to_string_lossy().into_owned()))
            .collect();
        known.sort();
        Err(Error::Invalid(format!("{component} has no log; these have: {}", known.join(", "))))
    }

    /// Imports an image archive into every node, and into those that are restarted later.
    pub fn load_image(&self, archive: &Path) -> Result<()> {
        let kept = images::keep(&self.layout, archive)?;
        let ctr = |arguments: &[&str]| output(command(self.tools.join("ctr")).args(arguments)).map(drop);
        // A node that is down imports it when it starts.
        for number in self.ask(&Request::Status)? {
            images::import(&self.layout, number, &kept, &ctr)?;
        }
        Ok(())
    }

    fn ask(&self, request: &Request) -> Result<Vec<usize>> {
        ask(&self.layout.socket(), request)
    }

    fn check(&self, number: usize) -> Result<()> {
        if (1..=self.description.nodes).contains(&number) {
            return Ok(());
        }
        Err(Error::Invalid(format!("there is no node {number}: nodes are 1 to {}", self.description.nodes)))
    }

    /// Unplugs a node's network cable.
    pub fn cut_node(&self, number: usize) -> Result<()> {
        self.ask(&Request::CutNode(number)).map(drop)
    }

    /// Plugs a node's network cable in again.
    pub fn heal_node(&self, number: usize) -> Result<()> {
        self.ask(&Request::HealNode(number)).map(drop)
    }

    /// Stops every process of a node, its pods' too, where they are.
    pub fn freeze_node(&self, number: usize) -> Result<()> {
        self.check(number)?;
        Cgroups::find()?.set_frozen(&self.description.node_cgroup(number), true)
    }

    /// Lets a frozen node go on.
    pub fn thaw_node(&self, number: usize) -> Result<()> {
        self.check(number)?;
        Cgroups::find()?.set_frozen(&self.description.node_cgroup(number), false)
    }

    /// Cuts a node's power: every process of it is gone when this returns.
    pub fn kill_node(&self, number: usize) -> Result<()> {
        self.ask(&Request::KillNode(number)).map(drop)
    }

    /// Starts a killed node (a running one is killed first) and waits until it is Ready again.
    pub fn restart_node(&self, number: usize) -> Result<()> {
        self.check(number)?;
        self.kill_node(number)?;
        let before = self.last_sign_of_life(number);
        self.ask(&Request::StartNode(number))?;
        let name = node_name(number);
        self.wait(&format!("{name} is not Ready"), || {
            // The node's old state stays Ready for a while after its death; its lease tells the new kubelet.
            self.last_sign_of_life(number) != before
                && kubectl::get(&self.layout, &["node", &name])
                    .is_ok_and(|node| kubectl::is_node_ready(&node))
        })
    }

    fn last_sign_of_life(&self, number: usize) -> Option<Value> {
        let lease =
            kubectl::get(&self.layout, &["lease", &node_name(number), "--namespace", "kube-node-lease"]);
        lease.ok().map(|lease| lease["spec"]["renewTime"].clone())
    }

    /// Stops a program of the control plane where it is (SIGSTOP): its connections stay open.
    pub fn stop_component(&self, component: Component) -> Result<()> {
        self.act(component, Deed::Stop)
    }

    /// Lets a stopped program go on (SIGCONT).
    pub fn continue_component(&self, component: Component) -> Result<()> {
        self.act(component, Deed::Continue)
    }

    /// Kills a program of the control plane (SIGKILL); it stays away until it is restarted.
    pub fn kill_component(&self, component: Component) -> Result<()> {
        self.act(component, Deed::Kill)
    }

    /// Starts a program of the control plane again, killing it first if it runs. For the API server, waits
    /// until it is ready.
    pub fn restart_component(&self, component: Component) -> Result<()> {
        self.act(component, Deed::Restart)?;
        match component {
            Component::Etcd => Ok(()),
            Component::ApiServer => {
                self.wait("the API server is not ready", || kubectl::is_ready(&self.layout))
            }
        }
    }

    fn act(&self, component: Component, deed: Deed) -> Result<()> {
        self.ask(&Request::Component(component.program().to_owned(), deed)).map(drop)
    }

    fn wait(&self, what: &str, done: impl Fn() -> bool) -> Result<()> {
        let deadline = Instant::now() + RETURN_LIMIT;
        while !done() {
            if Instant::now() > deadline {
                let look = self.layout.root().join("log");
                return Err(Error::Late { what: what.to_owned(), seconds: RETURN_LIMIT.as_secs(), look });
            }
            thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }

    /// A relay before the API server, in the control plane's network, through which pods can be led.
    pub fn relay(&self) -> Result<Relay> {
        let holder = lifecycle::holder_process(&self.layout)?;
        let server = address(CONTROL_ADDRESS, API_PORT)?;
        Relay::start(holder, *server.ip(), server)
    }

    /// A relay in the network of a process's pod, through which that process's user is led to the API server: what the
    /// proxy of a service mesh is to the pod's other containers.
    pub fn relay_in_pod(&self, process: u32) -> Result<Relay> {
        let path = Path::new("/proc").join(process.to_string());
        let user = fs::metadata(&path).at("read", &path)?.uid();
        let service = address(API_SERVICE_ADDRESS, API_SERVICE_PORT)?;
        let relay = Relay::start(process, Ipv4Addr::LOCALHOST, service)?;
        // The relay itself is another user's, like the proxy: it is not led to itself.
        relay.capture_some(process, &format!("meta skuid {user}"))?;
        Ok(relay)
    }

    /// The processes of a pod's container on a node, as the machine numbers them; none if it does not run.
    pub fn container_processes(&self, node: usize, pod_uid: &str, container_name: &str) -> Vec<u32> {
        let Ok(cgroups) = Cgroups::find() else { return Vec::new() };
        let Ok(tasks) = fs::read_dir(self.layout.tasks(node)) else { return Vec::new() };
        // Read from containerd's files rather than asked, so that it works while the node is frozen.
        tasks
            .flatten()
            .filter_map(|task| read_json::<Value>(&task.path().join("config.json")).ok())
            .filter(|specification| {
                let annotation =
                    |name: &str| &specification["annotations"][format!("io.kubernetes.cri.{name}")];
                annotation("sandbox-uid") == pod_uid && annotation("container-name") == container_name
            })
            .filter_map(|specification| specification["linux"]["cgroupsPath"].as_str().map(str::to_owned))
            .flat_map(|group| cgroups.processes(group.trim_start_matches('/')))
            .collect()
    }
}

fn address(ip: &str, port: u16) -> Result<SocketAddrV4> {
    let ip = ip.parse().map_err(|_| Error::Invalid(format!("{ip} is no IPv4 address")))?;
    Ok(SocketAddrV4::new(ip, port))
}
