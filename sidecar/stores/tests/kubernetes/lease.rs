//! A Lease on a real API server, its candidates behind a relay that can break, and an administrator's hands.

use crate::{
    common::conformance::Subject,
    proxy::{Break, Proxy},
};
use conch_stores::kubernetes::KubernetesStore;
use k8s_openapi::{
    api::{coordination::v1::Lease, core::v1::Namespace},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{
    Api, Client, Config,
    api::{DeleteParams, Patch, PatchParams, PostParams},
    config::{KubeConfigOptions, Kubeconfig},
};
use serde_json::{Value, json};
use std::{env, sync::Once, time::Duration};

/// Where all Leases of these tests stand.
pub(crate) const NAMESPACE: &str = "conch-stores-test";
pub(crate) const MANAGER: &str = "conch-stores-test";
/// As the candidates of these tests expect it.
pub(crate) const RENEW_INTERVAL: Duration = Duration::from_secs(1);
const KUBECONFIG: &str = "CONCH_TEST_KUBECONFIG";

pub(crate) struct RealLease {
    pub(crate) name: String,
    /// The administrator's way, with no relay between.
    pub(crate) leases: Api<Lease>,
    pub(crate) client: Client,
    /// Goes through the relay.
    pub(crate) config: Config,
    /// Does not.
    direct: Config,
    pub(crate) proxy: Proxy,
}

/// `None` where no cluster was given.
pub(crate) async fn lease(test: &str) -> Option<RealLease> {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        rustls::crypto::ring::default_provider().install_default().unwrap();
        // Takes everything and keeps nothing: where no subscriber is, what a test counts may be switched off by another one
        // that comes to the same line at the same time.
        tracing::subscriber::set_global_default(tracing_subscriber::registry()).unwrap();
    });
    let path = env::var_os(KUBECONFIG)?;
    let kubeconfig = Kubeconfig::read_from(path).unwrap();
    let direct = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap();
    let client = Client::try_from(direct.clone()).unwrap();
    make_namespace(client.clone()).await;
    let server = direct.cluster_url.authority().unwrap().as_str().parse().unwrap();
    let proxy = Proxy::before(server).await;
    let mut config = direct.clone();
    config.tls_server_name = Some(server.ip().to_string());
    config.cluster_url = format!("https://{}", proxy.address).parse().unwrap();
    let name = format!("{}-{:08x}", test.replace('_', "-"), fastrand::u32(..));
    Some(RealLease {
        name,
        leases: Api::namespaced(client.clone(), NAMESPACE),
        client,
        config,
        direct,
        proxy,
    })
}

async fn make_namespace(client: Client) {
    let namespace = Namespace {
        metadata: ObjectMeta { name: Some(NAMESPACE.to_owned()), ..ObjectMeta::default() },
        ..Namespace::default()
    };
    match Api::all(client).create(&PostParams::default(), &namespace).await {
        Ok(_) => {}
        Err(kube::Error::Api(status)) if status.is_already_exists() => {}
        Err(error) => panic!("{error}"),
    }
}

impl RealLease {
    pub(crate) fn store(&self) -> KubernetesStore {
        self.store_with(self.config.clone())
    }

    /// Of a candidate whose network is another one.
    pub(crate) fn direct_store(&self) -> KubernetesStore {
        self.store_with(self.direct.clone())
    }

    /// Expects renewals once an hour.
    pub(crate) fn store_of_rare_renewals(&self) -> KubernetesStore {
        let interval = Duration::from_hours(1);
        KubernetesStore::new(self.config.clone(), NAMESPACE, &self.name, MANAGER, interval).unwrap()
    }

    pub(crate) fn store_with(&self, config: Config) -> KubernetesStore {
        KubernetesStore::new(config, NAMESPACE, &self.name, MANAGER, RENEW_INTERVAL).unwrap()
    }

    pub(crate) async fn patch(&self, patch: Value) {
        let parameters = PatchParams::default();
        self.leases.patch(&self.name, &parameters, &Patch::Merge(patch)).await.unwrap();
    }

    /// Gives the uid.
    pub(crate) async fn create(&self, metadata: Value, spec: Value) -> String {
        let mut lease = json!({"metadata": metadata, "spec": spec});
        lease["metadata"]["name"] = json!(self.name);
        let lease = serde_json::from_value(lease).unwrap();
        self.leases.create(&PostParams::default(), &lease).await.unwrap().metadata.uid.unwrap()
    }

    pub(crate) async fn get(&self) -> Lease {
        self.leases.get(&self.name).await.unwrap()
    }
}

impl Subject for RealLease {
    type Store = KubernetesStore;

    async fn candidate(&self) -> KubernetesStore {
        self.store()
    }

    async fn make_fresh(&self) {
        let uid = self.create(json!({}), json!({})).await;
        self.patch(json!({"metadata": {"annotations": {"conch.rs/fresh": uid}}})).await;
    }

    async fn clear(&self) {
        self.patch(json!({"spec": {"holderIdentity": null}})).await;
    }

    async fn hold_by(&self, holder: &str, renewal: u32) {
        let renew_time = format!("2026-11-22T12:00:00.{renewal:06}Z");
        self.patch(json!({"spec": {"holderIdentity": holder, "renewTime": renew_time}})).await;
    }

    async fn alter(&self) {
        self.patch(json!({"spec": {"leaseDurationSeconds": 2}})).await;
    }

    async fn touch(&self) {
        let number = fastrand::u64(..).to_string();
        self.patch(json!({"metadata": {"labels": {"touched": number}}})).await;
    }

    async fn stamp_longest_lease(&self, lease: Duration) {
        let milliseconds = lease.as_millis().to_string();
        self.patch(json!({"metadata": {"annotations": {"conch.rs/longest-lease-ms": milliseconds}}})).await;
    }

    async fn mark_deleting(&self) {
        self.patch(json!({"metadata": {"finalizers": ["conch.rs/test"]}})).await;
        self.delete().await;
    }

    async fn delete(&self) {
        let _ = self.leases.delete(&self.name, &DeleteParams::default()).await.unwrap();
    }

    async fn cut_connections(&self) {
        self.proxy.break_connections(Break::Cut);
    }

    async fn tidy(&self) {
        self.remove_rights().await;
        let Some(lease) = self.leases.get_opt(&self.name).await.unwrap() else { return };
        if lease.metadata.finalizers.is_some() {
            self.patch(json!({"metadata": {"finalizers": null}})).await;
        }
        if lease.metadata.deletion_timestamp.is_none() {
            self.delete().await;
        }
    }
}
