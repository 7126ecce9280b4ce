//! What people read: names, events, sentences.

use crate::world::*;
use conch_election::{Action, Content, EndCause, Event, Input, Nonce, NotCurrent, Reason, Token, WriteId};
use std::collections::BTreeSet;

const REASONS: [Reason; 12] = [
    Reason::Leading,
    Reason::NotContacted,
    Reason::NotAsked,
    Reason::OtherLeads,
    Reason::RecordUnknown,
    Reason::Acquiring,
    Reason::StoreUnavailable,
    Reason::StoreDenied,
    Reason::StoreInvalid,
    Reason::CoolingDown,
    Reason::Terminating,
    Reason::HistoryLost,
];

#[test]
fn each_reason_has_a_sentence_of_its_own() {
    let sentences: BTreeSet<&str> = REASONS.iter().map(|reason| reason.sentence()).collect();
    assert_eq!(sentences.len(), REASONS.len());
    assert!(sentences.iter().all(|sentence| sentence.len() > 10 && sentence.ends_with('.')), "{sentences:?}");
}

#[test]
fn names_are_printed_as_they_stand_in_a_lease() {
    assert_eq!(Nonce(0xAB).to_string(), "000000000000000000000000000000ab");
    let write = WriteId { nonce: Nonce(0xAB), sequence: 12 };
    assert_eq!(write.to_string(), "000000000000000000000000000000ab.12");
    assert_eq!(identity(1).to_string(), "pod-1_uid-1_00000000000000000000000000000001");
}

#[test]
fn errors_say_what_happened() {
    assert_eq!(timeout().to_string(), "no answer in time");
    assert_eq!(unavailable().to_string(), "the store cannot be reached or cannot serve");
    assert_eq!(NotCurrent { current: None }.to_string(), "this pod does not lead");
    let other = NotCurrent { current: Some(Token(7)) };
    assert_eq!(other.to_string(), "the running term has token 00000000000000000007");
}

#[test]
fn the_holder_is_told_and_each_change_of_it() {
    let (mut first, mut register) = leader();
    let mut second = follower(&mut register, 100);
    assert_eq!(second.answer(at(100)).holder.as_deref(), Some("pod-1"));
    assert_eq!(
        events(&mut second),
        [Event::HolderChanged { from: None, to: Some("pod-1".into()) }],
        "told once"
    );
    register.touch();
    register.tell(&mut second, at(200));
    assert_eq!(events(&mut second), []);
    register.put(unknown("kubectl"));
    register.tell(&mut second, at(300));
    assert_eq!(second.answer(at(300)).holder.as_deref(), Some("kubectl"));
    register.tell(&mut first, at(300));
    let ended = Event::TermEnded { token: Token(2), cause: EndCause::OtherHolder };
    assert!(events(&mut first).contains(&ended));
    register.run_until(&mut second, 300, 15_320);
    let began = events(&mut second).into_iter().find_map(|event| match event {
        Event::TermBegan { previous, reacquired, .. } => Some((previous, reacquired)),
        _ => None,
    });
    assert_eq!(began, Some((Some("kubectl".into()), false)));
}

#[test]
fn a_renewal_carries_the_token_of_its_term_for_people() {
    let (mut elector, _) = leader();
    elector.handle(at(2_020), Input::Tick);
    let Some(Action::Write { token: shown, .. }) = elector.poll_action(at(2_020)) else { panic!("no write") };
    assert_eq!(shown, token(&mut elector, 2_020));
}

#[test]
fn a_record_put_back_over_ones_own_is_told_from_another_holder() {
    let (mut elector, mut register) = leader();
    let first = register.stored.clone().unwrap();
    register.run(&mut elector, at(2_020));
    events(&mut elector);
    register.put(first.content);
    register.tell(&mut elector, at(2_100));
    let ended = Event::TermEnded { token: Token(2), cause: EndCause::RecordReplaced };
    assert!(events(&mut elector).contains(&ended));
    assert!(matches!(register.stored.unwrap().content, Content::Record(_)));
}
