//! Every command in the documents is run, or stands in a short table that says what else runs it.
//!
//! A new command that is neither run nor in the table fails here, and so does an entry of the table whose command no
//! document has any more. The commands run as they are written, but for the substitutions of the table.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a helper of a test may fail the test")]

mod markdown;
mod table;
mod world;

use markdown::{Block, Command, Document};
use world::World;

use std::fmt::Write as _;

#[test]
fn every_entry_of_the_table_is_used_by_a_document() {
    let documents = markdown::documents();
    let commands: Vec<&str> =
        documents.iter().flat_map(Document::commands).map(|command| command.text.as_str()).collect();
    let text: String = documents.iter().map(|document| document.text.as_str()).collect();
    for entry in table::COVERED {
        assert!(commands.contains(&entry.command), "no document has `{}` any more", entry.command);
        let file = std::fs::read_to_string(markdown::root().join(entry.file)).unwrap();
        assert!(file.contains(entry.says), "{} does not say {:?} any more", entry.file, entry.says);
    }
    for (document, command, _) in table::PREPARATIONS {
        let found = documents.iter().filter(|known| known.path == *document).flat_map(Document::commands);
        let found = found.filter(|known| known.text == *command).count();
        assert_eq!(found, 1, "{document}: `{command}`");
    }
    for mention in table::MENTIONS {
        assert!(text.contains(&format!("`{mention}`")), "no document has `{mention}` any more");
    }
    for (written, _) in table::SUBSTITUTIONS {
        assert!(text.contains(written), "no document has {written:?} any more");
    }
    assert!(commands.len() > 30, "only {} commands were found: {commands:#?}", commands.len());
}

#[test]
fn every_block_is_of_a_language_that_is_run() {
    let sources = markdown::sources();
    for document in markdown::documents() {
        for block in &document.blocks {
            let place = format!("{}:{}", document.path, block.line);
            let language = block.language.as_str();
            if let Some((_, name)) = language.split_once(" name=") {
                let tested = sources.iter().any(|source| source.contains(&format!("\"{name}\"")));
                assert!(tested, "{place}: no test takes the block {name}");
                continue;
            }
            let known = ["", "sh", "console", "yaml", "bash", "python"].contains(&language)
                || table::ILLUSTRATIONS.contains(&(document.path.as_str(), language));
            assert!(known, "{place}: e2e/tests/documents does not know how to run {language:?}");
        }
    }
}

#[test]
fn every_command_and_example_of_the_documents_works() {
    if let Some(why) = world::why_not() {
        return skip("the documents' commands", &why);
    }
    let world = World::up();
    let documents = markdown::documents();
    let mut failures = String::new();
    let mut check = |document: &Document, line: usize, ran: Result<(), String>| {
        if let Err(error) = ran {
            let failure = format!("{}:{line}: {error}\n", document.path);
            say(&failure);
            writeln!(failures, "{failure}").unwrap();
        }
    };
    world.install();
    for document in &documents {
        for block in &document.blocks {
            match block.language.as_str() {
                "yaml" => check(document, block.line, world.apply(&block.text)),
                language @ ("bash" | "python") => {
                    check(document, block.line, world.example(language, &block.text));
                }
                _ if block.is_for_pods() => check(document, block.line, world.in_pod(block)),
                _ => {}
            }
        }
    }
    // What people type outside of the pods, from a cluster without Conch on, in the order of each document.
    for document in &documents {
        if document.commands().any(Command::is_for_clusters) {
            world.reset();
        }
        for block in document.blocks.iter().filter(|block| !block.is_for_pods()) {
            check(document, block.line, world.type_in(&document.path, &block.commands));
        }
    }
    assert!(failures.is_empty(), "\n{failures}");
}

/// Says that a test could not run here, in the form that is counted.
fn skip(test: &str, why: &str) {
    say(&format!("SKIPPED {test}: {why}\n"));
}

/// Prints at once; println is shown of failed tests only, and at their end.
fn say(text: &str) {
    std::io::Write::write_all(&mut std::io::stdout(), text.as_bytes()).unwrap();
}

impl Block {
    /// Whether it is to be typed where a program asks its sidecar.
    fn is_for_pods(&self) -> bool {
        let asks =
            |command: &Command| command.text.starts_with("curl ") || command.text.contains("$CONCH_URL");
        self.commands.first().is_some_and(asks)
    }
}

impl Command {
    fn is_for_clusters(&self) -> bool {
        ["kubectl ", "helm "].iter().any(|program| self.text.starts_with(program))
    }
}
