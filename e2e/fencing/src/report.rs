//! The table in the document.

use std::fs;

use anyhow::{Context as _, Result};

use crate::set::Shown;

const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/fencing.md");
const BEGIN: &str = "<!-- measured -->\n";
const END: &str = "<!-- /measured -->";

/// What the set tests showed, as a table in Markdown.
pub fn table(rows: &[Shown]) -> String {
    let head = "| | Pauses | Attempted | Acknowledged | Late writes accepted | Lost | Duplicated |\n|---|--:|--:|--:|--:|--:|--:|\n";
    rows.iter().fold(head.to_owned(), |table, row| {
        let (title, verdict) = (row.title(), &row.verdict);
        let numbers = [
            row.pauses,
            verdict.attempted,
            verdict.acknowledged,
            row.late_accepted,
            verdict.lost.len(),
            verdict.duplicated.len(),
        ];
        let cells = numbers.map(|number| number.to_string()).join(" | ");
        format!("{table}| {title} | {cells} |\n")
    })
}

/// Puts the table into the document.
pub fn write(table: &str) -> Result<()> {
    let document = fs::read_to_string(PATH)?;
    let changed = replace(&document, table).context("docs/fencing.md has no place for the table")?;
    Ok(fs::write(PATH, changed)?)
}

fn replace(document: &str, table: &str) -> Option<String> {
    let (before, rest) = document.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}{table}{END}{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_stands_between_the_marks_is_replaced() {
        let document = "a\n<!-- measured -->\nold\n<!-- /measured -->\nb\n";
        let changed = replace(document, "new\n").unwrap();
        assert_eq!(changed, "a\n<!-- measured -->\nnew\n<!-- /measured -->\nb\n");
        assert_eq!(replace("no marks", "new\n"), None);
    }
}
