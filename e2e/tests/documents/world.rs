//! A cluster of this test's own, and a Deployment whose program's container holds this machine's `curl` and shells.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use conch_images::Program;
use serde_json::{Value, json};

use crate::markdown::{self, Block};
use crate::table::{COVERED, PREPARATIONS, SUBSTITUTIONS};

/// Clusters of these tests are under names that documents use, beside whatever the machine has.
const STATE: &str = "/var/lib/conch/documents";

/// The Deployment of the documents.
const WORKLOAD: &str = "payments";

/// In seconds: a command that hangs fails, one that builds first does not.
const LIMIT: &str = "900";

/// Before each command of a script, so that its output and its failure are found.
const MARK: &str = "@@ ";

/// Of this machine's programs and their libraries, what a container gets.
const PROGRAM_DIRECTORIES: &[&str] = &["/usr", "/bin", "/lib", "/lib64"];

/// Runs what does not end for some seconds; it must have given an event.
const STREAMS: &str =
    r#"streams() { local said; said=$(timeout 3 "$@") || [ $? -eq 124 ]; grep '^data: {' <<<"$said"; }"#;

/// Why no cluster can be had here.
pub(crate) fn why_not() -> Option<String> {
    if std::env::var_os("CONCH_KUBECONFIG").is_some() {
        return Some(
            "they install and uninstall, and the cluster of CONCH_KUBECONFIG is not ours".to_owned(),
        );
    }
    if !rustix::process::geteuid().is_root() {
        return Some("a cluster needs root".to_owned());
    }
    let missing: Vec<_> =
        ["bash", "curl", "sed", "timeout"].into_iter().filter(|program| !is_in_pods(program)).collect();
    (!missing.is_empty()).then(|| format!("install {}", missing.join(", ")))
}

/// Whether a program of this machine is where a container can have it.
fn is_in_pods(program: &str) -> bool {
    ["/usr/bin", "/bin"].iter().any(|directory| Path::new(directory).join(program).is_file())
}

/// The cluster; ended when dropped.
pub(crate) struct World {
    state: PathBuf,
}

impl World {
    pub(crate) fn up() -> Self {
        let world = Self { state: PathBuf::from(STATE) };
        let mut script = "cargo build --quiet --package conch-cluster\n".to_owned();
        // An earlier run may have been killed.
        script += "conch-cluster down\nconch-cluster up\n";
        for program in Program::ALL {
            writeln!(script, "conch-cluster load out/{}.tar", program.name()).unwrap();
        }
        world.must(&script);
        world
    }

    /// Conch, with one pod of the workload that leads.
    pub(crate) fn install(&self) {
        self.reset();
        self.must(&format!(
            "helm upgrade --install conch charts/conch --namespace conch-system --create-namespace --wait
            helm test conch --namespace conch-system
            kubectl annotate deployment {WORKLOAD} conch.rs/policy=default
            kubectl rollout status deployment {WORKLOAD} --timeout=60s"
        ));
    }

    /// No Conch, and a workload that never heard of it.
    pub(crate) fn reset(&self) {
        self.must(&format!(
            "kubectl delete deployment {WORKLOAD} --ignore-not-found
            helm uninstall conch --namespace conch-system --ignore-not-found --wait
            kubectl delete namespace conch-system --ignore-not-found
            kubectl apply -f - <<'END'\n{}\nEND
            kubectl rollout status deployment {WORKLOAD} --timeout=60s",
            workload()
        ));
    }

    /// What an administrator types into one shell.
    pub(crate) fn type_in(
        &self,
        document: &str,
        commands: &[markdown::Command],
    ) -> std::result::Result<(), String> {
        let mut script = "set -eo pipefail\n".to_owned();
        for command in commands {
            if COVERED.iter().any(|entry| entry.command == command.text) {
                continue;
            }
            let known = |entry: &&(&str, &str, &str)| entry.0 == document && entry.1 == command.text;
            if let Some((_, _, before)) = PREPARATIONS.iter().find(known) {
                writeln!(script, "{before}").unwrap();
            }
            add(&mut script, command);
        }
        let said = self.run(&script, None)?;
        check_output(commands, &said)
    }

    /// What is typed in the leader's pod.
    pub(crate) fn in_pod(&self, block: &Block) -> std::result::Result<(), String> {
        self.wait_leader()?;
        let mut script = format!("set -eo pipefail\n{STREAMS}\n");
        block.commands.iter().for_each(|command| add(&mut script, command));
        let said =
            self.run(&format!("kubectl exec -i deployment/{WORKLOAD} -- bash"), Some(script.as_bytes()))?;
        check_output(&block.commands, &said)
    }

    /// A program that asks for ever: some seconds of it in the leader's pod.
    pub(crate) fn example(&self, language: &str, program: &str) -> std::result::Result<(), String> {
        let interpreter = if language == "python" { "python3" } else { language };
        if !is_in_pods(interpreter) {
            crate::skip(&format!("the {language} of the documents"), &format!("install {interpreter}"));
            return Ok(());
        }
        self.wait_leader()?;
        let run = format!(
            "kubectl exec -i deployment/{WORKLOAD} -- timeout --preserve-status --signal=INT 5 {interpreter} - || true"
        );
        let said = self.run(&run, Some(program.as_bytes()))?;
        let steps = said.lines().filter(|line| line.starts_with("one step, with token 00")).count();
        if steps >= 3 { Ok(()) } else { Err(format!("{steps} steps by the leader in 5 s: {said}")) }
    }

    /// The API server takes it, and so does Conch's webhook.
    pub(crate) fn apply(&self, manifest: &str) -> std::result::Result<(), String> {
        self.run("kubectl apply --dry-run=server -f -", Some(manifest.as_bytes())).map(drop)
    }

    fn wait_leader(&self) -> std::result::Result<(), String> {
        let ask =
            format!("kubectl exec deployment/{WORKLOAD} -- curl -sf 'localhost:4040/v1/leader?wait=60s'");
        self.run(&ask, None).map(drop)
    }

    /// What must work, because it is no document's.
    fn must(&self, script: &str) {
        if let Err(error) = self.run(&format!("set -eo pipefail\n{script}"), None) {
            panic!("{error}");
        }
    }

    /// Runs a script as the user of this cluster, in the root of the repository; gives what it printed.
    fn run(&self, script: &str, input: Option<&[u8]>) -> std::result::Result<String, String> {
        let mut command = Command::new("timeout");
        command.args([LIMIT, "bash", "-c", &format!("exec 2>&1\n{script}")]).current_dir(markdown::root());
        // What cargo tells this test must not reach the cargo of a document.
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("CARGO_")) {
            if !["CARGO_HOME", "CARGO_TARGET_DIR"].contains(&name.as_str()) {
                command.env_remove(name);
            }
        }
        let cluster = self.state.join("conch");
        let programs = std::env::current_exe().unwrap();
        let programs = programs.ancestors().nth(2).unwrap().display();
        let path = std::env::var("PATH").unwrap();
        command
            .env("PATH", format!("{}:{programs}:{path}", cluster.join("tools").display()))
            .env("CONCH_STATE", &self.state)
            .env("KUBECONFIG", cluster.join("kubeconfig"))
            .env("KUBECACHEDIR", cluster.join("kubectl-cache"))
            .env("SHELL", "/bin/sh")
            .stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() })
            .stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        if let Some((mut stdin, input)) = child.stdin.take().zip(input) {
            // One that ends before it has read everything says why itself.
            let _ = stdin.write_all(input);
        }
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        if output.status.success() { Ok(said) } else { Err(format!("{}\n{said}", output.status)) }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if let Err(error) = self.run("conch-cluster down", None) {
            println!("the cluster of {STATE} stays: {error}");
        }
        let _ = std::fs::remove_dir(&self.state);
    }
}

/// One more command of a script.
fn add(script: &mut String, command: &markdown::Command) {
    let mut text = command.text.clone();
    for (written, run) in SUBSTITUTIONS {
        text = text.replace(written, run);
    }
    writeln!(script, "cat <<'END'\n{MARK}{}\nEND\n{text}", command.text).unwrap();
}

/// Every field of the JSON that a document shows must be there.
fn check_output(commands: &[markdown::Command], said: &str) -> std::result::Result<(), String> {
    for command in commands {
        let after = said.split_once(&format!("{MARK}{}\n", command.text)).map_or("", |(_, after)| after);
        let real = after.split(&format!("\n{MARK}")).next().unwrap_or_default();
        let fields = command.output.split('"').map(|field| format!("\"{field}\":"));
        for field in fields.filter(|field| command.output.contains(field)) {
            if !real.contains(&field) {
                return Err(format!("`{}` gives no {field}: {real}", command.text));
            }
        }
    }
    Ok(())
}

/// A Deployment whose container sees the programs of the machine, and does nothing.
fn workload() -> Value {
    let directories: Vec<_> = PROGRAM_DIRECTORIES.iter().filter(|path| Path::new(path).exists()).collect();
    let name = |path: &str| path.trim_start_matches('/').to_owned();
    let volumes = directories.iter().map(|path| json!({"name": name(path), "hostPath": {"path": path}}));
    let mounts =
        directories.iter().map(|path| json!({"name": name(path), "mountPath": path, "readOnly": true}));
    json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": WORKLOAD},
        "spec": {
            "selector": {"matchLabels": {"app": WORKLOAD}},
            "template": {
                "metadata": {"labels": {"app": WORKLOAD}},
                "spec": {
                    "containers": [{
                        "name": "program",
                        "image": Program::Probe.reference(),
                        "imagePullPolicy": "IfNotPresent",
                        "command": ["/bin/bash", "-c", "trap exit TERM; while :; do sleep 1; done"],
                        "volumeMounts": mounts.collect::<Vec<_>>(),
                    }],
                    "volumes": volumes.collect::<Vec<_>>(),
                },
            },
        },
    })
}
