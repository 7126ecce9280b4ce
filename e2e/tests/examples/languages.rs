//! The examples, and what runs them on this machine and in a pod.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use conch_images::workspace_directory;

/// How a program learns that it leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    Asks,
    HoldsTheStream,
}

/// One example.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Example {
    pub(crate) language: &'static str,
    pub(crate) file: &'static str,
    pub(crate) way: Way,
    /// Programs that it needs where it runs, and the Debian package of each.
    needs: &'static [(&'static str, &'static str)],
    /// What a user types; the first word is looked up, `{}` is the directory with the file.
    run: &'static [&'static str],
    /// What is typed before, where it is built.
    build: &'static [&'static str],
}

const fn example(language: &'static str, file: &'static str, way: Way) -> Example {
    Example { language, file, way, needs: &[], run: &[], build: &[] }
}

pub(crate) const SHELL: Example = Example {
    needs: &[("curl", "curl"), ("psql", "postgresql-client"), ("timeout", "coreutils")],
    run: &["sh", "leader.sh"],
    ..example("shell", "leader.sh", Way::Asks)
};
pub(crate) const GO: Example = Example {
    run: &["./leader"],
    build: &["go", "build", "leader.go"],
    ..example("Go", "leader.go", Way::Asks)
};
pub(crate) const PYTHON: Example = Example {
    needs: &[("python3", "python3")],
    run: &["python3", "leader.py"],
    ..example("Python", "leader.py", Way::HoldsTheStream)
};
pub(crate) const JAVA: Example = Example {
    needs: &[("java", "openjdk-17-jdk-headless"), ("javac", "openjdk-17-jdk-headless")],
    run: &["java", "Leader.java"],
    ..example("Java", "Leader.java", Way::Asks)
};
pub(crate) const NODE: Example = Example {
    needs: &[("node", "nodejs")],
    run: &["node", "leader.mjs"],
    ..example("Node", "leader.mjs", Way::HoldsTheStream)
};
pub(crate) const RUST: Example = Example {
    run: &["./leader"],
    build: &["rustc", "-O", "--edition=2024", "leader.rs"],
    ..example("Rust", "leader.rs", Way::Asks)
};
pub(crate) const ALL: [Example; 6] = [SHELL, GO, PYTHON, JAVA, NODE, RUST];

/// Where distributions put the programs that containers can have from the machine; `/bin` is the same in most.
const PROGRAM_DIRECTORIES: &[&str] = &["/usr/bin", "/bin"];

impl Example {
    /// Where it stands.
    pub(crate) fn source(&self) -> PathBuf {
        workspace_directory().join("e2e/examples").join(self.file)
    }

    /// Puts the program into a directory, built if it is to be built. The error says what to install.
    pub(crate) fn prepare(&self, directory: &Path) -> Result<(), String> {
        for (program, package) in self.needs {
            program_of_machine(program).ok_or_else(|| format!("{program} is missing: install {package}"))?;
        }
        fs::copy(self.source(), directory.join(self.file)).unwrap();
        self.build(directory)
    }

    /// Builds what is in the directory.
    fn build(&self, directory: &Path) -> Result<(), String> {
        let Some((program, arguments)) = self.build.split_first() else { return Ok(()) };
        let mut command = Command::new(program);
        command.args(arguments).current_dir(directory).env("CGO_ENABLED", "0");
        let output = match command.output() {
            Ok(output) => output,
            Err(error) if *program == "go" => {
                return Err(format!("{program}: {error}: install golang-go"));
            }
            Err(error) => panic!("{program}: {error}"),
        };
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }

    /// What a user types, for the document.
    pub(crate) fn typed(&self) -> String {
        let run = self.run.join(" ");
        if self.build.is_empty() { run } else { format!("{} && {run}", self.build.join(" ")) }
    }

    /// The command line that runs it out of `directory`.
    pub(crate) fn command(&self, directory: &Path) -> Vec<String> {
        let file = |name: &str| directory.join(name).display().to_string();
        if let [program, file_name] = self.run {
            let program = program_of_machine(program).unwrap_or_else(|| PathBuf::from(program));
            return vec![program.display().to_string(), file(file_name)];
        }
        vec![file("leader")]
    }
}

/// A program of this machine that is where containers can have it, by the name that no link of `/etc` is needed for.
pub(crate) fn program_of_machine(name: &str) -> Option<PathBuf> {
    let found = PROGRAM_DIRECTORIES.iter().map(|directory| Path::new(directory).join(name));
    found
        .filter_map(|path| path.canonicalize().ok())
        .find(|path| path.starts_with("/usr") || path.starts_with("/bin"))
}

#[test]
fn each_example_is_short_and_stands_in_the_table() {
    let table = fs::read_to_string(workspace_directory().join("e2e/examples/README.md")).unwrap();
    for example in ALL {
        let lines = fs::read_to_string(example.source()).unwrap().lines().count();
        assert!(lines <= 60, "{} has {lines} lines", example.file);
        let way = if example.way == Way::Asks { "asks" } else { "stream" };
        let row =
            format!("| {} | [{1}]({1}) | `{2}` | {way} |", example.language, example.file, example.typed());
        assert!(table.contains(&row), "e2e/examples/README.md has no row {row}");
    }
    for way in [Way::Asks, Way::HoldsTheStream] {
        assert!(ALL.iter().filter(|example| example.way == way).count() >= 2, "{way:?}");
    }
}
