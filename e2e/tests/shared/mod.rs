//! What every test target on the cluster needs.

use std::sync::OnceLock;
use std::time::Duration;

use conch_e2e::checker::{History, Verdict};
use conch_e2e::{Environment, KUBECONFIG_VARIABLE, OPERATOR_NAMESPACE, OPERATOR_SELECTOR, Probes};
use serde_json::Value;

/// A new leader must be there within the lease of 15 s, the default, and 5 s more.
pub(crate) const FAIL_OVER_LIMIT: Duration = Duration::from_secs(20);

/// The cluster with Conch on it, prepared by the first test that asks.
pub(crate) fn environment() -> &'static Environment {
    static ENVIRONMENT: OnceLock<std::result::Result<Environment, String>> = OnceLock::new();
    let prepare = || {
        let environment = Environment::open()?;
        environment.load_images()?;
        environment.install()?;
        Ok::<_, conch_e2e::Error>(environment)
    };
    let prepared = ENVIRONMENT.get_or_init(|| prepare().map_err(|error| error.to_string()));
    prepared.as_ref().unwrap()
}

/// The cluster, if it is ours to break; otherwise says that the test was skipped.
pub(crate) fn breakable(test: &str) -> Option<&'static Environment> {
    let environment = environment();
    if environment.cluster.is_none() {
        println!("SKIPPED {test}: the cluster of {KUBECONFIG_VARIABLE} is not ours to break");
        return None;
    }
    Some(environment)
}

/// Judges everything that the probes wrote down, prints the scenario's line, and fails if a promise was broken.
pub(crate) fn judge(probes: &Probes<'_>, scenario: &str, more: &str) -> Verdict {
    judge_history(&probes.history().unwrap(), scenario, more)
}

/// The same for a history to which something was added, e.g. when a killed program died.
pub(crate) fn judge_history(history: &History, scenario: &str, more: &str) -> Verdict {
    let verdict = history.judge();
    let more = if more.is_empty() { String::new() } else { format!("{more}, ") };
    println!("RESULT {scenario}: {more}{verdict}");
    assert_eq!(verdict.faults(), Vec::<String>::new());
    verdict
}

/// `metadata.name`.
pub(crate) fn name_of(object: &Value) -> &str {
    object["metadata"]["name"].as_str().unwrap_or_default()
}

/// The operator's Deployment, scaled for one test; put back when this is dropped.
pub(crate) struct Scaled<'a> {
    environment: &'a Environment,
    name: String,
    before: u64,
}

impl<'a> Scaled<'a> {
    pub(crate) fn to(environment: &'a Environment, replicas: u64) -> Self {
        let list = ["--namespace", OPERATOR_NAMESPACE, "deployments", "--selector", OPERATOR_SELECTOR];
        let deployments = environment.tools.get(&list).unwrap();
        let deployment = &deployments["items"][0];
        let before = deployment["spec"]["replicas"].as_u64().unwrap();
        let scaled = Self { environment, name: name_of(deployment).to_owned(), before };
        scaled.scale(replicas);
        scaled
    }

    fn scale(&self, replicas: u64) {
        let reference = format!("deployment/{}", self.name);
        self.kubectl(&["scale", &reference, &format!("--replicas={replicas}")]);
        self.kubectl(&["rollout", "status", &reference, "--timeout=2m"]);
        if replicas == 0 {
            // A pod that is being deleted still answers the webhook for a while.
            self.kubectl(&["wait", "--for=delete", "pods", "--selector", OPERATOR_SELECTOR, "--timeout=1m"]);
        }
    }

    pub(crate) fn kubectl(&self, arguments: &[&str]) -> String {
        let namespace = ["--namespace", OPERATOR_NAMESPACE];
        self.environment.tools.kubectl(&[&namespace[..], arguments].concat()).unwrap()
    }
}

impl Drop for Scaled<'_> {
    fn drop(&mut self) {
        self.scale(self.before);
    }
}
