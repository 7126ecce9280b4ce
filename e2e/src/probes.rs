//! A workload of probes under observation, and the faults that are done to it.

use std::cell::RefCell;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::time::Duration;

use conch_cluster::Cluster;
use conch_crds::names;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::checker::History;
use crate::error::{Error, Result, at};
use crate::logs::Logs;
use crate::namespace::Namespace;
use crate::tools::Tools;
use crate::workload::{CONTAINER, Workload};

/// How long a workload may take until its first leader is known.
const START_LIMIT: Duration = Duration::from_mins(2);

/// How long the programs take to stop.
const EXIT_DELAY_MS: u64 = 500;

/// A pod and the place where it runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Name of the pod.
    pub name: String,
    /// Its UID.
    pub uid: String,
    /// The node's number, counted from 1.
    pub node: usize,
}

/// Candidates whose programs ask every 10 ms and write down each answer.
#[derive(Debug)]
pub struct Probes<'a> {
    /// Where they run.
    pub namespace: &'a Namespace<'a>,
    cluster: &'a Cluster,
    name: String,
    /// `deployment/probe`, as `kubectl` takes it.
    reference: String,
    directory: PathBuf,
    logs: RefCell<Logs>,
}

impl<'a> Probes<'a> {
    /// Deploys a workload `probe` with the default policy, spread over the nodes, and waits until one pod leads and every
    /// other one was told that it does not.
    ///
    /// # Errors
    /// They do not start, or none leads.
    pub fn start(namespace: &'a Namespace<'a>, replicas: usize) -> Result<Self> {
        Self::start_as(namespace, replicas, |workload| {
            Workload { policy: Some(names::DEFAULT_POLICY), ..workload }.manifest()
        })
    }

    /// The same with the manifest that is made of the workload: another policy, kind, pod.
    ///
    /// # Errors
    /// They do not start, or none leads.
    pub fn start_as(
        namespace: &'a Namespace<'a>,
        replicas: usize,
        manifest: impl FnOnce(Workload<'_>) -> Value,
    ) -> Result<Self> {
        let mut probes = Self::prepare(namespace, "probe")?;
        let manifest = manifest(probes.workload(replicas));
        let kind = manifest["kind"].as_str().unwrap_or_default().to_lowercase();
        probes.reference = format!("{kind}/{}", probes.name);
        namespace.apply(manifest)?;
        probes.wait_complete(replicas)?;
        Ok(probes)
    }

    /// Makes the directory for the logs of a workload that is still to be deployed.
    ///
    /// # Errors
    /// The cluster is not our own, or the directory cannot be made.
    pub fn prepare(namespace: &'a Namespace<'a>, name: &str) -> Result<Self> {
        let unusable =
            || Error::Unusable("probes write to a directory of our own cluster's nodes".to_owned());
        let cluster = namespace.environment.cluster.as_ref().ok_or_else(unusable)?;
        let directory = namespace.environment.shared_directory().ok_or_else(unusable)?;
        // A namespace of the same name may have been here before.
        let directory = directory.join(format!("{}-{}", namespace.name, conch_probe::now()));
        fs::create_dir_all(&directory).map_err(at("create", &directory))?;
        // The program is not root.
        let open = fs::Permissions::from_mode(0o777);
        fs::set_permissions(&directory, open).map_err(at("open", &directory))?;
        let logs = RefCell::new(Logs::of(directory.clone()));
        let reference = format!("deployment/{name}");
        Ok(Self { namespace, cluster, name: name.to_owned(), reference, directory, logs })
    }

    /// The Deployment whose programs ask every 10 ms and write to the directory; it names no policy yet.
    pub fn workload(&self, replicas: usize) -> Workload<'_> {
        let directory = self.directory.to_str();
        Workload {
            replicas,
            interval_ms: 10,
            exit_delay_ms: EXIT_DELAY_MS,
            directory,
            ..Workload::deployment(&self.name)
        }
    }

    /// Waits until one pod leads and `replicas` pods are answered.
    ///
    /// # Errors
    /// It takes too long.
    pub fn wait_complete(&self, replicas: usize) -> Result<()> {
        self.namespace.wait_rolled_out(&self.reference)?;
        let since = conch_probe::now();
        Tools::wait_for(&format!("leader and {replicas} answering candidates"), START_LIMIT, || {
            let history = self.history()?;
            let answering = history.answering_since(since);
            let leads = history.next_answer_after(since).is_some();
            Ok(if leads && answering >= replicas {
                Ok(())
            } else {
                Err(format!("{answering} answer, leader: {leads}"))
            })
        })
    }

    /// The pod that was last told that it leads.
    ///
    /// # Errors
    /// None was, or it is gone.
    pub fn leader(&self) -> Result<Candidate> {
        let history = self.history()?;
        let (leader, _) = history.leader().ok_or_else(|| Error::Unusable("nobody leads".to_owned()))?;
        let (name, uid) = leader.split_once('_').unwrap_or((leader, ""));
        let pod = self.namespace.get(&["pod", name])?;
        let node = pod["spec"]["nodeName"].as_str().unwrap_or_default();
        let node = self.cluster.node_names().iter().position(|known| known == node);
        let node = node.ok_or_else(|| Error::Unusable(format!("pod {name} is on no node")))?;
        Ok(Candidate { name: name.to_owned(), uid: uid.to_owned(), node: node + 1 })
    }

    /// The processes of a container of a pod.
    ///
    /// # Errors
    /// It has none.
    pub fn processes(&self, candidate: &Candidate, container: &str) -> Result<Vec<u32>> {
        let processes = self.cluster.container_processes(candidate.node, &candidate.uid, container);
        if processes.is_empty() {
            return Err(Error::Unusable(format!(
                "container {container} of {} has no process",
                candidate.name
            )));
        }
        Ok(processes)
    }

    /// Sends a signal to the processes of a container of a pod: the program or the sidecar.
    ///
    /// # Errors
    /// It has no process.
    pub fn signal(&self, candidate: &Candidate, container: &str, signal: Signal) -> Result<()> {
        for process in self.processes(candidate, container)? {
            let process = i32::try_from(process).ok().and_then(Pid::from_raw);
            // A process that is gone already is what a fault wanted, or comes too late for.
            let _ = process.map(|process| kill_process(process, signal));
        }
        Ok(())
    }

    /// Kills the program of a candidate.
    ///
    /// # Errors
    /// It has no process.
    pub fn kill_program(&self, candidate: &Candidate) -> Result<()> {
        self.signal(candidate, CONTAINER, Signal::KILL)
    }

    /// Kills the sidecar of a candidate.
    ///
    /// # Errors
    /// It has no process.
    pub fn kill_sidecar(&self, candidate: &Candidate) -> Result<()> {
        self.signal(candidate, names::SIDECAR_CONTAINER, Signal::KILL)
    }

    /// The cluster, for its faults.
    pub fn cluster(&self) -> &Cluster {
        self.cluster
    }

    /// The workload, as `kubectl` takes it.
    pub fn reference(&self) -> &str {
        &self.reference
    }

    /// Name of the Lease.
    pub fn lease(&self) -> String {
        format!("{}{}", names::OBJECT_PREFIX, self.name)
    }

    /// Everything that was written down up to now.
    ///
    /// # Errors
    /// A log cannot be read.
    pub fn history(&self) -> Result<History> {
        self.logs.borrow_mut().read()
    }

    /// Waits until the program of a pod has written its last line, and returns when it did, in nanoseconds of
    /// `CLOCK_BOOTTIME`.
    ///
    /// # Errors
    /// It has not after `limit`.
    pub fn wait_exit(&self, candidate: &Candidate, limit: Duration) -> Result<u64> {
        let pod = format!("{}_{}", candidate.name, candidate.uid);
        Tools::wait_for("end of the program", limit, || {
            let ended = self.history()?.ended(&pod);
            Ok(ended.ok_or_else(|| format!("{pod} still asks")))
        })
    }

    /// Waits for a term that began after `event`, and returns how long after it the first answer came.
    ///
    /// # Errors
    /// There is none within `limit`.
    pub fn wait_next_term(&self, event: u64, limit: Duration) -> Result<Duration> {
        Tools::wait_for("new term", limit, || {
            let next = self.history()?.next_term_after(event);
            Ok(next.map(Duration::from_nanos).ok_or_else(|| "the old term, or none".to_owned()))
        })
    }
}
