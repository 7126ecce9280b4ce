use super::*;

const HEARTBEAT: Duration = Duration::from_secs(10);
const COOL_DOWN: Duration = Duration::from_secs(10);

fn at(seconds: u64) -> Moment {
    Moment::from_uptime(Duration::from_secs(1_000 + seconds))
}

fn now(seconds: u64, lead: Lead) -> Now {
    Now { at: at(seconds), lead }
}

fn checked(when_all_unhealthy: WhenAllUnhealthy) -> Rules {
    let check = Some(Thresholds { failures: 3, successes: 2 });
    Rules { heartbeat_timeout: None, check, cool_down: COOL_DOWN, when_all_unhealthy }
}

fn beating() -> Rules {
    Rules { heartbeat_timeout: Some(HEARTBEAT), check: None, ..checked(WhenAllUnhealthy::Nobody) }
}

fn check(gate: &mut Gate, results: &[bool]) {
    for passed in results {
        gate.checked(*passed);
    }
}

/// A gate whose program passes its check.
fn healthy(when_all_unhealthy: WhenAllUnhealthy) -> Gate {
    let mut gate = Gate::new(checked(when_all_unhealthy));
    check(&mut gate, &[true; 2]);
    assert!(!gate.update(now(0, Lead::Elsewhere)));
    gate
}

/// Leads, loses its health at this time and gives the lead away.
fn lose(gate: &mut Gate, seconds: u64) {
    assert!(!gate.update(now(seconds, Lead::Here)));
    check(gate, &[false; 3]);
    assert!(gate.update(now(seconds, Lead::Here)));
}

#[test]
fn nothing_is_asked_where_the_policy_asks_for_nothing() {
    let mut gate = Gate::new(Rules::NONE);
    gate.checked(false);
    assert_eq!((gate.objection(now(0, Lead::Elsewhere)), gate.timeout(now(0, Lead::Here))), (None, None));
    assert!(!gate.update(now(1_000_000, Lead::Here)));
}

#[test]
fn a_program_is_not_fit_before_it_has_shown_it() {
    let mut gate = Gate::new(checked(WhenAllUnhealthy::Nobody));
    gate.checked(true);
    assert_eq!(gate.objection(now(0, Lead::Elsewhere)), Some(Reason::Unhealthy));
    gate.checked(true);
    assert_eq!(gate.objection(now(0, Lead::Elsewhere)), None);
    assert_eq!(Gate::new(beating()).objection(now(0, Lead::Elsewhere)), Some(Reason::HeartbeatMissing));
}

#[test]
fn odd_results_change_nothing_in_either_state() {
    let mut gate = healthy(WhenAllUnhealthy::Nobody);
    check(&mut gate, &[false, false, true, false, false, true, false]);
    assert_eq!(gate.ailment(at(0)), None);
    check(&mut gate, &[false, false]);
    assert_eq!(gate.ailment(at(0)), Some(Reason::Unhealthy));
    check(&mut gate, &[true, false, true, false, true]);
    assert_eq!(gate.ailment(at(0)), Some(Reason::Unhealthy));
    gate.checked(true);
    assert_eq!(gate.ailment(at(0)), None);
}

#[test]
fn a_leader_that_hangs_gives_the_lead_away_once_when_its_heartbeat_is_over() {
    let mut gate = Gate::new(beating());
    gate.beat(at(0));
    assert_eq!(gate.timeout(now(4, Lead::Here)), Some(Duration::from_secs(6)));
    assert!(!gate.update(now(9, Lead::Here)));
    gate.beat(at(9));
    assert!(!gate.update(now(18, Lead::Here)));
    assert!(gate.update(now(19, Lead::Here)));
    assert_eq!(gate.objection(now(19, Lead::Left)), Some(Reason::HeartbeatMissing));
    assert!(!gate.update(now(20, Lead::Left)));
}

#[test]
fn a_suspended_machine_makes_no_heartbeat_late() {
    let mut gate = Gate::new(beating());
    gate.beat(at(0));
    let resumed = Moment { boottime: at(3_600).boottime, ..at(1) };
    assert_eq!(gate.ailment(resumed), None);
}

#[test]
fn a_follower_that_fails_is_no_candidate_and_gives_nothing_away() {
    let mut gate = healthy(WhenAllUnhealthy::KeepLast);
    check(&mut gate, &[false; 3]);
    for lead in [Lead::Elsewhere, Lead::Left] {
        assert!(!gate.update(now(1, lead)));
        assert_eq!(gate.objection(now(1, lead)), Some(Reason::Unhealthy));
    }
    check(&mut gate, &[true; 2]);
    assert_eq!(gate.objection(now(2, Lead::Elsewhere)), None, "it never led, so nothing is to cool down");
}

#[test]
fn who_gave_the_lead_away_leaves_it_to_others_and_longer_each_time() {
    let mut gate = healthy(WhenAllUnhealthy::Nobody);
    let mut seconds = 1;
    for cool_down in [10, 20, 40, 80, 160, 320, 320] {
        lose(&mut gate, seconds);
        check(&mut gate, &[true; 2]);
        assert!(!gate.update(now(seconds + 1, Lead::Left)));
        assert_eq!(gate.objection(now(seconds + 1, Lead::Left)), Some(Reason::CoolingDown));
        assert_eq!(gate.timeout(now(seconds + 1, Lead::Left)), Some(Duration::from_secs(cool_down - 1)));
        assert_eq!(gate.objection(now(seconds + cool_down - 1, Lead::Elsewhere)), Some(Reason::CoolingDown));
        seconds += cool_down;
        assert_eq!(gate.objection(now(seconds, Lead::Left)), None);
        assert_eq!(gate.timeout(now(seconds, Lead::Left)), None);
    }
}

#[test]
fn whoever_was_fit_for_the_longest_cool_down_begins_with_the_first_again() {
    let mut gate = healthy(WhenAllUnhealthy::Nobody);
    lose(&mut gate, 1);
    check(&mut gate, &[true; 2]);
    gate.update(now(2, Lead::Left));
    lose(&mut gate, 2 + 320);
    assert_eq!(gate.timeout(now(2 + 320, Lead::Left)), Some(COOL_DOWN));
    check(&mut gate, &[true; 2]);
    gate.update(now(323, Lead::Left));
    lose(&mut gate, 323 + 319);
    assert_eq!(gate.timeout(now(323 + 319, Lead::Left)), Some(2 * COOL_DOWN));
}

#[test]
fn the_last_takes_the_lead_back_if_nobody_wants_it_and_offers_it_again_later_and_later() {
    let mut gate = healthy(WhenAllUnhealthy::KeepLast);
    lose(&mut gate, 1);
    let mut seconds = 1;
    for minutes in [1, 2, 4, 8, 16, 16] {
        assert_eq!(gate.objection(now(seconds, Lead::Left)), None, "it is a candidate, unfit as it is");
        assert!(!gate.update(now(seconds, Lead::Left)));
        assert!(!gate.update(now(seconds, Lead::Here)));
        assert!(!gate.update(now(seconds + 1, Lead::Here)));
        let next = seconds + minutes * 60;
        assert!(!gate.update(now(next - 1, Lead::Here)));
        assert_eq!(gate.timeout(now(next - 1, Lead::Here)), Some(Duration::from_secs(1)));
        assert!(gate.update(now(next, Lead::Here)));
        seconds = next;
    }
}

#[test]
fn the_last_keeps_nothing_that_another_took() {
    let mut gate = healthy(WhenAllUnhealthy::KeepLast);
    lose(&mut gate, 1);
    assert!(!gate.update(now(2, Lead::Elsewhere)));
    assert_eq!(gate.objection(now(2, Lead::Elsewhere)), Some(Reason::Unhealthy));
    // Not even when that one has gone as well.
    assert_eq!(gate.objection(now(60, Lead::Left)), Some(Reason::Unhealthy));
    check(&mut gate, &[true; 2]);
    assert!(!gate.update(now(3, Lead::Elsewhere)));
    assert_eq!(gate.objection(now(3, Lead::Elsewhere)), Some(Reason::CoolingDown));
}

#[test]
fn the_last_that_is_well_again_goes_on_without_a_break() {
    let mut gate = healthy(WhenAllUnhealthy::KeepLast);
    lose(&mut gate, 1);
    // Before it took the lead back, and after.
    let mut before = gate.clone();
    check(&mut before, &[true; 2]);
    assert!(!before.update(now(2, Lead::Left)));
    assert_eq!(before.objection(now(2, Lead::Left)), None);
    assert!(!gate.update(now(3, Lead::Here)));
    check(&mut gate, &[true; 2]);
    assert!(!gate.update(now(4, Lead::Here)));
    assert_eq!(gate.objection(now(4, Lead::Here)), None, "the cool-down is not for a leader");
    assert!(!gate.update(now(10_000, Lead::Here)));
}
