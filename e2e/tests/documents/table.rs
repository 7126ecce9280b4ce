//! What is not run as it is written.

/// A command that something else runs.
pub(crate) struct Covered {
    pub(crate) command: &'static str,
    /// The file that runs it, or that says what it is.
    pub(crate) file: &'static str,
    /// What stands there.
    pub(crate) says: &'static str,
}

const fn covered(command: &'static str, file: &'static str, says: &'static str) -> Covered {
    Covered { command, file, says }
}

const TEST: &str = "e2e/test.sh";
const UNIT: &str = "tests integration cargo test --workspace \"${integration[@]}\" --no-fail-fast";

/// Commands that are not run here: they take too long, or run this very test.
pub(crate) const COVERED: &[Covered] = &[
    covered("make test", ".ci/run", "exec make test"),
    covered("make lint", TEST, "step clippy "),
    covered("make demo", TEST, "step demo make demo"),
    covered("time make demo", TEST, "step demo make demo"),
    covered("make images", TEST, "step images make images"),
    covered("cargo clippy --workspace --all-targets -- -D warnings", TEST, "-- -D warnings"),
    covered("cargo test -p conch-election", TEST, UNIT),
    covered("cargo test --package conch-cluster", TEST, UNIT),
    covered("make fencing", TEST, UNIT),
    covered("make faults", TEST, "--test faults -- --test-threads=3 --nocapture always::"),
    covered("make faults", TEST, "tests faults cargo test --workspace --test faults"),
    covered("go build leader.go && ./leader", "e2e/tests/examples/languages.rs", "\"leader.go\"]"),
    covered("make fuzz", "CONTRIBUTING.md", "`make test` replays it"),
    // Half an hour, on a machine that does nothing else.
    covered("make bench", "CONTRIBUTING.md", "run it by hand"),
    covered("make footprint", "CONTRIBUTING.md", "by hand too"),
    // Changes what is pinned, from the network.
    covered("go mod tidy", "e2e/cluster/README.md", "Updating versions"),
];

/// Blocks that show what goes over a wire.
pub(crate) const ILLUSTRATIONS: &[(&str, &str)] = &[("docs/fencing.md", "http")];

/// Parts of commands that a sentence speaks about. Whole ones stand elsewhere.
pub(crate) const MENTIONS: &[&str] = &[
    "curl -f",
    "helm install … --take-ownership",
    "helm rollback",
    "helm uninstall",
    "helm upgrade",
    // sidecar/tests/sidecar/transfer.rs writes it.
    "kubectl annotate lease conch-payments conch.rs/transfer-to=POD",
    // What the benchmark does to a leader.
    "kubectl delete lease",
    "kubectl delete pod",
    "kubectl patch lease",
    "kubectl rollout restart",
    // There is no registry.
    "skopeo copy oci-archive:out/conch-sidecar.tar docker://R/conch-rs/conch-sidecar:0.1.0",
];

/// What is replaced in every command before it is run. First come, first served.
pub(crate) const SUBSTITUTIONS: &[(&str, &str)] = &[
    // There is no registry: the images are loaded under the names that they would have in this one.
    ("image.registry=R", "image.registry=ghcr.io"),
    ("oci://ghcr.io/conch-rs/charts/conch", "charts/conch"),
    ("deployment NAME", "deployment payments"),
    ("election NAME", "election payments"),
    ("image.tar", "out/conch-probe.tar"),
    // What takes hours, or does not end.
    ("make simulate", "make simulate RUNS=50"),
    ("make mutants", "make mutants NAMES=answer_from_a_flag"),
    ("curl -N", "streams curl -N"),
    // What the machine has is not changed.
    ("apt-get install", "apt-get install --simulate"),
    ("/some/group", "/conch-documents"),
];

/// What is run before a command of a document, where the reader has it from elsewhere.
pub(crate) const PREPARATIONS: &[(&str, &str, &str)] = &[
    (
        "docs/operating.md",
        "kubectl describe election NAME",
        "helm install conch charts/conch --namespace conch-system --wait
        kubectl annotate deployment payments conch.rs/policy=default
        kubectl wait --for=create election/payments --timeout=60s",
    ),
    (
        "docs/operating.md",
        "kubectl exec deploy/payments -c conch -- /conch-sidecar status",
        "kubectl rollout status deployment payments --timeout=120s",
    ),
    ("e2e/cluster/README.md", "conch-cluster logs kubelet-1", "conch-cluster up"),
    ("e2e/cluster/README.md", "CONCH_CGROUP_PARENT=/some/group conch-cluster up", "conch-cluster down"),
];
