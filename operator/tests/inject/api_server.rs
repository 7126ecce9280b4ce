//! A real API server accepts what injection makes, in a dry run. Needs `CONCH_TEST_KUBECONFIG`, the path of a kubeconfig
//! of a cluster whose namespaces may be made and deleted.

use crate::support::{injected, pods, policies};
use conch_crds::names;
use k8s_openapi::api::core::v1::{Namespace, Pod, ServiceAccount};
use kube::{
    Api, Client, Config,
    api::{ApiResource, DeleteParams, DynamicObject, PostParams},
    config::{KubeConfigOptions, Kubeconfig},
};
use serde_json::{Value, json};
use std::time::Duration;

/// Golden pods that no API server accepts, with or without a sidecar.
const IMPOSSIBLE: [&str; 1] = ["absurd"];

async fn client() -> Option<Client> {
    let Some(path) = std::env::var_os("CONCH_TEST_KUBECONFIG") else {
        eprintln!("CONCH_TEST_KUBECONFIG is not set: nothing was tested");
        return None;
    };
    let _ = rustls::crypto::ring::default_provider().install_default();
    let kubeconfig = Kubeconfig::read_from(path).unwrap();
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap();
    Some(Client::try_from(config).unwrap())
}

/// A namespace with this level of Pod Security, deleted by the caller.
async fn namespace(client: &Client, level: &str) -> String {
    let name = format!("conch-inject-{level}-{}", std::process::id());
    let labels = json!({"pod-security.kubernetes.io/enforce": level});
    let namespace = json!({"metadata": {"name": name, "labels": labels}});
    let namespaces: Api<Namespace> = Api::all(client.clone());
    namespaces.create(&PostParams::default(), &serde_json::from_value(namespace).unwrap()).await.unwrap();
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), &name);
    while accounts.get_opt("default").await.unwrap().is_none() {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    name
}

async fn dry_run(client: &Client, namespace: &str, mut pod: Value) -> Result<Value, kube::Error> {
    pod["metadata"]["namespace"] = json!(namespace);
    let pods: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &ApiResource::erase::<Pod>(&()));
    let parameters = PostParams { dry_run: true, field_manager: None };
    let created = pods.create(&parameters, &serde_json::from_value(pod).unwrap()).await?;
    Ok(serde_json::to_value(created).unwrap())
}

#[tokio::test]
async fn the_api_server_accepts_every_golden_pod_with_its_sidecar() {
    let Some(client) = client().await else { return };
    let namespace = namespace(&client, "privileged").await;
    let policies = policies();
    let mut refused = Vec::new();
    let mut accepted = 0;
    for (name, pod) in pods() {
        let Some(injected) = injected(&pod, &policies).filter(|_| !IMPOSSIBLE.contains(&name.as_str())) else { continue };
        match dry_run(&client, &namespace, injected).await {
            Ok(stored) => {
                assert_sidecar_is_stored(&stored, &name);
                accepted += 1;
            }
            Err(error) => refused.push(format!("{name}: {error}")),
        }
    }
    Api::<Namespace>::all(client).delete(&namespace, &DeleteParams::default()).await.unwrap();
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
    if let Some(mounts) = sidecar["volumeMounts"].as_array().filter(|mounts| mounts[0]["name"] == names::TOKEN_VOLUME) {
        assert_eq!(mounts.len(), 1, "{name}: the token is mounted once: {mounts:?}");
    }
    let programs = pod["spec"]["containers"].as_array().unwrap();
    let mounts = programs.iter().filter_map(|program| program["volumeMounts"].as_array()).flatten();
    assert!(mounts.clone().all(|mount| mount["name"] != names::TOKEN_VOLUME), "{name}: a program has the sidecar's token");
}

#[tokio::test]
async fn a_restricted_pod_is_as_restricted_with_its_sidecar() {
    let Some(client) = client().await else { return };
    let namespace = namespace(&client, "restricted").await;
    let (policies, pods) = (policies(), pods());
    let restricted = dry_run(&client, &namespace, injected(&pods["restricted"], &policies).unwrap()).await;
    let plain = dry_run(&client, &namespace, injected(&pods["plain"], &policies).unwrap()).await;
    Api::<Namespace>::all(client).delete(&namespace, &DeleteParams::default()).await.unwrap();
    assert_sidecar_is_stored(&restricted.unwrap(), "restricted");
    // The check is alive: what is complained of is the program's container alone.
    let complaint = plain.unwrap_err().to_string();
    assert!(complaint.contains("PodSecurity") && complaint.contains("\"app\""), "{complaint}");
    assert!(!complaint.contains("\"conch\""), "{complaint}");
}
