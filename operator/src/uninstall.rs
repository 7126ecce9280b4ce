//! What is done before the chart is uninstalled.

use crate::cluster;
use anyhow::{Context, Result};
use conch_crds::names::{self, operator_objects};
use k8s_openapi::{
    NamespaceResourceScope,
    api::{
        admissionregistration::v1::MutatingWebhookConfiguration,
        apps::v1::{DaemonSet, Deployment, StatefulSet},
        coordination::v1::Lease,
        core::v1::Pod,
    },
};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams},
    core::PartialObjectMeta,
};
use serde_json::json;
use std::{fmt::Debug, time::Duration};
use tokio::time::{sleep, timeout};

/// Objects in one list answer.
const PAGE_SIZE: u32 = 500;

/// How long the operator may take to end: its pods wait some seconds before they do.
const END_PATIENCE: Duration = Duration::from_mins(1);
const END_POLL: Duration = Duration::from_millis(200);

/// Removes the webhooks, so that no pod waits for an operator that is gone, ends the operator, so that it makes nothing again
/// that is removed then, and says which workloads are still annotated.
pub async fn uninstall(namespace: &str) -> Result<()> {
    let (client, _) = cluster::connect().await?;
    delete_webhooks(&client).await?;
    end_operator(&client, namespace).await?;
    delete_lease(&client, namespace).await?;
    let mut annotated = annotated::<Deployment>(&client).await?;
    annotated.extend(self::annotated::<StatefulSet>(&client).await?);
    annotated.extend(self::annotated::<DaemonSet>(&client).await?);
    for workload in &annotated {
        tracing::warn!(
            workload,
            "is still annotated: its pods elect with the sidecars that they have; new pods get none"
        );
    }
    tracing::info!(workloads = annotated.len(), annotation = names::POLICY, "workloads are still annotated");
    Ok(())
}

async fn delete_webhooks(client: &Client) -> Result<()> {
    let configurations: Api<MutatingWebhookConfiguration> = Api::all(client.clone());
    let name = operator_objects::WEBHOOK_CONFIGURATION;
    match configurations.delete(name, &DeleteParams::default()).await {
        Ok(_) => tracing::info!(name, "deleted the webhook configuration"),
        Err(kube::Error::Api(status)) if status.code == 404 => {
            tracing::info!(name, "there is no webhook configuration");
        }
        Err(error) => return Err(error).context("failed to delete the webhook configuration"),
    }
    Ok(())
}

/// Scales the operator down and waits until the last pod of it is gone.
async fn end_operator(client: &Client, namespace: &str) -> Result<()> {
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), namespace);
    let parameters =
        PatchParams { field_manager: Some(names::OPERATOR.to_owned()), ..PatchParams::default() };
    let none = Patch::Merge(json!({"spec": {"replicas": 0}}));
    let deployment = match deployments.patch(names::OPERATOR, &parameters, &none).await {
        Ok(deployment) => deployment,
        Err(kube::Error::Api(status)) if status.code == 404 => return Ok(()),
        Err(error) => return Err(error).context("failed to scale the operator down"),
    };
    let labels = deployment.spec.and_then(|spec| spec.selector.match_labels).unwrap_or_default();
    let selector: Vec<String> = labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    let pods: Api<PartialObjectMeta<Pod>> = Api::namespaced(client.clone(), namespace);
    let parameters = ListParams::default().labels(&selector.join(","));
    let gone = async {
        while !pods.list(&parameters).await.context("failed to list the operator's pods")?.items.is_empty() {
            sleep(END_POLL).await;
        }
        Ok::<_, anyhow::Error>(())
    };
    if let Ok(ended) = timeout(END_PATIENCE, gone).await {
        ended?;
    } else {
        tracing::warn!("the operator's pods do not end: what they make again now stays");
    }
    tracing::info!("the operator has ended");
    Ok(())
}

/// The Lease of the operator's own election, which is no part of the release: the operator makes it.
async fn delete_lease(client: &Client, namespace: &str) -> Result<()> {
    let leases: Api<Lease> = Api::namespaced(client.clone(), namespace);
    match leases.delete(operator_objects::LEASE, &DeleteParams::default()).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        Err(error) => Err(error).context("failed to delete the Lease of the operator's own election"),
    }
}

async fn annotated<K>(client: &Client) -> Result<Vec<String>>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug,
{
    let api: Api<PartialObjectMeta<K>> = Api::all(client.clone());
    let mut parameters = ListParams::default().limit(PAGE_SIZE);
    let mut found = Vec::new();
    loop {
        let page = api.list(&parameters).await.context("failed to list workloads")?;
        found.extend(
            page.items.iter().filter(|object| object.annotations().contains_key(names::POLICY)).map(
                |object| {
                    format!(
                        "{} {}/{}",
                        K::kind(&()),
                        object.namespace().unwrap_or_default(),
                        object.name_any()
                    )
                },
            ),
        );
        match page.metadata.continue_.filter(|more| !more.is_empty()) {
            Some(more) => parameters = parameters.continue_token(&more),
            None => return Ok(found),
        }
    }
}
