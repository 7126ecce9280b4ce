//! The resource in a pod: the ledger for those who speak HTTP, a PostgreSQL server for those who speak SQL.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use conch_e2e::{Namespace, Tools};
use conch_images::workspace_directory;
use serde_json::{Value, json};

use crate::pods::{container, pod};

const NAME: &str = "resource";
const POSTGRES_VERSIONS: &str = "/usr/lib/postgresql";

/// What an example writes to.
#[derive(Debug, Clone)]
pub(crate) enum Resource {
    Ledger,
    /// With the folder of its programs.
    Postgres(PathBuf),
}

impl Resource {
    /// The server that Debian packages, of the newest version.
    pub(crate) fn postgres() -> Result<Self, String> {
        let versions = fs::read_dir(POSTGRES_VERSIONS).into_iter().flatten().flatten();
        let folders = versions.map(|version| version.path().join("bin"));
        let newest = folders.filter(|folder| folder.join("initdb").is_file()).max();
        newest.map(Self::Postgres).ok_or_else(|| "initdb is missing: install postgresql".to_owned())
    }

    /// The environment of a program that uses it.
    pub(crate) fn environment(&self) -> Vec<Value> {
        match self {
            Self::Ledger => vec![json!({"name": "LEDGER_URL", "value": "http://resource:8080/entries"})],
            Self::Postgres(programs) => vec![
                json!({"name": "DATABASE_URL", "value": "postgresql://postgres@resource:5432/postgres"}),
                json!({"name": "PATH", "value": format!("{}:/usr/bin:/bin", programs.display())}),
            ],
        }
    }

    /// Starts it in a pod with a Service, and returns its log.
    pub(crate) fn start(&self, namespace: &Namespace<'_>, directory: &Path) -> PathBuf {
        let log = directory.join("steps");
        let (port, command) = match self {
            Self::Ledger => (8080, ledger(directory, &log)),
            Self::Postgres(programs) => (5432, postgres(programs, &log)),
        };
        let ports = json!([{"port": port}]);
        let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": NAME},
            "spec": {"selector": {"app": NAME}, "ports": ports}});
        namespace.apply(service).unwrap();
        let mut pod = pod(&container(&command, &[], directory));
        pod["apiVersion"] = json!("v1");
        pod["kind"] = json!("Pod");
        pod["metadata"] = json!({"name": NAME, "labels": {"app": NAME}});
        namespace.apply(pod).unwrap();
        namespace.kubectl(&["wait", "--for=condition=Ready", "pod/resource", "--timeout=2m"]).unwrap();
        if let Self::Postgres(programs) = self {
            create_tables(namespace, programs);
        }
        log
    }
}

/// `ledger.rs`, compiled by itself.
fn ledger(directory: &Path, log: &Path) -> Vec<String> {
    let source = workspace_directory().join("e2e/tests/examples/ledger.rs");
    let program = directory.join("ledger");
    let mut compile = Command::new("rustc");
    compile.args(["--edition=2024", "-O", "--cap-lints=allow", "-o"]).arg(&program).arg(source);
    let output = compile.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    [program.as_path(), log].map(|path| path.display().to_string()).into()
}

/// Its log holds every statement, with the time and the caller's address.
fn postgres(programs: &Path, log: &Path) -> Vec<String> {
    let script = format!(
        "set -e; cd {programs}
        ./initdb -D /tmp/data --username=postgres --auth=trust --no-sync --encoding=UTF8 --locale=C
        echo 'host all all all trust' >>/tmp/data/pg_hba.conf
        exec ./postgres -D /tmp/data -c listen_addresses='*' -c unix_socket_directories=/tmp -c fsync=off \
            -c log_statement=all -c log_line_prefix='%n %h ' 2>{log}",
        programs = programs.display(),
        log = log.display(),
    );
    vec!["/bin/sh".to_owned(), "-c".to_owned(), script]
}

/// The function of `docs/fencing.md`, and what the example writes to.
fn create_tables(namespace: &Namespace<'_>, programs: &Path) {
    let document = fs::read_to_string(workspace_directory().join("docs/fencing.md")).unwrap();
    let (_, function) = document.split_once("```sql name=fence-function\n").unwrap();
    let (function, _) = function.split_once("```").unwrap();
    let psql = programs.join("psql").display().to_string();
    let connect = ["exec", "resource", "--", &psql, "-h", "/tmp", "-U", "postgres", "-v", "ON_ERROR_STOP=1"];
    let begin = [&connect[..], &["-c", function, "-c", "CREATE TABLE entries (entry text)"]].concat();
    let ready = || namespace.kubectl(&[&connect[..], &["-c", "SELECT"]].concat()).map(Ok);
    Tools::wait_for("answer of PostgreSQL", Duration::from_mins(1), ready).unwrap();
    namespace.kubectl(&begin).unwrap();
}
