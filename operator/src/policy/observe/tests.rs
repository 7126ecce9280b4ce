//! Watches and index together: what each event leaves behind, wakes and marks.

use super::{
    Observed,
    index::{Index, Reaction},
    readable::Readable,
    watch::follow,
};
use crate::{
    inject::{PullPolicy, SidecarImage},
    policy::{ElectionKey, Key, PolicyKey, knowledge::Copies},
    webhook::Knowledge,
};
use conch_crds::{CoordinationPolicy, Election, names};
use futures::stream;
use k8s_openapi::api::{apps::v1::Deployment, coordination::v1::Lease, core::v1::Pod};
use kube::{Resource, runtime::watcher::Event};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

struct Watched {
    index: Arc<Mutex<Index>>,
    reactions: Arc<Mutex<Vec<Reaction>>>,
}

/// Feeds events of one kind through its watch.
macro_rules! feed {
    ($watched:expr, $cache:ident, $on_change:ident, $events:expr) => {
        $watched.feed($events, |index| &mut index.$cache, |index, change| index.$on_change(change)).await
    };
}

impl Watched {
    fn new() -> Self {
        let image = SidecarImage { reference: "image:1".to_owned(), pull_policy: PullPolicy::Always };
        Self { index: Arc::new(Mutex::new(Index::new(image))), reactions: Arc::default() }
    }

    /// Returns what the events asked for.
    async fn feed<O, T>(
        &self,
        events: Vec<Event<O>>,
        cache: fn(&mut Index) -> &mut super::cache::Cache<T>,
        on_change: fn(&mut Index, &super::cache::Change<T>) -> Reaction,
    ) -> Vec<Reaction>
    where
        O: Resource<DynamicType = ()> + Send,
        T: super::view::ViewOf<O>,
    {
        let reactions = Arc::clone(&self.reactions);
        let react = Arc::new(move |reaction| reactions.lock().unwrap().push(reaction));
        let stream = stream::iter(events.into_iter().map(Ok));
        follow("test".to_owned(), stream, Arc::clone(&self.index), react, cache, on_change).await;
        std::mem::take(&mut *self.reactions.lock().unwrap())
    }

    async fn leases(&self, events: Vec<Event<Lease>>) -> Vec<Reaction> {
        feed!(self, leases, on_lease, events)
    }

    async fn pods(&self, events: Vec<Event<Pod>>) -> Vec<Reaction> {
        feed!(self, pods, on_pod, events)
    }

    async fn elections(&self, events: Vec<Event<Election>>) -> Vec<Reaction> {
        feed!(self, elections, on_election, events)
    }

    async fn policies(&self, events: Vec<Event<Readable<CoordinationPolicy>>>) -> Vec<Reaction> {
        feed!(self, policies, on_policy, events)
    }

    async fn deployments(&self, events: Vec<Event<Deployment>>) -> Vec<Reaction> {
        self.feed(events, |index| &mut index.deployments, |_, change| Index::on_workload(change)).await
    }

    fn observe(&self) -> Observed {
        self.observe_at(Instant::now())
    }

    fn observe_at(&self, now: Instant) -> Observed {
        self.index.lock().unwrap().observe(&ElectionKey::new("shop", "payments"), now)
    }
}

fn object<T: Resource<DynamicType = ()> + DeserializeOwned>(name: &str, uid: &str, patch: &Value) -> T {
    let api_version = T::api_version(&());
    let mut object = json!({"apiVersion": api_version, "kind": T::kind(&()),
        "metadata": {"name": name, "namespace": "shop", "uid": uid, "resourceVersion": "1"}});
    json_patch::merge(&mut object, patch);
    serde_json::from_value(object).unwrap()
}

fn lease(uid: &str, patch: &Value) -> Lease {
    object("conch-payments", uid, patch)
}

fn pod(uid: &str, patch: &Value) -> Pod {
    let mut base = json!({"metadata": {"labels": {names::POLICY: "default", names::ELECTION_LABEL: "payments"}},
        "spec": {"containers": [], "initContainers": [{"name": "conch", "image": "image:1"}]}});
    json_patch::merge(&mut base, patch);
    object("payments-0", uid, &base)
}

fn election(uid: &str) -> Election {
    object("payments", uid, &json!({}))
}

fn held_by(uid: &str) -> Value {
    json!({"metadata": {"annotations": {names::RECORD: "x"}}, "spec": {"holderIdentity": format!("payments-0_{uid}_n")}})
}

fn dying() -> Value {
    json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z", "deletionGracePeriodSeconds": 30}})
}

fn key() -> Key {
    Key::Election(ElectionKey::new("shop", "payments"))
}

#[tokio::test]
async fn nobody_led_an_election_whose_only_lease_came_as_an_event() {
    let watched = Watched::new();
    watched.leases(vec![Event::Init, Event::InitDone]).await;
    watched.elections(vec![Event::Init, Event::InitDone, Event::Apply(election("e"))]).await;
    assert!(!watched.observe().never_led, "there is no Lease yet");
    watched.leases(vec![Event::Apply(lease("1", &json!({})))]).await;
    watched.pods(vec![Event::Init, Event::InitDone, Event::Apply(pod("p", &json!({})))]).await;
    assert!(watched.observe().never_led);
}

/// A name, and the events of Leases, Elections and pods.
type Case = (&'static str, Vec<Event<Lease>>, Vec<Event<Election>>, Vec<Event<Pod>>);

#[tokio::test]
async fn somebody_may_have_led_whatever_was_there_before_or_was_deleted() {
    let made = || Event::Apply(lease("1", &json!({})));
    let by_sidecar =
        |uid| Event::Apply(lease(uid, &json!({"metadata": {"annotations": {names::RECORD: "x"}}})));
    let cases: [Case; 10] = [
        (
            "a listed Lease",
            vec![Event::Init, Event::InitApply(lease("1", &json!({}))), Event::InitDone],
            vec![],
            vec![],
        ),
        ("a deleted Lease", vec![made(), Event::Delete(lease("1", &json!({}))), made()], vec![], vec![]),
        ("another Lease", vec![made(), Event::Apply(lease("2", &json!({})))], vec![], vec![]),
        (
            "a Lease that a new list no longer has",
            vec![made(), Event::Init, Event::InitDone, Event::Apply(lease("2", &json!({})))],
            vec![],
            vec![],
        ),
        (
            "a listed Election",
            vec![made()],
            vec![Event::Init, Event::InitApply(election("e")), Event::InitDone],
            vec![],
        ),
        (
            "a deleted Election",
            vec![made()],
            vec![Event::Apply(election("e")), Event::Delete(election("e"))],
            vec![],
        ),
        (
            "a Lease that a sidecar made anew, and somebody emptied",
            vec![by_sidecar("1"), Event::Apply(lease("1", &json!({})))],
            vec![],
            vec![],
        ),
        (
            "a pod with a sidecar that was deleted by force",
            vec![made()],
            vec![],
            vec![Event::Apply(pod("p", &json!({}))), Event::Delete(pod("p", &dying()))],
        ),
        (
            "a pod with a sidecar that another one of its name replaced unseen",
            vec![made()],
            vec![],
            vec![Event::Apply(pod("p", &json!({}))), Event::Apply(pod("q", &json!({})))],
        ),
        (
            "a listed pod with a sidecar, even if it is gone",
            vec![made()],
            vec![],
            vec![
                Event::Init,
                Event::InitApply(pod("p", &json!({}))),
                Event::InitDone,
                Event::Delete(pod("p", &json!({}))),
            ],
        ),
    ];
    for (name, leases, elections, pods) in cases {
        let watched = Watched::new();
        watched.pods(pods).await;
        watched.elections(elections).await;
        watched.leases(leases).await;
        assert!(watched.observe().lease.is_some(), "{name}");
        assert!(!watched.observe().never_led, "{name}");
    }
}

#[tokio::test]
async fn a_pod_whose_end_was_seen_or_that_had_no_sidecar_led_nothing_that_goes_on() {
    let ended = json!({"status": {"phase": "Succeeded"}});
    let plain = json!({"spec": {"initContainers": null}});
    for (alive, gone) in [(json!({}), ended), (plain.clone(), plain)] {
        let watched = Watched::new();
        watched.pods(vec![Event::Init, Event::InitDone, Event::Apply(pod("p", &alive))]).await;
        watched.pods(vec![Event::Apply(pod("p", &gone)), Event::Delete(pod("p", &gone))]).await;
        watched.elections(vec![Event::Init, Event::InitDone]).await;
        watched.leases(vec![Event::Init, Event::InitDone, Event::Apply(lease("1", &json!({})))]).await;
        assert!(watched.observe().never_led, "{gone}");
    }
}

#[tokio::test]
async fn a_leaders_deleted_pod_is_marked_by_whichever_event_comes_last() {
    let watched = Watched::new();
    watched.leases(vec![Event::Apply(lease("1", &held_by("p")))]).await;
    watched.pods(vec![Event::Apply(pod("p", &json!({})))]).await;
    let reactions = watched.pods(vec![Event::Apply(pod("p", &dying()))]).await;
    let mark = &reactions[0].marks[0];
    assert_eq!((mark.lease.as_str(), mark.deletion.pod_uid.as_str()), ("conch-payments", "p"));
    assert_eq!((mark.deletion.grace_seconds, mark.deletion.sidecar_image.as_str()), (30, "image:1"));

    let watched = Watched::new();
    watched.pods(vec![Event::Apply(pod("p", &dying()))]).await;
    assert_eq!(watched.leases(vec![Event::Apply(lease("1", &held_by("p")))]).await[0].marks.len(), 1);
    // Another pod of the same name leads.
    assert!(watched.leases(vec![Event::Apply(lease("1", &held_by("q")))]).await[0].marks.is_empty());
}

#[tokio::test]
async fn the_grace_of_a_pod_that_is_deleted_by_force_is_taken_back() {
    let watched = Watched::new();
    watched.leases(vec![Event::Apply(lease("1", &held_by("p")))]).await;
    watched.pods(vec![Event::Apply(pod("p", &dying()))]).await;
    let reactions = watched.pods(vec![Event::Delete(pod("p", &dying()))]).await;
    assert_eq!(reactions[0].marks[0].deletion.grace_seconds, 0);
    // One that has come to its end has nobody left to tell.
    let ended = || pod("p", &json!({"status": {"phase": "Succeeded"}}));
    watched.pods(vec![Event::Apply(ended())]).await;
    assert!(watched.pods(vec![Event::Delete(ended())]).await[0].marks.is_empty());
}

#[tokio::test]
async fn a_mark_that_stands_is_not_written_again() {
    let watched = Watched::new();
    watched.pods(vec![Event::Apply(pod("p", &dying()))]).await;
    let mark = watched.leases(vec![Event::Apply(lease("1", &held_by("p")))]).await[0].marks[0].clone();
    let mut marked = held_by("p");
    json_patch::merge(&mut marked, &mark.patch().unwrap());
    let reactions = watched.leases(vec![Event::Apply(lease("1", &marked))]).await;
    assert!(reactions.iter().all(|reaction| reaction.marks.is_empty()));
}

#[tokio::test]
async fn a_renewal_wakes_nobody() {
    let watched = Watched::new();
    let renewed = |second: u8, note: &str| {
        let mut patch = held_by("p");
        patch["spec"]["renewTime"] = json!(format!("2026-01-01T00:00:{second:02}.000000Z"));
        patch["metadata"]["annotations"][names::RECORD] = json!(note);
        patch["metadata"]["resourceVersion"] = json!(second.to_string());
        Event::Apply(lease("1", &patch))
    };
    assert_eq!(watched.leases(vec![renewed(1, "a")]).await.len(), 1);
    assert!(watched.leases(vec![renewed(3, "b"), renewed(5, "c")]).await.is_empty());
    assert_eq!(watched.observe().lease_version.as_deref(), Some("5"));
}

#[tokio::test]
async fn a_policys_change_wakes_the_elections_of_its_workloads_and_its_status_only_itself() {
    let watched = Watched::new();
    let annotated = json!({"metadata": {"annotations": {names::POLICY: "fast"}},
        "spec": {"selector": {}, "template": {}}});
    watched.deployments(vec![Event::Apply(object("payments", "d", &annotated))]).await;
    let policy = |generation: i64, elections: u32| {
        let patch =
            json!({"metadata": {"generation": generation}, "spec": {}, "status": {"elections": elections}});
        Event::Apply(object("fast", "f", &patch))
    };
    let itself = Key::Policy(PolicyKey::new("shop", "fast"));
    let keys = |reactions: Vec<Reaction>| {
        reactions.into_iter().flat_map(|reaction| reaction.keys).collect::<Vec<_>>()
    };
    assert_eq!(keys(watched.policies(vec![policy(1, 0)]).await), [key(), itself.clone()]);
    assert_eq!(keys(watched.policies(vec![policy(1, 1)]).await), std::slice::from_ref(&itself));
    assert_eq!(keys(watched.policies(vec![policy(2, 1)]).await), [key(), itself]);
}

#[tokio::test]
async fn an_election_is_abandoned_from_its_last_write_on_once_workload_and_pods_are_gone() {
    let watched = Watched::new();
    watched.elections(vec![Event::Apply(election("e"))]).await;
    watched.pods(vec![Event::Apply(pod("p", &json!({})))]).await;
    assert_eq!(watched.observe().abandoned_for, None);
    watched.pods(vec![Event::Delete(pod("p", &json!({})))]).await;
    let start = Instant::now();
    assert_eq!(watched.observe_at(start).abandoned_for, Some(Duration::ZERO));
    let later = start + Duration::from_secs(9);
    assert_eq!(watched.observe_at(later).abandoned_for, Some(Duration::from_secs(9)));
    // Somebody who is not seen renews: the count begins anew.
    watched.leases(vec![Event::Apply(lease("1", &held_by("p")))]).await;
    assert!(watched.observe_at(later).abandoned_for.unwrap() < Duration::from_secs(9));
    // A pod that has ended keeps nothing; one that may live does.
    watched.pods(vec![Event::Apply(pod("q", &json!({"status": {"phase": "Failed"}})))]).await;
    assert!(watched.observe_at(later).abandoned_for.is_some());
    watched.pods(vec![Event::Apply(pod("q", &dying()))]).await;
    assert_eq!(watched.observe_at(later).abandoned_for, None);
}

#[tokio::test]
async fn admission_learns_that_a_pods_workload_came_too_late_to_an_election() {
    let watched = Watched::new();
    let claim = |name: &str, created: &str| {
        let patch = json!({"metadata": {"creationTimestamp": created,
            "annotations": {names::POLICY: "default", names::ELECTION: "payments"}},
            "spec": {"selector": {}, "template": {}}});
        Event::Apply(object(name, name, &patch))
    };
    let (first, second) = (claim("first", "2026-01-01T00:00:00Z"), claim("second", "2026-01-02T00:00:00Z"));
    watched.deployments(vec![first, second]).await;
    let copies = Copies(Arc::clone(&watched.index));
    let pod_of = |name: &str| {
        json!({"metadata": {"labels": {"pod-template-hash": "5d"}, "ownerReferences": [
            {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": format!("{name}-5d"), "uid": "r", "controller": true}]}})
    };
    assert_eq!(copies.not_shared("shop", "payments", &pod_of("first")), None);
    let sentence = copies.not_shared("shop", "payments", &pod_of("second")).unwrap();
    assert!(
        sentence.starts_with("Deployment second asks for the election of Deployment first"),
        "{sentence}"
    );
    assert_eq!(copies.not_shared("shop", "payments", &pod_of("unknown")), None);
    let known = [pod_of("second"), pod_of("unknown"), json!({"metadata": {}})];
    assert_eq!(known.map(|pod| copies.knows_workload_of("shop", &pod)), [true, false, true]);
    assert!(!copies.knows_workload_of("elsewhere", &pod_of("second")));
    assert_eq!(copies.not_shared("shop", "ledger", &pod_of("second")), None);
    assert_eq!(copies.not_shared("shop", "payments", &json!({"metadata": {}})), None);

    let spec = json!({"spec": {"sharedElections": ["payments"]}});
    watched.policies(vec![Event::Apply(object("default", "d", &spec))]).await;
    assert_eq!(copies.not_shared("shop", "payments", &pod_of("second")), None);
}

#[tokio::test]
async fn an_empty_index_is_in_step_only_after_every_kind_was_listed() {
    let watched = Watched::new();
    watched.leases(vec![Event::Init, Event::InitDone]).await;
    watched.pods(vec![Event::Init, Event::InitDone]).await;
    assert!(!watched.index.lock().unwrap().is_synced());
}

#[tokio::test]
async fn a_longer_lease_is_announced_to_the_pods_that_count_with_less_before_another_pod_has_it() {
    let watched = Watched::new();
    let copies = Copies(Arc::clone(&watched.index));
    let is_announced = |seconds| copies.is_announced("shop", "payments", Duration::from_secs(seconds));
    let stamped =
        |milliseconds: &str| json!({"metadata": {"annotations": {names::LONGEST_LEASE: milliseconds}}});
    let policy = |lease: &str| {
        object::<Readable<CoordinationPolicy>>(
            "default",
            "p",
            &json!({"spec": {"timing": {"leaseDuration": lease}}}),
        )
    };
    let annotated = object::<Deployment>(
        "payments",
        "d",
        &json!({"metadata": {"annotations": {names::POLICY: "default"}}, "spec": {"selector": {}, "template": {}}}),
    );
    watched.deployments(vec![Event::Apply(annotated)]).await;
    watched.policies(vec![Event::Apply(policy("60s"))]).await;
    assert!(is_announced(60), "nobody counts with less");
    let counts_with = |milliseconds: &str| {
        let variable = json!({"name": "CONCH_LEASE_DURATION_MS", "value": milliseconds});
        json!({"spec": {"initContainers": [{"name": "conch", "image": "image:1", "env": [variable]}]}})
    };
    watched.pods(vec![Event::Apply(pod("a", &counts_with("15000")))]).await;
    assert!(!is_announced(60), "the Lease is not there");
    watched.leases(vec![Event::Apply(lease("l", &stamped("15000")))]).await;
    assert!(!is_announced(60));
    assert!(is_announced(15));
    watched.leases(vec![Event::Apply(lease("l", &stamped("60000")))]).await;
    assert!(is_announced(60));
    // What no policy of the election asks for, nobody will announce.
    assert!(is_announced(61));
    // New pods are told of the longest lease that may be in force, also while the Lease is not there.
    watched.policies(vec![Event::Apply(policy("15s"))]).await;
    watched.leases(vec![Event::Delete(lease("l", &stamped("60000")))]).await;
    assert_eq!(copies.longest_lease("shop", "payments"), Some(Duration::from_mins(1)));
}
