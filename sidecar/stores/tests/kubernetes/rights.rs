//! What a sidecar's Role must grant, and what happens where it does not.

use crate::{
    common::{
        conformance::Subject,
        samples::{begin, held, holds, next, read, until, vacant},
    },
    lease::{NAMESPACE, RealLease},
};
use conch_election::{Content, Failure, FailureKind, WriteError};
use conch_stores::Store;
use k8s_openapi::api::{
    authentication::v1::{TokenRequest, TokenRequestSpec},
    core::v1::ServiceAccount,
    rbac::v1::{Role, RoleBinding},
};
use kube::{
    Api,
    api::{DeleteParams, Patch, PatchParams, PostParams},
    config::AuthInfo,
};
use serde_json::json;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(2);
const DENIED: Failure = Failure { kind: FailureKind::Denied, retry_after: None };

pub(crate) async fn four_verbs_on_one_name_are_all_that_a_sidecar_needs(lease: &RealLease) {
    let store = lease.store_as(&["get", "update", "watch", "create"]).await;
    let mut changes = store.changes();
    assert_eq!(next(&mut changes, SOON).await, Ok(None));
    let written = begin(&store, &held(1, 1)).await;
    until(&mut changes, SOON, |stored| holds(stored, &held(1, 1))).await;
    store.write(&held(1, 2), Some(&written.version), None).await.unwrap();
    until(&mut changes, SOON, |stored| holds(stored, &held(1, 2))).await;
    assert_eq!(read(&store).await.content, Content::Record(held(1, 2)));
}

pub(crate) async fn without_the_right_to_create_a_missing_lease_is_denied(lease: &RealLease) {
    let store = lease.store_as(&["get", "update", "watch"]).await;
    assert_eq!(store.read().await, Ok(None));
    assert_eq!(store.write(&vacant(1, 1), None, None).await, Err(WriteError::Failed(DENIED)));
}

pub(crate) async fn without_any_right_everything_is_denied(lease: &RealLease) {
    lease.make_fresh().await;
    let store = lease.store_as(&[]).await;
    assert_eq!(store.read().await, Err(DENIED));
    assert_eq!(next(&mut store.changes(), SOON).await, Err(DENIED));
}

pub(crate) async fn where_watching_is_forbidden_changes_are_polled_until_it_is_allowed(lease: &RealLease) {
    let store = lease.store_as(&["get", "update"]).await;
    lease.make_fresh().await;
    let mut changes = store.changes();
    assert_eq!(next(&mut changes, SOON).await.unwrap().unwrap().content, Content::Fresh);
    let fresh = read(&store).await.version;
    store.write(&held(1, 1), Some(&fresh), None).await.unwrap();
    until(&mut changes, Duration::from_secs(5), |stored| holds(stored, &held(1, 1))).await;
    lease.delete().await;
    until(&mut changes, Duration::from_secs(5), |stored| stored.is_none()).await;
}

impl RealLease {
    /// A store with the rights of a service account that may do no more than `verbs` on this Lease.
    async fn store_as(&self, verbs: &[&str]) -> conch_stores::kubernetes::KubernetesStore {
        let token = self.token_of(&self.name, verbs).await;
        let mut config = self.config.clone();
        config.auth_info = AuthInfo { token: Some(token.into()), ..AuthInfo::default() };
        self.store_with(config)
    }

    /// A token of that service account, which is made if there is none.
    pub(crate) async fn token_of(&self, account: &str, verbs: &[&str]) -> String {
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client.clone(), NAMESPACE);
        let (apply, post) = (PatchParams::apply("conch-stores-test").force(), PostParams::default());
        let identity = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": account}});
        accounts.patch(account, &apply, &Patch::Apply(identity)).await.unwrap();
        let roles: Api<Role> = Api::namespaced(self.client.clone(), NAMESPACE);
        let granted = if verbs.is_empty() {
            json!([])
        } else {
            json!([{
                "apiGroups": ["coordination.k8s.io"],
                "resources": ["leases"],
                "resourceNames": [self.name],
                "verbs": verbs,
            }])
        };
        let role = json!({"metadata": {"name": self.name}, "rules": granted});
        roles.create(&post, &serde_json::from_value(role).unwrap()).await.unwrap();
        let bindings: Api<RoleBinding> = Api::namespaced(self.client.clone(), NAMESPACE);
        let binding = json!({
            "metadata": {"name": self.name},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": self.name},
            "subjects": [{"kind": "ServiceAccount", "name": account, "namespace": NAMESPACE}],
        });
        bindings.create(&post, &serde_json::from_value(binding).unwrap()).await.unwrap();
        let spec = TokenRequestSpec { audiences: vec![], ..TokenRequestSpec::default() };
        let request = TokenRequest { spec, ..TokenRequest::default() };
        let token = accounts.create_token_request(account, &post, &request).await.unwrap();
        self.wait_for_rights(verbs, &token.status.as_ref().unwrap().token).await;
        token.status.unwrap().token
    }

    /// The authorizer learns of a new Role a moment after it was made.
    async fn wait_for_rights(&self, verbs: &[&str], token: &str) {
        if !verbs.contains(&"get") {
            return;
        }
        let mut config = self.config.clone();
        config.auth_info = AuthInfo { token: Some(token.to_owned().into()), ..AuthInfo::default() };
        let store = self.store_with(config);
        while store.read().await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Removes what [`Self::token_of`] made; leaves the account `default`.
    pub(crate) async fn remove_rights(&self) {
        let parameters = DeleteParams::default();
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client.clone(), NAMESPACE);
        let roles: Api<Role> = Api::namespaced(self.client.clone(), NAMESPACE);
        let bindings: Api<RoleBinding> = Api::namespaced(self.client.clone(), NAMESPACE);
        // Most tests made none.
        let _ = accounts.delete(&self.name, &parameters).await;
        let _ = roles.delete(&self.name, &parameters).await;
        let _ = bindings.delete(&self.name, &parameters).await;
    }
}
