//! Image archives: kept in the cluster's directory and imported into every node's containerd.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use crate::error::{Context, Error, Result};
use crate::layout::Layout;

/// Imports every kept archive that a node does not have yet, oldest first: a later one may replace a name.
pub(crate) fn import_all(layout: &Layout, number: usize, ctr: &dyn Fn(&[&str]) -> Result<()>) -> Result<()> {
    let directory = layout.images();
    let mut archives: Vec<PathBuf> =
        fs::read_dir(&directory).at("read", &directory)?.flatten().map(|entry| entry.path()).collect();
    archives.retain(|path| path.extension().is_some_and(|extension| extension == "tar"));
    archives.sort_by_key(|path| fs::metadata(path).and_then(|data| data.modified()).unwrap_or(UNIX_EPOCH));
    archives.iter().try_for_each(|archive| import(layout, number, archive, ctr))
}

/// Imports one archive into a node's containerd, unless it has it.
pub(crate) fn import(
    layout: &Layout,
    number: usize,
    archive: &Path,
    ctr: &dyn Fn(&[&str]) -> Result<()>,
) -> Result<()> {
    let marks = layout.node(number).join("imported");
    fs::create_dir_all(&marks).at("create", &marks)?;
    let mark = marks.join(archive.file_name().unwrap_or_default());
    let data = fs::metadata(archive).at("read", archive)?;
    let changed =
        data.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok()).unwrap_or_default();
    let current = format!("{} {}", data.len(), changed.as_nanos());
    if fs::read_to_string(&mark).is_ok_and(|known| known == current) {
        return Ok(());
    }
    let socket = layout.containerd_socket(number);
    ctr(&["--address", text(&socket)?, "--namespace", "k8s.io", "images", "import", text(archive)?])?;
    fs::write(&mark, current).at("write", &mark)
}

/// Copies an archive to the cluster's directory, whole or not at all.
pub(crate) fn keep(layout: &Layout, archive: &Path) -> Result<PathBuf> {
    let name =
        archive.file_stem().ok_or_else(|| Error::Invalid(format!("{} is no file", archive.display())))?;
    let mut file_name = name.to_owned();
    file_name.push(".tar");
    let kept = layout.images().join(file_name);
    let new = kept.with_extension("new");
    fs::copy(archive, &new).at("copy", archive)?;
    fs::rename(&new, &kept).at("write", &kept)?;
    Ok(kept)
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().ok_or_else(|| Error::Invalid(format!("{} is not valid UTF-8", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;

    #[test]
    fn an_archive_is_imported_once_until_it_changes() {
        let directory = tempfile::tempdir().unwrap();
        let layout = Layout::under(directory.path(), "c").unwrap();
        fs::create_dir_all(layout.images()).unwrap();
        let archive = directory.path().join("x.tar");
        fs::write(&archive, "one").unwrap();
        keep(&layout, &archive).unwrap();
        let calls = RefCell::new(0);
        let ctr = |_: &[&str]| {
            *calls.borrow_mut() += 1;
            Ok(())
        };
        import_all(&layout, 1, &ctr).unwrap();
        import_all(&layout, 1, &ctr).unwrap();
        assert_eq!(*calls.borrow(), 1);
        fs::write(&archive, "changed").unwrap();
        keep(&layout, &archive).unwrap();
        import_all(&layout, 1, &ctr).unwrap();
        assert_eq!(*calls.borrow(), 2);
    }
}
