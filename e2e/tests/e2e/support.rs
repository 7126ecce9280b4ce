//! What every test here needs.

use std::time::Duration;

use conch_crds::names;
use conch_e2e::{CONTAINER, Namespace, Result, Tools};
use serde_json::{Value, json};

pub(crate) use crate::shared::{
    FAIL_OVER_LIMIT, Scaled, breakable, environment, judge, judge_history, name_of,
};

/// How long the operator and the workload controllers may take to do their work.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);

/// A policy.
pub(crate) fn policy(name: &str, spec: &Value) -> Value {
    json!({"apiVersion": "conch.rs/v1alpha1", "kind": "CoordinationPolicy", "metadata": {"name": name}, "spec": spec})
}

/// What the sidecar of a pod answers: `/v1/status`, so that a follower's answer is no error.
pub(crate) fn status(namespace: &Namespace<'_>, pod: &str) -> Result<Value> {
    let probe = ["exec", pod, "-c", CONTAINER, "--", "/conch-probe", "get", "/v1/status"];
    let text = namespace.kubectl(&probe)?;
    let line = || probe.join(" ");
    serde_json::from_str(&text).map_err(|source| conch_e2e::Error::Json { line: line(), source })
}

/// The living pods of a workload.
pub(crate) fn pods(namespace: &Namespace<'_>, app: &str) -> Result<Vec<Value>> {
    let mut pods = namespace.list(&["pods", "--selector", &format!("app={app}")])?;
    pods.retain(|pod| pod["metadata"]["deletionTimestamp"].is_null());
    Ok(pods)
}

/// Waits until exactly one of a workload's pods says that it leads, and returns its name and its answer.
pub(crate) fn wait_leader(namespace: &Namespace<'_>, app: &str) -> (String, Value) {
    Tools::wait_for("one leader", PATIENCE, || {
        let mut leaders = Vec::new();
        for pod in pods(namespace, app)? {
            let name = name_of(&pod).to_owned();
            let status = status(namespace, &name)?;
            if status["leader"] == true {
                leaders.push((name, status));
            }
        }
        let count = leaders.len();
        Ok(leaders.pop().filter(|_| count == 1).ok_or_else(|| format!("{count} leaders")))
    })
    .unwrap()
}

/// Whether a pod has its sidecar.
pub(crate) fn is_injected(pod: &Value) -> bool {
    let containers = pod["spec"]["initContainers"].as_array();
    containers.is_some_and(|containers| {
        containers.iter().any(|container| container["name"] == names::SIDECAR_CONTAINER)
    })
}

/// Waits until an object has a condition with this status and reason.
pub(crate) fn wait_condition(
    namespace: &Namespace<'_>,
    object: &str,
    kind: &str,
    status: &str,
    reason: &str,
) -> Value {
    let what = format!("{object} with {kind}={status} ({reason})");
    Tools::wait_for(&what, PATIENCE, || {
        let conditions = namespace.get(&[object])?["status"]["conditions"].clone();
        let found = conditions.as_array().into_iter().flatten().find(|condition| {
            condition["type"] == kind && condition["status"] == status && condition["reason"] == reason
        });
        Ok(found.cloned().ok_or_else(|| conditions.to_string()))
    })
    .unwrap()
}

/// Waits for an Event with this reason and returns its message.
pub(crate) fn wait_event(namespace: &Namespace<'_>, reason: &str) -> String {
    Tools::wait_for(&format!("Event {reason}"), PATIENCE, || {
        let events = namespace.list(&["events"])?;
        let found = events.iter().find(|event| event["reason"] == reason);
        let message = found.map(|event| event["message"].as_str().unwrap_or_default().to_owned());
        Ok(message.ok_or_else(|| format!("{} others", events.len())))
    })
    .unwrap()
}
