//! A corpus as a text file: one input a line, so that it can be read, and added to, by people.

use std::{fmt::Write, fs, io, path::PathBuf};

/// The file that holds the corpus of a target.
pub fn path(target: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("corpus").join(format!("{target}.txt"))
}

/// The inputs that are kept for a target.
pub fn read(target: &str) -> io::Result<Vec<Vec<u8>>> {
    let broken = |line: &str| io::Error::other(format!("no input of a corpus: {line}"));
    fs::read_to_string(path(target))?.lines().map(|line| unescape(line).ok_or_else(|| broken(line))).collect()
}

/// Keeps these inputs for a target, each once, and no others.
pub fn write(target: &str, inputs: &[Vec<u8>]) -> io::Result<()> {
    let mut lines: Vec<String> = inputs.iter().map(|input| escape(input)).collect();
    lines.sort();
    lines.dedup();
    fs::write(path(target), lines.into_iter().fold(String::new(), |text, line| text + &line + "\n"))
}

/// Printable ASCII as it is, `\r`, `\n`, `\t`, `\\`, and any other byte as `\xff`.
fn escape(input: &[u8]) -> String {
    input.iter().fold(String::new(), |mut line, byte| {
        match byte {
            b'\r' => line.push_str("\\r"),
            b'\n' => line.push_str("\\n"),
            b'\t' => line.push_str("\\t"),
            b'\\' => line.push_str("\\\\"),
            b' '..=b'~' => line.push(char::from(*byte)),
            _ => {
                let _ = write!(line, "\\x{byte:02x}"); // a string takes everything
            }
        }
        line
    })
}

fn unescape(line: &str) -> Option<Vec<u8>> {
    let mut rest = line.bytes();
    let mut input = Vec::new();
    while let Some(byte) = rest.next() {
        input.push(match byte {
            b'\\' => match rest.next()? {
                b'r' => b'\r',
                b'n' => b'\n',
                b't' => b'\t',
                b'\\' => b'\\',
                b'x' => {
                    let digits = [rest.next()?, rest.next()?];
                    u8::from_str_radix(str::from_utf8(&digits).ok()?, 16).ok()?
                }
                _ => return None,
            },
            byte => byte,
        });
    }
    Some(input)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_is_read_as_it_was_written_and_stays_in_its_line() {
        let every: Vec<u8> = (0..=u8::MAX).collect();
        let line = escape(&every);
        assert!(line.bytes().all(|byte| (b' '..=b'~').contains(&byte)), "{line}");
        assert_eq!(unescape(&line), Some(every));
        assert_eq!(unescape("a\\"), None);
        assert_eq!(unescape("\\x4"), None);
    }
}
