//! The table of values in the chart's README, from the comments in `values.yaml`.

use crate::manifests::{Manifest, chart};
use std::{error::Error, fmt::Write, fs};

const BEGIN: &str = "<!-- values -->\n";
const END: &str = "<!-- /values -->\n";

/// The README with its table.
pub(crate) fn readme() -> Result<Manifest, Box<dyn Error>> {
    let path = chart().join("README.md");
    let readme = fs::read_to_string(&path)?;
    let (head, rest) = readme.split_once(BEGIN).ok_or("the README has no place for the values")?;
    let (_, tail) = rest.split_once(END).ok_or("the README's place for the values has no end")?;
    let table = table(&fs::read_to_string(chart().join("values.yaml"))?)?;
    Ok(Manifest { content: format!("{head}{BEGIN}{table}{END}{tail}"), path })
}

/// One row for each value with a comment that begins with `# --`.
fn table(values: &str) -> Result<String, Box<dyn Error>> {
    let mut rows = String::from("| Value | Default | Meaning |\n|---|---|---|\n");
    let mut path: Vec<&str> = Vec::new();
    let mut comment = String::new();
    for line in values.lines() {
        let depth = (line.len() - line.trim_start().len()) / 2;
        let line = line.trim();
        if let Some(begin) = line.strip_prefix("# -- ") {
            begin.clone_into(&mut comment);
        } else if let Some(more) = line.strip_prefix("# ") {
            comment = format!("{comment} {more}");
        } else if let Some((key, default)) = line.split_once(':') {
            path.truncate(depth);
            path.push(key);
            if default.is_empty() {
                continue;
            }
            if comment.is_empty() {
                return Err(format!("{} has no comment that begins with \"# --\"", path.join(".")).into());
            }
            writeln!(rows, "| `{}` | `{}` | {comment} |", path.join("."), default.trim())?;
            comment.clear();
        }
    }
    Ok(rows)
}
