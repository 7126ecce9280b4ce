//! What a machine must have: root, a few programs, and Go where something is to be built.

use std::fs;
use std::path::{Path, PathBuf};

use crate::command::{command, find_program, output};
use crate::error::{Error, Result};

/// A program and the Debian package that brings it.
const PROGRAMS: &[(&str, &str)] = &[
    ("runc", "runc"),
    ("ip", "iproute2"),
    ("nft", "nftables"),
    ("unshare", "util-linux"),
    ("setsid", "util-linux"),
    ("mount", "mount"),
    ("cc", "gcc"),
];
/// Where distributions put the network plugins.
const PLUGIN_DIRECTORIES: &[&str] = &["/usr/lib/cni", "/usr/libexec/cni", "/opt/cni/bin"];
const PLUGINS: &[&str] = &["ptp", "host-local", "loopback"];
const PLUGIN_PACKAGE: &str = "containernetworking-plugins";
/// How many watchers of files a user may have. A node takes about a dozen of the usual 128, and without one a kubelet
/// does not start.
const FILE_WATCHERS: &str = "/proc/sys/fs/inotify/max_user_instances";
const FILE_WATCHERS_NEEDED: u32 = 1024;

/// Checks everything; on Debian and its descendants installs what is missing.
pub fn ensure() -> Result<()> {
    ensure_programs()?;
    ensure_file_watchers();
    Ok(())
}

/// Raises the machine's limit where it is lower than a few clusters need; it falls back with the next boot.
fn ensure_file_watchers() {
    let allowed = fs::read_to_string(FILE_WATCHERS).ok().and_then(|text| text.trim().parse::<u32>().ok());
    if allowed.is_some_and(|allowed| allowed >= FILE_WATCHERS_NEEDED) {
        return;
    }
    let setting = format!("fs.inotify.max_user_instances={FILE_WATCHERS_NEEDED}");
    match fs::write(FILE_WATCHERS, FILE_WATCHERS_NEEDED.to_string()) {
        Ok(()) => eprintln!("set {setting}: kubelets watch many files"),
        // One small cluster may do with what there is.
        Err(error) => eprintln!("could not set {setting} ({error}): with many nodes, kubelets may not start"),
    }
}

fn ensure_programs() -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        return Err(Error::Prerequisite(
            "a cluster needs root for namespaces, cgroups and mounts: run it with sudo".into(),
        ));
    }
    let missing = missing_packages();
    if missing.is_empty() {
        return Ok(());
    }
    let names = missing.join(" ");
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    if !is_debian(&release) || find_program("apt-get").is_none() {
        return Err(Error::Prerequisite(format!(
            "missing: {}. Install the packages that bring them (on Debian: apt-get install {names})",
            missing_things().join(", ")
        )));
    }
    eprintln!("installing {names} with apt-get, for: {}", missing_things().join(", "));
    let quiet = ("DEBIAN_FRONTEND", "noninteractive");
    output(command("apt-get").args(["update", "-qq"]).env(quiet.0, quiet.1))?;
    let install = ["install", "-y", "-qq", "--no-install-recommends"];
    output(command("apt-get").args(install).args(&missing).env(quiet.0, quiet.1))?;
    match missing_things() {
        still if still.is_empty() => Ok(()),
        still => {
            Err(Error::Prerequisite(format!("still missing after installing {names}: {}", still.join(", "))))
        }
    }
}

/// The folder with the network plugins.
pub(crate) fn plugin_directory() -> Result<PathBuf> {
    let complete =
        |directory: &&&str| PLUGINS.iter().all(|plugin| Path::new(directory).join(plugin).is_file());
    PLUGIN_DIRECTORIES.iter().find(complete).map(PathBuf::from).ok_or_else(|| {
        Error::Prerequisite(format!("the network plugins are missing: install {PLUGIN_PACKAGE}"))
    })
}

/// Checks that Go can build sources with the given module file.
pub(crate) fn check_go(files: &[(&str, &str)]) -> Result<()> {
    let module = files.iter().find(|(name, _)| *name == "go.mod").map_or("", |(_, content)| content);
    let needed = required_go(module);
    let advice = "install it from its home page (Debian's package is older), put its bin folder into PATH and try again";
    if find_program("go").is_none() {
        return Err(Error::Prerequisite(format!("Go {needed} or newer is missing: {advice}")));
    }
    // Without a module in reach, `go version` is the installed one; with GOTOOLCHAIN=auto a newer one is fetched.
    let installed = output(command("go").args(["env", "GOVERSION", "GOTOOLCHAIN"]).current_dir("/"))?;
    let mut lines = installed.lines();
    let version = lines.next().unwrap_or_default().trim_start_matches("go");
    let fetches = !lines.next().unwrap_or_default().starts_with("local")
        && parse_version(version) >= parse_version("1.21");
    if fetches || parse_version(version) >= parse_version(&needed) {
        return Ok(());
    }
    Err(Error::Prerequisite(format!(
        "Go {version} is too old, {needed} is needed: {advice}, or set GOTOOLCHAIN=auto (from Go 1.21 on)"
    )))
}

/// The Go version that a module file asks for.
fn required_go(module: &str) -> String {
    let line = module.lines().find_map(|line| line.strip_prefix("go "));
    line.unwrap_or("1.26").trim().to_owned()
}

fn parse_version(text: &str) -> Vec<u32> {
    text.split('.').map_while(|part| part.parse().ok()).collect()
}

fn missing_packages() -> Vec<&'static str> {
    let mut packages: Vec<&str> = PROGRAMS
        .iter()
        .filter(|(program, _)| find_program(program).is_none())
        .map(|(_, package)| *package)
        .collect();
    if packages.contains(&"gcc") {
        packages.push("libc6-dev");
    }
    if plugin_directory().is_err() {
        packages.push(PLUGIN_PACKAGE);
    }
    packages.dedup();
    packages
}

fn missing_things() -> Vec<String> {
    let mut things: Vec<String> = PROGRAMS
        .iter()
        .filter(|(program, _)| find_program(program).is_none())
        .map(|(program, _)| (*program).to_owned())
        .collect();
    if plugin_directory().is_err() {
        things.push(format!("the network plugins {}", PLUGINS.join(", ")));
    }
    things
}

fn is_debian(release: &str) -> bool {
    release
        .lines()
        .filter_map(|line| line.split_once('='))
        .filter(|(key, _)| *key == "ID" || *key == "ID_LIKE")
        .any(|(_, value)| value.trim_matches('"').split(' ').any(|id| id == "debian" || id == "ubuntu"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debian_and_its_descendants_are_recognised() {
        assert!(is_debian("NAME=\"Debian\"\nID=debian\n"));
        assert!(is_debian("ID=linuxmint\nID_LIKE=\"ubuntu debian\"\n"));
        assert!(!is_debian("ID=fedora\nPRETTY_NAME=\"not debian\"\n"));
    }

    #[test]
    fn versions_are_compared_as_numbers() {
        assert!(parse_version("1.26.8") > parse_version("1.26.0"));
        assert!(parse_version("1.9") < parse_version("1.26"));
        assert!(parse_version("1.26rc1") < parse_version("1.26.0"));
        assert_eq!(required_go("module x\n\ngo 1.26.4\n"), "1.26.4");
    }
}
