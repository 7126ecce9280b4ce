//! From the workspace to image files: one `cargo build`, one archive for each program.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};

use crate::archive::{Image, ImageError};

/// The most that the sidecar's image may take on a node: it runs beside every candidate.
pub const SIDECAR_IMAGE_MAX_BYTES: u64 = 10 * 1_000 * 1_000;

/// A program of this workspace that gets an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Program {
    /// `conch-operator`.
    Operator,
    /// `conch-sidecar`.
    Sidecar,
    /// `conch-probe`: the program that asks, in the tests and the demo. It is not published.
    Probe,
}

impl Program {
    /// Every program.
    pub const ALL: [Self; 3] = [Self::Operator, Self::Sidecar, Self::Probe];

    /// Name of the package, the binary and the image file.
    pub fn name(self) -> &'static str {
        match self {
            Self::Operator => "conch-operator",
            Self::Sidecar => "conch-sidecar",
            Self::Probe => "conch-probe",
        }
    }

    /// Full reference of the image, without the tag.
    pub fn repository(self) -> String {
        format!("ghcr.io/conch-rs/{}", self.name())
    }

    /// Full reference of the image.
    pub fn reference(self) -> String {
        format!("{}:{}", self.repository(), env!("CARGO_PKG_VERSION"))
    }

    fn description(self) -> &'static str {
        match self {
            Self::Operator => "Conch: leader election for any program in Kubernetes: the operator",
            Self::Sidecar => "Conch: leader election for any program in Kubernetes: the sidecar",
            Self::Probe => "Conch: the program of the tests, which asks who leads",
        }
    }
}

/// What to build, and how.
#[derive(Debug, Clone)]
pub struct Build {
    /// The profile of the root `Cargo.toml`.
    pub profile: String,
    /// Where the archives go.
    pub output: PathBuf,
    /// Which programs.
    pub programs: Vec<Program>,
}

/// One image file.
#[derive(Debug, Clone)]
pub struct Built {
    /// Which program.
    pub program: Program,
    /// The archive.
    pub path: PathBuf,
    /// The image's digest.
    pub digest: String,
    /// Size of the binary in bytes.
    pub binary_bytes: u64,
    /// What a node stores, in bytes.
    pub stored_bytes: u64,
}

/// Why the images could not be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The images are for the machine that builds them, and no static build is known for this one.
    #[error("no static build for {0}: images are built on x86_64 or aarch64 Linux, for the same")]
    Architecture(&'static str),
    /// A file could not be read or written.
    #[error("failed to {action} {}", path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// Cargo could not be started.
    #[error("failed to run cargo")]
    Cargo(#[source] io::Error),
    /// Cargo says no; it has printed why.
    #[error("cargo build ended with {0}")]
    Failed(ExitStatus),
    /// The binary makes no image.
    #[error("failed to make the image of {program}")]
    Image {
        /// Of which program.
        program: &'static str,
        /// Why.
        source: ImageError,
    },
    /// The sidecar's image has grown too large.
    #[error("the sidecar's image takes {0} bytes; at most {SIDECAR_IMAGE_MAX_BYTES} are allowed")]
    SidecarTooLarge(u64),
}

impl Build {
    /// Builds the binaries and writes the archives.
    ///
    /// # Errors
    /// Cargo fails, a file cannot be written, a binary is not static, or the sidecar's image is too large.
    pub fn run(&self) -> Result<Vec<Built>, BuildError> {
        let platform = Platform::of(std::env::consts::ARCH)?;
        let binaries = self.compile(platform)?;
        fs::create_dir_all(&self.output).map_err(at("create", &self.output))?;
        self.programs.iter().map(|program| self.pack(*program, platform, &binaries)).collect()
    }

    /// Returns the directory of the binaries.
    fn compile(&self, platform: Platform) -> Result<PathBuf, BuildError> {
        let root = workspace_directory();
        let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
        let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo.current_dir(&root).args([
            "build",
            "--locked",
            "--profile",
            &self.profile,
            "--target",
            platform.triple,
        ]);
        for program in &self.programs {
            cargo.args(["-p", program.name()]);
        }
        let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
        let home = home.or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".cargo")));
        cargo.env("RUSTFLAGS", static_flags(&root, home.as_deref()));
        let status = cargo.status().map_err(BuildError::Cargo)?;
        if !status.success() {
            return Err(BuildError::Failed(status));
        }
        // Cargo's one irregular name.
        let directory = if self.profile == "dev" { "debug" } else { &self.profile };
        Ok(target.join(platform.triple).join(directory))
    }

    fn pack(&self, program: Program, platform: Platform, binaries: &Path) -> Result<Built, BuildError> {
        let source = binaries.join(program.name());
        let binary = fs::read(&source).map_err(at("read", &source))?;
        let image = Image {
            name: &program.reference(),
            binary_path: &format!("/{}", program.name()),
            binary: &binary,
            architecture: platform.architecture,
            description: program.description(),
        };
        let archive =
            image.archive().map_err(|source| BuildError::Image { program: program.name(), source })?;
        // Another profile than the one that is shipped says nothing about the size.
        let shipped = program == Program::Sidecar && self.profile == "release";
        if shipped && archive.stored_bytes > SIDECAR_IMAGE_MAX_BYTES {
            return Err(BuildError::SidecarTooLarge(archive.stored_bytes));
        }
        let path = self.output.join(format!("{}.tar", program.name()));
        fs::write(&path, &archive.bytes).map_err(at("write", &path))?;
        Ok(Built {
            program,
            path,
            digest: archive.digest,
            binary_bytes: binary.len() as u64,
            stored_bytes: archive.stored_bytes,
        })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Platform {
    pub(crate) triple: &'static str,
    architecture: &'static str,
}

impl Platform {
    pub(crate) fn of(architecture: &'static str) -> Result<Self, BuildError> {
        match architecture {
            "x86_64" => Ok(Self { triple: "x86_64-unknown-linux-gnu", architecture: "amd64" }),
            "aarch64" => Ok(Self { triple: "aarch64-unknown-linux-gnu", architecture: "arm64" }),
            other => Err(BuildError::Architecture(other)),
        }
    }
}

/// The root of this workspace.
pub fn workspace_directory() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).unwrap_or(here).to_owned()
}

/// No shared library; and no path of this machine in messages, so that the binary is the same wherever it is built.
pub(crate) fn static_flags(root: &Path, cargo_home: Option<&Path>) -> String {
    let flags = format!("-C target-feature=+crt-static --remap-path-prefix={}=/conch", root.display());
    match cargo_home {
        Some(home) => format!("{flags} --remap-path-prefix={}=/cargo", home.display()),
        None => flags,
    }
}

fn at(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> BuildError {
    let path = path.to_owned();
    move |source| BuildError::File { action, path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_built_for_the_two_common_processors_and_others_are_named() {
        assert_eq!(Platform::of("x86_64").unwrap().architecture, "amd64");
        assert_eq!(Platform::of("aarch64").unwrap().triple, "aarch64-unknown-linux-gnu");
        assert!(Platform::of("riscv64").unwrap_err().to_string().contains("riscv64"));
    }

    #[test]
    fn the_workspace_directory_holds_the_lock_file() {
        assert!(workspace_directory().join("Cargo.lock").exists());
    }

    #[test]
    fn references_carry_the_version_of_the_workspace() {
        assert_eq!(
            Program::Sidecar.reference(),
            format!("ghcr.io/conch-rs/conch-sidecar:{}", env!("CARGO_PKG_VERSION"))
        );
    }
}
