//! Every string that crosses the wire, written once: group, labels, annotations, environment variables, ports,
//! container and volume names, field managers. Whoever needs one of them takes it from here.

use sha2::{Digest, Sha256};

/// The API group of both custom resources.
pub const GROUP: &str = "conch.rs";
/// The served and stored version of the group.
pub const VERSION: &str = "v1alpha1";

/// Annotation that a user puts on a workload, and label that admission stamps on its pod template (and so on its
/// pods): the name of the [`crate::CoordinationPolicy`] in the same namespace.
pub const POLICY: &str = "conch.rs/policy";
/// The policy that needs no object: the operator creates it, visibly, in a namespace that asks for it.
pub const DEFAULT_POLICY: &str = "default";
/// Annotation on a workload: the election that it joins. Without it the election has the workload's own name.
pub const ELECTION: &str = "conch.rs/election";
/// Annotation of an injected pod: `<policy>@<generation>/<sidecar image>`, what was injected.
pub const INJECTED: &str = "conch.rs/injected";
/// Label of every object that the operator made for an election.
pub const MANAGED: &str = "conch.rs/managed";
/// Value of [`MANAGED`].
pub const MANAGED_VALUE: &str = "true";
/// Label on what the operator made: the election's name.
pub const ELECTION_LABEL: &str = "conch.rs/election";
/// Label of a namespace (value `disabled`) whose pods are never injected.
pub const INJECTION: &str = "conch.rs/injection";

/// Namespaces of the cluster itself, in which nothing is injected.
pub const SYSTEM_NAMESPACES: [&str; 3] = ["kube-system", "kube-public", "kube-node-lease"];

/// Annotation of a Lease: the record's write id, term and flags, and the uid of the Lease that it was written to, as
/// `conch-stores` encodes them.
pub const RECORD: &str = "conch.rs/record";
/// Annotation of a Lease (value: the Lease's own uid, so that no backup brings it back): the operator states that no sidecar
/// ever ran for this election.
pub const FRESH: &str = "conch.rs/fresh";
/// Annotation of a Lease, whole milliseconds: the longest lease duration that any living pod of the election uses.
pub const LONGEST_LEASE: &str = "conch.rs/longest-lease-ms";
/// Annotation of a Lease, JSON [`crate::PodDeletion`]: the operator saw that the leader's pod is being deleted.
pub const POD_DELETION: &str = "conch.rs/pod-deletion";
/// Annotation of a Lease: name of the pod that is to lead instead of the one that does. The next term takes it down.
pub const TRANSFER_TO: &str = "conch.rs/transfer-to";
/// Annotation of a Lease: the token of the running term, for people. The sidecar writes it with each renewal.
pub const TOKEN: &str = "conch.rs/token";

/// What the Lease, Role, `RoleBinding` and Service of an election are named after: `conch-<election>`.
pub const OBJECT_PREFIX: &str = "conch-";
/// Longest name of a policy or an election, so that every name derived from it stays a valid label and name.
pub const NAME_MAX: usize = 52;

/// Name of the injected init container.
pub const SIDECAR_CONTAINER: &str = "conch";
/// Name of the volume with the sidecar's own token.
pub const TOKEN_VOLUME: &str = "conch-token";
/// Where the Kubernetes client looks for token, CA and namespace.
pub const TOKEN_DIRECTORY: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// Path of the sidecar's binary in its image.
pub const SIDECAR_BINARY: &str = "/conch-sidecar";
/// Default port of the API, on the loopback addresses of the pod.
pub const API_PORT: u16 = 4040;
/// The port of metrics and health, on the pod's address, is the API's plus this.
pub const METRICS_PORT_OFFSET: u16 = 1;

/// Name of that port in the pod.
pub const METRICS_PORT_NAME: &str = "conch-metrics";

/// Environment variable that the program's containers get: the base URL of the sidecar's API.
pub const ENV_URL: &str = "CONCH_URL";
/// What the program's containers get where the policy asks for compatibility with nais/elector, whose names these are: host and
/// port of the API.
pub const ENV_ELECTOR_PATH: &str = "ELECTOR_PATH";
/// As above: where the leader's name is.
pub const ENV_ELECTOR_GET_URL: &str = "ELECTOR_GET_URL";
/// As above: where each change of it is an event.
pub const ENV_ELECTOR_SSE_URL: &str = "ELECTOR_SSE_URL";
/// Environment variable of a program that `conch-sidecar run` started: the token of the term for which it was started.
pub const ENV_TOKEN: &str = "CONCH_TOKEN";

/// Environment variables of the sidecar itself.
pub mod sidecar_env {
    /// Name of the pod (downward API).
    pub const POD_NAME: &str = "CONCH_POD_NAME";
    /// UID of the pod (downward API).
    pub const POD_UID: &str = "CONCH_POD_UID";
    /// `true`: the pod ends with its program (`restartPolicy` `Never` or `OnFailure`).
    pub const POD_COMPLETES: &str = "CONCH_POD_COMPLETES";
    /// Namespace of the pod and of the election (downward API).
    pub const NAMESPACE: &str = "CONCH_NAMESPACE";
    /// Name of the election.
    pub const ELECTION: &str = "CONCH_ELECTION";
    /// Name of the Lease.
    pub const LEASE: &str = "CONCH_LEASE";
    /// A file that says how to reach the API server. Not `KUBECONFIG`: that one is the program's, and may be of another cluster.
    pub const KUBECONFIG: &str = "CONCH_KUBECONFIG";
    /// Lease duration, whole milliseconds.
    pub const LEASE_DURATION: &str = "CONCH_LEASE_DURATION_MS";
    /// Interval of renewals, whole milliseconds.
    pub const RENEW_INTERVAL: &str = "CONCH_RENEW_INTERVAL_MS";
    /// Longest time from a program's last check to its last effect, whole milliseconds.
    pub const STOP_GRACE: &str = "CONCH_STOP_GRACE_MS";
    /// Longest promise given to the program, whole milliseconds.
    pub const MAX_PROMISE: &str = "CONCH_MAX_PROMISE_MS";
    /// Longest lease duration that any living pod of the election uses, whole milliseconds.
    pub const LONGEST_LEASE: &str = "CONCH_LONGEST_LEASE_MS";
    /// Number added to each fence to give the token.
    pub const FENCING_OFFSET: &str = "CONCH_FENCING_OFFSET";
    /// `Asked`, `Heartbeat`, `Stream` or `None`: see the policy's `program.presence`.
    pub const PRESENCE: &str = "CONCH_PRESENCE";
    /// How long a heartbeat counts, whole milliseconds.
    pub const HEARTBEAT_TIMEOUT: &str = "CONCH_HEARTBEAT_TIMEOUT_MS";
    /// What is checked: `http://localhost:8080/healthz` or `tcp://localhost:5432`.
    pub const CHECK: &str = "CONCH_CHECK";
    /// From one check to the next, whole milliseconds.
    pub const CHECK_PERIOD: &str = "CONCH_CHECK_PERIOD_MS";
    /// How long one check may take, whole milliseconds.
    pub const CHECK_TIMEOUT: &str = "CONCH_CHECK_TIMEOUT_MS";
    /// So many failures in a row make the program unhealthy.
    pub const CHECK_FAILURES: &str = "CONCH_CHECK_FAILURES";
    /// So many successes in a row make it healthy.
    pub const CHECK_SUCCESSES: &str = "CONCH_CHECK_SUCCESSES";
    /// How long the lead is left to others after it was given away by an unhealthy program, whole milliseconds.
    pub const COOL_DOWN: &str = "CONCH_COOL_DOWN_MS";
    /// `Nobody` or `KeepLast`: see the policy's `program.whenAllUnhealthy`.
    pub const WHEN_ALL_UNHEALTHY: &str = "CONCH_WHEN_ALL_UNHEALTHY";
    /// `None` or `LeaderElector`: see the policy's `program.compatibility`.
    pub const COMPATIBILITY: &str = "CONCH_COMPATIBILITY";
    /// Port of the API.
    pub const PORT: &str = "CONCH_PORT";
    /// The image that was injected; an in-place change of it makes the kubelet restart the sidecar alone.
    pub const IMAGE: &str = "CONCH_IMAGE";
    /// `text` or `json`.
    pub const LOG_FORMAT: &str = "CONCH_LOG_FORMAT";
    /// A `tracing` filter, e.g. `info`.
    pub const LOG: &str = "CONCH_LOG";
    /// `kubernetes`, `memory` or `postgres`.
    pub const STORE: &str = "CONCH_STORE";
    /// The database, with user and password.
    pub const POSTGRES_URL: &str = "CONCH_POSTGRES_URL";
    /// A file with the authorities that may sign the server's certificate.
    pub const POSTGRES_CA: &str = "CONCH_POSTGRES_CA";
    /// Schema of the table.
    pub const POSTGRES_SCHEMA: &str = "CONCH_POSTGRES_SCHEMA";
    /// `true`: the sidecar may create the table.
    pub const POSTGRES_CREATE_TABLE: &str = "CONCH_POSTGRES_CREATE_TABLE";
    /// Who a sidecar is that runs in no pod.
    pub const INSTANCE_ID: &str = "CONCH_INSTANCE_ID";
    /// Where the locks of instances are.
    pub const STATE_DIRECTORY: &str = "CONCH_STATE_DIRECTORY";
    /// A file with what can also be said by flags.
    pub const CONFIG: &str = "CONCH_CONFIG";
}

/// Field manager and event source of the operator.
pub const OPERATOR: &str = "conch-operator";
/// Field manager of the sidecar.
pub const SIDECAR: &str = "conch-sidecar";

/// The operator's own objects, as the Helm chart makes them. Their names are fixed: one cluster has one Conch.
pub mod operator_objects {
    /// The `MutatingWebhookConfiguration`. The operator writes nothing in it but `caBundle`.
    pub const WEBHOOK_CONFIGURATION: &str = "conch-operator";
    /// The Service that the API server calls, in the operator's namespace.
    pub const SERVICE: &str = "conch-operator";
    /// The Secret with the webhook's authority and certificate, in the operator's namespace.
    pub const CERTIFICATE_SECRET: &str = "conch-operator-certificate";
    /// The Lease by which the operator elects its own leader, in its namespace. No election has a Lease of such a name.
    pub const LEASE: &str = "operator.conch.rs";
    /// Path of the webhook that stamps workloads.
    pub const STAMP_PATH: &str = "/stamp";
    /// Path of the webhook that injects the sidecar into pods.
    pub const INJECT_PATH: &str = "/inject";
    /// Port of the webhook in the pod.
    pub const WEBHOOK_PORT: u16 = 8443;
    /// Port of metrics and health in the pod.
    pub const METRICS_PORT: u16 = 8080;
}

/// Environment variables of the operator.
pub mod operator_env {
    /// Name of the pod (downward API).
    pub const POD_NAME: &str = "CONCH_POD_NAME";
    /// UID of the pod (downward API).
    pub const POD_UID: &str = "CONCH_POD_UID";
    /// Namespace of the pod (downward API).
    pub const NAMESPACE: &str = "CONCH_NAMESPACE";
    /// Image of the sidecar that is injected.
    pub const SIDECAR_IMAGE: &str = "CONCH_SIDECAR_IMAGE";
    /// When the kubelet fetches that image: `Always`, `IfNotPresent` or `Never`.
    pub const SIDECAR_PULL_POLICY: &str = "CONCH_SIDECAR_PULL_POLICY";
    /// `text` or `json`.
    pub const LOG_FORMAT: &str = "CONCH_LOG_FORMAT";
    /// A `tracing` filter, e.g. `info`.
    pub const LOG: &str = "CONCH_LOG";
}

/// Why the text of an [`ELECTION`] annotation names no election.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "\"{0}\" names no election: use at most {NAME_MAX} lower-case letters, digits, '-' and '.', with a letter or digit at \
     both ends"
)]
pub struct InvalidElectionName(String);

/// The election that a workload joins: what its [`ELECTION`] annotation says, else its own name, fitted.
pub fn election_name(annotation: Option<&str>, workload: &str) -> Result<String, InvalidElectionName> {
    match annotation {
        None => Ok(fit_name(workload)),
        Some(name) if is_valid_name(name) => Ok(name.to_owned()),
        Some(name) => Err(InvalidElectionName(name.to_owned())),
    }
}

/// The name of the Lease, Role and `RoleBinding` of an election.
pub fn object_name(election: &str) -> String {
    format!("{OBJECT_PREFIX}{election}")
}

/// A name of at most [`NAME_MAX`] characters: the name itself where it is short enough, else its beginning and a hash of
/// the whole.
pub fn fit_name(name: &str) -> String {
    if name.len() <= NAME_MAX {
        return name.to_owned();
    }
    let digest = Sha256::digest(name.as_bytes());
    let hash = u32::from_be_bytes([digest[0], digest[1], digest[2], digest[3]]);
    let head = name.floor_char_boundary(NAME_MAX - HASH_DIGITS - 1);
    format!("{}-{hash:08x}", name[..head].trim_end_matches(['-', '.']))
}

/// Hexadecimal digits of the hash in a fitted name: a `u32`.
const HASH_DIGITS: usize = 8;

/// Characters of a DNS subdomain (RFC 1123 as Kubernetes reads it).
const SUBDOMAIN_MAX: usize = 253;

/// Whether this is the name of an object (a DNS subdomain) that is short enough.
fn is_valid_name(name: &str) -> bool {
    name.len() <= NAME_MAX && is_subdomain(name)
}

/// Whether an object of any kind may have this name, as far as its characters go.
pub fn is_subdomain(name: &str) -> bool {
    let label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .chars()
                .all(|symbol| symbol.is_ascii_lowercase() || symbol.is_ascii_digit() || symbol == '-')
    };
    name.len() <= SUBDOMAIN_MAX && name.split('.').all(label)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Names that the API server accepts for a Deployment.
    const SUBDOMAIN: &str = "[a-z0-9]([-a-z0-9]{0,60}[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]{0,60}[a-z0-9])?){0,2}";

    #[test]
    fn an_election_has_the_name_of_its_workload_unless_the_annotation_says_otherwise() {
        assert_eq!(election_name(None, "payments"), Ok("payments".to_owned()));
        assert_eq!(election_name(Some("ledger"), "payments"), Ok("ledger".to_owned()));
        assert_eq!(object_name("ledger"), "conch-ledger");
    }

    #[test]
    fn an_annotation_that_is_no_name_is_refused_and_never_bent() {
        for text in ["", "Ledger", "a_b", "-a", "a-", "a..b", ".a", "a b", &"a".repeat(NAME_MAX + 1)] {
            let error = election_name(Some(text), "payments").unwrap_err();
            assert!(error.to_string().contains(text), "{error}");
        }
    }

    proptest! {
        #[test]
        fn every_workload_name_gives_a_valid_election_name(workload in SUBDOMAIN) {
            let name = fit_name(&workload);
            prop_assert!(is_valid_name(&name), "{}", name);
            prop_assert_eq!(fit_name(&name), name.clone());
            prop_assert!(object_name(&name).len() <= 63);
        }

        #[test]
        fn long_names_that_differ_only_at_the_end_stay_different(
            head in "[a-z][a-z0-9]{51}", one in "[a-z0-9]{1,9}", other in "[a-z0-9]{1,9}",
        ) {
            prop_assume!(one != other);
            prop_assert_ne!(fit_name(&format!("{head}{one}")), fit_name(&format!("{head}{other}")));
        }
    }
}
