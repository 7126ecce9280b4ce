//! Keys to work on: each at most once at a time, none forgotten, none sooner than it is due.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    hash::Hash,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};
use tokio::{sync::Notify, time::sleep_until};

/// A queue that any number of workers take from.
#[derive(Debug)]
pub struct Queue<K> {
    state: Mutex<State<K>>,
    changed: Notify,
}

#[derive(Debug)]
struct State<K> {
    due: HashMap<K, Instant>,
    order: BTreeSet<(Instant, K)>,
    running: HashSet<K>,
}

impl<K: Clone + Eq + Hash + Ord> Queue<K> {
    /// An empty one.
    pub fn new() -> Self {
        let state = State { due: HashMap::new(), order: BTreeSet::new(), running: HashSet::new() };
        Self { state: Mutex::new(state), changed: Notify::new() }
    }

    /// Asks for a pass after `delay`, or sooner if one is due sooner.
    pub fn add(&self, key: K, delay: Duration) {
        let at = Instant::now() + delay;
        let mut state = self.lock();
        match state.due.get(&key).copied() {
            Some(earlier) if earlier <= at => return,
            Some(later) => {
                state.order.remove(&(later, key.clone()));
            }
            None => {}
        }
        state.due.insert(key.clone(), at);
        state.order.insert((at, key));
        drop(state);
        self.changed.notify_one();
    }

    /// The next key that is due and not being worked on. Call [`Queue::done`] afterwards.
    ///
    /// Cancel safe.
    pub async fn next(&self) -> K {
        loop {
            let changed = self.changed.notified();
            match self.take() {
                Ok(key) => {
                    // Another worker may find something as well.
                    self.changed.notify_one();
                    return key;
                }
                Err(Some(at)) => tokio::select! {
                    () = changed => {}
                    () = sleep_until(at.into()) => {}
                },
                Err(None) => changed.await,
            }
        }
    }

    /// A pass is over.
    pub fn done(&self, key: &K) {
        self.lock().running.remove(key);
        self.changed.notify_one();
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.lock().due.len()
    }

    /// Does none wait?
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// `Err`: when the next one is due, if there is one.
    fn take(&self) -> Result<K, Option<Instant>> {
        let mut state = self.lock();
        let State { order, running, .. } = &*state;
        let Some((at, key)) = order.iter().find(|(_, key)| !running.contains(key)).cloned() else {
            return Err(None);
        };
        if at > Instant::now() {
            return Err(Some(at));
        }
        state.order.remove(&(at, key.clone()));
        state.due.remove(&key);
        state.running.insert(key.clone());
        Ok(key)
    }

    fn lock(&self) -> MutexGuard<'_, State<K>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Clone + Eq + Hash + Ord> Default for Queue<K> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    const NOW: Duration = Duration::ZERO;
    const LATER: Duration = Duration::from_hours(1);

    fn next(queue: &Queue<&'static str>) -> Option<&'static str> {
        queue.next().now_or_never()
    }

    #[tokio::test]
    async fn a_key_that_is_added_twice_is_worked_on_once_at_the_earlier_time() {
        let queue = Queue::new();
        queue.add("a", LATER);
        queue.add("a", NOW);
        queue.add("a", LATER);
        assert_eq!(next(&queue), Some("a"));
        assert_eq!(next(&queue), None);
        assert!(queue.is_empty());
    }

    #[tokio::test]
    async fn a_key_that_is_added_while_it_is_worked_on_comes_again_afterwards() {
        let queue = Queue::new();
        queue.add("a", NOW);
        assert_eq!(next(&queue), Some("a"));
        queue.add("a", NOW);
        queue.add("b", NOW);
        assert_eq!(next(&queue), Some("b"));
        assert_eq!(next(&queue), None);
        queue.done(&"a");
        assert_eq!(next(&queue), Some("a"));
    }

    #[tokio::test]
    async fn a_waiting_worker_wakes_for_a_key_that_is_due_sooner() {
        let queue = Queue::new();
        queue.add("late", LATER);
        let (key, ()) = tokio::join!(queue.next(), async {
            tokio::task::yield_now().await;
            queue.add("soon", Duration::from_millis(5));
        });
        assert_eq!(key, "soon");
    }
}
