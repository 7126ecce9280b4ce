//! The cluster of the tests that need one.

use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use std::{env, io::Write};

/// Names an administrator's kubeconfig of a cluster that may be used for tests.
const KUBECONFIG: &str = "CONCH_TEST_KUBECONFIG";

/// An administrator of the cluster. `None` where there is none: then the test has said that it was skipped.
pub(crate) async fn client(test: &str) -> Option<Client> {
    let Some(path) = env::var_os(KUBECONFIG) else {
        // Not by println, which is shown of failed tests only.
        let line = format!("SKIPPED {test}: {KUBECONFIG} names no cluster\n");
        std::io::stdout().write_all(line.as_bytes()).unwrap();
        return None;
    };
    let kubeconfig = Kubeconfig::read_from(path).unwrap();
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap();
    Some(Client::try_from(config).unwrap())
}
