//! A namespace, for one test or for the demo.

use std::thread;

use conch_crds::names;
use serde_json::{Value, json};

use crate::environment::{Environment, OPERATOR_NAMESPACE, OPERATOR_SELECTOR};
use crate::error::Result;
use crate::tools::Tools;

/// Of each log.
const LOG_LIMITS: &[&str] = &["--tail=60", "--limit-bytes=12000"];

/// A namespace of its own. That of a test shows the world when the test fails, and is gone afterwards.
#[derive(Debug)]
pub struct Namespace<'a> {
    /// Where it is.
    pub environment: &'a Environment,
    /// Its name.
    pub name: String,
    temporary: bool,
}

impl<'a> Namespace<'a> {
    /// Creates a namespace whose name begins with `e2e-` and a few words.
    ///
    /// # Errors
    /// The API server refuses.
    pub fn new(environment: &'a Environment, words: &str) -> Result<Self> {
        Self::labelled(environment, words, &json!({}))
    }

    /// The same with labels.
    ///
    /// # Errors
    /// The API server refuses.
    pub fn labelled(environment: &'a Environment, words: &str, labels: &Value) -> Result<Self> {
        // A namespace of an earlier run may still be on its way out.
        let name = format!("e2e-{words}-{}", std::process::id());
        let namespace = Self { environment, name, temporary: true };
        environment.tools.apply(&namespace.manifest(labels))?;
        Ok(namespace)
    }

    /// A new namespace of this name, which stays.
    ///
    /// # Errors
    /// An old one cannot be removed, or the API server refuses the new one.
    pub fn lasting(environment: &'a Environment, name: &str) -> Result<Self> {
        let namespace = Self { environment, name: name.to_owned(), temporary: false };
        environment.tools.kubectl(&["delete", "namespace", name, "--ignore-not-found"])?;
        environment.tools.apply(&namespace.manifest(&json!({})))?;
        Ok(namespace)
    }

    fn manifest(&self, labels: &Value) -> Value {
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": self.name, "labels": labels}})
    }

    /// The command line tools.
    pub fn tools(&self) -> &Tools {
        &self.environment.tools
    }

    /// `kubectl --namespace …`.
    ///
    /// # Errors
    /// It ends with an error.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        self.tools().kubectl(&[&["--namespace", self.name.as_str()], arguments].concat())
    }

    /// `kubectl get … -o json`.
    ///
    /// # Errors
    /// It ends with an error.
    pub fn get(&self, arguments: &[&str]) -> Result<Value> {
        self.tools().get(&[&["--namespace", self.name.as_str()], arguments].concat())
    }

    /// The `items` of `kubectl get … -o json`.
    ///
    /// # Errors
    /// It ends with an error.
    pub fn list(&self, arguments: &[&str]) -> Result<Vec<Value>> {
        Ok(self.get(arguments)?["items"].as_array().cloned().unwrap_or_default())
    }

    /// Applies an object in this namespace.
    ///
    /// # Errors
    /// The API server refuses it.
    pub fn apply(&self, mut object: Value) -> Result<String> {
        object["metadata"]["namespace"] = json!(self.name);
        self.tools().apply(&object)
    }

    /// Waits until every pod of a workload is of its newest template and ready.
    ///
    /// # Errors
    /// They are not after two minutes.
    pub fn wait_rolled_out(&self, workload: &str) -> Result<()> {
        self.kubectl(&["rollout", "status", workload, "--timeout=2m"]).map(drop)
    }

    /// Everything that helps to understand why a test failed.
    fn print_world(&self) {
        let objects = "pods,deployments,statefulsets,daemonsets,elections,coordinationpolicies";
        self.print(&self.name, &["get", objects, "-o", "wide"]);
        self.print(&self.name, &["get", "leases", "-o", "yaml"]);
        self.print(&self.name, &["get", "events", "--sort-by=.metadata.creationTimestamp"]);
        self.print(&self.name, &["describe", "pods"]);
        let operator = ["logs", "--selector", OPERATOR_SELECTOR, "--prefix"];
        self.print(OPERATOR_NAMESPACE, &[&operator[..], LOG_LIMITS].concat());
        for pod in self.list(&["pods"]).unwrap_or_default() {
            self.print_sidecar(&pod);
        }
    }

    /// What the sidecar of a pod logged, and the one that ran before it was restarted.
    fn print_sidecar(&self, pod: &Value) {
        let name = pod["metadata"]["name"].as_str().unwrap_or_default();
        let containers = pod["status"]["initContainerStatuses"].as_array().into_iter().flatten();
        for container in containers.filter(|container| container["name"] == names::SIDECAR_CONTAINER) {
            let logs = ["logs", name, "-c", names::SIDECAR_CONTAINER];
            if container["restartCount"].as_u64() > Some(0) {
                self.print(&self.name, &[&logs[..], &["--previous"], LOG_LIMITS].concat());
            }
            self.print(&self.name, &[&logs[..], LOG_LIMITS].concat());
        }
    }

    fn print(&self, namespace: &str, look: &[&str]) {
        println!("\n$ kubectl --namespace {namespace} {}", look.join(" "));
        let options = ["--request-timeout=10s", "--namespace", namespace];
        match self.tools().kubectl(&[&options[..], look].concat()) {
            Ok(text) => println!("{text}"),
            Err(error) => println!("{error}"),
        }
    }
}

impl Drop for Namespace<'_> {
    fn drop(&mut self) {
        if !self.temporary {
            return;
        }
        if thread::panicking() {
            self.print_world();
        }
        let delete = ["delete", "namespace", &self.name, "--wait=false"];
        if let Err(error) = self.tools().kubectl(&delete) {
            println!("namespace {} stays: {error}", self.name);
        }
    }
}
