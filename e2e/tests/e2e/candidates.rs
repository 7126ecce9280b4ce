//! Candidates whose lease is short, where the numbers do not matter: what `lifecycle` and `presence` begin with.

use std::time::Duration;

use conch_e2e::checker::History;
use conch_e2e::{Candidate, Namespace, Probes, Tools, Workload};
use conch_probe::Line;
use serde_json::{Value, json};

use crate::support::{PATIENCE, name_of, policy};

pub(crate) const LEASE: Duration = Duration::from_secs(6);
pub(crate) const STOP_GRACE: Duration = Duration::from_secs(1);
/// When every promise is over, on a clock that is as slow as a kernel can make it, and the program has stopped.
pub(crate) const PROMISES: Duration = Duration::from_millis(2_260).saturating_add(STOP_GRACE);
/// What a busy machine may take for what takes milliseconds on an idle one.
pub(crate) const SOON: Duration = Duration::from_secs(1);

const POLICY: &str = "quick";

/// Makes the policy, with what it asks of the program.
pub(crate) fn prepare(namespace: &Namespace<'_>, program: &Value) {
    let timing = json!({"leaseDuration": "6s", "renewInterval": "1s", "stopGrace": "1s", "maxPromise": "2s"});
    namespace.apply(policy(POLICY, &json!({"timing": timing, "program": program}))).unwrap();
}

/// The manifest of a workload with this policy, whose pod is changed before.
pub(crate) fn manifest(workload: &Workload<'_>, change: impl FnOnce(&mut Value)) -> Value {
    let mut manifest = Workload { policy: Some(POLICY), ..workload.clone() }.manifest();
    change(&mut manifest["spec"]["template"]["spec"]);
    manifest
}

/// Starts candidates, and waits until one of them leads.
pub(crate) fn start<'a>(
    namespace: &'a Namespace<'a>,
    replicas: usize,
    program: &Value,
    change: impl FnOnce(&mut Value),
) -> Probes<'a> {
    prepare(namespace, program);
    Probes::start_as(namespace, replicas, |workload| manifest(&workload, change)).unwrap()
}

/// Adds arguments to the probe of a pod; of an option that is there twice, the last one counts.
pub(crate) fn add_arguments(pod: &mut Value, arguments: &[&str]) {
    let list = pod["containers"][0]["args"].as_array_mut().unwrap();
    list.extend(arguments.iter().map(|argument| json!(argument)));
}

/// A pod as a candidate, once it is on a node.
pub(crate) fn candidate(probes: &Probes<'_>, pod: &Value) -> Option<Candidate> {
    let node =
        probes.cluster().node_names().iter().position(|node| pod["spec"]["nodeName"] == node.as_str())?;
    let uid = pod["metadata"]["uid"].as_str()?.to_owned();
    Some(Candidate { name: name_of(pod).to_owned(), uid, node: node + 1 })
}

/// The candidates but for this one.
pub(crate) fn others(probes: &Probes<'_>, one: &Candidate) -> Vec<Candidate> {
    let pods = probes.namespace.list(&["pods", "--selector", "app=probe"]).unwrap();
    let candidates = pods.iter().filter_map(|pod| candidate(probes, pod));
    candidates.filter(|candidate| candidate != one).collect()
}

/// When a pod was answered, and whether it was told to lead; in no order.
pub(crate) fn answers(history: &History, candidate: &Candidate) -> Vec<(u64, bool)> {
    let pod = pod_of(candidate);
    let lines = history.runs.iter().filter(|run| run.pod == pod).flat_map(|run| &run.lines);
    let answers = lines.filter_map(|line| match line {
        Line::Yes { answered, .. } => Some((*answered, true)),
        Line::No { answered, .. } => Some((*answered, false)),
        _ => None,
    });
    answers.collect()
}

/// Waits for the answer to the first question that this pod asks after a time: was it told to lead? An earlier answer may still have
/// lain in its socket then.
pub(crate) fn first_answer(probes: &Probes<'_>, candidate: &Candidate, after: u64) -> bool {
    let pod = pod_of(candidate);
    Tools::wait_for("next answer of a pod", PATIENCE, || {
        let history = probes.history()?;
        let lines = history.runs.iter().filter(|run| run.pod == pod).flat_map(|run| &run.lines);
        let answers = lines.filter_map(|line| match line {
            Line::Yes { asked, .. } => Some((*asked, true)),
            Line::No { asked, .. } => Some((*asked, false)),
            _ => None,
        });
        let first = answers.filter(|(asked, _)| *asked >= after).min();
        Ok(first.map(|(_, leads)| leads).ok_or_else(|| "none".to_owned()))
    })
    .unwrap()
}

/// A candidate as the histories name it.
pub(crate) fn pod_of(candidate: &Candidate) -> String {
    format!("{}_{}", candidate.name, candidate.uid)
}

/// The history of programs that act for `stopGrace` after each deadline, as they may: one more second of belief.
pub(crate) fn with_stop_grace(mut history: History) -> History {
    let grace = u64::try_from(STOP_GRACE.as_nanos()).unwrap();
    for line in history.runs.iter_mut().flat_map(|run| &mut run.lines) {
        if let Line::Yes { deadline, .. } = line {
            *deadline += grace;
        }
    }
    history
}
