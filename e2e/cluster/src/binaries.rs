//! The programs of a cluster: built once from Go modules, cached by the hash of what they are built from.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::command::{command, output};
use crate::error::{Context, Error, Result};
use crate::prerequisites::check_go;
use crate::progress::Progress;

/// Built into the version that the API server and kubectl report.
const KUBERNETES_LDFLAGS: &str = "-s -w -X k8s.io/component-base/version.gitVersion=v1.37.1 \
    -X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=37 \
    -X k8s.io/client-go/pkg/version.gitVersion=v1.37.1";

/// The program of the Kubernetes module goes by the name that it is called by.
const KUBERNETES_NAMES: &[&str] = &[
    "etcd",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kube-proxy",
    "kubelet",
    "kubectl",
];

/// One folder of sources and the command that builds it.
struct Source {
    name: &'static str,
    files: &'static [(&'static str, &'static str)],
    /// The program to run and its arguments; the result goes to the folder `out`.
    build: &'static [&'static str],
    /// Names to link to the first program.
    aliases: (&'static str, &'static [&'static str]),
    takes: &'static str,
}

const SOURCES: &[Source] = &[
    Source {
        name: "kubernetes",
        files: &[
            ("go.mod", include_str!("../go/kubernetes/go.mod")),
            ("go.sum", include_str!("../go/kubernetes/go.sum")),
            ("main.go", include_str!("../go/kubernetes/main.go")),
        ],
        build: &[
            "go",
            "build",
            "-trimpath",
            "-buildvcs=false",
            "-ldflags",
            KUBERNETES_LDFLAGS,
            "-o",
            "out/kube",
            ".",
        ],
        aliases: ("kube", KUBERNETES_NAMES),
        takes: "about 9 minutes on two cores the first time",
    },
    Source {
        name: "runtime",
        files: &[
            ("go.mod", include_str!("../go/runtime/go.mod")),
            ("go.sum", include_str!("../go/runtime/go.sum")),
        ],
        build: &[
            "go",
            "build",
            "-trimpath",
            "-buildvcs=false",
            "-tags",
            "no_btrfs no_zfs no_devmapper no_aufs",
            "-ldflags",
            "-s -w",
            "-o",
            "out/",
            "github.com/containerd/containerd/v2/cmd/containerd",
            "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2",
            "github.com/containerd/containerd/v2/cmd/ctr",
            "helm.sh/helm/v4/cmd/helm",
        ],
        aliases: ("", &[]),
        takes: "about 3 minutes on two cores the first time",
    },
    Source {
        name: "coredns",
        files: &[
            ("go.mod", include_str!("../go/coredns/go.mod")),
            ("go.sum", include_str!("../go/coredns/go.sum")),
            ("main.go", include_str!("../go/coredns/main.go")),
        ],
        build: &[
            "go",
            "build",
            "-trimpath",
            "-buildvcs=false",
            "-ldflags",
            "-s -w",
            "-o",
            "out/coredns",
            ".",
        ],
        aliases: ("", &[]),
        takes: "about 1 minute on two cores the first time",
    },
    Source {
        name: "pause",
        files: &[("pause.c", include_str!("../assets/pause.c"))],
        build: &["cc", "-static", "-Os", "-s", "-o", "out/pause", "pause.c"],
        aliases: ("", &[]),
        takes: "a second",
    },
];

/// Where each program of a cluster is.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Binaries {
    /// One folder for each source, in the order of the sources.
    folders: Vec<PathBuf>,
}

impl Binaries {
    /// Builds what the cache does not hold yet.
    pub fn ensure() -> Result<Self> {
        Self::ensure_with(&Progress::start())
    }

    pub(crate) fn ensure_with(progress: &Progress) -> Result<Self> {
        let cache = cache_directory()?;
        fs::create_dir_all(&cache).at("create", &cache)?;
        let lock = File::open(&cache).at("open", &cache)?;
        // Two builds at once would do the same work twice.
        lock.lock().at("lock", &cache)?;
        let mut folders = Vec::new();
        // All at first: no one should wait for minutes to learn that the second build needs a newer Go.
        let to_build = SOURCES.iter().filter(|source| !folder(&cache, source).is_dir());
        to_build
            .filter(|source| source.build.first() == Some(&"go"))
            .try_for_each(|source| check_go(source.files))?;
        for source in SOURCES {
            folders.push(ensure_source(&cache, source, progress)?);
        }
        Ok(Self { folders })
    }

    /// The path of a program.
    pub fn path(&self, program: &str) -> Result<PathBuf> {
        self.folders
            .iter()
            .map(|folder| folder.join(program))
            .find(|candidate| candidate.exists())
            .ok_or_else(|| {
                Error::Invalid(format!(
                    "{program} is missing from the cache; `conch-cluster build` builds it"
                ))
            })
    }

    /// The folders that hold the programs.
    pub(crate) fn folders(&self) -> &[PathBuf] {
        &self.folders
    }
}

/// Builds a Go program that is no part of a cluster, in the same way: from a whole module, kept under the hash of its
/// files. `name` is the last part of the module's path; the result is the program's path.
pub fn build_go_program(
    name: &'static str,
    files: &'static [(&'static str, &'static str)],
) -> Result<PathBuf> {
    let build = &["go", "build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w", "-o", "out/", "."];
    let source = Source { name, files, build, aliases: ("", &[]), takes: "a minute the first time" };
    let cache = cache_directory()?;
    fs::create_dir_all(&cache).at("create", &cache)?;
    let lock = File::open(&cache).at("open", &cache)?;
    lock.lock().at("lock", &cache)?;
    if !folder(&cache, &source).is_dir() {
        check_go(files)?;
    }
    Ok(ensure_source(&cache, &source, &Progress::start())?.join(name))
}

/// `$XDG_CACHE_HOME/conch`, or `~/.cache/conch`.
pub fn cache_directory() -> Result<PathBuf> {
    let from = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    from("XDG_CACHE_HOME")
        .filter(|path| path.is_absolute())
        .or_else(|| from("HOME").map(|home| home.join(".cache")))
        .map(|cache| cache.join("conch"))
        .ok_or_else(|| {
            Error::Prerequisite("set HOME or XDG_CACHE_HOME: built programs are kept there".into())
        })
}

/// Where a source's result is kept.
fn folder(cache: &Path, source: &Source) -> PathBuf {
    cache.join(format!("{}-{}", source.name, &key(source)[..16]))
}

fn ensure_source(cache: &Path, source: &Source, progress: &Progress) -> Result<PathBuf> {
    let folder = folder(cache, source);
    if folder.is_dir() {
        return Ok(folder);
    }
    progress.say(&format!("building {}: {}", source.name, source.takes));
    let begun = Instant::now();
    let work = cache.join(format!("building-{}", source.name));
    if work.exists() {
        fs::remove_dir_all(&work).at("remove", &work)?;
    }
    let out = work.join("out");
    fs::create_dir_all(&out).at("create", &out)?;
    for (name, content) in source.files {
        let path = work.join(name);
        fs::write(&path, content).at("write", &path)?;
    }
    let (program, arguments) = source.build.split_first().unwrap_or((&"true", &[]));
    // GOFLAGS of the caller may hold -mod=mod, which would change what is built.
    let environment = [("CGO_ENABLED", "0"), ("GOFLAGS", "-mod=readonly"), ("GOWORK", "off")];
    output(command(program).args(arguments).current_dir(&work).envs(environment))?;
    let (target, aliases) = source.aliases;
    for alias in aliases {
        let link = out.join(alias);
        std::os::unix::fs::symlink(target, &link).at("link", &link)?;
    }
    // Renamed only when whole: an interrupted build is never taken for a finished one.
    fs::rename(&out, &folder).at("move the build to", &folder)?;
    fs::remove_dir_all(&work).at("remove", &work)?;
    progress.say(&format!("built {} in {} s", source.name, begun.elapsed().as_secs()));
    Ok(folder)
}

/// The hash of all that decides a build's result.
fn key(source: &Source) -> String {
    let mut hash = Sha256::new();
    let mut add = |text: &str| {
        // With the length in front, no two lists of texts give the same bytes.
        hash.update((text.len() as u64).to_le_bytes());
        hash.update(text);
    };
    add(std::env::consts::ARCH);
    for (name, content) in source.files {
        add(name);
        add(content);
    }
    source.build.iter().chain(source.aliases.1).for_each(|word| add(word));
    hex(&hash.finalize())
}

/// Lower-case hexadecimal digits.
fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn source(files: &'static [(&'static str, &'static str)]) -> Source {
        Source { name: "x", files, build: &["true"], aliases: ("", &[]), takes: "" }
    }

    #[test]
    fn the_key_depends_on_names_and_contents_of_files() {
        let one = key(&source(&[("go.mod", "a"), ("go.sum", "b")]));
        assert_eq!(one, key(&source(&[("go.mod", "a"), ("go.sum", "b")])));
        assert_ne!(one, key(&source(&[("go.mod", "ab"), ("go.sum", "")])));
        assert_ne!(one, key(&source(&[("go.mod", "a")])));
        assert_eq!(one.len(), 64);
    }

    #[test]
    fn hexadecimal_digits() {
        assert_eq!(hex(&[0, 10, 255]), "000aff");
    }

    #[test]
    fn a_source_is_built_once() {
        let cache = tempfile::tempdir().unwrap();
        let progress = Progress::start();
        let source = Source {
            name: "x",
            files: &[("text", "hello")],
            build: &["cp", "text", "out/program"],
            aliases: ("program", &["alias"]),
            takes: "no time",
        };
        let folder = ensure_source(cache.path(), &source, &progress).unwrap();
        assert_eq!(fs::read_to_string(folder.join("alias")).unwrap(), "hello");
        fs::write(folder.join("program"), "changed").unwrap();
        assert_eq!(ensure_source(cache.path(), &source, &progress).unwrap(), folder);
        assert_eq!(fs::read_to_string(folder.join("program")).unwrap(), "changed", "built a second time");
    }
}
