//! What the tests of the policy share: the grid of timings.

use conch_election::Timing;
use serde_json::{Value, json};
use std::time::Duration;

/// Four durations, in milliseconds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Case {
    pub(crate) lease: u64,
    pub(crate) renew_interval: u64,
    pub(crate) stop_grace: u64,
    pub(crate) max_promise: u64,
}

impl Case {
    /// What the elector says: nothing, or why not.
    pub(crate) fn objection(self) -> Option<String> {
        let duration = Duration::from_millis;
        let timing = Timing::new(
            duration(self.lease),
            duration(self.renew_interval),
            duration(self.stop_grace),
            duration(self.max_promise),
        );
        timing.err().map(|error| error.to_string())
    }

    /// A policy with this timing. `DuplicateWork`, so that only the rules of the timing speak.
    pub(crate) fn policy(self) -> Value {
        policy(&json!({
            "consequence": "DuplicateWork",
            "timing": {
                "leaseDuration": text(self.lease),
                "renewInterval": text(self.renew_interval),
                "stopGrace": text(self.stop_grace),
                "maxPromise": text(self.max_promise),
            },
        }))
    }
}

/// A duration as a policy holds it; the pattern allows six digits of each unit.
fn text(milliseconds: u64) -> String {
    format!("{}s{}ms", milliseconds / 1_000, milliseconds % 1_000)
}

/// A policy with this spec, as a user writes it.
pub(crate) fn policy(spec: &Value) -> Value {
    json!({
        "apiVersion": "conch.rs/v1alpha1",
        "kind": "CoordinationPolicy",
        "metadata": { "name": "checked" },
        "spec": spec,
    })
}

/// Timings on both sides of every boundary.
pub(crate) fn grid() -> Vec<Case> {
    let leases: [u64; 17] = [
        0, 1, 500, 999, 1_000, 1_001, 1_500, 2_000, 3_000, 8_000, 15_000, 59_000, 3_599_000, 3_600_000,
        3_600_001, 3_601_000, 7_200_000,
    ];
    let mut cases = Vec::new();
    for lease in leases {
        for stop_grace in [0, 1, 249, 250, 3_000, 60_000, 3_599_000] {
            // The largest interval that has room, and its neighbours.
            let room = (lease * 999 / 1_001).saturating_sub(750 + stop_grace);
            for renew_interval in [0, 1, 250, 2_000, room.saturating_sub(1), room, room + 1] {
                for max_promise in [0, 1, 5_000] {
                    cases.push(Case { lease, renew_interval, stop_grace, max_promise });
                }
            }
        }
    }
    cases
}

/// What a policy may ask of a program.
pub(crate) fn accepted_of_a_program() -> Vec<Value> {
    let http = json!({ "httpGet": { "port": 8080 } });
    vec![
        json!({ "presence": "Stream" }),
        json!({ "presence": "Heartbeat", "heartbeatTimeout": "1s", "whenAllUnhealthy": "KeepLast" }),
        json!({ "healthCheck": http, "whenAllUnhealthy": "KeepLast", "coolDown": "1h" }),
        json!({ "healthCheck": { "tcpSocket": { "port": 4042 }, "period": "500ms", "timeout": "500ms" } }),
        json!({ "healthCheck": { "httpGet": { "path": "/a?b=c", "port": 1 }, "failureThreshold": 100 } }),
    ]
}

/// What is refused of a program, and a part of what is said: which number to change.
pub(crate) fn refused_of_a_program() -> Vec<(Value, &'static str)> {
    let tcp = |more: Value| {
        let mut check = json!({ "tcpSocket": { "port": 5432 } });
        check.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!({ "healthCheck": check })
    };
    vec![
        (json!({ "heartbeatTimeout": "999ms" }), "heartbeatTimeout must be from 1s to 3600s"),
        (json!({ "heartbeatTimeout": "61m" }), "heartbeatTimeout must be from 1s to 3600s"),
        (json!({ "coolDown": "0s" }), "coolDown must be from 1s to 3600s"),
        (json!({ "coolDown": "2h" }), "coolDown must be from 1s to 3600s"),
        (json!({ "whenAllUnhealthy": "KeepLast" }), "KeepLast needs presence: Heartbeat or a healthCheck"),
        (json!({ "compatibility": "LeaderElector" }), "stopGrace must be longer than 60s"),
        (json!({ "healthCheck": {} }), "exactly one of httpGet and tcpSocket"),
        (tcp(json!({ "httpGet": { "port": 80 } })), "exactly one of httpGet and tcpSocket"),
        (tcp(json!({ "period": "499ms", "timeout": "1ms" })), "period must be from 500ms to 3600s"),
        (tcp(json!({ "period": "2h" })), "period must be from 500ms to 3600s"),
        (tcp(json!({ "timeout": "0s" })), "timeout is 0ms: it must be longer than 0ms"),
        (
            tcp(json!({ "timeout": "2001ms" })),
            "timeout is 2001ms: it must be longer than 0ms and at most the period, 2000ms",
        ),
        (
            tcp(json!({ "tcpSocket": { "port": 4040 } })),
            "a port of the sidecar, which listens on 4040 and 4041",
        ),
        (json!({ "healthCheck": { "httpGet": { "port": 4041 } } }), "a port of the sidecar"),
    ]
}
