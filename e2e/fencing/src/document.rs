//! The recipes, from the text of the document.

use anyhow::{Context as _, Result};

const DOCUMENT: &str = include_str!("../../../docs/fencing.md");

/// The fenced code block whose first line ends in `name=NAME`, e.g. `sql name=row-write`.
pub(crate) fn recipe(name: &str) -> Result<&'static str> {
    find(DOCUMENT, name).with_context(|| format!("docs/fencing.md holds no code block with name={name}"))
}

fn find<'a>(document: &'a str, name: &str) -> Option<&'a str> {
    let mut blocks = document.split("\n```").skip(1).step_by(2);
    blocks.find_map(|block| {
        let (head, body) = block.split_once('\n')?;
        (head.split(' ').nth(1)?.strip_prefix("name=")? == name).then_some(body)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_found_by_its_whole_name_and_nothing_between_blocks_is_taken_for_one() {
        let document =
            "x\n```sql name=a\nA\n```\n sql name=c\nno\n```lua name=ab\nB\nB\n```\n```\nplain\n```\n";
        assert_eq!(find(document, "a"), Some("A"));
        assert_eq!(find(document, "ab"), Some("B\nB"));
        assert_eq!(find(document, "b"), None);
        assert_eq!(find(document, "c"), None);
    }
}
