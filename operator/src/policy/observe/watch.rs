//! The watches that keep the copies. Each runs for ever; what it sees it puts into the index, and what follows it passes on.

use super::{
    cache::{Cache, Change},
    index::{Index, Reaction, wake},
    readable::Readable,
    view::ViewOf,
    workload::Workload,
};
use conch_crds::{CoordinationPolicy, Election, names};
use futures::{Stream, StreamExt, future::BoxFuture};
use k8s_openapi::api::{
    apps::v1::{DaemonSet, Deployment, StatefulSet},
    coordination::v1::Lease,
    core::v1::{Namespace, Pod},
    rbac::v1::{Role, RoleBinding},
};
use kube::{
    Api, Client, Resource,
    core::PartialObjectMeta,
    runtime::{WatchStreamExt, watcher, watcher::Event},
};
use serde::de::DeserializeOwned;
use std::{
    fmt::Debug,
    pin::pin,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

/// The index, as everybody shares it. Never held across an await.
pub type SharedIndex = Arc<Mutex<Index>>;

/// Whoever is told what a change asks for. Must not wait.
pub type React = Arc<dyn Fn(Reaction) + Send + Sync>;

/// Objects in one list answer.
const PAGE_SIZE: u32 = 200;

/// All watches. None of them ends unless its stream does, which is a failure.
pub fn all(client: &Client, index: &SharedIndex, react: &React) -> Vec<BoxFuture<'static, ()>> {
    let managed = format!("{}={}", names::MANAGED, names::MANAGED_VALUE);
    let disabled = format!("{}=disabled", names::INJECTION);
    let (index, react) = (|| Arc::clone(index), || Arc::clone(react));
    let on_workload = |_: &mut Index, change: &Change<Workload>| Index::on_workload(change);
    vec![
        Box::pin(run::<Deployment, _>(client, "", index(), react(), |all| &mut all.deployments, on_workload)),
        Box::pin(run::<StatefulSet, _>(
            client,
            "",
            index(),
            react(),
            |all| &mut all.stateful_sets,
            on_workload,
        )),
        Box::pin(run::<DaemonSet, _>(client, "", index(), react(), |all| &mut all.daemon_sets, on_workload)),
        Box::pin(run::<Pod, _>(client, names::POLICY, index(), react(), |all| &mut all.pods, Index::on_pod)),
        Box::pin(run::<Lease, _>(client, &managed, index(), react(), |all| &mut all.leases, Index::on_lease)),
        Box::pin(run::<Role, _>(
            client,
            &managed,
            index(),
            react(),
            |all| &mut all.roles,
            |_, change| wake(change),
        )),
        Box::pin(run::<RoleBinding, _>(
            client,
            &managed,
            index(),
            react(),
            |all| &mut all.bindings,
            |_, change| wake(change),
        )),
        Box::pin(run::<Election, _>(
            client,
            "",
            index(),
            react(),
            |all| &mut all.elections,
            Index::on_election,
        )),
        Box::pin(run::<CoordinationPolicy, _>(
            client,
            "",
            index(),
            react(),
            |all| &mut all.policies,
            Index::on_policy,
        )),
        Box::pin(run::<PartialObjectMeta<Namespace>, _>(
            client,
            &disabled,
            index(),
            react(),
            |all| &mut all.namespaces,
            Index::on_namespace,
        )),
    ]
}

fn run<O, T>(
    client: &Client,
    labels: &str,
    index: SharedIndex,
    react: React,
    cache: fn(&mut Index) -> &mut Cache<T>,
    on_change: fn(&mut Index, &Change<T>) -> Reaction,
) -> impl Future<Output = ()> + Send + 'static
where
    O: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
    T: ViewOf<O>,
{
    let api: Api<Readable<O>> = Api::all(client.clone());
    let config = watcher::Config::default().page_size(PAGE_SIZE);
    let config = if labels.is_empty() { config } else { config.labels(labels) };
    let stream = watcher(api, config).default_backoff();
    follow(O::kind(&()).into_owned(), stream, index, react, cache, on_change)
}

/// Takes in one stream of events until it ends.
pub(super) async fn follow<O, T>(
    kind: String,
    stream: impl Stream<Item = watcher::Result<Event<O>>> + Send,
    index: SharedIndex,
    react: React,
    cache: fn(&mut Index) -> &mut Cache<T>,
    on_change: fn(&mut Index, &Change<T>) -> Reaction,
) where
    O: Resource<DynamicType = ()>,
    T: ViewOf<O>,
{
    let mut stream = pin!(stream);
    let mut failing = false;
    while let Some(event) = stream.next().await {
        let event = match event {
            Ok(event) => event,
            Err(error) => {
                if failing {
                    tracing::debug!(kind, %error, "a watch fails");
                } else {
                    tracing::warn!(kind, %error, "a watch fails; what is known of this kind grows old");
                }
                failing = true;
                continue;
            }
        };
        if failing && !matches!(event, Event::Init) {
            tracing::info!(kind, "a watch works again");
            failing = false;
        }
        let mut index = index.lock().unwrap_or_else(PoisonError::into_inner);
        let changes = cache(&mut index).handle(event, Instant::now());
        for change in &changes {
            let reaction = on_change(&mut index, change);
            react(reaction);
        }
    }
}
