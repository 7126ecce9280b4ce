//! The supervisor: first process of the cluster's namespaces, parent of the control plane and of the nodes.

use std::collections::BTreeSet;
use std::fs;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::cgroup::Cgroups;
use crate::components;
use crate::description::{Description, read_json};
use crate::error::{Context, Error, Result};
use crate::forward;
use crate::keeper::{Daemon, Keeper};
use crate::layout::{
    API_PORT, BRIDGE, CONTROL_ADDRESS, Layout, hardware_address, link_name, node_address, node_name,
    pod_network,
};
use crate::messages::{Answer, Deed, Request, receive, send};

/// How long a node's first process may take to appear.
const BIRTH_LIMIT: Duration = Duration::from_secs(10);

/// How long the API server may take until it listens.
const LISTEN_LIMIT: Duration = Duration::from_secs(45);
/// The daemon whose port is passed on to the outside.
const API_SERVER: &str = "kube-apiserver";

struct Supervisor {
    layout: Layout,
    description: Description,
    cgroups: Cgroups,
    keeper: Arc<Keeper>,
    /// The API server's port outside of the namespaces.
    loopback: TcpListener,
    /// Nodes whose link is down; a restarted node does not plug its cable back in.
    cut: Mutex<BTreeSet<usize>>,
    /// Held while a node starts or dies: one of these at a time.
    births_and_deaths: Mutex<()>,
}

/// Runs the supervisor of the cluster in a directory; does not return while the cluster lives.
pub(crate) fn run(layout: Layout) -> Result<()> {
    let description: Description = read_json(&layout.description())?;
    let cgroups = Cgroups::find()?;
    cgroups.join(&format!("{}/control", description.cgroup))?;
    let supervisor = Arc::new(Supervisor {
        layout,
        description,
        cgroups,
        keeper: Keeper::begin(),
        loopback: forward::inherited_listener().doing(|| "cannot take over the loopback port".to_owned())?,
        cut: Mutex::new(BTreeSet::new()),
        births_and_deaths: Mutex::new(()),
    });
    supervisor.make_network()?;
    let forwarder = Arc::clone(&supervisor);
    thread::spawn(move || forward::serve(&forwarder.loopback, API_PORT));
    let path = supervisor.layout.socket();
    let socket = UnixListener::bind(&path).at("listen on", &path)?;
    let starter = Arc::clone(&supervisor);
    thread::spawn(move || {
        if let Err(error) = starter.start() {
            eprintln!("{error}");
        }
    });
    for stream in socket.incoming() {
        let Ok(mut stream) = stream else { continue };
        let supervisor = Arc::clone(&supervisor);
        thread::spawn(move || {
            let answer: Answer = receive(&stream)
                .map_err(|error| format!("the request makes no sense: {error}"))
                .and_then(|request| supervisor.answer(&request).map_err(|error| error.to_string()));
            // Who asked may be gone.
            let _ = send(&mut stream, &answer);
        });
    }
    Ok(())
}

impl Supervisor {
    /// The network between the nodes, which the host never sees.
    fn make_network(&self) -> Result<()> {
        let ip = |line: &str| self.keeper.run("ip", &line.split(' ').collect::<Vec<_>>()).map(drop);
        ip("link set lo up")?;
        ip(&format!("link add {BRIDGE} address {} type bridge", hardware_address(CONTROL_ADDRESS)))?;
        ip(&format!("addr add {CONTROL_ADDRESS}/24 dev {BRIDGE}"))?;
        ip(&format!("link set {BRIDGE} up"))?;
        // Service addresses need a route before kube-proxy's rules turn them into pods' addresses.
        ip(&format!("route add default dev {BRIDGE}"))?;
        let forwarding = Path::new("/proc/sys/net/ipv4/ip_forward");
        fs::write(forwarding, "1").at("write", forwarding)
    }

    fn start(&self) -> Result<()> {
        for daemon in components::control_plane(&self.layout, &self.description)? {
            let api_server = daemon.name == API_SERVER;
            self.keeper.start(daemon)?;
            if api_server {
                // Nodes prepare themselves while the API server starts.
                for number in 1..=self.description.nodes {
                    self.start_node(number)?;
                }
                self.wait_for_api();
            }
        }
        Ok(())
    }

    /// Waits until the API server is ready, and leaves a mark for the nodes.
    fn wait_for_api(&self) {
        let kubeconfig = format!("--kubeconfig={}", self.layout.inner_kubeconfig("admin").display());
        let Ok(kubectl) = self.description.binaries.path("kubectl") else { return };
        let arguments = [kubeconfig.as_str(), "get", "--raw=/readyz", "--request-timeout=2s"];
        while self.keeper.run(kubectl.clone(), &arguments).is_err() {
            thread::sleep(Duration::from_millis(100));
        }
        let mark = self.layout.api_is_up();
        if let Err(error) = fs::write(&mark, "") {
            eprintln!("{}: {error}", mark.display());
        }
    }

    fn answer(&self, request: &Request) -> Result<Vec<usize>> {
        match request {
            Request::Status => {}
            Request::StartNode(number) => self.start_node(*number)?,
            Request::KillNode(number) => self.kill_node(*number)?,
            Request::CutNode(number) => self.set_link(*number, false)?,
            Request::HealNode(number) => self.set_link(*number, true)?,
            Request::Component(name, deed) => self.act(name, *deed)?,
        }
        let lives = |number: &usize| self.keeper.pid(&node_name(*number)).is_some();
        Ok((1..=self.description.nodes).filter(lives).collect())
    }

    fn act(&self, name: &str, deed: Deed) -> Result<()> {
        match deed {
            Deed::Stop => self.keeper.signal(name, Signal::STOP),
            Deed::Continue => self.keeper.signal(name, Signal::CONT),
            Deed::Kill => self.kill_component(name),
            Deed::Restart => {
                self.kill_component(name)?;
                self.keeper.start_again(name)?;
                self.keeper.set_restart(name, true);
                if name == API_SERVER {
                    self.open_loopback()?;
                }
                Ok(())
            }
        }
    }

    fn kill_component(&self, name: &str) -> Result<()> {
        self.keeper.kill(name)?;
        if name == API_SERVER {
            forward::close(&self.loopback).doing(|| "cannot close the loopback port".to_owned())?;
        }
        Ok(())
    }

    /// Lets the loopback port listen again as soon as the API server does.
    fn open_loopback(&self) -> Result<()> {
        let deadline = Instant::now() + LISTEN_LIMIT;
        while TcpStream::connect((Ipv4Addr::LOCALHOST, API_PORT)).is_err() {
            if Instant::now() > deadline {
                return Err(Error::Refused(format!(
                    "the API server does not listen; look into the log of {API_SERVER}"
                )));
            }
            thread::sleep(Duration::from_millis(20));
        }
        forward::open(&self.loopback).doing(|| "cannot listen on the loopback port".to_owned())
    }

    fn check(&self, number: usize) -> Result<()> {
        if (1..=self.description.nodes).contains(&number) {
            return Ok(());
        }
        Err(Error::Refused(format!("there is no node {number}: nodes are 1 to {}", self.description.nodes)))
    }

    fn start_node(&self, number: usize) -> Result<()> {
        self.check(number)?;
        let _guard = self.births_and_deaths.lock().unwrap_or_else(PoisonError::into_inner);
        let name = node_name(number);
        if self.keeper.pid(&name).is_some() {
            return Err(Error::Refused(format!("{name} runs already")));
        }
        let group = self.description.node_cgroup(number);
        self.cgroups.remove(&group)?;
        let mut arguments: Vec<_> =
            ["--mount", "--net", "--pid", "--ipc", "--uts", "--fork", "--kill-child", "--mount-proc"]
                .map(Into::into)
                .into();
        arguments.push(self.layout.program().into());
        arguments.extend(["internal", "node"].map(Into::into));
        arguments.extend([self.layout.root().into(), number.to_string().into()]);
        let holder = self.keeper.start(Daemon {
            name: name.clone(),
            program: crate::command::find_program("unshare").unwrap_or_else(|| "unshare".into()),
            arguments,
            log: self.layout.log(&name),
            restart: false,
        })?;
        self.connect(number, first_child(holder)?)
    }

    /// Lays the cable between the bridge and a new node's namespace.
    fn connect(&self, number: usize, pid: u32) -> Result<()> {
        let link = link_name(number);
        // The kernel removes a dead node's link a little later than its processes.
        let _ = self.keeper.run("ip", &["link", "del", &link]);
        let pid = pid.to_string();
        let address = hardware_address(&node_address(number));
        let mut cable = vec!["link", "add", &link, "type", "veth", "peer", "name", "eth0"];
        cable.extend(["address", &address, "netns", &pid]);
        self.keeper.run("ip", &cable)?;
        self.keeper.run("ip", &["link", "set", &link, "master", BRIDGE])?;
        if !self.cut().contains(&number) {
            self.keeper.run("ip", &["link", "set", &link, "up"])?;
        }
        self.keeper
            .run("ip", &["route", "replace", &pod_network(number), "via", &node_address(number)])
            .map(drop)
    }

    fn kill_node(&self, number: usize) -> Result<()> {
        self.check(number)?;
        let _guard = self.births_and_deaths.lock().unwrap_or_else(PoisonError::into_inner);
        let name = node_name(number);
        let group = self.description.node_cgroup(number);
        // The holder's death takes the node's first process with it, and that one's takes all others.
        self.keeper.kill(&name)?;
        // A frozen process dies only when it is thawed (on version 1); killed before, it runs no further.
        for pid in self.cgroups.processes(&group) {
            crate::processes::kill(pid);
        }
        self.cgroups.set_frozen(&group, false)?;
        self.cgroups.wait_empty(&group)?;
        self.cgroups.remove(&group)
    }

    fn cut(&self) -> std::sync::MutexGuard<'_, BTreeSet<usize>> {
        self.cut.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_link(&self, number: usize, up: bool) -> Result<()> {
        self.check(number)?;
        if up {
            self.cut().remove(&number);
        } else {
            self.cut().insert(number);
        }
        if self.keeper.pid(&node_name(number)).is_none() {
            return Ok(());
        }
        self.keeper.run("ip", &["link", "set", &link_name(number), if up { "up" } else { "down" }]).map(drop)
    }
}

/// The first child of a process, as soon as it has one.
fn first_child(parent: u32) -> Result<u32> {
    let deadline = Instant::now() + BIRTH_LIMIT;
    loop {
        if let Some(child) = children(parent).first() {
            return Ok(*child);
        }
        if Instant::now() > deadline || !Path::new(&format!("/proc/{parent}")).exists() {
            return Err(Error::Refused("a node's first process did not appear; look into its log".into()));
        }
        thread::sleep(Duration::from_millis(5));
    }
}

/// The children of a process, found through each process's parent: not every kernel lists children.
fn children(parent: u32) -> Vec<u32> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid| crate::processes::stat(*pid).is_some_and(|stat| stat.parent == parent))
        .collect()
}
