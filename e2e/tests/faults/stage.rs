//! The common course of a scenario: candidates start, one leads, a fault is done and healed, and then the promises hold.

use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::thread;
use std::time::Duration;

use conch_cluster::Cluster;
use conch_crds::names;
use conch_e2e::{
    CONTAINER, Candidate, Environment, Namespace, Probes, Result, Tools, Workload, milliseconds,
};
use conch_probe::Line;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::shared::{FAIL_OVER_LIMIT, breakable, judge};

const REPLICAS: usize = 3;

/// Exit codes of a sidecar that broke by itself: an error, a panic, an abort, a segmentation fault.
const BROKEN: [u64; 4] = [1, 101, 134, 139];

/// What the scenario's policy says.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Timing {
    policy: &'static str,
    /// The policy's object; the operator makes the default one.
    spec: Option<fn() -> Value>,
    pub(crate) lease: Duration,
    /// For how long a leader may lead without a renewal.
    pub(crate) validity: Duration,
}

const DEFAULT: Timing = Timing {
    policy: names::DEFAULT_POLICY,
    spec: None,
    lease: Duration::from_secs(15),
    validity: Duration::from_secs(12),
};

const FAST: Timing = Timing {
    policy: "fast",
    spec: Some(fast),
    lease: Duration::from_secs(6),
    validity: Duration::from_secs(5),
};

const STARVED: Timing = Timing { policy: "starved", spec: Some(starved), ..DEFAULT };

fn fast() -> Value {
    let timing = json!({"leaseDuration": "6s", "renewInterval": "1s", "stopGrace": "1s", "maxPromise": "2s"});
    json!({"timing": timing})
}

fn starved() -> Value {
    let limits = json!({"cpu": "10m", "memory": "32Mi"});
    json!({"sidecar": {"resources": {"requests": {"cpu": "1m", "memory": "16Mi"}, "limits": limits}}})
}

impl Timing {
    /// Within this time after a fault, or its end, somebody leads.
    pub(crate) fn limit(&self) -> Duration {
        self.lease + Duration::from_secs(5)
    }

    /// The same where every candidate may be out of reach, and a pod that has yet to start waits from its own first sight.
    pub(crate) fn newcomer_limit(&self) -> Duration {
        self.limit() + Duration::from_secs(10)
    }

    /// The same where the leader's writes land without being answered, for as long as it leads: each of them lets the
    /// others wait anew.
    pub(crate) fn unanswered_limit(&self) -> Duration {
        self.validity + self.limit()
    }
}

/// Scenarios that break only their own pods run side by side; one that breaks the cluster runs alone.
static CLUSTER: RwLock<()> = RwLock::new(());

#[expect(dead_code, reason = "held until they are dropped")]
enum Hold {
    Shared(RwLockReadGuard<'static, ()>),
    Alone(RwLockWriteGuard<'static, ()>),
}

/// A scenario before it begins.
pub(crate) struct Scenario {
    title: &'static str,
    words: &'static str,
    timing: Timing,
    alone: bool,
    shape: fn(&mut Value),
}

/// A running scenario: its candidates, and who led when it began.
pub(crate) struct Stage<'a> {
    pub(crate) environment: &'a Environment,
    pub(crate) probes: &'a Probes<'a>,
    pub(crate) timing: Timing,
    pub(crate) leader: Candidate,
    token: u128,
}

/// What was done, and what must have come of it. Times are nanoseconds of `CLOCK_BOOTTIME`.
pub(crate) struct Course {
    pub(crate) event: u64,
    pub(crate) healed: u64,
    pub(crate) outcome: Outcome,
    /// How many candidates there must be in the end.
    pub(crate) replicas: usize,
}

pub(crate) enum Outcome {
    /// The leader of the beginning leads on, and nobody led meanwhile.
    SameTerm,
    /// New terms began, each so long after what ended the one before.
    NewTerms { fail_overs: Vec<Duration>, within: Duration },
}

impl Course {
    /// New terms began, each so long after what ended the one before.
    pub(crate) fn new_terms(event: u64, healed: u64, fail_overs: Vec<Duration>, within: Duration) -> Self {
        Self { event, healed, outcome: Outcome::NewTerms { fail_overs, within }, replicas: REPLICAS }
    }
}

impl Scenario {
    /// Three candidates with the default policy, in a namespace named by `words`.
    pub(crate) fn new(title: &'static str, words: &'static str) -> Self {
        Self { title, words, timing: DEFAULT, alone: false, shape: |_| {} }
    }

    /// With a lease of 6 s instead of 15 s, where the numbers do not matter.
    pub(crate) fn fast(self) -> Self {
        Self { timing: FAST, ..self }
    }

    /// With one hundredth of a processor for each sidecar.
    pub(crate) fn starved(self) -> Self {
        Self { timing: STARVED, ..self }
    }

    /// It breaks more than its own pods.
    pub(crate) fn alone(self) -> Self {
        Self { alone: true, ..self }
    }

    /// Changes the workload's manifest.
    pub(crate) fn shape(self, shape: fn(&mut Value)) -> Self {
        Self { shape, ..self }
    }

    fn hold(&self) -> Hold {
        if self.alone {
            Hold::Alone(CLUSTER.write().unwrap_or_else(PoisonError::into_inner))
        } else {
            Hold::Shared(CLUSTER.read().unwrap_or_else(PoisonError::into_inner))
        }
    }

    /// Runs it to its end and judges it.
    pub(crate) fn run(self, fault: impl FnOnce(&Stage<'_>) -> Course) {
        let Some(environment) = breakable(self.title) else { return };
        let _hold = self.hold();
        let namespace = Namespace::new(environment, self.words).unwrap();
        let (policy, timing) = (self.timing.policy, self.timing);
        if let Some(spec) = timing.spec {
            let object = json!({"apiVersion": "conch.rs/v1alpha1", "kind": "CoordinationPolicy",
                "metadata": {"name": policy}, "spec": spec()});
            namespace.apply(object).unwrap();
        }
        let manifest = |workload: Workload<'_>| {
            let mut manifest = Workload { policy: Some(policy), ..workload }.manifest();
            (self.shape)(&mut manifest);
            manifest
        };
        let probes = Probes::start_as(&namespace, REPLICAS, manifest).unwrap();
        let leader = probes.leader().unwrap();
        let token = probes.history().unwrap().leader().map_or(0, |(_, token)| token);
        let stage = Stage { environment, probes: &probes, timing, leader, token };
        let course = fault(&stage);
        stage.finish(self.title, course);
    }
}

impl Stage<'_> {
    /// The leader must lead on.
    pub(crate) fn same_term(&self, event: u64, healed: u64) -> Course {
        // Long enough for a renewal, and for followers to see whatever came of it.
        thread::sleep(self.timing.lease / 4);
        Course { event, healed, outcome: Outcome::SameTerm, replicas: REPLICAS }
    }

    /// Waits for a new term after the event.
    pub(crate) fn new_term(&self, event: u64, healed: u64) -> Course {
        self.new_term_within(event, healed, self.timing.limit())
    }

    /// The same where a good reason, to be said by the caller, makes it last longer.
    pub(crate) fn new_term_within(&self, event: u64, healed: u64, within: Duration) -> Course {
        let fail_over = self.probes.wait_next_term(event, within + FAIL_OVER_LIMIT).unwrap();
        Course::new_terms(event, healed, vec![fail_over], within)
    }

    /// Everything that must hold in every scenario.
    fn finish(&self, title: &str, course: Course) {
        let Course { event, healed, outcome, replicas } = course;
        let limit = self.timing.limit();
        let back = self.wait_answer_after(healed);
        self.probes.wait_complete(replicas).unwrap();
        let more = match &outcome {
            Outcome::SameTerm => "no fail-over".to_owned(),
            Outcome::NewTerms { fail_overs, .. } => {
                let times: Vec<_> = fail_overs.iter().map(|time| milliseconds(*time)).collect();
                format!("fail-over {}", times.join(" "))
            }
        };
        let verdict = judge(self.probes, title, &more);
        assert!(back <= limit, "no leader until {back:?} after the end of the fault");
        match outcome {
            Outcome::SameTerm => {
                let token = self.probes.history().unwrap().leader().map(|(_, token)| token);
                assert_eq!(token, Some(self.token), "the leader changed");
            }
            Outcome::NewTerms { fail_overs, within } => {
                assert!(
                    fail_overs.iter().all(|time| *time <= within),
                    "{fail_overs:?}, not within {within:?}"
                );
            }
        }
        let longest = Duration::from_nanos(healed.saturating_sub(event)) + limit;
        assert!(Duration::from_nanos(verdict.longest_gap) <= longest, "{verdict}");
        self.check_sidecars();
    }

    fn wait_answer_after(&self, time: u64) -> Duration {
        let wait = || {
            let next = self.probes.history()?.next_answer_after(time);
            Ok(next.map(Duration::from_nanos).ok_or_else(|| "none".to_owned()))
        };
        Tools::wait_for("leader after the end of the fault", 2 * FAIL_OVER_LIMIT, wait).unwrap()
    }

    /// Whatever a test does to a sidecar, it never ends by itself.
    fn check_sidecars(&self) {
        for pod in self.probes.namespace.list(&["pods"]).unwrap() {
            let containers = pod["status"]["initContainerStatuses"].as_array().cloned().unwrap_or_default();
            for container in containers.iter().filter(|one| one["name"] == names::SIDECAR_CONTAINER) {
                for state in [&container["state"], &container["lastState"]] {
                    let code = state["terminated"]["exitCode"].as_u64();
                    assert!(code.is_none_or(|code| !BROKEN.contains(&code)), "a sidecar broke: {container}");
                }
            }
        }
    }

    pub(crate) fn cluster(&self) -> &Cluster {
        self.probes.cluster()
    }

    pub(crate) fn kubectl(&self, arguments: &[&str]) -> String {
        self.probes.namespace.kubectl(arguments).unwrap()
    }

    pub(crate) fn patch_lease(&self, kind: &str, patch: &Value) {
        let (lease, patch) = (self.probes.lease(), patch.to_string());
        self.kubectl(&["patch", "lease", &lease, &format!("--type={kind}"), "--patch", &patch]);
    }

    /// Stops containers of a candidate with SIGSTOP until the end of the fault.
    pub(crate) fn stop(&self, candidate: &Candidate, containers: &'static [&'static str]) -> Fault<'_> {
        let signal = move |candidate: &Candidate, signal| -> Result<()> {
            containers.iter().try_for_each(|container| self.probes.signal(candidate, container, signal))
        };
        signal(candidate, Signal::STOP).unwrap();
        let candidate = candidate.clone();
        Fault::healed_by(move || signal(&candidate, Signal::CONT))
    }

    /// The other candidates.
    pub(crate) fn followers(&self) -> Vec<Candidate> {
        let nodes = self.cluster().node_names();
        let pods = self.probes.namespace.list(&["pods", "--selector", "app=probe"]).unwrap();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let candidates = pods.iter().map(|pod| Candidate {
            name: text(&pod["metadata"]["name"]),
            uid: text(&pod["metadata"]["uid"]),
            node: nodes.iter().position(|node| pod["spec"]["nodeName"] == node.as_str()).unwrap() + 1,
        });
        candidates.filter(|candidate| candidate.name != self.leader.name).collect()
    }

    /// A process of the sidecar of a candidate.
    pub(crate) fn sidecar(&self, candidate: &Candidate) -> u32 {
        self.probes.processes(candidate, names::SIDECAR_CONTAINER).unwrap()[0]
    }

    /// Nobody who asked in this time was told to lead.
    pub(crate) fn assert_nobody_leads(&self, from: u64, until: u64) {
        let history = self.probes.history().unwrap();
        let told = history.runs.iter().flat_map(|run| &run.lines).filter_map(|line| match line {
            Line::Yes { asked, .. } if (from..until).contains(asked) => Some(*asked - from),
            _ => None,
        });
        let last = told.max().map(Duration::from_nanos);
        assert_eq!(last, None, "somebody was told to lead until so long after it was impossible");
    }
}

/// The two containers of a candidate's pod.
pub(crate) const BOTH: &[&str] = &[CONTAINER, names::SIDECAR_CONTAINER];
/// The sidecar's container.
pub(crate) const SIDECAR: &[&str] = &[names::SIDECAR_CONTAINER];
/// The program's container.
pub(crate) const PROGRAM: &[&str] = &[CONTAINER];

/// A fault that lasts; it ends when this is dropped, also when the test fails.
pub(crate) struct Fault<'a> {
    heal: Option<Box<dyn FnOnce() -> Result<()> + 'a>>,
}

impl<'a> Fault<'a> {
    pub(crate) fn healed_by(heal: impl FnOnce() -> Result<()> + 'a) -> Self {
        Self { heal: Some(Box::new(heal)) }
    }

    /// Ends it, and returns when it was over.
    pub(crate) fn heal(self) -> u64 {
        drop(self);
        conch_probe::now()
    }
}

impl Drop for Fault<'_> {
    fn drop(&mut self) {
        let Some(heal) = self.heal.take() else { return };
        match heal() {
            // A second panic would end the other tests too.
            Err(error) if thread::panicking() => println!("the fault stays: {error}"),
            healed => healed.unwrap(),
        }
    }
}

/// A time some seconds after another.
pub(crate) fn later(time: u64, by: Duration) -> u64 {
    time + u64::try_from(by.as_nanos()).unwrap()
}

pub(crate) fn sleep(seconds: u64) {
    thread::sleep(Duration::from_secs(seconds));
}
