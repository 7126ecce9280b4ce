//! The generated files: what they contain and where they are.

use conch_crds::{CoordinationPolicy, Election};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;
use serde_json::Value;
use std::{
    error::Error,
    path::{Path, PathBuf},
};

/// One generated file.
pub(crate) struct Manifest {
    /// Where it belongs.
    pub(crate) path: PathBuf,
    /// What it must contain.
    pub(crate) content: String,
}

/// The chart's directory.
pub(crate) fn chart() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../charts/conch")
}

/// Every generated file that holds a `CustomResourceDefinition`.
pub(crate) fn crds() -> Result<Vec<Manifest>, Box<dyn Error>> {
    [CoordinationPolicy::crd(), Election::crd()].iter().map(manifest).collect()
}

fn manifest(crd: &CustomResourceDefinition) -> Result<Manifest, Box<dyn Error>> {
    let name = crd.metadata.name.as_deref().unwrap_or_default();
    // By way of JSON, whose objects are sorted: the file changes with the types alone.
    let mut value = serde_json::to_value(crd)?;
    unwrap_descriptions(&mut value);
    let yaml = serde_saphyr::to_string(&value)?;
    let content = format!("# Generated from crds/src by: cargo run -p conch-crds --example crdgen\n{yaml}");
    Ok(Manifest { path: chart().join(format!("files/crds/{name}.yaml")), content })
}

/// `kubectl explain` breaks lines itself, and keeps those of the source.
fn unwrap_descriptions(value: &mut Value) {
    match value {
        Value::Object(fields) => fields.iter_mut().for_each(|(name, field)| match field {
            Value::String(text) if name == "description" => *text = unwrap_lines(text),
            _ => unwrap_descriptions(field),
        }),
        Value::Array(items) => items.iter_mut().for_each(unwrap_descriptions),
        _ => {}
    }
}

fn unwrap_lines(text: &str) -> String {
    text.split("\n\n").map(|paragraph| paragraph.replace('\n', " ")).collect::<Vec<_>>().join("\n\n")
}
