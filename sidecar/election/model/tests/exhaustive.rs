//! Every order of events in a small world.

use conch_election_model::{Election, Rules};
use stateright::{Checker, HasDiscoveries, Model};

/// Not a thing that must never happen, but one that must be possible.
const LIVELY: &str = "each leads once";

/// The name of the first property that does not hold, after what.
fn fails(election: Election) -> Option<&'static str> {
    let described = format!("{election:?}");
    let checker = election.checker().finish_when(HasDiscoveries::AnyFailures).threads(2).spawn_bfs().join();
    println!("{described}: {} states", checker.unique_state_count());
    let mut discoveries = checker.discoveries();
    let lively = discoveries.remove(LIVELY).is_some();
    let Some((name, path)) = discoveries.into_iter().next() else {
        assert!(lively, "not everybody can lead: the world is too small");
        return None;
    };
    println!("{name}: {:#?}", path.into_actions());
    Some(name)
}

const WORLD: Election =
    Election { rules: Rules::Conch, horizon: 10, faults: 1, delays: 1, looks_ahead: false };

#[test]
fn nothing_goes_wrong_with_one_fault_and_one_late_message() {
    assert_eq!(fails(WORLD), None);
}

#[test]
fn nothing_goes_wrong_with_two_faults() {
    assert_eq!(fails(Election { faults: 2, delays: 0, horizon: 9, ..WORLD }), None);
}

#[test]
fn a_leader_follows_from_wherever_one_fault_leads() {
    assert_eq!(fails(Election { delays: 0, looks_ahead: true, ..WORLD }), None);
}

#[test]
fn validity_that_counts_from_the_receipt_of_an_answer_overlaps() {
    let rules = Rules::FromReceipt;
    assert_eq!(fails(Election { rules, delays: 0, ..WORLD }), Some("at most one valid"));
}

#[test]
fn a_missing_or_cleared_record_that_counts_as_free_is_taken_from_its_leader() {
    let rules = Rules::MissingIsFree;
    assert_eq!(fails(Election { rules, ..WORLD }), Some("no early take-over"));
}
