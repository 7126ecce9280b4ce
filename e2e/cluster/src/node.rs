//! A node: the first process of its namespaces prepares them and keeps containerd, kubelet and kube-proxy.

use std::ffi::OsString;
use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crate::cgroup::Cgroups;
use crate::components;
use crate::description::{Description, read_json};
use crate::error::{Context, Error, Result};
use crate::images;
use crate::keeper::{Daemon, Keeper};
use crate::layout::{CONTROL_ADDRESS, Layout, node_address, node_name, pod_network};
use crate::node_files;
use crate::node_mounts;

/// How long the link or containerd may take to appear.
const APPEARANCE_LIMIT: Duration = Duration::from_secs(30);

struct Node {
    number: usize,
    layout: Layout,
    description: Description,
    keeper: Arc<Keeper>,
}

/// Runs a node; does not return while it lives.
pub(crate) fn run(layout: Layout, number: usize) -> Result<()> {
    let description: Description = read_json(&layout.description())?;
    // First of all, so that every process of the node is in its group.
    Cgroups::find()?.join(&format!("{}/system", description.node_cgroup(number)))?;
    let node = Node { number, layout, description, keeper: Keeper::begin() };
    node_mounts::prepare(&node.layout, &node.description)?;
    rustix::system::sethostname(node_name(number).as_bytes())
        .doing(|| "cannot set the host name".to_owned())?;
    node.make_network()?;
    node.start_containerd()?;
    node.wait_for_api();
    node.start_kubelet()?;
    node.start("kube-proxy", "kube-proxy", components::proxy(&node.layout, &node_name(number)))?;
    loop {
        thread::park();
    }
}

impl Node {
    fn directory(&self) -> PathBuf {
        self.layout.node(self.number)
    }

    fn make_network(&self) -> Result<()> {
        let ip = |line: &str| self.keeper.run("ip", &line.split(' ').collect::<Vec<_>>()).map(drop);
        ip("link set lo up")?;
        wait_until("the link to the control plane", || Path::new("/proc/sys/net/ipv4/conf/eth0").exists())?;
        ip(&format!("addr add {}/24 dev eth0", node_address(self.number)))?;
        ip("link set eth0 up")?;
        ip(&format!("route add default via {CONTROL_ADDRESS}"))?;
        for other in (1..=self.description.nodes).filter(|other| *other != self.number) {
            ip(&format!("route add {} via {}", pod_network(other), node_address(other)))?;
        }
        let forwarding = Path::new("/proc/sys/net/ipv4/ip_forward");
        fs::write(forwarding, "1").at("write", forwarding)
    }

    fn start(&self, name: &str, program: &str, arguments: Vec<OsString>) -> Result<()> {
        let daemon = Daemon {
            name: name.to_owned(),
            program: self.description.binaries.path(program)?,
            arguments,
            log: self.layout.log(&format!("{name}-{}", self.number)),
            restart: true,
        };
        self.keeper.start(daemon).map(drop)
    }

    fn start_containerd(&self) -> Result<()> {
        let directory = self.directory();
        let configuration = directory.join("containerd.toml");
        node_files::write(&configuration, &node_files::containerd(&directory, &self.description.plugins))?;
        node_files::write(&directory.join("cni/10-pods.conflist"), &node_files::pod_network(self.number))?;
        let socket = self.layout.containerd_socket(self.number);
        // A socket of the node's life before would look like containerd's answer.
        if socket.exists() {
            fs::remove_file(&socket).at("remove", &socket)?;
        }
        self.start("containerd", "containerd", vec!["--config".into(), configuration.into()])?;
        wait_until("containerd", || UnixStream::connect(&socket).is_ok())?;
        let ctr = self.description.binaries.path("ctr")?;
        let run = |arguments: &[&str]| self.keeper.run(ctr.clone(), arguments).map(drop);
        images::import_all(&self.layout, self.number, &run)
    }

    /// A kubelet that starts before its API server waits a long time between its attempts.
    fn wait_for_api(&self) {
        while !self.layout.api_is_up().exists() {
            thread::sleep(Duration::from_millis(50));
        }
    }

    fn start_kubelet(&self) -> Result<()> {
        let directory = self.directory();
        let configuration = directory.join("kubelet.json");
        let group = self.description.node_cgroup(self.number);
        node_files::write(&configuration, &node_files::kubelet(&self.layout, self.number, &group))?;
        let name = node_name(self.number);
        let arguments = [
            format!("--config={}", configuration.display()),
            format!("--kubeconfig={}", self.layout.inner_kubeconfig(&name).display()),
            format!("--root-dir={}", directory.join("kubelet").display()),
            format!("--hostname-override={name}"),
            format!("--node-ip={}", node_address(self.number)),
        ];
        self.start("kubelet", "kubelet", arguments.map(Into::into).into())
    }
}

fn wait_until(what: &str, done: impl Fn() -> bool) -> Result<()> {
    let deadline = Instant::now() + APPEARANCE_LIMIT;
    while !done() {
        if Instant::now() > deadline {
            return Err(Error::Refused(format!(
                "{what} did not appear within {} s",
                APPEARANCE_LIMIT.as_secs()
            )));
        }
        thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}
