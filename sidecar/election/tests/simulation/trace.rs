//! What happened, in one line each.

use conch_election::{Action, Claim, Content, Input, Record, Stored};

pub(crate) fn of_action(action: &Action) -> String {
    match action {
        Action::Read { .. } => "a read".to_owned(),
        Action::Write { record, expected, .. } => {
            let expected = expected.as_ref().map_or("none", |version| &version.0);
            format!("{} over version {expected}", of_record(record))
        }
    }
}

pub(crate) fn of_input(input: &Input) -> String {
    match input {
        Input::Read(Ok(found)) => format!("read {}", of_stored(found.as_ref())),
        Input::Changed(found) => format!("changed {}", of_stored(found.as_ref())),
        Input::Written(Ok(written)) => format!("written as version {}", written.version.0),
        other => format!("{other:?}"),
    }
}

fn of_stored(stored: Option<&Stored>) -> String {
    let Some(stored) = stored else { return "nothing".to_owned() };
    let content = match &stored.content {
        Content::Record(record) => of_record(record),
        other => format!("{other:?}"),
    };
    let deleting = if stored.deleting { ", marked for deletion" } else { "" };
    format!("version {} of object {}{deleting}: {content}", stored.version.0, stored.incarnation.0)
}

fn of_record(record: &Record) -> String {
    let process = record.write.nonce.0 % 1_000;
    let claim = match &record.claim {
        Claim::Held { holder, term, lease, reacquired } => {
            let reacquired = if *reacquired { " reacquired" } else { "" };
            format!("held{reacquired} by {}, {lease:?}, since write {}", holder.pod_uid, term.sequence)
        }
        Claim::Released { term } => format!("released, {}.{}", term.nonce.0 % 1_000, term.sequence),
        Claim::Vacant => "vacant".to_owned(),
    };
    format!("write {process}.{}, term {}, {claim}", record.write.sequence, record.transitions)
}
