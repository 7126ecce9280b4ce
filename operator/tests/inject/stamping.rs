//! Workload → workload with the stamp on its pod template.

use crate::support::{NAMESPACE, image, policies};
use conch_operator::inject::{ChosenPolicy, Stamping, Workload, stamp_workload};
use serde_json::{Value, json};

const POLICY: &str = "conch.rs/policy";
const ELECTION: &str = "conch.rs/election";

fn workload(kind: &str, annotations: &Value) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": kind,
        "metadata": {"name": "payments", "namespace": NAMESPACE, "annotations": annotations, "futureField": 1},
        "spec": {
            "selector": {"matchLabels": {"app": "payments"}},
            "template": {
                "metadata": {"labels": {"app": "payments"}},
                "spec": {"containers": [{"name": "app", "image": "registry.example/app:1"}], "futureField": [2]},
            },
        },
    })
}

fn deployment(policy: &str) -> Value {
    workload("Deployment", &json!({POLICY: policy}))
}

fn plain() -> Value {
    workload("Deployment", &json!({}))
}

fn with(mut workload: Value, pointer: &str, key: &str, value: Value) -> Value {
    workload.pointer_mut(pointer).unwrap()[key] = value;
    workload
}

fn labels(policy: &str, election: &str, injection: &str) -> Value {
    json!({"app": "payments", POLICY: policy, ELECTION: election, "conch.rs/injection": injection})
}

fn stamp(new: &Value, old: Option<&Value>) -> Stamping {
    let policies = policies();
    let workload = Workload { new, old, namespace: NAMESPACE };
    let policy = workload.policy().and_then(|name| policies.get(name)).map(ChosenPolicy::from);
    stamp_workload(workload, policy, &image())
}

/// What is stored, where nothing is to be warned of.
fn stored(new: &Value, old: Option<&Value>) -> Value {
    let (stored, warnings) = stored_with_warnings(new, old);
    assert_eq!(warnings, Vec::<String>::new());
    stored
}

fn stored_with_warnings(new: &Value, old: Option<&Value>) -> (Value, Vec<String>) {
    match stamp(new, old) {
        Stamping::Store { workload, warnings } => (workload, warnings),
        Stamping::Refuse(sentence) => panic!("refused: {sentence}"),
    }
}

fn template_labels(workload: &Value) -> &Value {
    &workload["spec"]["template"]["metadata"]["labels"]
}

#[test]
fn an_annotated_workload_of_any_kind_is_stamped_and_changed_nowhere_else() {
    for kind in ["Deployment", "StatefulSet", "DaemonSet"] {
        let new = workload(kind, &json!({POLICY: "default"}));
        let stamped = stored(&new, None);
        assert_eq!(template_labels(&stamped), &labels("default", "payments", "Required"));
        let unstamped = with(stamped, "/spec/template/metadata", "labels", json!({"app": "payments"}));
        assert_eq!(unstamped, new);
    }
}

#[test]
fn the_stamp_follows_the_annotations() {
    let stored_once = stored(&deployment("default"), Some(&plain()));
    let changed = with(stored_once.clone(), "/metadata/annotations", POLICY, json!("relaxed"));
    let changed = stored(&changed, Some(&stored_once));
    assert_eq!(template_labels(&changed), &labels("relaxed", "payments", "Optional"));

    let moved = with(changed.clone(), "/metadata/annotations", ELECTION, json!("ledger"));
    let moved = stored(&moved, Some(&changed));
    assert_eq!(template_labels(&moved), &labels("relaxed", "ledger", "Optional"));

    let removed = with(moved.clone(), "/metadata", "annotations", json!({}));
    assert_eq!(template_labels(&stored(&removed, Some(&moved))), &json!({"app": "payments"}));
    let emptied = with(moved.clone(), "/metadata/annotations", POLICY, json!(""));
    assert_eq!(template_labels(&stored(&emptied, Some(&moved))), &json!({"app": "payments"}));
}

#[test]
fn an_election_has_the_workloads_name_fitted_to_a_label() {
    let long = "p".repeat(200);
    let new = with(deployment("default"), "/metadata", "name", json!(long));
    let election = template_labels(&stored(&new, None))[ELECTION].as_str().unwrap().to_owned();
    assert_eq!(election.len(), 52);
    assert!(election.starts_with("ppp"), "{election}");
}

#[test]
fn a_template_without_metadata_gets_its_labels() {
    for metadata in [Value::Null, json!({}), json!({"labels": null})] {
        let new = with(deployment("default"), "/spec/template", "metadata", metadata);
        assert_eq!(template_labels(&stored(&new, None))[POLICY], "default");
    }
}

#[test]
fn only_a_stamp_that_we_put_is_taken_off() {
    let labelled = with(plain(), "/spec/template/metadata/labels", POLICY, json!("by-hand"));
    // Nobody annotated it before: the labels are its author's.
    assert_eq!(stored(&labelled, None), labelled);
    assert_eq!(stored(&labelled, Some(&labelled)), labelled);
    // It was annotated, and this very write puts another value: that is the author's, too.
    let before = stored(&deployment("default"), None);
    let after = stored(&labelled, Some(&before));
    assert_eq!(template_labels(&after), &json!({"app": "payments", POLICY: "by-hand"}));
}

#[test]
fn what_the_selector_asks_for_stays() {
    let selecting = |workload: Value| with(workload, "/spec/selector/matchLabels", POLICY, json!("default"));
    let (before, warnings) = stored_with_warnings(&selecting(deployment("default")), None);
    assert!(warnings[0].contains("spec.selector uses the label conch.rs/policy"), "{warnings:?}");
    let removed = with(before.clone(), "/metadata", "annotations", json!({}));
    assert_eq!(
        template_labels(&stored(&removed, Some(&before))),
        &json!({"app": "payments", POLICY: "default"})
    );
}

#[test]
fn a_write_that_replaces_no_pods_keeps_the_stamp_whatever_became_of_the_policy() {
    // Stamped while the policy was missing, or Optional; now it is Required.
    let old = stored(&deployment("default"), None);
    let old = with(old, "/spec/template/metadata/labels", "conch.rs/injection", json!("Optional"));
    let scaled = with(old.clone(), "/spec", "replicas", json!(5));
    assert_eq!(stored(&scaled, Some(&old)), scaled);
    // A manifest without the stamp replaces the stored one: no pod is to be replaced either.
    let replaced = with(deployment("default"), "/spec", "replicas", json!(5));
    assert_eq!(stored(&replaced, Some(&old)), scaled);
    // A write that replaces pods anyway takes the word of the policy.
    let mut rolled = scaled;
    rolled["spec"]["template"]["spec"]["containers"][0]["image"] = json!("registry.example/app:2");
    assert_eq!(template_labels(&stored(&rolled, Some(&old)))["conch.rs/injection"], "Required");
}

#[test]
fn an_annotation_that_changed_while_the_webhook_was_away_is_caught_up_with() {
    let old = stored(&deployment("default"), None);
    let annotated = with(old, "/metadata/annotations", POLICY, json!("relaxed"));
    // Nothing changes in this write but what admission makes of it.
    assert_eq!(
        template_labels(&stored(&annotated, Some(&annotated))),
        &labels("relaxed", "payments", "Optional")
    );
    assert_eq!(
        template_labels(&stored(&deployment("default"), Some(&deployment("default"))))[POLICY],
        "default"
    );
}

/// As the API server keeps it: whoever wrote a field owns it, and what admission adds belongs to nobody.
fn owned(workload: Value, labels: &[&str]) -> Value {
    let labels: serde_json::Map<_, _> =
        labels.iter().map(|label| (format!("f:{label}"), json!({}))).collect();
    let fields = json!({"f:spec": {"f:template": {"f:metadata": {"f:labels": labels}}}});
    let entry =
        json!({"manager": "kubectl", "operation": "Update", "fieldsType": "FieldsV1", "fieldsV1": fields});
    with(workload, "/metadata", "managedFields", json!([entry]))
}

#[test]
fn a_stamp_whose_annotation_was_removed_while_the_webhook_was_away_goes_with_the_next_write() {
    let stamped = stored(&deployment("default"), None);
    let left_over = owned(with(stamped, "/metadata", "annotations", json!({})), &["app"]);
    let (after, warnings) = stored_with_warnings(&left_over, Some(&left_over));
    assert_eq!(template_labels(&after), &json!({"app": "payments"}));
    assert_eq!(warnings, Vec::<String>::new());
    // A label that this very write changes was meant so.
    let by_hand = with(left_over.clone(), "/spec/template/metadata/labels", POLICY, json!("by-hand"));
    assert_eq!(template_labels(&stored(&by_hand, Some(&left_over)))[POLICY], "by-hand");
}

#[test]
fn labels_that_a_person_wrote_are_pointed_out_and_stay() {
    let stamped = stored(&deployment("default"), None);
    let by_hand = owned(with(stamped, "/metadata", "annotations", json!({})), &["app", POLICY]);
    let (after, warnings) = stored_with_warnings(&by_hand, Some(&by_hand));
    assert_eq!(after, by_hand);
    assert!(warnings[0].contains("has the labels of CoordinationPolicy \"default\""), "{warnings:?}");
}

#[test]
fn labels_of_which_nothing_is_known_are_pointed_out_and_stay() {
    let stamped = stored(&deployment("default"), None);
    let removed = with(stamped, "/metadata", "annotations", json!({}));
    let (stored, warnings) = stored_with_warnings(&removed, Some(&removed));
    assert_eq!(stored, removed);
    assert!(
        warnings[0]
            .contains("has the labels of CoordinationPolicy \"default\", but the workload has no annotation"),
        "{warnings:?}"
    );
}

#[test]
fn a_policy_that_does_not_exist_yet_is_required_and_warned_of() {
    let (stamped, warnings) = stored_with_warnings(&deployment("nope"), None);
    assert_eq!(template_labels(&stamped), &labels("nope", "payments", "Required"));
    assert_eq!(warnings.len(), 1);
    assert!(warnings[0].starts_with("pods wait: CoordinationPolicy \"nope\" does not exist"), "{warnings:?}");
}

#[test]
fn what_will_keep_the_sidecar_out_is_said_when_the_workload_is_written() {
    let host_network = |policy: &str| {
        let (_, warnings) = stored_with_warnings(
            &with(deployment(policy), "/spec/template/spec", "hostNetwork", json!(true)),
            None,
        );
        warnings[0].clone()
    };
    assert!(host_network("default").starts_with("pods are refused: the pod uses hostNetwork"));
    assert!(host_network("relaxed").starts_with("pods start without a sidecar: the pod uses hostNetwork"));
    let mut taken = deployment("tight");
    taken["spec"]["template"]["spec"]["containers"][0]["ports"] = json!([{"containerPort": 9091}]);
    let (_, warnings) = stored_with_warnings(&taken, None);
    assert!(warnings[0].contains("has port 9091; the sidecar needs 9090 and 9091"), "{warnings:?}");
}

#[test]
fn an_annotation_on_the_pod_template_is_answered_with_the_command_that_is_meant() {
    let misplaced = with(plain(), "/spec/template/metadata", "annotations", json!({POLICY: "default"}));
    let (stored, warnings) = stored_with_warnings(&misplaced, None);
    assert_eq!(stored, misplaced);
    assert_eq!(
        warnings,
        [
            "annotation conch.rs/policy on the pod template does nothing: kubectl annotate deployment payments conch.rs/policy=default"
        ]
    );
}

#[test]
fn an_impossible_name_is_refused_when_it_comes_in_and_only_warned_of_when_it_is_there() {
    for (key, value) in
        [(POLICY, "Not A Policy".to_owned()), (POLICY, "p".repeat(53)), (ELECTION, "Ledger".to_owned())]
    {
        let annotated = |mut annotations: Value| {
            annotations[key] = json!(value);
            workload("Deployment", &annotations)
        };
        let new = annotated(json!({POLICY: "default"}));
        for old in [None, Some(plain()), Some(deployment("default"))] {
            let Stamping::Refuse(sentence) = stamp(&new, old.as_ref()) else {
                panic!("{key}={value} is stored")
            };
            assert!(sentence.contains(&value) && sentence.starts_with("annotation conch.rs/"), "{sentence}");
        }
        let scaled = with(new.clone(), "/spec", "replicas", json!(2));
        let (stored, warnings) = stored_with_warnings(&scaled, Some(&new));
        assert_eq!(stored, scaled);
        assert!(warnings[0].contains(&value), "{warnings:?}");
    }
}

/// The API server cuts a warning off after 256 characters.
#[test]
fn every_warning_is_short_enough_to_be_shown_whole_even_with_the_longest_names() {
    let policy_name = "p".repeat(52);
    let namespace = "n".repeat(63);
    let hostile = |change: &dyn Fn(&mut Value)| {
        let mut hostile = deployment(&policy_name);
        hostile["spec"]["template"]["spec"]["containers"][0]["name"] = json!("c".repeat(63));
        hostile["spec"]["selector"]["matchExpressions"] = json!([{"key": ELECTION, "operator": "Exists"}]);
        change(&mut hostile);
        hostile
    };
    let workloads = [
        hostile(&|workload| workload["spec"]["template"]["spec"]["hostNetwork"] = json!(true)),
        hostile(&|workload| workload["spec"]["template"]["spec"]["os"] = json!({"name": "windows"})),
        hostile(&|workload| {
            workload["spec"]["template"]["spec"]["volumes"] = json!([{"name": "conch-token"}]);
        }),
        hostile(&|workload| {
            workload["spec"]["template"]["spec"]["containers"][0]["ports"] = json!([{"containerPort": 4040}]);
        }),
        hostile(&|_| ()),
    ];
    let policies = policies();
    let all = policies.values().map(|policy| Some(ChosenPolicy::from(policy))).chain([None]);
    let mut longest = String::new();
    for (policy, new) in all.flat_map(|policy| workloads.iter().map(move |workload| (policy, workload))) {
        let workload = Workload { new, old: None, namespace: &namespace };
        let Stamping::Store { warnings, .. } = stamp_workload(workload, policy, &image()) else {
            panic!("refused")
        };
        longest = warnings.into_iter().chain([longest]).max_by_key(String::len).unwrap();
    }
    assert!(longest.len() > 200 && longest.len() <= 256, "{} characters: {longest}", longest.len());
}
