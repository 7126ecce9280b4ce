//! The part of a `CoordinationPolicy` that speaks of the program: when it is taken to be there, and fit to lead.

use crate::{duration::DurationText, rules};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// What the sidecar asks of the program.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(transform = rules::program)]
pub struct ProgramSpec {
    /// When a pod is a candidate.
    pub presence: Presence,
    /// With presence Heartbeat: how long after its last `POST /v1/heartbeat` a program counts as alive, from 1s to 3600s. Let
    /// it send three or more in this time. Shorter: a leader that hangs is replaced sooner.
    pub heartbeat_timeout: DurationText,
    /// A check that the sidecar runs against the program, over the pod's loopback addresses. A pod whose program does not pass
    /// is no candidate; a leader whose program fails gives the lead away.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health_check: Option<HealthCheckSpec>,
    /// How long a pod leaves the lead to others after it gave it away because its program failed its check or missed its
    /// heartbeat, from 1s to 3600s. Each time that this happens again soon, twice as long, up to 32 times. It keeps a
    /// program that comes and goes from moving the lead to and fro.
    pub cool_down: DurationText,
    /// Who leads when no candidate is fit to lead.
    pub when_all_unhealthy: WhenAllUnhealthy,
    /// Whether the sidecar also answers programs that were written for another elector. With `LeaderElector` it answers `GET /`
    /// and `GET /sse` as nais/elector and the retired leader-elector do, with the leader's name alone, and the program's
    /// containers get `ELECTOR_PATH`, `ELECTOR_GET_URL` and `ELECTOR_SSE_URL`. Such an answer has no deadline, and clients go by it
    /// for up to a minute: with consequence Corruption, stopGrace must be longer than 60s.
    pub compatibility: Compatibility,
}

/// For whose clients the sidecar also answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Compatibility {
    /// For nobody else's.
    #[default]
    #[serde(rename = "None")]
    NotNeeded,
    /// For those of nais/elector and of the retired leader-elector.
    LeaderElector,
}

impl Compatibility {
    /// For how long clients of this kind go by an answer: there is no deadline in it.
    pub const fn answer_kept(self) -> Duration {
        match self {
            Self::NotNeeded => Duration::ZERO,
            Self::LeaderElector => Duration::from_mins(1),
        }
    }
}

/// When a pod is a candidate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Presence {
    /// Once its program has asked the sidecar, by `GET /v1/leader` or `GET /v1/lead`, or as `compatibility` allows. A pod whose program cannot start never
    /// leads.
    #[default]
    Asked,
    /// While its program sends `POST /v1/heartbeat`. A leader whose program hangs gives the lead away.
    Heartbeat,
    /// While its program holds `GET /v1/lead`. A leader whose program dies is replaced at once.
    Stream,
    /// As soon as its sidecar runs.
    #[serde(rename = "None")]
    NotNeeded,
}

/// Who leads when no candidate is fit to lead: all have missed their heartbeat or fail their check.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum WhenAllUnhealthy {
    /// Nobody.
    #[default]
    Nobody,
    /// Whoever led last. It gives the lead away first, takes it back if nobody fit wants it, and offers it again after a
    /// minute, then after two, up to 16. It can't be kept if its pod is gone.
    KeepLast,
}

/// A check that the sidecar runs against the program: one of httpGet and tcpSocket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(transform = rules::health_check)]
pub struct HealthCheckSpec {
    /// Passes if the answer's status is at least 200 and below 400, as in a kubelet's probe. Redirects are not followed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http_get: Option<HttpGetSpec>,
    /// Passes if a connection is accepted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tcp_socket: Option<TcpSocketSpec>,
    /// From one check to the next, from 500ms to 3600s.
    pub period: DurationText,
    /// How long one check may take; at most the period.
    pub timeout: DurationText,
    /// So many checks in a row that fail make the program unhealthy.
    #[schemars(range(min = 1, max = 100), extend("format" = "int32"))]
    pub failure_threshold: u32,
    /// So many checks in a row that pass make it healthy (again).
    #[schemars(range(min = 1, max = 100), extend("format" = "int32"))]
    pub success_threshold: u32,
}

/// A check by HTTP.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HttpGetSpec {
    /// Path, with a query where one is needed.
    #[serde(default = "root_path")]
    #[schemars(length(max = 1024), regex(pattern = r"^/[A-Za-z0-9._~!$&'()*+,;=:@%/?-]*$"))]
    pub path: String,
    /// Port on which the program listens, on a loopback address or on all.
    #[schemars(range(min = 1, max = 65535), extend("format" = "int32"))]
    pub port: u16,
}

/// A check by a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TcpSocketSpec {
    /// Port on which the program listens, on a loopback address or on all.
    #[schemars(range(min = 1, max = 65535), extend("format" = "int32"))]
    pub port: u16,
}

impl Default for ProgramSpec {
    fn default() -> Self {
        Self {
            presence: Presence::default(),
            heartbeat_timeout: DurationText::from_secs(10),
            health_check: None,
            cool_down: DurationText::from_secs(10),
            when_all_unhealthy: WhenAllUnhealthy::default(),
            compatibility: Compatibility::default(),
        }
    }
}

impl Default for HealthCheckSpec {
    fn default() -> Self {
        Self {
            http_get: None,
            tcp_socket: None,
            period: DurationText::from_secs(2),
            timeout: DurationText::from_secs(1),
            failure_threshold: 3,
            success_threshold: 2,
        }
    }
}

impl HealthCheckSpec {
    /// What is checked, as the sidecar is told it: `http://localhost:8080/healthz` or `tcp://localhost:5432`. `None`: neither,
    /// which the CRD refuses.
    pub fn url(&self) -> Option<String> {
        match (&self.http_get, self.tcp_socket) {
            (Some(HttpGetSpec { path, port }), _) => Some(format!("http://localhost:{port}{path}")),
            (None, Some(TcpSocketSpec { port })) => Some(format!("tcp://localhost:{port}")),
            (None, None) => None,
        }
    }
}

fn root_path() -> String {
    "/".to_owned()
}
