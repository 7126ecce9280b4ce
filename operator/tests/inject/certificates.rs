//! The webhook's certificates on a real API server: made, renewed, published, and trusted at every moment.

use crate::{
    cluster::{client, delete_namespace, namespace},
    support::{image, pods},
    webhook::{FilePolicies, review},
};
use conch_operator::{
    certs::{CertificateConfig, CertificateMetrics, Certificates, CurrentCertificate, Lifetimes},
    webhook::{Webhook, WebhookMetrics, serve},
};
use conch_process::readiness::Readiness;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::{admissionregistration::v1::MutatingWebhookConfiguration, core::v1::Secret};
use kube::{
    Api, Client,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use rustls::{ClientConfig, RootCertStore, crypto::ring};
use rustls_pki_types::{CertificateDer, ServerName, pem::PemObject};
use serde_json::{Value, json};
use std::{collections::BTreeSet, net::SocketAddr, sync::Arc, time::Duration};
use tokio::{net::TcpListener, sync::watch, task::JoinSet, time::Instant};
use tokio_rustls::TlsConnector;

/// The name under which the API server would call.
const NAME: &str = "conch-operator.conch.svc";

/// A namespace, a webhook configuration that matches nothing, and replicas of the webhook.
struct Scene {
    client: Client,
    config: CertificateConfig,
    ending: watch::Sender<bool>,
    tasks: JoinSet<()>,
}

impl Scene {
    async fn new(client: Client, word: &str, lifetimes: Lifetimes) -> Self {
        let namespace = namespace(&client, word, "restricted").await;
        let config = CertificateConfig {
            configuration: namespace.clone(),
            secret: "webhook".to_owned(),
            dns_names: vec![NAME.to_owned()],
            lifetimes,
            namespace,
        };
        let webhook = |name: &str| {
            json!({
                "name": name, "sideEffects": "None", "admissionReviewVersions": ["v1"], "failurePolicy": "Ignore",
                "clientConfig": {"service": {"name": "nobody", "namespace": "nowhere", "path": "/inject"}},
                "rules": [{"apiGroups": ["example.invalid"], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["x"]}],
            })
        };
        let webhooks = [webhook("one.conch.rs"), webhook("two.conch.rs")];
        let configuration = json!({"metadata": {"name": config.configuration}, "webhooks": webhooks});
        let configuration = serde_json::from_value(configuration).unwrap();
        configurations(&client).create(&PostParams::default(), &configuration).await.unwrap();
        Self { client, config, ending: watch::channel(false).0, tasks: JoinSet::new() }
    }

    /// Starts a replica: its certificates, and its server.
    async fn replica(&mut self) -> (SocketAddr, Readiness) {
        let current = Arc::new(CurrentCertificate::default());
        let (readiness, latch) = Readiness::new();
        let metrics = CertificateMetrics::default();
        let certificates =
            Certificates::new(self.config.clone(), self.client.clone(), Arc::clone(&current), metrics);
        self.tasks.spawn(certificates.run(latch, ended(self.ending.subscribe())));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let metrics = WebhookMetrics::default();
        let webhook = Arc::new(Webhook { image: image(), policies: FilePolicies::default(), metrics });
        let ended = ended(self.ending.subscribe());
        self.tasks.spawn(async move { serve(listener, current, webhook, ended).await.unwrap() });
        (address, readiness)
    }

    /// The bundles of both webhooks, which are the same once there is one.
    async fn bundle(&self) -> Option<Vec<u8>> {
        let configuration = configurations(&self.client).get(&self.config.configuration).await.unwrap();
        let bundles: Vec<_> = configuration
            .webhooks
            .unwrap()
            .into_iter()
            .map(|webhook| webhook.client_config.ca_bundle)
            .collect();
        assert_eq!(bundles[0], bundles[1]);
        bundles[0].clone().map(|bundle| bundle.0)
    }

    async fn wait_for_bundle(&self) -> Vec<u8> {
        let began = Instant::now();
        loop {
            if let Some(bundle) = self.bundle().await {
                return bundle;
            }
            assert!(began.elapsed() < Duration::from_secs(20), "no caBundle");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn secret(&self) -> Secret {
        Api::<Secret>::namespaced(self.client.clone(), &self.config.namespace)
            .get(&self.config.secret)
            .await
            .unwrap()
    }

    async fn end(mut self) {
        self.ending.send_replace(true);
        while let Some(task) = self.tasks.join_next().await {
            task.unwrap();
        }
        configurations(&self.client)
            .delete(&self.config.configuration, &DeleteParams::default())
            .await
            .unwrap();
        delete_namespace(&self.client, &self.config.namespace).await;
    }
}

async fn ended(mut ending: watch::Receiver<bool>) {
    let _ = ending.wait_for(|ending| *ending).await;
}

fn configurations(client: &Client) -> Api<MutatingWebhookConfiguration> {
    Api::all(client.clone())
}

/// Asks about a pod over TLS, trusting this bundle alone, and returns the certificate that was served.
async fn ask(address: SocketAddr, bundle: &[u8], pod: &Value) -> std::io::Result<Vec<u8>> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(bundle) {
        roots.add(certificate.unwrap()).unwrap();
    }
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let name = ServerName::try_from(NAME).unwrap();
    let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
    let served = stream.get_ref().1.peer_certificates().unwrap()[0].to_vec();

    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    let connection = tokio::spawn(connection);
    let body = serde_json::to_vec(&review(pod, &Value::Null)).unwrap();
    let request = axum::http::Request::post("/inject")
        .header("host", NAME)
        .body(Full::new(axum::body::Bytes::from(body)))
        .unwrap();
    let answer = sender.send_request(request).await.unwrap().into_body().collect().await.unwrap().to_bytes();
    let answer: Value = serde_json::from_slice(&answer).unwrap();
    assert_eq!(answer["response"]["allowed"], true);
    assert_eq!(answer["response"]["patchType"], "JSONPatch");
    drop(sender);
    connection.await.unwrap().unwrap();
    Ok(served)
}

#[tokio::test]
async fn replicas_that_start_together_share_one_authority_and_put_the_bundle_back_at_once() {
    let Some(client) = client().await else { return };
    let lifetimes = Lifetimes { interval: Duration::from_mins(5), ..Lifetimes::default() };
    let mut scene = Scene::new(client, "start", lifetimes).await;
    let replicas = [scene.replica().await, scene.replica().await, scene.replica().await];
    let bundle = scene.wait_for_bundle().await;
    let pod = &pods()["plain"];
    let mut served = BTreeSet::new();
    for (address, readiness) in &replicas {
        while !readiness.is_ready() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        served.insert(ask(*address, &bundle, pod).await.unwrap());
    }
    assert_eq!(served.len(), 1);

    // As an upgrade of the chart might do.
    let taken = json!([{"op": "remove", "path": "/webhooks/0/clientConfig/caBundle"}, {"op": "remove", "path": "/webhooks/1/clientConfig/caBundle"}]);
    let patch: Patch<()> = Patch::Json(serde_json::from_value(taken).unwrap());
    let configuration = scene.config.configuration.clone();
    configurations(&scene.client).patch(&configuration, &PatchParams::default(), &patch).await.unwrap();
    let began = Instant::now();
    assert_eq!(scene.wait_for_bundle().await, bundle);
    eprintln!("the bundle was back after {:?}", began.elapsed());
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    scene.end().await;
}

#[tokio::test]
async fn certificates_of_seconds_are_renewed_and_trusted_at_every_moment() {
    let Some(client) = client().await else { return };
    let lifetimes = Lifetimes {
        authority: Duration::from_secs(45),
        leaf: Duration::from_secs(20),
        publication: Duration::from_secs(3),
        interval: Duration::from_secs(1),
    };
    let mut scene = Scene::new(client, "rotate", lifetimes).await;
    let addresses = [scene.replica().await.0, scene.replica().await.0];
    scene.wait_for_bundle().await;
    while scene.tasks.is_empty()
        || ask(addresses[1], &scene.bundle().await.unwrap(), &pods()["plain"]).await.is_err()
    {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let (mut served, mut authorities, mut handshakes) = (BTreeSet::new(), BTreeSet::new(), 0);
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(90) {
        // The API server has heard of a bundle that was there a moment ago, not of the newest.
        let heard = scene.bundle().await.unwrap();
        tokio::time::sleep(Duration::from_millis(500)).await;
        for address in addresses {
            served.insert(ask(address, &heard, &pods()["plain"]).await.unwrap_or_else(|error| {
                panic!("after {:?}: {error}\n{}", began.elapsed(), String::from_utf8_lossy(&heard))
            }));
            handshakes += 1;
        }
        authorities.insert(scene.secret().await.data.unwrap()["ca.crt"].0.clone());
    }
    eprintln!("{handshakes} handshakes, {} certificates, {} authorities", served.len(), authorities.len());
    assert!(
        authorities.len() >= 3 && served.len() > authorities.len(),
        "{} {}",
        authorities.len(),
        served.len()
    );
    scene.end().await;
}
