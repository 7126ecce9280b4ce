//! The rules in the CRD, evaluated here, say what the code says.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use conch_crds::CoordinationPolicy;
use kube::{
    CustomResourceExt,
    core::cel::{CompiledSchema, Validator, apply_defaults, compile_schema},
};
use serde_json::{Value, json};

/// The schema with its rules, compiled once.
struct Checker {
    schema: Value,
    compiled: CompiledSchema,
}

impl Checker {
    fn new() -> Self {
        let crd = CoordinationPolicy::crd();
        let schema = json!(crd.spec.versions[0].schema.as_ref().unwrap().open_api_v3_schema);
        let compiled = compile_schema(&schema);
        Self { schema, compiled }
    }

    /// The messages of the rules that the policy breaks, after the schema's defaults. A rule that does not compile is
    /// broken by every policy.
    fn objections(&self, policy: &Value, old: Option<&Value>) -> Vec<String> {
        match Validator::new().validate_compiled(&self.compiled, policy, old) {
            Ok(()) => Vec::new(),
            Err(errors) => errors.into_vec().into_iter().map(|error| error.message).collect(),
        }
    }
}

#[test]
fn the_rules_and_the_elector_refuse_the_same_timings() {
    let checker = Checker::new();
    let (mut accepted, mut refused) = (0, 0);
    for case in support::grid() {
        let by_rules = checker.objections(&case.policy(), None);
        let by_elector = case.objection();
        assert_eq!(by_rules.is_empty(), by_elector.is_none(), "{case:?}: {by_rules:?}, {by_elector:?}");
        match by_elector {
            None => accepted += 1,
            Some(_) => refused += 1,
        }
    }
    assert!(accepted > 200 && refused > 200, "the grid has both: {accepted} accepted, {refused} refused");
}

#[test]
fn too_short_a_lease_is_refused_in_the_words_of_the_elector() {
    let checker = Checker::new();
    let mut compared = 0;
    for case in support::grid() {
        let Some(objection) = case.objection().filter(|objection| objection.contains("at least")) else {
            continue;
        };
        let by_rules = checker.objections(&case.policy(), None);
        assert!(by_rules.contains(&objection), "{case:?}: {by_rules:?}, {objection}");
        compared += 1;
    }
    assert!(compared > 200, "{compared} compared");
}

#[test]
fn an_empty_spec_is_a_policy() {
    let checker = Checker::new();
    let policy = support::policy(&json!({}));
    assert_eq!(checker.objections(&policy, None), Vec::<String>::new());
    let spec = apply_defaults(&checker.schema, &policy)["spec"].clone();
    assert_eq!(
        spec,
        json!(conch_crds::CoordinationPolicySpec::default()),
        "the defaults of the schema and of the code"
    );
}

#[test]
fn no_time_to_stop_is_refused_where_two_leaders_damage_data() {
    let checker = Checker::new();
    let zero = json!({ "timing": { "stopGrace": "0s" } });
    let objections = checker.objections(&support::policy(&zero), None);
    assert!(objections.iter().any(|message| message.contains("stopGrace must be longer")), "{objections:?}");

    let harmless = json!({ "consequence": "DuplicateWork", "timing": { "stopGrace": "0s" } });
    assert_eq!(checker.objections(&support::policy(&harmless), None), Vec::<String>::new());
}

#[test]
fn clients_that_keep_an_answer_for_a_minute_are_refused_unless_the_time_to_stop_covers_it() {
    let checker = Checker::new();
    let objections = |consequence: &str, stop_grace: &str, compatibility: &str| {
        let timing = json!({ "leaseDuration": "90s", "stopGrace": stop_grace });
        let program = json!({ "compatibility": compatibility });
        let spec = json!({ "consequence": consequence, "timing": timing, "program": program });
        let policy = CoordinationPolicy::new("p", serde_json::from_value(spec.clone()).unwrap());
        let objections = checker.objections(&support::policy(&spec), None);
        assert_eq!(
            policy.spec.lacks_stop_grace().is_some(),
            !objections.is_empty(),
            "the code says the same"
        );
        objections
    };
    for stop_grace in ["1ms", "3s", "59s999ms", "60s"] {
        let found = objections("Corruption", stop_grace, "LeaderElector");
        let asks = ["longer than 60s", "leaseDuration with room", "consequence: DuplicateWork"];
        assert!(found.iter().any(|message| asks.iter().all(|ask| message.contains(ask))), "{found:?}");
        assert_eq!(objections("DuplicateWork", stop_grace, "LeaderElector"), Vec::<String>::new());
        assert_eq!(objections("Corruption", stop_grace, "None"), Vec::<String>::new());
    }
    for stop_grace in ["60s1ms", "65s"] {
        assert_eq!(objections("Corruption", stop_grace, "LeaderElector"), Vec::<String>::new());
    }
}

#[test]
fn a_fencing_offset_can_only_be_raised() {
    let checker = Checker::new();
    let offset = |offset: u64| support::policy(&json!({ "fencingOffset": offset }));
    assert_eq!(checker.objections(&offset(7), Some(&offset(7))), Vec::<String>::new());
    assert_eq!(checker.objections(&offset(8), Some(&offset(7))), Vec::<String>::new());
    let objections = checker.objections(&offset(6), Some(&offset(7)));
    assert!(objections.iter().any(|message| message.contains("can only be raised")), "{objections:?}");
    let unset = checker.objections(&support::policy(&json!({})), Some(&offset(7)));
    assert!(!unset.is_empty(), "removing the field lowers it");
}

#[test]
fn a_request_above_its_limit_and_an_unknown_resource_are_refused() {
    let checker = Checker::new();
    let resources = |resources: Value| support::policy(&json!({ "sidecar": { "resources": resources } }));
    let fine = resources(json!({ "requests": { "cpu": "10m" }, "limits": { "cpu": 1, "memory": "64Mi" } }));
    assert_eq!(checker.objections(&fine, None), Vec::<String>::new());
    let above = resources(json!({ "requests": { "memory": "64Mi" } }));
    let objections = checker.objections(&above, None);
    assert!(objections.iter().any(|message| message.contains("may exceed its limit")), "{objections:?}");
    let unknown = resources(json!({ "limits": { "memroy": "64Mi" } }));
    let objections = checker.objections(&unknown, None);
    assert!(objections.iter().any(|message| message.contains("ephemeral-storage")), "{objections:?}");
}

/// What is objected to in a policy whose `program` is this.
fn objections_to(checker: &Checker, program: &Value) -> Vec<String> {
    checker.objections(&support::policy(&json!({ "program": program })), None)
}

#[test]
fn what_is_asked_of_a_program_is_accepted_where_it_can_be_kept() {
    let checker = Checker::new();
    for program in support::accepted_of_a_program() {
        assert_eq!(objections_to(&checker, &program), Vec::<String>::new(), "{program}");
    }
    let policy = support::policy(&json!({ "program": { "healthCheck": { "httpGet": { "port": 8080 } } } }));
    let filled = apply_defaults(&checker.schema, &policy)["spec"]["program"].clone();
    let spec: conch_crds::program::ProgramSpec = serde_json::from_value(filled.clone()).unwrap();
    assert_eq!(json!(spec), filled, "the defaults of the schema and of the code");
    assert_eq!(filled["healthCheck"]["httpGet"]["path"], "/");
    assert_eq!(filled["healthCheck"]["failureThreshold"], 3);
}

#[test]
fn what_cannot_be_asked_of_a_program_is_refused_with_the_number_to_change() {
    let checker = Checker::new();
    for (program, expected) in support::refused_of_a_program() {
        let objections = objections_to(&checker, &program);
        assert!(objections.iter().any(|message| message.contains(expected)), "{program}: {objections:?}");
    }
}

#[test]
fn a_name_that_would_not_fit_into_a_label_is_refused() {
    let checker = Checker::new();
    let mut policy = support::policy(&json!({}));
    policy["metadata"]["name"] = json!("a".repeat(53));
    let objections = checker.objections(&policy, None);
    assert!(objections.iter().any(|message| message.contains("has 53 characters")), "{objections:?}");
}
