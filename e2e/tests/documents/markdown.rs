//! Commands and examples in Markdown.

use std::fs;
use std::path::{Path, PathBuf};

use crate::table::MENTIONS;

/// A sentence may hold a command of these in backquotes. In a block for the shell every line is a command.
const PROGRAMS: &[&str] = &[
    "apt-get",
    "cargo",
    "conch-cluster",
    "curl",
    "docker",
    "export",
    "git",
    "go",
    "helm",
    "kind",
    "kubectl",
    "make",
    "skopeo",
    "time",
];

/// A Markdown file.
#[derive(Debug)]
pub(crate) struct Document {
    /// From the root of the repository.
    pub(crate) path: String,
    pub(crate) text: String,
    /// Blocks of code; a command in a sentence is a block too. In the document's order.
    pub(crate) blocks: Vec<Block>,
}

/// Code.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Block {
    /// Of its first line.
    pub(crate) line: usize,
    /// What stands behind the fence, with ` name=NAME` where a test takes the block by its name; `sh` of a command in a sentence.
    pub(crate) language: String,
    pub(crate) text: String,
    /// Of a block for the shell.
    pub(crate) commands: Vec<Command>,
}

/// What a reader types.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Command {
    /// Without prompt and comment.
    pub(crate) text: String,
    /// What the document shows beneath it.
    pub(crate) output: String,
}

impl Document {
    fn new(path: String, text: String) -> Self {
        let blocks = blocks(&text);
        Self { path, text, blocks }
    }

    pub(crate) fn commands(&self) -> impl Iterator<Item = &Command> {
        self.blocks.iter().flat_map(|block| &block.commands)
    }
}

/// The root of the repository.
pub(crate) fn root() -> PathBuf {
    conch_images::workspace_directory()
}

/// Every Markdown file of the repository, sorted by path.
pub(crate) fn documents() -> Vec<Document> {
    let root = root();
    let read = |path: &PathBuf| {
        let name = path.strip_prefix(&root).unwrap().to_str().unwrap().to_owned();
        Document::new(name, fs::read_to_string(path).unwrap())
    };
    files_of("md").iter().map(read).collect()
}

/// The Rust files of the repository.
pub(crate) fn sources() -> Vec<String> {
    files_of("rs").iter().map(|path| fs::read_to_string(path).unwrap()).collect()
}

fn files_of(extension: &str) -> Vec<PathBuf> {
    let mut files = Vec::new();
    find(&root(), extension, &mut files);
    files.sort();
    files
}

fn find(directory: &Path, extension: &str, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        // What is built, and what Git keeps.
        if path.is_dir() && !name.starts_with('.') && !["target", "out"].contains(&name) {
            find(&path, extension, files);
        } else if path.extension().is_some_and(|found| found == extension) {
            files.push(path);
        }
    }
}

fn blocks(text: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut prose = String::new();
    let mut prose_line = 1;
    let mut lines = text.lines().enumerate();
    while let Some((number, line)) = lines.next() {
        let Some(language) = line.trim_start().strip_prefix("```") else {
            prose += line;
            prose.push('\n');
            continue;
        };
        blocks.extend(in_sentences(&prose, prose_line));
        prose.clear();
        let mut block = Block { line: number + 2, language: language.to_owned(), ..Block::default() };
        for (end, line) in lines.by_ref() {
            prose_line = end + 2;
            if line.trim_start().starts_with("```") {
                break;
            }
            block.text += line;
            block.text.push('\n');
        }
        block.commands = commands(&block);
        blocks.push(block);
    }
    blocks.extend(in_sentences(&prose, prose_line));
    blocks
}

/// Commands in backquotes: a program that is known, and at least one more word.
fn in_sentences(prose: &str, first_line: usize) -> Vec<Block> {
    let mut line = first_line;
    let mut blocks = Vec::new();
    for (number, piece) in prose.split('`').enumerate() {
        let text = piece.replace("\\|", "|").split_whitespace().collect::<Vec<_>>().join(" ");
        if number % 2 == 1 && is_command(&text) && !MENTIONS.contains(&text.as_str()) {
            let commands = vec![Command { text: text.clone(), output: String::new() }];
            blocks.push(Block { line, language: "sh".to_owned(), text, commands });
        }
        line += piece.matches('\n').count();
    }
    blocks
}

fn is_command(text: &str) -> bool {
    let mut words = text.split(' ').skip_while(|word| is_assignment(word));
    words.next().is_some_and(|program| PROGRAMS.contains(&program)) && words.next().is_some()
}

fn is_assignment(word: &str) -> bool {
    let name = word.split_once('=').map_or("", |(name, _)| name);
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_')
}

fn commands(block: &Block) -> Vec<Command> {
    let joined = block.text.replace("\\\n", " ");
    let mut commands: Vec<Command> = Vec::new();
    for line in joined.lines() {
        let typed = match block.language.as_str() {
            "sh" => Some(line),
            "console" => line.strip_prefix("$ "),
            // A drawing may hold a command, too.
            "" => is_command(line.trim()).then_some(line),
            _ => None,
        };
        match (typed, commands.last_mut()) {
            (Some(line), _) if without_comment(line).is_empty() => {}
            (Some(line), _) => {
                commands.push(Command { text: without_comment(line), output: String::new() });
            }
            (None, Some(last)) if block.language == "console" => last.output += line,
            (None, _) => {}
        }
    }
    commands
}

/// A comment begins with `#` behind a blank, outside of quotes.
fn without_comment(line: &str) -> String {
    let mut quote = None;
    let mut before = ' ';
    for (position, character) in line.char_indices() {
        match (quote, character) {
            (None, '#') if before.is_whitespace() => return line[..position].trim().to_owned(),
            (None, '"' | '\'') => quote = Some(character),
            (Some(open), _) if open == character && before != '\\' => quote = None,
            _ => {}
        }
        before = character;
    }
    line.trim().to_owned()
}

#[test]
fn commands_are_found_in_blocks_sentences_and_drawings() {
    let text = "Say `make test` or\n`FOO=1 cargo run\n-- x`, not `make` or `x y`.\n\n```console\n$ curl -f x # why\n\
        {\"a\":1}\n```\n\n```sh\n# first\nkubectl get \\\n  pods -l 'a=#b'   # then\n```\n```\n  kubectl get x\n  box\n```\n\
        ```yaml\nkind: X\n```\nThen `go mod tidy`.\n";
    let document = Document::new("x.md".to_owned(), text.to_owned());
    let commands: Vec<_> = document.commands().map(|command| command.text.as_str()).collect();
    let expected = [
        "make test",
        "FOO=1 cargo run -- x",
        "curl -f x",
        "kubectl get    pods -l 'a=#b'",
        "kubectl get x",
        "go mod tidy",
    ];
    assert_eq!(commands, expected);
    assert_eq!(document.commands().nth(2).unwrap().output, "{\"a\":1}");
    let lines: Vec<_> = document.blocks.iter().map(|block| block.line).collect();
    assert_eq!(lines, [1, 2, 6, 11, 16, 20, 22]);
}
