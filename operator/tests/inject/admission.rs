//! A real API server calls the webhook. Needs, besides a cluster, `CONCH_TEST_SHARED_LOOPBACK`: this process must run in
//! the API server's network namespace, because it is called at `localhost`.

use crate::{
    cluster::{client, delete_namespace, namespace, skipped},
    support::image,
    webhook::FilePolicies,
};
use axum::{Json, Router, routing::post};
use conch_operator::{
    certs::{CertificateConfig, CertificateMetrics, Certificates, CurrentCertificate, Lifetimes},
    webhook::{Webhook, WebhookMetrics, serve},
};
use conch_process::{
    readiness::Readiness,
    serve::{Limits, serve_with},
};
use k8s_openapi::{
    ByteString,
    api::{
        admissionregistration::v1::MutatingWebhookConfiguration,
        apps::v1::{Deployment, ReplicaSet},
        core::v1::Pod,
    },
};
use kube::{
    Api, Client,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
};
use rustls::{ServerConfig, crypto::ring};
use serde_json::{Value, json};
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tokio::{
    net::{TcpListener, TcpStream},
    task::AbortHandle,
    time::Instant,
};
use tokio_rustls::TlsAcceptor;

struct Scene {
    client: Client,
    namespace: String,
    servers: Vec<AbortHandle>,
}

impl Scene {
    async fn new(word: &str) -> Option<Self> {
        let client = client().await?;
        if std::env::var_os("CONCH_TEST_SHARED_LOOPBACK").is_none() {
            skipped("CONCH_TEST_SHARED_LOOPBACK is not set: the API server could not reach this process");
            return None;
        }
        let namespace = namespace(&client, word, "restricted").await;
        let mut scene = Self { client, namespace, servers: Vec::new() };
        scene.start().await;
        Some(scene)
    }

    /// Starts the webhook as the chart configures it, for this namespace alone, and the webhook of a mesh behind it.
    async fn start(&mut self) {
        let current = Arc::new(CurrentCertificate::default());
        let ours = TcpListener::bind("localhost:0").await.unwrap();
        let mesh = TcpListener::bind("localhost:0").await.unwrap();
        self.configure("a-conch", &conch_webhooks(ours.local_addr().unwrap().port())).await;
        self.configure("b-mesh", &mesh_webhooks(mesh.local_addr().unwrap().port())).await;
        let (readiness, latch) = Readiness::new();
        for configuration in ["a-conch", "b-mesh"] {
            let config = CertificateConfig {
                namespace: self.namespace.clone(),
                secret: "webhook".to_owned(),
                configuration: self.name(configuration),
                dns_names: vec!["localhost".to_owned()],
                lifetimes: Lifetimes::default(),
            };
            let certificates = Certificates::new(
                config,
                self.client.clone(),
                Arc::clone(&current),
                CertificateMetrics::default(),
            );
            self.servers
                .push(tokio::spawn(certificates.run(latch.clone(), std::future::pending())).abort_handle());
        }
        drop(latch);
        let policies = FilePolicies { namespace: self.namespace.clone(), ..FilePolicies::default() };
        let webhook = Arc::new(Webhook { image: image(), policies, metrics: WebhookMetrics::default() });
        let serving = serve(ours, Arc::clone(&current), webhook, std::future::pending());
        self.servers.push(tokio::spawn(async { serving.await.unwrap() }).abort_handle());
        self.servers.push(tokio::spawn(serve_mesh(mesh, current)).abort_handle());
        while !readiness.is_ready() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        self.wait("the webhook is called", || async {
            let pod = self.pods().create(&dry_run(), &pod("probe", "default", "Required")).await;
            pod.ok().filter(|pod| init_containers(pod).contains(&"conch".to_owned()))
        })
        .await;
    }

    fn name(&self, configuration: &str) -> String {
        format!("{configuration}-{}", self.namespace)
    }

    async fn configure(&self, name: &str, webhooks: &Value) {
        let mut webhooks = webhooks.clone();
        for webhook in webhooks.as_array_mut().unwrap() {
            webhook["admissionReviewVersions"] = json!(["v1"]);
            webhook["sideEffects"] = json!("None");
            webhook["timeoutSeconds"] = json!(5);
            webhook["namespaceSelector"] =
                json!({"matchLabels": {"kubernetes.io/metadata.name": self.namespace}});
        }
        let configuration = json!({"metadata": {"name": self.name(name)}, "webhooks": webhooks});
        let configurations: Api<MutatingWebhookConfiguration> = Api::all(self.client.clone());
        configurations
            .create(&PostParams::default(), &serde_json::from_value(configuration).unwrap())
            .await
            .unwrap();
    }

    fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    fn deployments(&self) -> Api<Deployment> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Writes the deployment as `kubectl apply --server-side` does.
    async fn apply(&self, deployment: &Value) -> Deployment {
        let name = deployment["metadata"]["name"].as_str().unwrap();
        let parameters = PatchParams::apply("somebody");
        self.deployments().patch(name, &parameters, &Patch::Apply(deployment)).await.unwrap()
    }

    async fn annotate(&self, name: &str, annotations: &Value) -> kube::Result<Deployment> {
        let patch = json!({"metadata": {"annotations": annotations}});
        self.deployments().patch(name, &PatchParams::default(), &Patch::Merge(patch)).await
    }

    async fn wait<T, F: Future<Output = Option<T>>>(&self, what: &str, look: impl Fn() -> F) -> T {
        let began = Instant::now();
        loop {
            if let Some(found) = look().await {
                return found;
            }
            assert!(began.elapsed() < Duration::from_secs(30), "{what}: waited in vain");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    async fn wait_for_pod(&self, name: &str) -> Pod {
        let list = ListParams::default().labels(&format!("app={name}"));
        self.wait("a pod", || async { self.pods().list(&list).await.unwrap().items.pop() }).await
    }

    async fn end(self) {
        for configuration in ["a-conch", "b-mesh"] {
            let configurations: Api<MutatingWebhookConfiguration> = Api::all(self.client.clone());
            configurations.delete(&self.name(configuration), &DeleteParams::default()).await.unwrap();
        }
        self.servers.iter().for_each(AbortHandle::abort);
        delete_namespace(&self.client, &self.namespace).await;
    }
}

fn conch_webhooks(port: u16) -> Value {
    let condition = "object.metadata.?annotations[?'conch.rs/policy'].hasValue() \
         || (oldObject != null && oldObject.metadata.?annotations[?'conch.rs/policy'].hasValue())";
    let pods =
        json!([{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}]);
    let inject = json!({"url": format!("https://localhost:{port}/inject")});
    json!([
        {
            "name": "stamp.conch.rs", "failurePolicy": "Ignore",
            "clientConfig": {"url": format!("https://localhost:{port}/stamp")},
            "rules": [{
                "apiGroups": ["apps"], "apiVersions": ["v1"], "operations": ["CREATE", "UPDATE"],
                "resources": ["deployments", "statefulsets", "daemonsets"],
            }],
            "matchConditions": [{"name": "asks-or-asked", "expression": condition}], "reinvocationPolicy": "IfNeeded",
        },
        {
            "name": "inject-required.conch.rs", "failurePolicy": "Fail", "clientConfig": inject, "rules": pods,
            "objectSelector": {"matchLabels": {"conch.rs/injection": "Required"}}, "reinvocationPolicy": "IfNeeded",
        },
        {
            "name": "inject-optional.conch.rs", "failurePolicy": "Ignore", "clientConfig": inject, "rules": pods,
            "objectSelector": {"matchExpressions": [
                {"key": "conch.rs/policy", "operator": "Exists"},
                {"key": "conch.rs/injection", "operator": "NotIn", "values": ["Required"]},
            ]},
            "reinvocationPolicy": "IfNeeded",
        },
    ])
}

fn mesh_webhooks(port: u16) -> Value {
    json!([{
        "name": "mesh.example.com", "failurePolicy": "Fail", "clientConfig": {"url": format!("https://localhost:{port}/mesh")},
        "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}],
        "objectSelector": {"matchLabels": {"mesh": "yes"}},
    }])
}

/// A webhook that appends a proxy to the init containers.
async fn serve_mesh(listener: TcpListener, certificate: Arc<CurrentCertificate>) {
    let append = |Json(review): Json<Value>| async move {
        let proxy = json!({"name": "proxy", "image": "registry.example/proxy:1", "restartPolicy": "Always", "securityContext": strict()});
        let patch = json!([{"op": "add", "path": "/spec/initContainers/-", "value": proxy}]);
        let patch = ByteString(serde_json::to_vec(&patch).unwrap());
        Json(json!({
            "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
            "response": {"uid": review["request"]["uid"], "allowed": true, "patchType": "JSONPatch", "patch": patch},
        }))
    };
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(certificate);
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let second = Duration::from_secs(1);
    let limits = Limits {
        connections: 16,
        header_bytes: 16_384,
        header_timeout: Duration::from_mins(2),
        stall_timeout: second,
        drain_timeout: second,
    };
    let router = Router::new().route("/mesh", post(append));
    let handshake = move |stream: TcpStream| acceptor.accept(stream);
    serve_with(listener, handshake, router, limits, std::future::pending()).await.unwrap();
}

fn strict() -> Value {
    json!({
        "runAsNonRoot": true, "runAsUser": 1000, "allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    })
}

fn pod_spec() -> Value {
    json!({"containers": [{"name": "app", "image": "registry.example/app:1", "securityContext": strict()}]})
}

fn pod(name: &str, policy: &str, injection: &str) -> Pod {
    let labels =
        json!({"conch.rs/policy": policy, "conch.rs/election": "payments", "conch.rs/injection": injection});
    serde_json::from_value(json!({"metadata": {"name": name, "labels": labels}, "spec": pod_spec()})).unwrap()
}

fn deployment(policy: &str) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "payments", "annotations": {"conch.rs/policy": policy}},
        "spec": {
            "selector": {"matchLabels": {"app": "payments"}},
            "template": {"metadata": {"labels": {"app": "payments"}}, "spec": pod_spec()},
        },
    })
}

fn dry_run() -> PostParams {
    PostParams { dry_run: true, ..PostParams::default() }
}

fn init_containers(pod: &Pod) -> Vec<String> {
    let containers = pod.spec.as_ref().unwrap().init_containers.as_deref().unwrap_or_default();
    containers.iter().map(|container| container.name.clone()).collect()
}

fn stamp(deployment: &Deployment) -> BTreeMap<String, String> {
    let labels =
        deployment.spec.as_ref().unwrap().template.metadata.as_ref().unwrap().labels.clone().unwrap();
    labels.into_iter().filter(|(key, _)| key.starts_with("conch.rs/")).collect()
}

fn expected_stamp(policy: &str) -> BTreeMap<String, String> {
    [("conch.rs/election", "payments"), ("conch.rs/injection", "Required"), ("conch.rs/policy", policy)]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into()
}

#[tokio::test]
async fn an_annotated_deployment_gets_pods_with_a_sidecar_and_loses_it_with_the_annotation() {
    let Some(scene) = Scene::new("admit").await else { return };
    let created = scene.apply(&deployment("default")).await;
    assert_eq!(stamp(&created), expected_stamp("default"));
    let pod = scene.wait_for_pod("payments").await;
    assert_eq!(init_containers(&pod), ["conch"]);
    let annotations = pod.metadata.annotations.unwrap();
    assert_eq!(annotations["conch.rs/injected"], "default@3/registry.example/conch-sidecar:0.1.0");

    // The same manifest again, and a change that replaces no pods: the stamp stays, and the template is the same.
    scene.apply(&deployment("default")).await;
    let mut scaled = deployment("default");
    scaled["spec"]["replicas"] = json!(2);
    let scaled = scene.apply(&scaled).await;
    assert_eq!(stamp(&scaled), expected_stamp("default"));
    assert_eq!(scaled.spec.as_ref().unwrap().template, created.spec.as_ref().unwrap().template);
    let fields = serde_json::to_string(&scaled.metadata.managed_fields).unwrap();
    assert!(!fields.contains("f:conch.rs/election"), "nobody owns the stamp: {fields}");

    let changed = scene.annotate("payments", &json!({"conch.rs/policy": "tight"})).await.unwrap();
    assert_eq!(stamp(&changed), expected_stamp("tight"));
    let refused =
        scene.annotate("payments", &json!({"conch.rs/policy": "No Name"})).await.unwrap_err().to_string();
    assert!(
        refused.contains("denied the request: annotation conch.rs/policy: \"No Name\" names no policy"),
        "{refused}"
    );
    let removed = scene.annotate("payments", &json!({"conch.rs/policy": null})).await.unwrap();
    assert_eq!(stamp(&removed), BTreeMap::new());
    scene.end().await;
}

#[tokio::test]
async fn pods_wait_for_a_policy_that_does_not_exist_and_the_deployment_says_which() {
    let Some(scene) = Scene::new("wait").await else { return };
    assert_eq!(stamp(&scene.apply(&deployment("nope")).await), expected_stamp("nope"));
    let replica_sets: Api<ReplicaSet> = Api::namespaced(scene.client.clone(), &scene.namespace);
    let message = scene
        .wait("a failure", || async {
            let set = replica_sets.list(&ListParams::default()).await.unwrap().items.pop()?;
            set.status?.conditions?.into_iter().find(|condition| condition.type_ == "ReplicaFailure")?.message
        })
        .await;
    eprintln!("{message}");
    let wanted =
        format!("CoordinationPolicy \"nope\" does not exist in namespace \"{}\": create it", scene.namespace);
    assert!(message.contains(&wanted), "{message}");
    scene.end().await;
}

#[tokio::test]
async fn the_sidecar_stays_last_when_a_mesh_appends_behind_it() {
    let Some(scene) = Scene::new("mesh").await else { return };
    let mut meshed = pod("meshed", "default", "Required");
    meshed.metadata.labels.as_mut().unwrap().insert("mesh".to_owned(), "yes".to_owned());
    let created = scene.pods().create(&PostParams::default(), &meshed).await.unwrap();
    assert_eq!(init_containers(&created), ["proxy", "conch"]);
    let sidecar = created.spec.unwrap().init_containers.unwrap().pop().unwrap();
    assert_eq!(sidecar.volume_mounts.unwrap().len(), 1);
    scene.end().await;
}

#[tokio::test]
async fn without_the_webhook_required_pods_wait_and_all_others_start() {
    let Some(scene) = Scene::new("away").await else { return };
    scene.servers.iter().for_each(AbortHandle::abort);
    // Connections that are kept alive end with the tasks.
    let error = scene
        .wait("the webhook is away", || async {
            scene.pods().create(&dry_run(), &pod("required", "default", "Required")).await.err()
        })
        .await;
    assert!(error.to_string().contains("failed calling webhook \"inject-required.conch.rs\""), "{error}");
    let optional = scene.pods().create(&dry_run(), &pod("optional", "relaxed", "Optional")).await.unwrap();
    assert_eq!(init_containers(&optional), Vec::<String>::new());
    let plain = json!({"metadata": {"name": "plain"}, "spec": pod_spec()});
    scene.pods().create(&dry_run(), &serde_json::from_value(plain).unwrap()).await.unwrap();
    // A workload can be written, and is stamped when it is written again.
    assert_eq!(stamp(&scene.apply(&deployment("default")).await), BTreeMap::new());
    scene.end().await;
}
