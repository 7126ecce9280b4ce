//! The rules that the API server checks in every policy (CEL). The four of the timing say the same as
//! `conch_election::Timing::new`: a test compares the two over a grid, here and on a real API server.

use crate::{
    names::{METRICS_PORT_OFFSET, NAME_MAX},
    program::Compatibility,
};
use kube::core::{Message, Reason, Rule};
use schemars::Schema;

/// Adds the rules of a policy's spec.
pub(crate) fn policy(schema: &mut Schema) {
    add(schema, [stop_grace_for_corruption(), stop_grace_for_kept_answers(), check_is_not_of_the_sidecar()]);
}

/// Adds the rules of its timing.
pub(crate) fn timing(schema: &mut Schema) {
    add(schema, [lease_duration(), renew_interval(), max_promise(), room_for_renewal()]);
}

/// Adds the rules of what it says about the program.
pub(crate) fn program(schema: &mut Schema) {
    add(schema, [heartbeat_timeout(), cool_down(), something_to_be_unhealthy()]);
}

/// Adds the rules of its health check.
pub(crate) fn health_check(schema: &mut Schema) {
    add(schema, [one_check(), check_period(), check_timeout()]);
}

/// Adds the rule of its fencing offset.
pub(crate) fn fencing_offset(schema: &mut Schema) {
    add(schema, [fencing_offset_rises()]);
}

/// Adds the rules of its resources.
pub(crate) fn resources(schema: &mut Schema) {
    add(schema, [known_resources(), requests_within_limits()]);
}

/// The derive macro of kube does the same, but not for a struct whose defaults come from its `Default`.
fn add<const COUNT: usize>(schema: &mut Schema, rules: [Rule; COUNT]) {
    let rules = rules.map(|rule| serde_json::json!(rule));
    schema.insert("x-kubernetes-validations".to_owned(), rules.to_vec().into());
}

/// Milliseconds of a duration. CEL's own `getMilliseconds` means the whole in one implementation and the part below a
/// second in another; the remainder is the same in both.
fn milliseconds(field: &str) -> String {
    format!("(self.{field}.getSeconds() * 1000 + self.{field}.getMilliseconds() % 1000)")
}

/// Renewal interval, three attempts of 250 ms, and the time to stop, in milliseconds.
fn needed() -> String {
    format!("({} + 750 + {})", milliseconds("renewInterval"), milliseconds("stopGrace"))
}

fn invalid(rule: String, field_path: &str, message: Message) -> Rule {
    Rule::new(rule).field_path(field_path).reason(Reason::FieldValueInvalid).message(message)
}

pub(crate) fn policy_name() -> Rule {
    Rule::new(format!("self.metadata.name.size() <= {NAME_MAX}")).reason(Reason::FieldValueInvalid).message(
        Message::Expression(format!(
            "'metadata.name has %d characters, at most {NAME_MAX} are allowed, because it becomes a label of pods'\
             .format([self.metadata.name.size()])"
        )),
    )
}

fn stop_grace_for_corruption() -> Rule {
    invalid(
        "self.consequence != 'Corruption' || self.timing.stopGrace > duration('0s')".to_owned(),
        ".timing.stopGrace",
        "stopGrace must be longer than 0s where two leaders mean Corruption: a program needs time from its last look at \
         its deadline to its last effect; say consequence: DuplicateWork if it does not matter"
            .into(),
    )
}

/// Strictly longer: a program also needs time for what it begins with a kept answer.
fn stop_grace_for_kept_answers() -> Rule {
    let kept = Compatibility::LeaderElector.answer_kept().as_secs();
    let rule = format!(
        "self.program.compatibility != 'LeaderElector' || self.consequence != 'Corruption' || \
         self.timing.stopGrace > duration('{kept}s')"
    );
    let message = format!(
        "stopGrace must be longer than {kept}s with program.compatibility: LeaderElector where two leaders mean Corruption: \
         clients of that kind go by an answer for up to {kept}s; give {kept}s and the time of the program's longest step, and \
         a leaseDuration with room for it, or say consequence: DuplicateWork if it does not matter"
    );
    invalid(rule, ".timing.stopGrace", Message::Message(message))
}

fn fencing_offset_rises() -> Rule {
    Rule::new("self >= oldSelf")
        .reason(Reason::FieldValueForbidden)
        .message("fencingOffset can only be raised: fencing tokens must never fall")
}

fn lease_duration() -> Rule {
    invalid(
        "self.leaseDuration >= duration('1s') && self.leaseDuration <= duration('3600s') && \
         self.leaseDuration.getMilliseconds() % 1000 == 0"
            .to_owned(),
        ".leaseDuration",
        "leaseDuration must be a whole number of seconds from 1s to 3600s".into(),
    )
}

fn renew_interval() -> Rule {
    let rule = "self.renewInterval > duration('0s')".to_owned();
    invalid(rule, ".renewInterval", "renewInterval must be longer than 0s".into())
}

fn max_promise() -> Rule {
    let rule = "self.maxPromise > duration('0s')".to_owned();
    invalid(rule, ".maxPromise", "maxPromise must be longer than 0s".into())
}

/// lease · (1 − ρ) / (1 + ρ) ≥ needed with ρ = 0.1 %, multiplied out: lease · 999 ≥ needed · 1001.
fn room_for_renewal() -> Rule {
    let needed = needed();
    let rule = format!("{} * 999 >= {needed} * 1001", milliseconds("leaseDuration"));
    let message = format!(
        "'leaseDuration is %ds: with this renewInterval and stopGrace it must be at least %ds, or renewInterval or \
         stopGrace must be shorter'.format([self.leaseDuration.getSeconds(), ({needed} * 1001 + 998999) / 999000])"
    );
    invalid(rule, ".leaseDuration", Message::Expression(message))
}

fn heartbeat_timeout() -> Rule {
    invalid(
        "self.heartbeatTimeout >= duration('1s') && self.heartbeatTimeout <= duration('3600s')".to_owned(),
        ".heartbeatTimeout",
        "heartbeatTimeout must be from 1s to 3600s".into(),
    )
}

fn cool_down() -> Rule {
    invalid(
        "self.coolDown >= duration('1s') && self.coolDown <= duration('3600s')".to_owned(),
        ".coolDown",
        "coolDown must be from 1s to 3600s: without it a program that comes and goes moves the lead to and fro".into(),
    )
}

fn something_to_be_unhealthy() -> Rule {
    invalid(
        "self.whenAllUnhealthy == 'Nobody' || self.presence == 'Heartbeat' || has(self.healthCheck)"
            .to_owned(),
        ".whenAllUnhealthy",
        "whenAllUnhealthy: KeepLast needs presence: Heartbeat or a healthCheck, or nothing can be unhealthy"
            .into(),
    )
}

fn one_check() -> Rule {
    Rule::new("has(self.httpGet) != has(self.tcpSocket)")
        .reason(Reason::FieldValueInvalid)
        .message("healthCheck needs exactly one of httpGet and tcpSocket")
}

fn check_period() -> Rule {
    invalid(
        "self.period >= duration('500ms') && self.period <= duration('3600s')".to_owned(),
        ".period",
        "period must be from 500ms to 3600s".into(),
    )
}

fn check_timeout() -> Rule {
    let (timeout, period) = (milliseconds("timeout"), milliseconds("period"));
    let message = format!(
        "'timeout is %dms: it must be longer than 0ms and at most the period, %dms'.format([{timeout}, {period}])"
    );
    invalid(
        "self.timeout > duration('0s') && self.timeout <= self.period".to_owned(),
        ".timeout",
        Message::Expression(message),
    )
}

fn check_is_not_of_the_sidecar() -> Rule {
    let other = |kind: &str| {
        format!(
            "(!has(self.program.healthCheck.{kind}) || \
             !(self.program.healthCheck.{kind}.port in [self.sidecar.port, self.sidecar.port + {METRICS_PORT_OFFSET}]))"
        )
    };
    let rule = format!("!has(self.program.healthCheck) || ({} && {})", other("httpGet"), other("tcpSocket"));
    let message = format!(
        "'healthCheck asks a port of the sidecar, which listens on %d and %d: give the port of the program, or change \
         sidecar.port'.format([self.sidecar.port, self.sidecar.port + {METRICS_PORT_OFFSET}])"
    );
    invalid(rule, ".program.healthCheck", Message::Expression(message))
}

fn known_resources() -> Rule {
    Rule::new(
        "self.requests.all(name, name in ['cpu', 'memory', 'ephemeral-storage']) && \
         self.limits.all(name, name in ['cpu', 'memory', 'ephemeral-storage'])",
    )
    .reason(Reason::FieldValueInvalid)
    .message("requests and limits are of cpu, memory or ephemeral-storage")
}

fn requests_within_limits() -> Rule {
    Rule::new(
        "self.requests.all(name, !(name in self.limits) || \
         quantity(string(self.requests[name])).compareTo(quantity(string(self.limits[name]))) <= 0)",
    )
    .reason(Reason::FieldValueInvalid)
    .message("no request may exceed its limit, or no pod with the sidecar could be created")
}
