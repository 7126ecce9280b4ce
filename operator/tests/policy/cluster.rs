//! A namespace of a real cluster, and an operator inside the test.

use conch_crds::{CoordinationPolicy, Election, ElectionStatus, names};
use conch_operator::{
    inject::{PullPolicy, SidecarImage},
    policy::{
        controller::{Controller, Settings},
        knowledge::Copies,
        metrics::Metrics,
    },
};
use k8s_openapi::{
    NamespaceResourceScope,
    api::{
        apps::v1::Deployment,
        coordination::v1::Lease,
        core::v1::{Namespace, Pod},
        events::v1::Event,
    },
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{
    Api, Client, Config, CustomResourceExt, Resource, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
    config::{KubeConfigOptions, Kubeconfig},
    runtime::{conditions::is_crd_established, wait::await_condition},
};
use prometheus_client::{encoding::text::encode, registry::Registry};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use std::{
    env,
    fmt::Debug,
    io::Write,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::{
    sync::{Mutex, MutexGuard, oneshot, watch},
    task::JoinHandle,
};

const KUBECONFIG: &str = "CONCH_TEST_KUBECONFIG";
const MANAGER: &str = "conch-test";
pub(crate) const IMAGE: &str = "registry.example/conch-sidecar:test";

static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());

pub(crate) struct Cluster {
    pub(crate) client: Client,
    pub(crate) namespace: String,
    _turn: MutexGuard<'static, ()>,
}

/// An operator that runs until it is stopped or dropped.
pub(crate) struct Operator {
    pub(crate) metrics: Metrics,
    /// What its webhook would know.
    pub(crate) copies: Copies,
    registry: Registry,
    task: JoinHandle<()>,
}

impl Cluster {
    /// `None` where no cluster was given.
    pub(crate) async fn new(test: &str) -> Option<Self> {
        let Some(path) = env::var_os(KUBECONFIG) else {
            // Not by println, which is shown of failed tests only.
            let line = format!("SKIPPED {test}: {KUBECONFIG} names no cluster\n");
            std::io::stdout().write_all(line.as_bytes()).unwrap();
            return None;
        };
        let turn = ONE_AT_A_TIME.lock().await;
        let _ = tracing_subscriber::fmt().with_max_level(tracing::Level::WARN).with_test_writer().try_init();
        let client = Client::try_from(config(Path::new(&path)).await).unwrap();
        install(&client, CoordinationPolicy::crd()).await;
        install(&client, Election::crd()).await;
        let namespaces: Api<Namespace> = Api::all(client.clone());
        let namespace = json!({"metadata": {"generateName": format!("{test}-")}});
        let namespace = namespaces
            .create(&PostParams::default(), &serde_json::from_value(namespace).unwrap())
            .await
            .unwrap();
        Some(Self { client, namespace: namespace.name_any(), _turn: turn })
    }

    /// Runs an operator that may write for ever.
    pub(crate) async fn operator(&self) -> Operator {
        self.operator_with(Arc::new(|| true), watch::channel(()).1).await
    }

    /// Runs an operator that stops to write after it asked so often whether it may.
    pub(crate) async fn operator_for(&self, writes: usize) -> Operator {
        let left = AtomicUsize::new(writes);
        let may_write = move || {
            left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok()
        };
        self.operator_with(Arc::new(may_write), watch::channel(()).1).await
    }

    /// Runs an operator that may write whenever it is told so.
    pub(crate) async fn operator_with(
        &self,
        may_write: Arc<dyn Fn() -> bool + Send + Sync>,
        leadership: watch::Receiver<()>,
    ) -> Operator {
        let mut registry = Registry::default();
        let metrics = Metrics::new(&mut registry);
        let settings = Settings {
            sidecar_image: SidecarImage { reference: IMAGE.to_owned(), pull_policy: PullPolicy::Never },
            instance: Some("test".to_owned()),
            may_write,
            leadership,
        };
        let controller = Controller::new(self.client.clone(), settings, metrics.clone());
        let copies = controller.copies();
        let (synced, is_synced) = oneshot::channel();
        let task = tokio::spawn(async move {
            let ended = controller.run(move || synced.send(()).unwrap()).await;
            panic!("{ended}");
        });
        is_synced.await.unwrap();
        Operator { metrics, copies, registry, task }
    }

    pub(crate) async fn config(&self) -> Config {
        config(Path::new(&env::var_os(KUBECONFIG).unwrap())).await
    }

    pub(crate) fn api<K>(&self) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    pub(crate) async fn create<K>(&self, object: Value) -> K
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + Debug
            + DeserializeOwned
            + Serialize,
    {
        let object = serde_json::from_value(object).unwrap();
        self.api::<K>().create(&PostParams::default(), &object).await.unwrap()
    }

    pub(crate) async fn merge<K>(&self, name: &str, patch: Value) -> K
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
    {
        self.api::<K>().patch(name, &PatchParams::default(), &Patch::Merge(patch)).await.unwrap()
    }

    pub(crate) async fn delete<K>(&self, name: &str)
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
    {
        self.api::<K>().delete(name, &DeleteParams::default()).await.unwrap();
    }

    /// A Deployment without pods, stamped as admission would.
    pub(crate) async fn deployment(&self, name: &str, policy: &str, election: Option<&str>) -> Deployment {
        let mut annotations = json!({names::POLICY: policy});
        if let Some(election) = election {
            annotations[names::ELECTION] = json!(election);
        }
        let labels = json!({"app": name, names::POLICY: policy, names::ELECTION_LABEL: election.unwrap_or(name),
            names::INJECTION: "Required"});
        self.create(json!({
            "metadata": {"name": name, "annotations": annotations},
            "spec": {"replicas": 0, "selector": {"matchLabels": {"app": name}}, "template": {
                "metadata": {"labels": labels},
                "spec": {"containers": [{"name": "app", "image": "app"}]},
            }},
        }))
        .await
    }

    /// A pod of an election that no node takes, with a sidecar. A finalizer keeps it once it is deleted.
    pub(crate) async fn pod(&self, name: &str, election: &str, service_account: &str) -> Pod {
        let account = json!({"metadata": {"name": service_account}});
        let _ = self
            .api::<k8s_openapi::api::core::v1::ServiceAccount>()
            .create(&PostParams::default(), &serde_json::from_value(account).unwrap())
            .await;
        self.create(json!({
            "metadata": {"name": name, "finalizers": ["test.conch.rs/keep"], "labels": {
                names::POLICY: "default", names::ELECTION_LABEL: election, names::INJECTION: "Required"}},
            "spec": {
                "serviceAccountName": service_account,
                "nodeSelector": {"test": "no-node"},
                "containers": [{"name": "app", "image": "app"}],
                "initContainers": [{"name": names::SIDECAR_CONTAINER, "image": IMAGE, "restartPolicy": "Always",
                    "env": [{"name": names::sidecar_env::LEASE_DURATION, "value": "15000"}]}],
            },
        }))
        .await
    }

    /// What a sidecar writes when it takes the lead.
    pub(crate) async fn hold(&self, lease: &str, pod: &Pod, nonce: &str, token: &str) {
        let holder = format!("{}_{}_{nonce}", pod.name_any(), pod.uid().unwrap());
        let now = format!("{:.6}", jiff::Timestamp::now());
        let patch = json!({
            "metadata": {"annotations": {names::RECORD: nonce, names::TOKEN: token, names::FRESH: null}},
            "spec": {"holderIdentity": holder, "leaseDurationSeconds": 15, "acquireTime": now, "renewTime": now},
        });
        self.merge::<Lease>(lease, patch).await;
    }

    /// What a sidecar writes when it gives up the lead.
    pub(crate) async fn release(&self, lease: &str) {
        let now = format!("{:.6}", jiff::Timestamp::now());
        let patch = json!({"metadata": {"annotations": {names::RECORD: "released"}},
            "spec": {"holderIdentity": "", "renewTime": now}});
        self.merge::<Lease>(lease, patch).await;
    }

    pub(crate) async fn get<K>(&self, name: &str) -> Option<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
    {
        self.api::<K>().get_opt(name).await.unwrap()
    }

    pub(crate) async fn status(&self, election: &str) -> ElectionStatus {
        self.get::<Election>(election).await.and_then(|election| election.status).unwrap_or_default()
    }

    /// Reasons and notes of the Events of one workload.
    pub(crate) async fn events(&self, workload: &str) -> Vec<(String, String)> {
        let events: Vec<Event> = self.api::<Event>().list(&ListParams::default()).await.unwrap().items;
        let regarding = |event: &Event| event.regarding.as_ref().and_then(|object| object.name.clone());
        events
            .into_iter()
            .filter(|event| regarding(event).as_deref() == Some(workload))
            .map(|event| (event.reason.unwrap_or_default(), event.note.unwrap_or_default()))
            .collect()
    }

    /// Waits until the reason of a condition is this.
    pub(crate) async fn wait_for_reason(&self, election: &str, condition: &str, reason: &str) -> String {
        let found = async || {
            let status = self.status(election).await;
            status
                .conditions
                .into_iter()
                .find(|found| found.type_ == condition && found.reason == reason)
                .map(|found| found.message)
        };
        wait_for(&format!("{condition} {reason}"), found).await
    }

    pub(crate) async fn end(self) {
        let pods = self.api::<Pod>();
        for pod in pods.list(&ListParams::default()).await.unwrap() {
            self.merge::<Pod>(&pod.name_any(), json!({"metadata": {"finalizers": null}})).await;
        }
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        namespaces.delete(&self.namespace, &DeleteParams::default()).await.unwrap();
    }
}

impl Operator {
    pub(crate) async fn stop(mut self) {
        self.task.abort();
        let _ = (&mut self.task).await;
    }

    /// Sum and count of a histogram, as they are scraped.
    pub(crate) fn histogram(&self, name: &str) -> (f64, f64) {
        let mut text = String::new();
        encode(&mut text, &self.registry).unwrap();
        let value = |suffix: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(&format!("{name}_{suffix} ")));
            line.unwrap().parse().unwrap()
        };
        (value("sum"), value("count"))
    }

    /// Waits until nothing was written for a while, and returns how much was written in all.
    pub(crate) async fn settle(&self) -> u64 {
        let mut last = (self.metrics.writes.get(), Instant::now());
        let deadline = Instant::now() + Duration::from_secs(20);
        while last.1.elapsed() < Duration::from_millis(2_500) {
            assert!(Instant::now() < deadline, "the operator does not stop writing");
            tokio::time::sleep(Duration::from_millis(50)).await;
            let writes = self.metrics.writes.get();
            if writes != last.0 {
                last = (writes, Instant::now());
            }
        }
        last.0
    }
}

impl Drop for Operator {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Asks until there is an answer.
pub(crate) async fn wait_for<T>(what: &str, mut question: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        if let Some(answer) = question().await {
            return answer;
        }
        assert!(Instant::now() < deadline, "no {what} in time");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn config(path: &Path) -> Config {
    let kubeconfig = Kubeconfig::read_from(path).unwrap();
    Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap()
}

async fn install(client: &Client, crd: CustomResourceDefinition) {
    let crds: Api<CustomResourceDefinition> = Api::all(client.clone());
    let name = crd.name_any();
    crds.patch(&name, &PatchParams::apply(MANAGER).force(), &Patch::Apply(crd)).await.unwrap();
    await_condition(crds, &name, is_crd_established()).await.unwrap();
}
