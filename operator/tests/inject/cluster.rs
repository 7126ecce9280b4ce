//! A real cluster. Needs `CONCH_TEST_KUBECONFIG`, the path of a kubeconfig whose user may make and delete namespaces and
//! webhook configurations.

use conch_crds::names;
use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use kube::{
    Api, Client, Config,
    api::{DeleteParams, PostParams},
    config::{KubeConfigOptions, Kubeconfig},
};
use serde_json::json;
use std::{io::Write, time::Duration};

/// Says that this test could not run here, in the form that is counted.
pub(crate) fn skipped(why: &str) {
    let thread = std::thread::current();
    let line = format!("SKIPPED {}: {why}\n", thread.name().unwrap_or("a test"));
    // Not by println, which is shown of failed tests only.
    std::io::stdout().write_all(line.as_bytes()).unwrap();
}

pub(crate) async fn client() -> Option<Client> {
    let Some(path) = std::env::var_os("CONCH_TEST_KUBECONFIG") else {
        skipped("CONCH_TEST_KUBECONFIG names no cluster");
        return None;
    };
    let _ = rustls::crypto::ring::default_provider().install_default();
    let kubeconfig = Kubeconfig::read_from(path).unwrap();
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap();
    Some(Client::try_from(config).unwrap())
}

/// A namespace with this level of Pod Security, deleted by the caller. A Conch that is installed leaves it alone.
pub(crate) async fn namespace(client: &Client, word: &str, level: &str) -> String {
    let name = format!("conch-{word}-{}", std::process::id());
    let labels = json!({"pod-security.kubernetes.io/enforce": level, names::INJECTION: "disabled"});
    let namespace = json!({"metadata": {"name": name, "labels": labels}});
    let namespaces: Api<Namespace> = Api::all(client.clone());
    namespaces.create(&PostParams::default(), &serde_json::from_value(namespace).unwrap()).await.unwrap();
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), &name);
    while accounts.get_opt("default").await.unwrap().is_none() {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    name
}

pub(crate) async fn delete_namespace(client: &Client, name: &str) {
    Api::<Namespace>::all(client.clone()).delete(name, &DeleteParams::default()).await.unwrap();
}
