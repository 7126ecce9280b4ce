//! The databases, as the distribution packages them.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

/// Where Debian puts the servers of PostgreSQL, one folder for each version.
const POSTGRES_VERSIONS: &str = "/usr/lib/postgresql";
static INSTALLATION: Mutex<()> = Mutex::new(());

/// The packages that are still missing after it was tried to install them, which is on Debian and its descendants, as root.
pub fn missing_packages() -> Vec<&'static str> {
    let _one_at_a_time = INSTALLATION.lock().unwrap_or_else(PoisonError::into_inner);
    let missing = look();
    if missing.is_empty() || !rustix::process::geteuid().is_root() || find_program("apt-get").is_none() {
        return missing;
    }
    println!("installing {} with apt-get", missing.join(" "));
    let quiet = |arguments: &[&str]| {
        let mut command = Command::new("apt-get");
        command.args(arguments).env("DEBIAN_FRONTEND", "noninteractive").stdout(std::process::Stdio::null());
        command.status().is_ok_and(|status| status.success())
    };
    let install = ["install", "-y", "-qq", "--no-install-recommends"];
    if !quiet(&["update", "-qq"]) || !quiet(&[&install[..], &missing[..]].concat()) {
        eprintln!("apt-get failed");
    }
    look()
}

fn look() -> Vec<&'static str> {
    let postgres = postgres_programs().is_none().then_some("postgresql");
    let redis = find_program("redis-server").is_none().then_some("redis-server");
    let setpriv = find_program("setpriv").is_none().then_some("util-linux");
    [postgres, redis, setpriv].into_iter().flatten().collect()
}

/// The folder with `initdb` and `postgres`.
pub(crate) fn postgres_programs() -> Option<PathBuf> {
    let complete =
        |folder: &Path| ["initdb", "postgres"].iter().all(|program| folder.join(program).is_file());
    let in_path = find_program("initdb").and_then(|path| path.parent().map(Path::to_owned));
    let versions = fs::read_dir(POSTGRES_VERSIONS).into_iter().flatten().flatten();
    let packaged = versions.map(|version| version.path().join("bin"));
    packaged.chain(in_path).filter(|folder| complete(folder)).max()
}

fn find_program(name: &str) -> Option<PathBuf> {
    let folders = env::var_os("PATH")?;
    env::split_paths(&folders).map(|folder| folder.join(name)).find(|path| path.is_file())
}
