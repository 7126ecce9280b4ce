//! What the webhook must know of the cluster.

use crate::inject::ChosenPolicy;
use conch_crds::{CoordinationPolicy, CoordinationPolicySpec, names};
use kube::{Api, Client};
use serde_json::Value;
use std::{future::Future, time::Duration};

/// How long a policy is waited for. The API server waits for the webhook not much longer.
const PATIENCE: Duration = Duration::from_secs(2);

/// Why it could not be found out whether a policy exists.
#[derive(Debug, thiserror::Error)]
pub enum LookupError {
    /// The API server refused or broke the request.
    #[error("failed to read the policy")]
    Read(#[source] kube::Error),
    /// It did not answer in time.
    #[error("failed to read the policy within {} s", PATIENCE.as_secs())]
    TimedOut,
}

/// A policy as it is known.
#[derive(Clone, Debug, PartialEq)]
pub struct KnownPolicy {
    /// `metadata.generation`.
    pub generation: i64,
    /// What it asks for.
    pub spec: CoordinationPolicySpec,
}

/// What the operator's watches know. Answers come from memory, at once.
pub trait Knowledge: Send + Sync + 'static {
    /// The policy, if it is known to exist.
    fn policy(&self, namespace: &str, name: &str) -> Option<KnownPolicy>;

    /// The longest lease by which somebody may lead an election, if one is known.
    fn longest_lease(&self, namespace: &str, election: &str) -> Option<Duration>;

    /// May another pod lead this election by this lease? Not before it stands on the Lease, where there are pods that count
    /// with a shorter one and the controller is about to write it.
    fn is_announced(&self, namespace: &str, election: &str, lease: Duration) -> bool;

    /// Is the workload of this pod known, if it has one that can be annotated? It may be younger than the last event.
    fn knows_workload_of(&self, namespace: &str, pod: &Value) -> bool;

    /// Why this pod must not join the election that it is stamped for, if it is known to belong to a workload that came too
    /// late to an election that is not shared.
    fn not_shared(&self, namespace: &str, election: &str, pod: &Value) -> Option<String>;
}

/// Where the webhook looks policies up.
pub trait Policies: Send + Sync + 'static {
    /// The policy of this name; `None`: it does not exist.
    fn policy(
        &self,
        namespace: &str,
        name: &str,
    ) -> impl Future<Output = Result<Option<KnownPolicy>, LookupError>> + Send;

    /// As [`Knowledge::longest_lease`].
    fn longest_lease(&self, namespace: &str, election: &str) -> Option<Duration>;

    /// As [`Knowledge::is_announced`].
    fn is_announced(&self, namespace: &str, election: &str, lease: Duration) -> bool;

    /// As [`Knowledge::knows_workload_of`].
    fn knows_workload_of(&self, namespace: &str, pod: &Value) -> bool;

    /// As [`Knowledge::not_shared`].
    fn not_shared(&self, namespace: &str, election: &str, pod: &Value) -> Option<String>;
}

/// What the watches know, and where they know nothing, what the API server says: a policy may be younger than the last
/// event, and its first pod must not fail for that.
pub struct WatchedPolicies<K> {
    knowledge: K,
    client: Client,
}

impl<K> WatchedPolicies<K> {
    /// Of both.
    pub fn new(knowledge: K, client: Client) -> Self {
        Self { knowledge, client }
    }
}

impl<K: Knowledge> Policies for WatchedPolicies<K> {
    async fn policy(&self, namespace: &str, name: &str) -> Result<Option<KnownPolicy>, LookupError> {
        if let Some(known) = self.knowledge.policy(namespace, name) {
            return Ok(Some(known));
        }
        let policies: Api<CoordinationPolicy> = Api::namespaced(self.client.clone(), namespace);
        let read = tokio::time::timeout(PATIENCE, policies.get_opt(name)).await;
        let found = read.map_err(|_| LookupError::TimedOut)?.map_err(LookupError::Read)?;
        Ok(found.map(KnownPolicy::from).or_else(|| KnownPolicy::built_in(name)))
    }

    fn longest_lease(&self, namespace: &str, election: &str) -> Option<Duration> {
        self.knowledge.longest_lease(namespace, election)
    }

    fn is_announced(&self, namespace: &str, election: &str, lease: Duration) -> bool {
        self.knowledge.is_announced(namespace, election, lease)
    }

    fn knows_workload_of(&self, namespace: &str, pod: &Value) -> bool {
        self.knowledge.knows_workload_of(namespace, pod)
    }

    fn not_shared(&self, namespace: &str, election: &str, pod: &Value) -> Option<String> {
        self.knowledge.not_shared(namespace, election, pod)
    }
}

impl KnownPolicy {
    /// The policy that needs no object. The operator creates it as soon as a workload names it; the first pods may be
    /// faster.
    fn built_in(name: &str) -> Option<Self> {
        (name == names::DEFAULT_POLICY)
            .then(|| Self { generation: 1, spec: CoordinationPolicySpec::default() })
    }
}

impl From<CoordinationPolicy> for KnownPolicy {
    fn from(policy: CoordinationPolicy) -> Self {
        Self { generation: policy.metadata.generation.unwrap_or_default(), spec: policy.spec }
    }
}

impl<'a> From<&'a KnownPolicy> for ChosenPolicy<'a> {
    fn from(policy: &'a KnownPolicy) -> Self {
        Self { generation: policy.generation, spec: &policy.spec }
    }
}
