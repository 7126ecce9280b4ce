//! The checker is checked: legal histories pass, and each kind of breach is caught.

use proptest::prelude::*;

use super::*;

fn yes(asked: u64, deadline: u64, token: u128) -> Line {
    Line::Yes { asked, answered: asked + 1, deadline, token }
}

fn run(pod: &str, lines: Vec<Line>) -> Run {
    Run { pod: pod.to_owned(), lines, died: None }
}

fn history(runs: Vec<Run>) -> History {
    History { runs }
}

#[test]
fn terms_one_after_the_other_are_right() {
    let verdict = history(vec![
        run(
            "a",
            vec![
                Line::Start { at: 0 },
                yes(10, 100, 1),
                yes(50, 140, 1),
                Line::No { asked: 60, answered: 61 },
            ],
        ),
        run("b", vec![Line::No { asked: 20, answered: 21 }, yes(140, 200, 2)]),
    ])
    .judge();
    assert_eq!(verdict.faults(), Vec::<String>::new());
    assert_eq!((verdict.terms, verdict.requests(), verdict.longest_gap), (2, 5, 1));
}

#[test]
fn a_single_nanosecond_of_overlap_is_caught() {
    let verdict = history(vec![run("a", vec![yes(10, 100, 1)]), run("b", vec![yes(99, 200, 2)])]).judge();
    assert_eq!(verdict.overlap, 1);
    assert!(verdict.faults()[0].contains("rightly believed"), "{:?}", verdict.faults());
    assert!(verdict.to_string().starts_with("overlap 0.1 ms"), "never rounded to zero: {verdict}");
}

#[test]
fn a_belief_begins_before_the_question_not_with_the_answer() {
    let late = Line::Yes { asked: 50, answered: 500, deadline: 600, token: 2 };
    assert_eq!(history(vec![run("a", vec![yes(10, 100, 1)]), run("b", vec![late])]).judge().overlap, 50);
}

#[test]
fn a_program_that_ended_believes_nothing() {
    let mut dead = run("a", vec![yes(10, 1_000, 1), Line::Exit { at: 50 }]);
    let successor = run("b", vec![yes(60, 200, 2)]);
    assert_eq!(history(vec![dead.clone(), successor.clone()]).judge().overlap, 0);
    dead.lines.pop();
    assert_eq!(history(vec![dead.clone(), successor.clone()]).judge().overlap, 140, "it may still live");
    dead.died = Some(61);
    assert_eq!(history(vec![dead, successor]).judge().overlap, 1);
}

#[test]
fn a_program_that_was_seen_dead_believes_nothing_and_its_next_run_does() {
    let first = run("a", vec![Line::Start { at: 1 }, yes(10, 1_000, 1)]);
    let second = run("a", vec![Line::Start { at: 70 }, yes(80, 90, 3)]);
    let mut history = history(vec![second, first, run("b", vec![yes(60, 75, 2)])]);
    assert_eq!(history.judge().overlap, 15);
    history.note_death("a", 55);
    assert_eq!(history.judge().overlap, 0);
    assert_eq!(history.beliefs_between(0, 85)["a"], [(10, 55), (80, 85)]);
}

#[test]
fn a_program_that_resigned_believes_only_what_it_is_told_later() {
    let resigned = vec![yes(10, 1_000, 1), Line::Resigned { at: 50 }, yes(200, 300, 3)];
    let kept = history(vec![run("a", resigned.clone()), run("b", vec![yes(50, 200, 2)])]);
    assert_eq!(kept.judge().faults(), Vec::<String>::new());
    let early = history(vec![run("a", resigned), run("b", vec![yes(49, 201, 2)])]);
    assert_eq!(early.judge().overlap, 2);
    assert_eq!([early.overlap_between(0, 100), early.overlap_between(100, 201)], [1, 1]);
    assert_eq!(early.overlap_between(50, 200), 0);
}

#[test]
fn the_next_leader_is_another_pod_that_asked_after_the_event() {
    let history = history(vec![
        run("a", vec![yes(10, 100, 0), yes(55, 145, 0)]),
        run("b", vec![yes(45, 60, 0), yes(140, 200, 0)]),
    ]);
    assert_eq!(history.next_leader_after(50, "a"), Some(91));
    assert_eq!(history.next_leader_after(50, "b"), Some(6));
    assert_eq!(history.next_leader_after(141, "a"), None);
}

#[test]
fn two_runs_of_one_pod_may_believe_at_one_time() {
    let verdict = history(vec![run("a", vec![yes(10, 100, 1)]), run("a", vec![yes(20, 120, 2)])]).judge();
    assert_eq!(verdict.faults(), Vec::<String>::new());
}

#[test]
fn a_token_that_falls_or_is_shared_is_caught() {
    let fell = history(vec![run("a", vec![yes(10, 20, 5)]), run("b", vec![yes(30, 40, 4)])]).judge();
    assert_eq!(fell.token_fault, Some(TokenFault::Fell { from: 5, to: 4, pod: "b".into() }));
    let shared = history(vec![run("a", vec![yes(10, 20, 5)]), run("b", vec![yes(30, 40, 5)])]).judge();
    assert_eq!(shared.token_fault, Some(TokenFault::Shared { token: 5, pods: ["a".into(), "b".into()] }));
    let back =
        history(vec![run("a", vec![yes(10, 20, 5), yes(50, 60, 5)]), run("b", vec![yes(30, 40, 6)])]).judge();
    assert!(matches!(back.token_fault, Some(TokenFault::Fell { .. })), "an old term that comes back");
    assert_eq!([fell.faults().len(), shared.faults().len(), back.faults().len()], [1, 1, 1]);
}

#[test]
fn a_history_without_a_leader_or_with_contradictions_is_no_success() {
    assert_eq!(history(vec![]).judge().faults().len(), 1);
    let bad = history(vec![run("a", vec![yes(1, 2, 1), Line::Bad { asked: 3, answered: 4 }])]).judge();
    assert!(bad.faults()[0].contains("contradict"));
}

#[test]
fn the_gap_ends_when_the_next_leader_knows() {
    let slow = Line::Yes { asked: 150, answered: 400, deadline: 500, token: 2 };
    let verdict = history(vec![run("a", vec![yes(10, 100, 1)]), run("b", vec![slow])]).judge();
    assert_eq!(verdict.longest_gap, 300);
}

#[test]
fn fail_over_is_counted_from_the_event_to_the_first_answer_of_a_new_term() {
    let history = history(vec![
        run("a", vec![yes(10, 100, 1), yes(50, 140, 1), yes(60, 140, 1)]),
        run("b", vec![yes(140, 200, 2), yes(150, 210, 2)]),
    ]);
    assert_eq!(history.next_term_after(55), Some(86));
    assert_eq!(history.next_answer_after(55), Some(6));
    assert_eq!(history.next_term_after(200), None);
    assert_eq!(history.leader(), Some(("b", 2)));
}

/// One term: who leads, its length, the gap before it, and in how many answers it is told.
type Term = (usize, u64, u64, u64);

const PODS: [&str; 3] = ["a", "b", "c"];

fn terms_of() -> impl Strategy<Value = Vec<Term>> {
    proptest::collection::vec((0..PODS.len(), 20_u64..200, 0_u64..50, 1_u64..6), 2..12)
}

/// A history that keeps every promise: terms in turn, each told in several overlapping answers.
fn legal(terms: &[Term]) -> History {
    let mut runs: Vec<Run> = PODS.iter().map(|pod| run(pod, Vec::new())).collect();
    let mut now = 1_000;
    for (token, (pod, length, gap, answers)) in (1_u128..).zip(terms) {
        now += gap;
        let end = now + length;
        for answer in 0..*answers {
            let asked = now + answer * (length / 10);
            runs[*pod].lines.push(yes(asked, (asked + length / 2 + 5).min(end), token * 10));
        }
        now = end;
    }
    history(runs)
}

/// Instants at which at least two pods believe, counted one by one.
fn overlap_by_counting(history: &History) -> u64 {
    let beliefs = history.beliefs();
    let end = beliefs.iter().map(|belief| belief.until).max().unwrap_or(0);
    let two = |at: &u64| {
        let holds = |belief: &&Belief<'_>| (belief.asked..belief.until).contains(at);
        let mut pods: Vec<_> = beliefs.iter().filter(holds).map(|belief| belief.pod).collect();
        pods.sort_unstable();
        pods.dedup();
        pods.len() >= 2
    };
    (0..end).filter(two).count() as u64
}

proptest! {
    #[test]
    fn every_legal_history_passes(terms in terms_of()) {
        let verdict = legal(&terms).judge();
        prop_assert_eq!(verdict.faults(), Vec::<String>::new());
        prop_assert_eq!(verdict.terms, terms.len());
    }

    #[test]
    fn overlap_is_what_counting_each_instant_says(
        answers in proptest::collection::vec((0..PODS.len(), 0_u64..300, 1_u64..80), 0..20),
    ) {
        let mut runs: Vec<Run> = PODS.iter().map(|pod| run(pod, Vec::new())).collect();
        for (pod, asked, length) in answers {
            runs[pod].lines.push(yes(asked, asked + length, 1));
        }
        let history = history(runs);
        prop_assert_eq!(history.judge().overlap, overlap_by_counting(&history));
    }

    #[test]
    fn a_term_that_starts_too_early_is_always_caught(terms in terms_of(), early in 1_u64..15) {
        let mut history = legal(&terms);
        let end = history.beliefs().iter().map(|belief| belief.until).max().unwrap();
        history.runs.push(run("usurper", vec![yes(end - early, end + 10, u128::MAX)]));
        prop_assert_eq!(history.judge().overlap, early);
    }

    #[test]
    fn a_token_given_again_later_is_always_caught(terms in terms_of()) {
        let mut history = legal(&terms);
        let end = history.beliefs().iter().map(|belief| belief.until).max().unwrap();
        history.runs.push(run("usurper", vec![yes(end + 1, end + 2, 10)]));
        prop_assert!(history.judge().token_fault.is_some());
    }
}
