//! The way to the API server, and what must be there.

use conch_crds::{CoordinationPolicy, Election, names};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::APIResourceList;
use kube::{Client, Config, Resource, config::InferConfigError};
use std::time::Duration;
use tokio::time::sleep;

/// How often to look for resource definitions that are missing.
const POLL: Duration = Duration::from_secs(2);

/// Why there is no way to the API server.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Neither a pod's environment nor a kubeconfig.
    #[error("failed to find an API server")]
    Config(#[source] Box<InferConfigError>),
    /// They cannot be used.
    #[error("failed to build a client for the API server")]
    Client(#[source] Box<kube::Error>),
}

/// Of the pod that this runs in; elsewhere of the kubeconfig that kubectl would use.
pub async fn connect() -> Result<(Client, Config), ConnectError> {
    let mut config = Config::infer().await.map_err(|error| ConnectError::Config(Box::new(error)))?;
    // Whoever writes here decides itself whether and when to try again.
    config.default_retry = false;
    let client = Client::try_from(config.clone()).map_err(|error| ConnectError::Client(Box::new(error)))?;
    Ok((client, config))
}

/// The resource definitions of Conch that the API server does not serve.
pub async fn missing_definitions(client: &Client) -> kube::Result<Vec<String>> {
    let group = format!("{}/{}", names::GROUP, names::VERSION);
    let served: APIResourceList = match client.list_api_group_resources(&group).await {
        Ok(served) => served,
        Err(kube::Error::Api(status)) if status.code == 404 => APIResourceList::default(),
        Err(error) => return Err(error),
    };
    let needed = [CoordinationPolicy::plural(&()), Election::plural(&())];
    let is_missing = |plural: &str| !served.resources.iter().any(|resource| resource.name == plural);
    Ok(needed.iter().filter(|plural| is_missing(plural)).map(ToString::to_string).collect())
}

/// Waits until they are served. Without them there is nothing to do, and whoever applies them may come later.
pub async fn wait_for_definitions(client: &Client) {
    let mut last = None;
    loop {
        let missing = missing_definitions(client).await.map_err(|error| error.to_string());
        if missing.as_ref().is_ok_and(Vec::is_empty) {
            return;
        }
        if last.as_ref() != Some(&missing) {
            match &missing {
                Ok(missing) => tracing::warn!(?missing, "waits for the resource definitions of Conch"),
                Err(error) => tracing::warn!(error, "failed to ask for the resource definitions of Conch"),
            }
            last = Some(missing);
        }
        sleep(POLL).await;
    }
}
