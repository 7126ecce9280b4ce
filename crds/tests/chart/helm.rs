//! The chart as `helm` renders it.

use serde_json::Value;
use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

/// The namespace and release of every rendering.
pub(crate) const NAMESPACE: &str = "conch-system";
pub(crate) const RELEASE: &str = "conch";

/// The chart's directory.
pub(crate) fn chart() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../charts/conch")
}

/// Every object of the chart with these `--set` values, hooks included.
pub(crate) fn render(settings: &[&str]) -> Chart {
    let text = try_render(NAMESPACE, settings).unwrap_or_else(|error| panic!("{settings:?}: {error}"));
    let objects = serde_saphyr::from_multiple::<Value>(&text).unwrap();
    Chart { objects: objects.into_iter().filter(|object| !object.is_null()).collect() }
}

/// What helm says against these values.
pub(crate) fn refusal(namespace: &str, settings: &[&str]) -> String {
    match try_render(namespace, settings) {
        Ok(_) => panic!("{settings:?} in {namespace} was rendered"),
        Err(error) => error,
    }
}

fn try_render(namespace: &str, settings: &[&str]) -> Result<String, String> {
    let chart = chart();
    let mut arguments = vec!["template", RELEASE, chart.to_str().unwrap(), "--namespace", namespace];
    arguments.extend(settings.iter().flat_map(|setting| ["--set", setting]));
    helm(&arguments)
}

/// Runs helm; gives what it wrote to its output, or to its error output if it failed.
pub(crate) fn helm(arguments: &[&str]) -> Result<String, String> {
    let output = Command::new(program()).args(arguments).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}

/// helm of `PATH`, or the one that conch-cluster built.
fn program() -> PathBuf {
    let path = env::var_os("PATH").unwrap_or_default();
    let cache = env::var_os("XDG_CACHE_HOME")
        .map_or_else(|| PathBuf::from(env::var_os("HOME").unwrap_or_default()).join(".cache"), PathBuf::from);
    let built = cache.join("conch").read_dir().into_iter().flatten().flatten().map(|entry| entry.path());
    let mut candidates = env::split_paths(&path).chain(built).map(|directory| directory.join("helm"));
    candidates.find(|candidate| candidate.is_file()).expect(
        "helm is neither in PATH nor in the cache; this builds it: cargo run -p conch-cluster -- build",
    )
}

/// The rendered objects.
pub(crate) struct Chart {
    pub(crate) objects: Vec<Value>,
}

impl Chart {
    /// Every object of a kind.
    pub(crate) fn all(&self, kind: &str) -> impl Iterator<Item = &Value> {
        self.objects.iter().filter(move |object| object["kind"] == kind)
    }

    /// The object of a kind and name.
    pub(crate) fn get(&self, kind: &str, name: &str) -> &Value {
        let mut objects = self.objects.iter();
        objects
            .find(|object| object["kind"] == kind && object["metadata"]["name"] == name)
            .unwrap_or_else(|| panic!("there is no {kind} {name}"))
    }

    /// The pod templates of all Deployments, Jobs and Pods, with the name of what they belong to.
    pub(crate) fn pods(&self) -> Vec<(&Value, &Value)> {
        let templates = ["Deployment", "Job"].into_iter().flat_map(|kind| self.all(kind)).map(|object| {
            let template = &object["spec"]["template"];
            (&object["metadata"]["name"], template)
        });
        templates.chain(self.all("Pod").map(|pod| (&pod["metadata"]["name"], pod))).collect()
    }
}
