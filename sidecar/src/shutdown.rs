//! What the signs of an end mean: does SIGTERM prove that the program has stopped?
//!
//! The kubelet calls `preStop` of this container together with the program's own SIGTERM, and sends this container SIGTERM
//! right after the program's exit, or when the pod's grace is over. But it also does both when it restarts this container
//! alone (its image was changed in place, its probe failed), while the program runs on. So SIGTERM by itself proves nothing.
//! A leader that gets it leads on for [`MARK_PATIENCE`]: if nobody says by then that the pod is being deleted, it ends without a
//! word, as if it had crashed, and its successor in this pod, which is about to start, leads on. Otherwise the elector waits until
//! every promise is over, unless the program is proven to have exited. (A pod that ends with its program, as a Job's does, is not
//! deleted, so there nobody waits for such a word.) The proof needs all of:
//!
//! 1. `preStop` came exactly once to this process, and before SIGTERM;
//! 2. the operator saw that *this* pod is being deleted, and says so on the Lease, at most [`MARK_DELAY_MAX`] after `preStop`: a
//!    later mark may be of a deletion that began while the kubelet was restarting this container for another reason;
//! 3. the pod's spec then still named the image that was injected, so this container was not restarted for a new one;
//! 4. SIGTERM came at least [`MARGIN`] before the grace ran out: so the kubelet did not send it because time was up, but
//!    because the program's container had exited. The grace counts from `preStop` or from the first sight of the mark,
//!    whichever came earlier: on a machine that is short of time one of them may be late. If this process stands still both
//!    are, so `preStop` counts from when the kubelet ran it, not from when it was heard of.

use conch_crds::PodDeletion;
use conch_election::Moment;
use std::time::Duration;

/// How long before the end of the grace SIGTERM must come to prove the program's exit: the kubelet gives a container at least
/// two seconds after its SIGTERM, whatever is left of the grace, and one more covers what is late.
pub const MARGIN: Duration = Duration::from_secs(3);

/// How long after `preStop` the mark of the same deletion may be seen.
pub const MARK_DELAY_MAX: Duration = Duration::from_secs(1);

/// How long a leader that got SIGTERM waits for the operator to say that its pod is being deleted: the operator sees that
/// before the kubelet does or a moment after it. Nobody misses anything meanwhile; and it ends before it is killed, because
/// the kubelet gives a container at least two seconds.
pub const MARK_PATIENCE: Duration = Duration::from_millis(1_500);

/// Something that may announce the end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sign {
    /// The kubelet ran this container's `preStop`.
    PreStop(Moment),
    /// A signal that asks for the end.
    Signal {
        /// When it came.
        at: Moment,
        /// Did this pod lead then?
        leads: bool,
    },
    /// The operator says on the Lease that a pod is being deleted; seen at this moment.
    Deletion(Moment, PodDeletion),
}

/// What the elector is to be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Go on leading, but begin no term: another pod will live longer.
    BeginNothing,
    /// Stop leading, and release when every promise is over.
    Terminate,
    /// The program is proven to have exited: release at once.
    ProgramStopped,
}

/// What is known so far.
#[derive(Clone, Debug)]
pub struct Shutdown {
    pod_uid: String,
    /// Empty in a process that was not injected: no operator follows its pod.
    image: String,
    completes: bool,
    pre_stop: PreStop,
    signal: Option<Moment>,
    /// The elector was told to terminate.
    terminates: bool,
    /// The latest mark of this pod, and when the first one was seen.
    deletion: Option<(Moment, PodDeletion)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PreStop {
    NotYet,
    Once(Moment),
    /// Twice, or after SIGTERM: nobody can tell what that means.
    Useless,
}

/// The earlier of two moments, clock by clock.
pub fn earlier(one: Moment, other: Moment) -> Moment {
    Moment {
        boottime: one.boottime.min(other.boottime),
        monotonic: one.monotonic.min(other.monotonic),
        monotonic_raw: one.monotonic_raw.min(other.monotonic_raw),
    }
}

impl Shutdown {
    /// `image`: the sidecar image that was injected into the pod; `completes`: the pod ends with its program, and the sidecar gets
    /// SIGTERM then although nobody deletes the pod.
    pub fn new(pod_uid: String, image: String, completes: bool) -> Self {
        let (pre_stop, signal, deletion) = (PreStop::NotYet, None, None);
        Self { pod_uid, image, completes, pre_stop, signal, terminates: false, deletion }
    }

    /// Has the end been announced? The pod may still lead.
    pub fn is_announced(&self) -> bool {
        self.pre_stop != PreStop::NotYet || self.signal.is_some()
    }

    /// Takes note of a sign and returns what follows from it, in this order.
    pub fn note(&mut self, sign: Sign) -> Vec<Order> {
        let was_proven = self.is_proven();
        let mut orders = Vec::new();
        match sign {
            Sign::PreStop(at) => {
                self.note_pre_stop(at);
                orders.push(Order::BeginNothing);
            }
            Sign::Signal { at, leads } => {
                self.signal.get_or_insert(at);
                let waits = leads && self.deletion.is_none() && !self.image.is_empty() && !self.completes;
                self.terminates |= !waits;
                orders.extend((!waits).then_some(Order::Terminate));
            }
            Sign::Deletion(at, deletion) if deletion.pod_uid == self.pod_uid => {
                let first = self.deletion.as_ref().map_or(at, |(first, _)| *first);
                self.deletion = Some((first, deletion));
                if self.awaits_mark() {
                    self.terminates = true;
                    orders.push(Order::Terminate);
                }
            }
            Sign::Deletion(..) => {}
        }
        if self.is_proven() && !was_proven {
            orders.push(Order::ProgramStopped);
        }
        orders
    }

    /// Did a leader get the signal, and nobody said yet that its pod is being deleted? If that lasts for [`MARK_PATIENCE`], the
    /// process ends without a word.
    pub fn awaits_mark(&self) -> bool {
        self.signal.is_some() && !self.terminates
    }

    fn note_pre_stop(&mut self, at: Moment) {
        self.pre_stop = match (self.pre_stop, self.signal) {
            (PreStop::NotYet, None) => PreStop::Once(at),
            _ => PreStop::Useless,
        };
    }

    fn is_proven(&self) -> bool {
        let (PreStop::Once(pre_stop), Some(signal), Some((marked, deletion))) =
            (self.pre_stop, self.signal, &self.deletion)
        else {
            return false;
        };
        let grace = Duration::from_secs(deletion.grace_seconds.into());
        let waited = signal.longest_since(pre_stop).max(signal.longest_since(*marked));
        deletion.sidecar_image == self.image
            && waited + MARGIN <= grace
            && marked.longest_since(pre_stop) <= MARK_DELAY_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TERMINATE: &[Order] = &[Order::Terminate];
    const RELEASE: &[Order] = &[Order::Terminate, Order::ProgramStopped];
    const LATE: &[Order] = &[Order::ProgramStopped];
    const ANNOUNCED: &[Order] = &[Order::BeginNothing];
    const NOTHING: &[Order] = &[];

    fn at(seconds: u64) -> Moment {
        Moment::from_uptime(Duration::from_secs(seconds))
    }

    fn pre_stop(seconds: u64) -> Sign {
        Sign::PreStop(at(seconds))
    }

    fn sigterm(seconds: u64) -> Sign {
        Sign::Signal { at: at(seconds), leads: false }
    }

    fn sigterm_of_a_leader(seconds: u64) -> Sign {
        Sign::Signal { at: at(seconds), leads: true }
    }

    fn deletion(pod_uid: &str, grace_seconds: u32, image: &str) -> Sign {
        let (pod_uid, sidecar_image) = (pod_uid.to_owned(), image.to_owned());
        Sign::Deletion(at(101), PodDeletion { pod_uid, grace_seconds, sidecar_image })
    }

    fn marked_at(seconds: u64) -> Sign {
        let Sign::Deletion(_, deletion) = deleted() else { unreachable!("a mark") };
        Sign::Deletion(at(seconds), deletion)
    }

    fn deleted() -> Sign {
        deletion("own", 30, "conch:1")
    }

    fn pre_stop_at_128() -> Sign {
        pre_stop(128)
    }

    /// Gives the signs in this order, and compares what follows from each.
    fn check(what: &str, signs: &[(Sign, &[Order])]) {
        let mut shutdown = Shutdown::new("own".to_owned(), "conch:1".to_owned(), false);
        for (sign, expected) in signs {
            assert_eq!(shutdown.note(sign.clone()), *expected, "{what}: {sign:?}");
        }
    }

    #[test]
    fn all_four_conditions_together_prove_that_the_program_has_exited() {
        let pre_stop = (pre_stop(100), ANNOUNCED);
        let marked = (deleted(), NOTHING);
        check("the mark comes between", &[pre_stop.clone(), marked.clone(), (sigterm(103), RELEASE)]);
        check("the mark comes first", &[marked.clone(), pre_stop.clone(), (sigterm(103), RELEASE)]);
        check(
            "the mark comes last",
            &[pre_stop.clone(), (sigterm(103), TERMINATE), (deleted(), LATE), marked.clone()],
        );
        check("just in time", &[pre_stop.clone(), marked.clone(), (sigterm(127), RELEASE)]);
        let other = (deletion("other", 30, "conch:1"), NOTHING);
        check(
            "after another's mark",
            &[other, pre_stop, (sigterm(103), TERMINATE), (deleted(), LATE), marked],
        );
    }

    #[test]
    fn a_leader_whose_pod_is_not_deleted_waits_for_that_and_then_ends_without_a_word() {
        let mut shutdown = Shutdown::new("own".to_owned(), "conch:1".to_owned(), false);
        shutdown.note(pre_stop(100));
        assert!(!shutdown.awaits_mark());
        assert_eq!(shutdown.note(sigterm_of_a_leader(101)), NOTHING);
        assert!(shutdown.awaits_mark());
        assert_eq!(shutdown.note(deletion("other", 30, "conch:1")), NOTHING);
        assert!(shutdown.awaits_mark());
        assert_eq!(shutdown.note(deleted()), RELEASE, "the mark was late");
        assert!(!shutdown.awaits_mark());
        let another_image = (deletion("own", 30, "conch:2"), TERMINATE);
        check("late, and no proof", &[(sigterm_of_a_leader(101), NOTHING), another_image]);
        check("in time", &[(deleted(), NOTHING), (sigterm_of_a_leader(101), TERMINATE)]);
    }

    #[test]
    fn where_no_operator_looks_or_the_pod_ends_by_itself_a_leader_does_not_wait_for_a_mark() {
        for (image, completes) in [("", false), ("conch:1", true)] {
            let mut shutdown = Shutdown::new("own".to_owned(), image.to_owned(), completes);
            assert_eq!(shutdown.note(sigterm_of_a_leader(101)), TERMINATE);
            assert!(!shutdown.awaits_mark());
        }
    }

    #[test]
    fn without_one_of_them_sigterm_proves_nothing() {
        let pre_stop = (pre_stop(100), ANNOUNCED);
        let marked = (deleted(), NOTHING);
        let told = (sigterm(103), TERMINATE);
        check("SIGTERM alone", std::slice::from_ref(&told));
        check("the sidecar was restarted alone", &[pre_stop.clone(), told.clone()]);
        check("no preStop", &[marked.clone(), told.clone()]);
        check("preStop twice", &[pre_stop.clone(), pre_stop.clone(), marked.clone(), told.clone()]);
        check("preStop late", &[marked.clone(), told.clone(), pre_stop.clone()]);
        check("preStop again, late", &[pre_stop.clone(), told.clone(), pre_stop.clone(), marked.clone()]);
        let other_pod = (deletion("other", 30, "conch:1"), NOTHING);
        check("another pod is deleted", &[pre_stop.clone(), other_pod, told.clone()]);
        let other_image = (deletion("own", 30, "conch:2"), NOTHING);
        check("the image was changed in place", &[pre_stop.clone(), other_image, told.clone()]);
        let late = (Sign::Signal { at: at(130), leads: true }, TERMINATE);
        check("the program used up its grace", &[pre_stop.clone(), marked, late]);
        check(
            "preStop came late and the mark did not",
            &[(marked_at(100), NOTHING), (pre_stop_at_128(), ANNOUNCED), (sigterm(130), TERMINATE)],
        );
        check(
            "the first sight of the mark counts",
            &[
                (marked_at(100), NOTHING),
                (marked_at(128), NOTHING),
                (pre_stop_at_128(), ANNOUNCED),
                (sigterm(130), TERMINATE),
            ],
        );
        check(
            "the pod is deleted while its sidecar is being restarted",
            &[pre_stop.clone(), told, (marked_at(102), NOTHING)],
        );
        let no_grace = (deletion("own", 0, "conch:1"), NOTHING);
        check("no grace", &[pre_stop.clone(), no_grace, (sigterm(100), TERMINATE)]);
        let short = (deletion("own", 1, "conch:1"), NOTHING);
        check("a second of grace, used up", &[pre_stop, short, (sigterm(101), TERMINATE)]);
    }

    #[test]
    fn the_time_since_pre_stop_is_the_longest_that_it_can_have_been() {
        let mut shutdown = Shutdown::new("own".to_owned(), "conch:1".to_owned(), false);
        shutdown.note(pre_stop(100));
        shutdown.note(deleted());
        // The machine was suspended for a minute: one clock stood still.
        let woken =
            Moment { boottime: Duration::from_secs(163), ..Moment::from_uptime(Duration::from_secs(103)) };
        assert_eq!(shutdown.note(Sign::Signal { at: woken, leads: false }), TERMINATE);
    }

    #[test]
    fn the_earlier_of_two_moments_is_so_by_every_clock() {
        let suspended = Moment { boottime: Duration::from_secs(163), ..at(103) };
        assert_eq!(earlier(at(121), suspended), Moment { boottime: Duration::from_secs(121), ..at(103) });
        assert_eq!(earlier(at(u64::MAX / 2), at(103)), at(103), "one from the future");
        assert_eq!(earlier(at(0), at(103)), at(0));
    }

    #[test]
    fn pre_stop_announces_the_end_and_the_mark_alone_does_not() {
        let mut shutdown = Shutdown::new("own".to_owned(), "conch:1".to_owned(), false);
        shutdown.note(deleted());
        assert!(!shutdown.is_announced());
        shutdown.note(pre_stop(100));
        assert!(shutdown.is_announced());
    }
}
