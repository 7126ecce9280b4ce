//! Copies of all objects of one kind that matter, kept up to date by a watch.

use super::view::{View, ViewOf};
use kube::{Resource, runtime::watcher::Event};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    mem,
    time::Instant,
};

/// Where an object is: its namespace and its name.
pub type Place = (String, String);

/// All views of one kind.
#[derive(Debug)]
pub struct Cache<T> {
    entries: HashMap<Place, Entry<T>>,
    by_election: BTreeMap<Place, BTreeSet<Place>>,
    /// What was listed so far, while a list is being received.
    listing: Option<HashSet<Place>>,
    synced: bool,
}

/// A view and how it came to be known.
#[derive(Clone, Debug)]
pub struct Entry<T> {
    /// The object.
    pub view: T,
    /// Its latest version, of which the view may say nothing.
    pub version: String,
    /// When this object, by its UID, was first seen.
    pub first_seen: Instant,
    /// When anything at all about it was last seen to change, a renewal included.
    pub touched: Instant,
}

/// One object changed in a way that matters.
#[derive(Clone, Debug, PartialEq)]
pub struct Change<T> {
    /// What was known before.
    pub before: Option<T>,
    /// What is known now.
    pub after: Option<T>,
    /// It came with a list, not as an event of its own: it may have existed for any time.
    pub listed: bool,
}

impl<T> Default for Cache<T> {
    fn default() -> Self {
        Self { entries: HashMap::new(), by_election: BTreeMap::new(), listing: None, synced: false }
    }
}

impl<T: View> Cache<T> {
    /// Takes in what the watch says.
    pub fn handle<O>(&mut self, event: Event<O>, now: Instant) -> Vec<Change<T>>
    where
        O: Resource,
        T: ViewOf<O>,
    {
        match event {
            Event::Init => {
                self.listing = Some(HashSet::new());
                Vec::new()
            }
            Event::InitApply(object) => {
                let place = place(&object);
                if let Some(listing) = &mut self.listing {
                    listing.insert(place);
                }
                self.apply(object, now, true).into_iter().collect()
            }
            Event::InitDone => self.finish_list(now),
            Event::Apply(object) => self.apply(object, now, false).into_iter().collect(),
            Event::Delete(object) => self.put(&place(&object), None, now, false).into_iter().collect(),
        }
    }

    fn apply<O>(&mut self, object: O, now: Instant, listed: bool) -> Option<Change<T>>
    where
        O: Resource,
        T: ViewOf<O>,
    {
        let place = place(&object);
        let version = object.meta().resource_version.clone().unwrap_or_default();
        self.put(&place, T::of(object).map(|view| (view, version)), now, listed)
    }

    /// What was known and is not in a complete list is gone.
    fn finish_list(&mut self, now: Instant) -> Vec<Change<T>> {
        self.synced = true;
        let listed = mem::take(&mut self.listing).unwrap_or_default();
        let gone: Vec<Place> =
            self.entries.keys().filter(|place| !listed.contains(*place)).cloned().collect();
        gone.into_iter().filter_map(|place| self.put(&place, None, now, true)).collect()
    }

    fn put(
        &mut self,
        place: &Place,
        after: Option<(T, String)>,
        now: Instant,
        listed: bool,
    ) -> Option<Change<T>> {
        let before = self.entries.remove(place);
        let after =
            after.map(|(view, version)| (view.follow(before.as_ref().map(|entry| &entry.view)), version));
        if let Some((view, version)) = &after {
            let first_seen = match &before {
                Some(entry) if entry.view.identity().uid == view.identity().uid => entry.first_seen,
                _ => now,
            };
            let entry = Entry { view: view.clone(), version: version.clone(), first_seen, touched: now };
            self.entries.insert(place.clone(), entry);
        }
        let before = before.map(|entry| entry.view);
        let after = after.map(|(view, _)| view);
        if before == after {
            return None;
        }
        self.index(place, before.as_ref(), false);
        self.index(place, after.as_ref(), true);
        Some(Change { before, after, listed })
    }

    fn index(&mut self, place: &Place, view: Option<&T>, present: bool) {
        let elections = view.map(View::elections).unwrap_or_default();
        for election in elections {
            let key = (place.0.clone(), election);
            if present {
                self.by_election.entry(key).or_default().insert(place.clone());
            } else if let Some(places) = self.by_election.get_mut(&key) {
                places.remove(place);
                if places.is_empty() {
                    self.by_election.remove(&key);
                }
            }
        }
    }

    /// Was a complete list received?
    pub fn is_synced(&self) -> bool {
        self.synced
    }

    /// One object.
    pub fn get(&self, namespace: &str, name: &str) -> Option<&Entry<T>> {
        self.entries.get(&(namespace.to_owned(), name.to_owned()))
    }

    /// All objects that take part in an election.
    pub fn of_election(&self, namespace: &str, election: &str) -> impl Iterator<Item = &Entry<T>> {
        let places = self.by_election.get(&(namespace.to_owned(), election.to_owned()));
        places.into_iter().flatten().filter_map(|place| self.entries.get(place))
    }

    /// All elections that some object takes part in: namespace and name.
    pub fn elections(&self) -> impl Iterator<Item = &Place> {
        self.by_election.keys()
    }

    /// All objects.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.entries.values().map(|entry| &entry.view)
    }
}

impl<T: View> Change<T> {
    /// The elections that took part or take part.
    pub fn elections(&self) -> BTreeSet<Place> {
        let views = self.before.iter().chain(&self.after);
        views
            .flat_map(|view| {
                let namespace = &view.identity().namespace;
                view.elections().into_iter().map(|election| (namespace.clone(), election)).collect::<Vec<_>>()
            })
            .collect()
    }
}

fn place(object: &impl Resource) -> Place {
    let metadata = object.meta();
    (metadata.namespace.clone().unwrap_or_default(), metadata.name.clone().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::{super::view::Identity, *};
    use k8s_openapi::api::core::v1::ConfigMap;
    use std::time::Duration;

    #[derive(Clone, Debug, PartialEq)]
    struct Thing {
        identity: Identity,
        election: String,
    }

    impl View for Thing {
        fn identity(&self) -> &Identity {
            &self.identity
        }

        fn elections(&self) -> Vec<String> {
            vec![self.election.clone()]
        }
    }

    impl ViewOf<ConfigMap> for Thing {
        fn of(object: ConfigMap) -> Option<Self> {
            let election = object.data?.remove("election")?;
            Some(Self { identity: Identity::of(&object.metadata), election })
        }
    }

    fn object(name: &str, election: Option<&str>) -> ConfigMap {
        let mut object = ConfigMap::default();
        object.metadata.namespace = Some("n".into());
        object.metadata.name = Some(name.into());
        object.data = election.map(|election| [("election".to_owned(), election.to_owned())].into());
        object
    }

    fn thing(name: &str, election: &str) -> Thing {
        Thing::of(object(name, Some(election))).unwrap()
    }

    fn feed(cache: &mut Cache<Thing>, events: Vec<Event<ConfigMap>>) -> Vec<Change<Thing>> {
        events.into_iter().flat_map(|event| cache.handle(event, Instant::now())).collect()
    }

    fn names(cache: &Cache<Thing>, election: &str) -> Vec<String> {
        cache.of_election("n", election).map(|entry| entry.view.identity.name.clone()).collect()
    }

    #[test]
    fn what_is_missing_in_a_new_list_is_gone() {
        let mut cache = Cache::default();
        let listed = |name| Event::InitApply(object(name, Some("e")));
        feed(&mut cache, vec![Event::Init, listed("a"), listed("b"), Event::InitDone]);
        assert!(cache.is_synced());
        let changes = feed(&mut cache, vec![Event::Init, listed("b"), Event::InitDone]);
        assert_eq!(changes, vec![Change { before: Some(thing("a", "e")), after: None, listed: true }]);
        assert_eq!(names(&cache, "e"), ["b"]);
    }

    #[test]
    fn an_object_that_changes_its_election_is_found_under_the_new_one_only() {
        let mut cache = Cache::default();
        feed(&mut cache, vec![Event::Apply(object("a", Some("e"))), Event::Apply(object("a", Some("f")))]);
        assert!(names(&cache, "e").is_empty());
        assert_eq!(names(&cache, "f"), ["a"]);
        assert_eq!(cache.elections().count(), 1);
    }

    #[test]
    fn an_object_that_no_longer_concerns_us_is_forgotten_and_told_of() {
        let mut cache = Cache::default();
        feed(&mut cache, vec![Event::Apply(object("a", Some("e")))]);
        let changes = feed(&mut cache, vec![Event::Apply(object("a", None))]);
        assert_eq!(changes.len(), 1);
        assert_eq!(cache.iter().count(), 0);
    }

    #[test]
    fn an_object_that_is_made_anew_is_seen_for_the_first_time_and_one_that_changes_is_not() {
        let (start, later) = (Instant::now(), Instant::now() + Duration::from_secs(1));
        let mut cache: Cache<Thing> = Cache::default();
        let mut made = object("a", Some("e"));
        made.metadata.uid = Some("1".into());
        cache.handle(Event::Apply(made.clone()), start);
        cache.handle(Event::Apply(made.clone()), later);
        let first_seen =
            |cache: &Cache<Thing>| cache.get("n", "a").map(|entry| (entry.first_seen, entry.touched));
        assert_eq!(first_seen(&cache), Some((start, later)));
        made.metadata.uid = Some("2".into());
        cache.handle(Event::Apply(made), later);
        assert_eq!(first_seen(&cache), Some((later, later)));
    }

    #[test]
    fn the_same_view_again_is_no_change() {
        let mut cache = Cache::default();
        assert_eq!(feed(&mut cache, vec![Event::Apply(object("a", Some("e")))]).len(), 1);
        assert!(feed(&mut cache, vec![Event::Apply(object("a", Some("e")))]).is_empty());
    }
}
