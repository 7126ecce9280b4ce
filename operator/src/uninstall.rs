//! What is done before the chart is uninstalled.

use crate::cluster;
use anyhow::{Context, Result};
use conch_crds::names::{self, operator_objects};
use k8s_openapi::{
    NamespaceResourceScope,
    api::{
        admissionregistration::v1::MutatingWebhookConfiguration,
        apps::v1::{DaemonSet, Deployment, StatefulSet},
    },
};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{DeleteParams, ListParams},
    core::PartialObjectMeta,
};
use std::fmt::Debug;

/// Objects in one list answer.
const PAGE_SIZE: u32 = 500;

/// Removes the webhooks, so that no pod waits for an operator that is gone, and says which workloads are still annotated.
pub async fn uninstall() -> Result<()> {
    let (client, _) = cluster::connect().await?;
    let configurations: Api<MutatingWebhookConfiguration> = Api::all(client.clone());
    let name = operator_objects::WEBHOOK_CONFIGURATION;
    match configurations.delete(name, &DeleteParams::default()).await {
        Ok(_) => tracing::info!(name, "deleted the webhook configuration"),
        Err(kube::Error::Api(status)) if status.code == 404 => {
            tracing::info!(name, "there is no webhook configuration");
        }
        Err(error) => return Err(error).context("failed to delete the webhook configuration"),
    }
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
