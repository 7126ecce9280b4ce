//! What `helm test` runs: is an installation whole?

use crate::cluster;
use anyhow::{Context, Result, bail, ensure};
use conch_crds::names::operator_objects;
use k8s_openapi::{ByteString, api::admissionregistration::v1::MutatingWebhookConfiguration};
use kube::{Api, Client};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, ServerName, pem::PemObject};
use std::{sync::Arc, time::Duration};
use tokio::{
    net::TcpStream,
    time::{Instant, sleep, timeout},
};
use tokio_rustls::TlsConnector;

/// Of the Service.
const PORT: u16 = 443;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Right after an installation, the certificate of one replica may not have reached the others and the webhooks yet.
const PATIENCE: Duration = Duration::from_mins(1);
const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// Says on standard output what is as it should be; fails at the first thing that stays as it should not be.
pub async fn check(namespace: &str) -> Result<()> {
    let (client, _) = cluster::connect().await?;
    let began = Instant::now();
    loop {
        match look(&client, namespace).await {
            Err(error) if began.elapsed() < PATIENCE => println!("not yet: {error:#}"),
            result => return result,
        }
        sleep(AGAIN_AFTER).await;
    }
}

async fn look(client: &Client, namespace: &str) -> Result<()> {
    let missing =
        cluster::missing_definitions(client).await.context("failed to ask for the resource definitions")?;
    ensure!(
        missing.is_empty(),
        "the API server does not serve {missing:?}: are the resource definitions installed?"
    );
    println!("ok: the API server serves the resource definitions");

    let configurations: Api<MutatingWebhookConfiguration> = Api::all(client.clone());
    let name = operator_objects::WEBHOOK_CONFIGURATION;
    let configuration = configurations
        .get(name)
        .await
        .with_context(|| format!("failed to read webhook configuration {name}"))?;
    let webhooks = configuration.webhooks.unwrap_or_default();
    ensure!(!webhooks.is_empty(), "webhook configuration {name} has no webhook");
    for webhook in webhooks {
        let bundle = webhook.client_config.ca_bundle.unwrap_or(ByteString(Vec::new()));
        let subject =
            handshake(namespace, &bundle.0).await.with_context(|| format!("webhook {}", webhook.name))?;
        println!(
            "ok: webhook {} answers as {subject} with a certificate that its caBundle vouches for",
            webhook.name
        );
    }
    Ok(())
}

/// Connects as the API server does: to the Service, trusting nothing but the bundle.
async fn handshake(namespace: &str, bundle: &[u8]) -> Result<String> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(bundle) {
        roots.add(certificate.context("failed to read caBundle")?).context("failed to trust caBundle")?;
    }
    if roots.is_empty() {
        bail!("caBundle is empty: has an operator started yet?");
    }
    let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let host = format!("{}.{namespace}.svc", operator_objects::SERVICE);
    let connect = async {
        let stream = TcpStream::connect((host.as_str(), PORT))
            .await
            .with_context(|| format!("failed to reach {host}"))?;
        let server = ServerName::try_from(host.clone()).context("failed to read the Service's name")?;
        TlsConnector::from(Arc::new(config))
            .connect(server, stream)
            .await
            .context("failed to agree on a certificate")
    };
    timeout(CONNECT_TIMEOUT, connect).await.context("no answer in time")??;
    Ok(host)
}
