//! What users write: the texts of annotations, and policies.

use clap::{CommandFactory, Parser};
use conch_crds::{
    CoordinationPolicy, CoordinationPolicySpec, Election,
    duration::DurationText,
    names::{self, NAME_MAX},
    program::ProgramSpec,
};
use conch_election::Timing;
use conch_operator::inject::{
    ChosenPolicy, Decision, Injected, PullPolicy, SidecarImage, decide, inject, timing,
};
use conch_sidecar::args::{Args, Command, ServeArgs};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use std::time::Duration;

/// Reads the bytes as each text that a user may write into an annotation or a policy, and as a policy, and panics unless
///
/// * what is read and written again is the same,
/// * every name that is made fits into a label,
/// * no timing is accepted that breaks the inequality of ARCHITECTURE.md,
/// * a sidecar understands all that the operator tells it of a policy.
pub fn policy(bytes: &[u8]) {
    if let Ok(text) = str::from_utf8(bytes) {
        texts(text);
    }
    same_again::<CoordinationPolicy>(bytes);
    same_again::<Election>(bytes);
    if let Some(spec) = same_again::<CoordinationPolicySpec>(bytes) {
        check(&spec);
    }
}

fn texts(text: &str) {
    if let Ok(duration) = text.parse::<DurationText>() {
        assert_eq!(duration.to_string().parse(), Ok(duration), "{text}");
    }
    if let Ok(injected) = text.parse::<Injected>() {
        assert_eq!(injected.to_string().parse(), Ok(injected), "{text}");
    }
    if let Ok(policy) = text.parse::<PullPolicy>() {
        assert_eq!(policy.as_str(), text);
    }
    let fitted = names::fit_name(text);
    assert!(fitted.len() <= NAME_MAX && names::fit_name(&fitted) == fitted, "{fitted}");
    match names::election_name(Some(text), "") {
        Ok(name) => {
            let object = names::object_name(&name);
            let allowed =
                |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-.".contains(&byte);
            assert!(name == text && object.len() <= 63 && object.bytes().all(allowed), "{object}");
        }
        Err(error) => assert!(error.to_string().contains(text)),
    }
}

fn same_again<T: DeserializeOwned + Serialize>(bytes: &[u8]) -> Option<T> {
    let value: T = serde_json::from_slice(bytes).ok()?;
    let written = serde_json::to_value(&value).expect("what was read can be written");
    let again: T = serde_json::from_value(written.clone()).expect("what was written can be read");
    assert_eq!(serde_json::to_value(again).expect("as before"), written);
    Some(value)
}

fn check(spec: &CoordinationPolicySpec) {
    let accepted = timing(spec);
    match &accepted {
        Ok(timing) => check_timing(timing),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
    let labels = json!({names::POLICY: "mine", names::ELECTION_LABEL: "payments"});
    let pod = json!({"metadata": {"labels": labels}, "spec": {"containers": [{"name": "program"}]}});
    let image = SidecarImage { reference: "conch:1".to_owned(), pull_policy: PullPolicy::Always };
    match decide(&pod, "shop", Some(ChosenPolicy { generation: 3, spec }), &image) {
        Decision::Inject(injection) => {
            let injected = inject(&pod, &injection, &image, None).expect("this is a pod");
            let serve = told(&injected, spec);
            let understood = serve.map(|serve| serve.hold.timing.validate());
            assert!(
                understood
                    .is_none_or(|understood| understood == Ok((injection.timing, injection.timing.lease()))),
                "the sidecar understands {understood:?}"
            );
        }
        Decision::Refuse(refusal) => assert!(accepted.is_err(), "{}", refusal.sentence),
        Decision::Skip(reason) => panic!("{reason:?}"),
    }
}

/// V + σ ≤ D·(1−ρ)/(1+ρ), with room in V for a renewal interval and three attempts of 250 ms.
fn check_timing(timing: &Timing) {
    let (lease, validity) = (timing.lease().as_nanos(), timing.validity());
    assert!((validity + timing.stop_grace()).as_nanos() * 1_001 <= lease * 999, "{timing:?}");
    assert!(validity >= timing.renew_interval() + 3 * timing.attempt_timeout(), "{timing:?}");
    assert!(timing.attempt_timeout() >= Duration::from_millis(250), "{timing:?}");
}

/// Does the API server take what is asked of the program? (`crds/src/rules.rs` says it in CEL.)
fn may_be_asked(program: &ProgramSpec) -> bool {
    let within = |duration: DurationText, least_ms: u64| {
        (Duration::from_millis(least_ms)..=Duration::from_hours(1)).contains(&duration.get())
    };
    let check = program.health_check.as_ref().is_none_or(|check| {
        let ports = [check.http_get.as_ref().map(|get| get.port), check.tcp_socket.map(|socket| socket.port)];
        let plain = |path: &str| {
            path.starts_with('/')
                && path
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || b"._~!$&'()*+,;=:@%/?-".contains(&byte))
        };
        ports.iter().flatten().count() == 1
            && !ports.contains(&Some(0))
            && check.http_get.as_ref().is_none_or(|get| plain(&get.path))
            && (1..=100).contains(&check.failure_threshold)
            && (1..=100).contains(&check.success_threshold)
            && within(check.period, 500)
            && within(check.timeout, 1)
    });
    check && within(program.heartbeat_timeout, 1_000) && within(program.cool_down, 1_000)
}

/// What the injected sidecar makes of its environment. `None`: its policy is one that the API server refuses.
fn told(pod: &Value, spec: &CoordinationPolicySpec) -> Option<ServeArgs> {
    if !(1_024..=65_534).contains(&spec.sidecar.port) || !may_be_asked(&spec.program) {
        return None;
    }
    let variables = pod["spec"]["initContainers"][0]["env"].as_array().expect("it has an environment");
    let command = Args::command();
    let serve = command.find_subcommand("serve").expect("the command is there");
    let options = variables.iter().map(|variable| {
        let argument = serve.get_arguments().find(|argument| {
            argument.get_env().is_some_and(|env| *env == *variable["name"].as_str().unwrap_or_default())
        });
        let option =
            argument.and_then(clap::Arg::get_long).unwrap_or_else(|| panic!("{variable} means nothing"));
        format!("--{option}={}", variable["value"].as_str().unwrap_or("from-the-pod"))
    });
    let arguments = ["conch-sidecar".to_owned(), "serve".to_owned()].into_iter().chain(options);
    match Args::try_parse_from(arguments) {
        Ok(Args { command: Command::Serve(serve) }) => Some(*serve),
        other => panic!("the sidecar does not start: {other:?}"),
    }
}
