//! Pod → pod with its sidecar.

use super::{
    decide::Injection,
    json::{list_in, name, object_in},
    sidecar::{Injected, SidecarImage, container, program_variables, token_volume},
};
use conch_crds::names;
use serde_json::{Map, Value, json};
use std::time::Duration;

/// Names the container that `kubectl logs` and `kubectl exec` mean when none is named.
const DEFAULT_CONTAINER: &str = "kubectl.kubernetes.io/default-container";

/// Why nothing can be inserted into a document: it is no pod.
#[derive(Debug, thiserror::Error)]
pub enum MalformedPod {
    /// A field holds something of another kind than a pod has there.
    #[error("{0} is not what a pod has there")]
    Field(&'static str),
    /// What would be inserted cannot be written as JSON.
    #[error("failed to write the sidecar as JSON")]
    Sidecar(#[source] serde_json::Error),
}

/// The pod with its sidecar: the last init container, restartable, with its own token, and for the program's containers
/// the address of the API. Doing it twice is doing it once; nothing else of the pod is touched.
///
/// A sidecar that is there already, by the same policy and image, is kept with what others changed in it, and only moved
/// back to the end; one of another policy or image is replaced. Call it where [`super::decide`] said so.
///
/// `longest_lease`: the longest lease duration that any living pod of the election is known to use.
pub fn inject(
    pod: &Value,
    injection: &Injection<'_>,
    image: &SidecarImage,
    longest_lease: Option<Duration>,
) -> Result<Value, MalformedPod> {
    let injected = Injected::new(injection, image);
    let is_current = Injected::of(pod).as_ref() == Some(&injected);
    let mut pod = pod.clone();
    let root = pod.as_object_mut().ok_or(MalformedPod::Field("the pod"))?;
    let spec = object_in(root, "spec").ok_or(MalformedPod::Field("spec"))?;

    let completes = matches!(spec.get("restartPolicy").and_then(Value::as_str), Some("Never" | "OnFailure"));
    let fresh = || {
        let container = container(injection, image, longest_lease, completes);
        serde_json::to_value(container).map_err(MalformedPod::Sidecar)
    };
    put_container(spec, is_current, fresh)?;
    put_volume(spec, is_current)?;
    let first_program = put_variables(spec, &program_variables(injection.policy.spec))?;
    put_annotations(root, &injected, first_program)?;
    Ok(pod)
}

fn put_container(
    spec: &mut Map<String, Value>,
    is_current: bool,
    fresh: impl FnOnce() -> Result<Value, MalformedPod>,
) -> Result<(), MalformedPod> {
    const FIELD: MalformedPod = MalformedPod::Field("spec.initContainers");
    let containers = list_in(spec, "initContainers").ok_or(FIELD)?;
    let ours = take_named(containers, names::SIDECAR_CONTAINER);
    let mut sidecar = match ours {
        Some(sidecar) if is_current => sidecar,
        _ => fresh()?,
    };
    // A webhook that was built before there were restartable init containers drops this field of all of them.
    sidecar.as_object_mut().ok_or(FIELD)?.insert("restartPolicy".to_owned(), json!("Always"));
    containers.push(sidecar);
    Ok(())
}

fn put_volume(spec: &mut Map<String, Value>, is_current: bool) -> Result<(), MalformedPod> {
    let volumes = list_in(spec, "volumes").ok_or(MalformedPod::Field("spec.volumes"))?;
    let fresh = serde_json::to_value(token_volume()).map_err(MalformedPod::Sidecar)?;
    match volumes.iter_mut().find(|volume| name(volume) == Some(names::TOKEN_VOLUME)) {
        Some(_) if is_current => {}
        Some(volume) => *volume = fresh,
        None => volumes.push(fresh),
    }
    Ok(())
}

/// Tells the program's containers where the API is, except what they say themselves, and returns the first one's name.
///
/// Init containers are not told: those that end before the sidecar starts would be misled, and restartable ones are
/// mostly the proxies of others.
fn put_variables(
    spec: &mut Map<String, Value>,
    wanted: &[(&str, String)],
) -> Result<Option<String>, MalformedPod> {
    let containers = list_in(spec, "containers").ok_or(MalformedPod::Field("spec.containers"))?;
    for container in containers.iter_mut() {
        let container = container.as_object_mut().ok_or(MalformedPod::Field("a container"))?;
        let variables = list_in(container, "env").ok_or(MalformedPod::Field("a container's env"))?;
        for (wanted, value) in wanted {
            if !variables.iter().any(|variable| name(variable) == Some(wanted)) {
                variables.push(json!({"name": wanted, "value": value}));
            }
        }
    }
    Ok(containers.first().and_then(name).filter(|name| !name.is_empty()).map(str::to_owned))
}

fn put_annotations(
    root: &mut Map<String, Value>,
    injected: &Injected,
    first_program: Option<String>,
) -> Result<(), MalformedPod> {
    let metadata = object_in(root, "metadata").ok_or(MalformedPod::Field("metadata"))?;
    let annotations =
        object_in(metadata, "annotations").ok_or(MalformedPod::Field("metadata.annotations"))?;
    annotations.insert(names::INJECTED.to_owned(), json!(injected.to_string()));
    if let Some(first) = first_program {
        annotations.entry(DEFAULT_CONTAINER).or_insert_with(|| json!(first));
    }
    Ok(())
}

/// Takes every element of this name out of the list and returns the first.
fn take_named(list: &mut Vec<Value>, wanted: &str) -> Option<Value> {
    let mut taken = list.extract_if(.., |element| name(element) == Some(wanted));
    let first = taken.next();
    taken.for_each(drop);
    first
}
