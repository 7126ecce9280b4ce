//! The `Dockerfile`, for people who have Docker, says the same as what builds the images without it.

use std::fs;
use std::path::Path;

use crate::archive::{USER_ID, group, passwd};
use crate::build::{Platform, Program, static_flags, workspace_directory};

/// What is published.
const PROGRAMS: [Program; 2] = [Program::Sidecar, Program::Operator];

/// One stage: its name, and its instructions with their arguments.
struct Stage {
    name: String,
    base: String,
    instructions: Vec<(String, String)>,
}

impl Stage {
    fn all(&self, instruction: &str) -> Vec<&str> {
        let found = self.instructions.iter().filter(|(name, _)| name == instruction);
        found.map(|(_, arguments)| arguments.as_str()).collect()
    }
}

fn stages() -> Vec<Stage> {
    let text = fs::read_to_string(workspace_directory().join("Dockerfile")).unwrap().replace("\\\n", " ");
    let mut stages: Vec<Stage> = Vec::new();
    for line in text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
        let (name, arguments) = line.split_once(' ').unwrap();
        let arguments = arguments.trim().to_owned();
        if name == "FROM" {
            let (base, name) = arguments.split_once(" AS ").unwrap();
            stages.push(Stage { name: name.to_owned(), base: base.to_owned(), instructions: Vec::new() });
        } else {
            stages.last_mut().unwrap().instructions.push((name.to_owned(), arguments));
        }
    }
    stages
}

#[test]
fn the_dockerfile_builds_with_the_same_toolchain_targets_and_flags() {
    let build = &stages()[0];
    assert_eq!(build.base, format!("rust:{}-bookworm", env!("CARGO_PKG_RUST_VERSION")));
    let directory = build.all("WORKDIR")[0];
    // Where the image rust has its CARGO_HOME.
    let flags = static_flags(Path::new(directory), Some(Path::new("/usr/local/cargo")));
    assert_eq!(build.all("ENV"), [format!("RUSTFLAGS=\"{flags}\"")]);
    let run = build.all("RUN")[0];
    for architecture in ["x86_64", "aarch64"] {
        let triple = Platform::of(architecture).unwrap().triple;
        assert_eq!(triple.replace(architecture, "$(uname -m)"), "$(uname -m)-unknown-linux-gnu");
    }
    assert!(run.contains("target=\"$(uname -m)-unknown-linux-gnu\""), "{run}");
    assert!(run.contains("cargo build --locked --release --target \"$target\" "), "{run}");
    for program in PROGRAMS {
        assert!(run.contains(&format!("--package {}", program.name())), "{run}");
        assert!(run.contains(&format!("\"target/$target/release/{}\"", program.name())), "{run}");
    }
    for (file, text) in [("passwd", passwd()), ("group", group())] {
        let printed = format!("printf '{}' > /root-directory/etc/{file}", text.replace('\n', "\\n"));
        assert!(run.contains(&printed), "{printed} is not in {run}");
    }
}

#[test]
fn the_dockerfile_makes_the_same_images() {
    let stages = stages();
    for program in PROGRAMS {
        let name = program.name();
        let stage = stages.iter().find(|stage| name == format!("conch-{}", stage.name)).unwrap();
        assert_eq!(stage.base, "scratch");
        assert_eq!(stage.all("USER"), [format!("{USER_ID}:{USER_ID}")]);
        assert_eq!(stage.all("ENTRYPOINT"), [format!("[\"/{name}\"]")]);
        let copies = ["--from=build /root-directory/ /".to_owned(), format!("--from=build /{name} /{name}")];
        assert_eq!(stage.all("COPY"), copies);
    }
    assert_eq!(stages.len(), 1 + PROGRAMS.len());
}

#[test]
fn everything_that_the_dockerfile_copies_is_there() {
    let root = workspace_directory();
    let ignored = fs::read_to_string(root.join(".dockerignore")).unwrap();
    for copied in stages()[0].all("COPY") {
        let (sources, _) = copied.rsplit_once(' ').unwrap();
        for source in sources.split(' ') {
            assert!(root.join(source).exists(), "{source}");
        }
    }
    // Cargo wants every member of the workspace, and what they include.
    let needed = ["Cargo.toml", "Cargo.lock", "crds", "sidecar", "operator", "e2e", "fuzz"];
    for line in ignored.lines() {
        assert!(!needed.contains(&line), "the build needs {line}");
    }
}
