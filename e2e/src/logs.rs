//! The probes' logs, read as they grow.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

use crate::checker::{History, Run};
use crate::error::{Error, Result, at};

/// A directory of logs, and what was read of it so far.
#[derive(Debug)]
pub(crate) struct Logs {
    directory: PathBuf,
    files: BTreeMap<PathBuf, Followed>,
}

#[derive(Debug)]
struct Followed {
    /// Up to the last line break.
    bytes_read: u64,
    run: Run,
}

impl Logs {
    pub(crate) fn of(directory: PathBuf) -> Self {
        Self { directory, files: BTreeMap::new() }
    }

    /// Everything that was written up to now.
    pub(crate) fn read(&mut self) -> Result<History> {
        let directory = &self.directory;
        for entry in fs::read_dir(directory).map_err(at("read", directory))? {
            let path = entry.map_err(at("read", directory))?.path();
            let new =
                || Followed { bytes_read: 0, run: Run { pod: pod_of(&path), lines: Vec::new(), died: None } };
            let followed = self.files.entry(path.clone()).or_insert_with(new);
            followed.read(&path)?;
        }
        Ok(History { runs: self.files.values().map(|followed| followed.run.clone()).collect() })
    }
}

impl Followed {
    fn read(&mut self, path: &Path) -> Result<()> {
        let mut file = File::open(path).map_err(at("open", path))?;
        file.seek(SeekFrom::Start(self.bytes_read)).map_err(at("read", path))?;
        let mut text = String::new();
        file.read_to_string(&mut text).map_err(at("read", path))?;
        // What follows the last line break was cut short by a kill, or is being written.
        let whole = text.rfind('\n').map_or("", |end| &text[..=end]);
        for line in whole.lines() {
            let line = line.parse().map_err(|source| Error::Log { path: path.to_owned(), source })?;
            self.run.lines.push(line);
        }
        self.bytes_read += whole.len() as u64;
        Ok(())
    }
}

/// The files are named `<pod>_<uid>.<start>.log`.
fn pod_of(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.split('.').next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use conch_probe::Line;
    use std::io::Write as _;

    #[test]
    fn a_growing_log_is_read_once_and_only_whole_lines_count() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("probe-x_uid.17.log");
        let mut file = File::create(&path).unwrap();
        let mut logs = Logs::of(directory.path().to_owned());
        write!(file, "start 1\nno 2 3\nexi").unwrap();
        let history = logs.read().unwrap();
        assert_eq!(history.runs[0].pod, "probe-x_uid");
        assert_eq!(history.runs[0].lines, [Line::Start { at: 1 }, Line::No { asked: 2, answered: 3 }]);
        writeln!(file, "t 4").unwrap();
        assert_eq!(logs.read().unwrap().runs[0].lines.len(), 3);
        assert_eq!(logs.read().unwrap().ended("probe-x_uid"), Some(4));
        writeln!(file, "what").unwrap();
        assert!(matches!(logs.read(), Err(Error::Log { .. })));
    }
}
