//! A namespace, for one test or for the demo.

use std::thread;

use serde_json::{Value, json};

use crate::environment::{Environment, OPERATOR_NAMESPACE, OPERATOR_SELECTOR};
use crate::error::Result;
use crate::tools::Tools;

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
        let name = self.name.as_str();
        let pods = "--selector=app";
        let looks: [&[&str]; 6] = [
            &[
                "-n",
                name,
                "get",
                "pods,deployments,statefulsets,daemonsets,elections,coordinationpolicies",
                "-o",
                "wide",
            ],
            &["-n", name, "get", "leases", "-o", "yaml"],
            &["-n", name, "get", "events", "--sort-by=.metadata.creationTimestamp"],
            &["-n", name, "describe", "pods"],
            &["-n", name, "logs", pods, "-c", "conch", "--tail=60", "--prefix"],
            &["-n", OPERATOR_NAMESPACE, "logs", "--selector", OPERATOR_SELECTOR, "--tail=60", "--prefix"],
        ];
        for look in looks {
            println!("\n$ kubectl {}", look.join(" "));
            match self.tools().kubectl(&[&["--request-timeout=10s"], look].concat()) {
                Ok(text) => println!("{text}"),
                Err(error) => println!("{error}"),
            }
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
