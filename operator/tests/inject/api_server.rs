//! A real API server accepts what injection makes, in a dry run.

use crate::{
    cluster::{client, delete_namespace, namespace},
    support::{injected, pods, policies},
};
use conch_crds::names;
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, Client,
    api::{ApiResource, DynamicObject, PostParams},
};
use serde_json::{Value, json};

/// Golden pods that no API server accepts, with or without a sidecar.
const IMPOSSIBLE: [&str; 1] = ["absurd"];

async fn dry_run(client: &Client, namespace: &str, mut pod: Value) -> Result<Value, kube::Error> {
    pod["metadata"]["namespace"] = json!(namespace);
    let pods: Api<DynamicObject> =
        Api::namespaced_with(client.clone(), namespace, &ApiResource::erase::<Pod>(&()));
    let parameters = PostParams { dry_run: true, field_manager: None };
    let created = pods.create(&parameters, &serde_json::from_value(pod).unwrap()).await?;
    Ok(serde_json::to_value(created).unwrap())
}

#[tokio::test]
async fn the_api_server_accepts_every_golden_pod_with_its_sidecar() {
    let Some(client) = client().await else { return };
    let namespace = namespace(&client, "pods", "privileged").await;
    let policies = policies();
    let mut refused = Vec::new();
    let mut accepted = 0;
    for (name, pod) in pods() {
        let Some(injected) = injected(&pod, &policies).filter(|_| !IMPOSSIBLE.contains(&name.as_str()))
        else {
            continue;
        };
        match dry_run(&client, &namespace, injected).await {
            Ok(stored) => {
                assert_sidecar_is_stored(&stored, &name);
                accepted += 1;
            }
            Err(error) => refused.push(format!("{name}: {error}")),
        }
    }
    delete_namespace(&client, &namespace).await;
    assert_eq!(refused, Vec::<String>::new());
    assert!(accepted >= 14, "{accepted}");
    eprintln!("{accepted} pods accepted");
}

fn assert_sidecar_is_stored(pod: &Value, name: &str) {
    let containers = pod["spec"]["initContainers"].as_array().unwrap();
    let sidecar = containers.last().unwrap();
    assert_eq!(sidecar["name"], names::SIDECAR_CONTAINER, "{name}");
    assert_eq!(sidecar["restartPolicy"], "Always", "{name}");
    // Those golden pods whose sidecar was there already have a made-up one.
    if let Some(mounts) =
        sidecar["volumeMounts"].as_array().filter(|mounts| mounts[0]["name"] == names::TOKEN_VOLUME)
    {
        assert_eq!(mounts.len(), 1, "{name}: the token is mounted once: {mounts:?}");
    }
    let programs = pod["spec"]["containers"].as_array().unwrap();
    let mounts = programs.iter().filter_map(|program| program["volumeMounts"].as_array()).flatten();
    assert!(
        mounts.clone().all(|mount| mount["name"] != names::TOKEN_VOLUME),
        "{name}: a program has the sidecar's token"
    );
}

#[tokio::test]
async fn a_restricted_pod_is_as_restricted_with_its_sidecar() {
    let Some(client) = client().await else { return };
    let namespace = namespace(&client, "restricted", "restricted").await;
    let (policies, pods) = (policies(), pods());
    let restricted = dry_run(&client, &namespace, injected(&pods["restricted"], &policies).unwrap()).await;
    let plain = dry_run(&client, &namespace, injected(&pods["plain"], &policies).unwrap()).await;
    delete_namespace(&client, &namespace).await;
    assert_sidecar_is_stored(&restricted.unwrap(), "restricted");
    // The check is alive: what is complained of is the program's container alone.
    let complaint = plain.unwrap_err().to_string();
    assert!(complaint.contains("PodSecurity") && complaint.contains("\"app\""), "{complaint}");
    assert!(!complaint.contains("\"conch\""), "{complaint}");
}
