//! What holds for every pod, golden or made up.

use crate::support::{NAMESPACE, image, injected, pods, policies};
use conch_crds::names;
use conch_operator::inject::{
    ChosenPolicy, Decision, SkipReason, Stamping, Workload, decide, inject, patch, stamp_workload,
};
use proptest::{collection::vec, prelude::*};
use serde_json::{Map, Value, json};

#[test]
fn the_patch_of_each_golden_pod_leads_to_the_injected_pod() {
    let policies = policies();
    for (name, pod) in pods() {
        let Some(after) = injected(&pod, &policies) else { continue };
        let mut patched = pod.clone();
        json_patch::patch(&mut patched, &patch::diff(&pod, &after)).unwrap();
        assert_eq!(patched, after, "{name}");
    }
}

#[test]
fn injecting_twice_is_injecting_once() {
    let policies = policies();
    let mut count = 0;
    for (name, pod) in pods() {
        let Some(after) = injected(&pod, &policies) else { continue };
        let decision = decide(&after, NAMESPACE, crate::support::policy_of(&after, &policies), &image());
        assert_eq!(decision, Decision::Skip(SkipReason::AlreadyInjected), "{name}");
        let Decision::Inject(injection) =
            decide(&pod, NAMESPACE, crate::support::policy_of(&pod, &policies), &image())
        else {
            panic!("{name}")
        };
        assert_eq!(inject(&after, &injection, &image(), None).unwrap(), after, "{name}");
        count += 1;
    }
    assert!(count >= 15, "{count}");
}

#[test]
fn nothing_that_the_author_wrote_is_removed() {
    let policies = policies();
    for (name, pod) in pods() {
        let Some(after) = injected(&pod, &policies) else { continue };
        assert_kept(&without_ours(&pod), &without_ours(&after), &name);
    }
}

/// The pod as its author wrote it: without what an earlier injection put in.
fn without_ours(pod: &Value) -> Value {
    let mut pod = pod.clone();
    for (list, ours) in [("/spec/initContainers", "conch"), ("/spec/volumes", "conch-token")] {
        if let Some(Value::Array(list)) = pod.pointer_mut(list) {
            list.retain(|element| element["name"] != ours);
        }
    }
    if let Some(Value::Object(annotations)) = pod.pointer_mut("/metadata/annotations") {
        annotations.remove(names::INJECTED);
    }
    pod
}

/// Everything in `part` is in `whole`, in its place and in its order.
fn assert_kept(part: &Value, whole: &Value, place: &str) {
    match (part, whole) {
        (Value::Null, _) => {}
        (Value::Object(part), Value::Object(whole)) => {
            for (key, value) in part {
                assert_kept(
                    value,
                    whole.get(key).unwrap_or_else(|| panic!("{place}.{key} is gone")),
                    &format!("{place}.{key}"),
                );
            }
        }
        (Value::Array(part), Value::Array(whole)) => {
            assert!(whole.len() >= part.len(), "{place}");
            for (index, (part, whole)) in part.iter().zip(whole).enumerate() {
                assert_kept(part, whole, &format!("{place}[{index}]"));
            }
        }
        _ => assert_eq!(part, whole, "{place}"),
    }
}

/// Any JSON.
pub(crate) fn json_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        Just(json!(4040)),
        prop_oneof![
            "[a-z/~.]{0,6}",
            Just("conch".to_owned()),
            Just("Always".to_owned()),
            Just("conch-token".to_owned())
        ]
        .prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 48, 5, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..5).prop_map(Value::from),
            vec((key(), inner), 0..5).prop_map(|pairs| Value::Object(Map::from_iter(pairs))),
        ]
    })
}

/// Keys that matter to injection, and others.
fn key() -> impl Strategy<Value = String> {
    let words: &[&str] = &[
        "name",
        "env",
        "ports",
        "containerPort",
        "restartPolicy",
        "value",
        "protocol",
        "labels",
        "annotations",
        "metadata",
        "spec",
        "template",
        "a/b~c",
        names::INJECTED,
        names::POLICY,
    ];
    prop_oneof![proptest::sample::select(words).prop_map(str::to_owned), "[a-z/~]{0,4}"]
}

/// Something like a stamped pod, with anything anywhere.
pub(crate) fn podlike() -> impl Strategy<Value = Value> {
    let fields: &[&str] = &[
        "initContainers",
        "containers",
        "volumes",
        "ephemeralContainers",
        "os",
        "nodeSelector",
        "hostNetwork",
        "other",
    ];
    let element = prop_oneof![
        json_value(),
        ("[a-c]", json_value(), json_value())
            .prop_map(|(name, env, other)| json!({"name": name, "env": env, "other": other})),
        "[a-c]".prop_map(|name| json!({"name": name, "restartPolicy": "Always"})),
        Just(json!({"name": "conch"})),
        Just(json!({"name": "conch-token"})),
    ];
    let field = (
        proptest::sample::select(fields),
        prop_oneof![json_value(), vec(element, 0..4).prop_map(Value::from)],
    );
    let annotations = prop_oneof![
        Just(Value::Null),
        json_value(),
        Just(json!({names::INJECTED: "default@3/registry.example/conch-sidecar:0.1.0"})),
        Just(json!({names::INJECTED: "default@2/other"})),
    ];
    (vec(field, 0..6), annotations, prop::bool::weighted(0.05), json_value()).prop_map(
        |(fields, annotations, broken, other)| {
            let mut spec = Map::new();
            for (key, value) in fields {
                spec.insert(key.to_owned(), value);
            }
            let labels =
                json!({names::POLICY: "default", names::ELECTION: "e", names::INJECTION: "Required"});
            let spec = if broken { other.clone() } else { Value::Object(spec) };
            json!({"metadata": {"labels": labels, "annotations": annotations}, "spec": spec, "other": other})
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn a_patch_leads_from_any_document_to_any_other(before in json_value(), after in json_value()) {
        let mut patched = before.clone();
        json_patch::patch(&mut patched, &patch::diff(&before, &after)).unwrap();
        prop_assert_eq!(patched, after);
    }

    #[test]
    fn a_patch_moves_one_element_to_the_end_without_touching_the_others(list in vec(json_value(), 2..6), index in 0_usize..6) {
        let mut after = list.clone();
        let moved = after.remove(index % list.len());
        after.push(moved);
        let patch = patch::diff(&Value::from(list.clone()), &Value::from(after.clone()));
        prop_assert!(patch.0.len() <= 2 || list.windows(2).any(|pair| pair[0] == pair[1]));
        let mut patched = Value::from(list);
        json_patch::patch(&mut patched, &patch).unwrap();
        prop_assert_eq!(patched, Value::from(after));
    }

    #[test]
    fn any_pod_is_decided_on_and_injected_once_or_called_malformed(pod in podlike()) {
        let policies = policies();
        let decision = decide(&pod, NAMESPACE, policies.get("default").map(ChosenPolicy::from), &image());
        let Decision::Inject(injection) = decision else { return Ok(()) };
        let Ok(after) = inject(&pod, &injection, &image(), None) else { return Ok(()) };
        let last = after["spec"]["initContainers"].as_array().unwrap().last().unwrap();
        prop_assert_eq!(&last["name"], "conch");
        prop_assert_eq!(&last["restartPolicy"], "Always");
        assert_kept(&without_ours(&pod), &without_ours(&after), "pod");
        prop_assert_eq!(
            decide(&after, NAMESPACE, policies.get("default").map(ChosenPolicy::from), &image()),
            Decision::Skip(SkipReason::AlreadyInjected)
        );
        prop_assert_eq!(&inject(&after, &injection, &image(), None).unwrap(), &after);
        let mut patched = pod.clone();
        json_patch::patch(&mut patched, &patch::diff(&pod, &after)).unwrap();
        prop_assert_eq!(patched, after);
    }

    #[test]
    fn any_workload_is_stamped_or_refused(new in json_value(), old in json_value(), annotated in json_value()) {
        let policies = policies();
        let made = |spec: &Value| json!({
            "metadata": {"name": "a", "annotations": {names::POLICY: annotated}}, "spec": {"template": spec, "selector": spec}
        });
        for (new, old) in [(new.clone(), old.clone()), (made(&new), made(&old)), (made(&old), new)] {
            let workload = Workload { new: &new, old: Some(&old), namespace: NAMESPACE };
            let Stamping::Store { workload: once, .. } = stamp_workload(workload, policies.get("default").map(ChosenPolicy::from), &image()) else { continue };
            let again = Workload { new: &once, old: Some(&once), namespace: NAMESPACE };
            let Stamping::Store { workload: twice, .. } = stamp_workload(again, policies.get("default").map(ChosenPolicy::from), &image()) else {
                panic!("what was stored is refused")
            };
            prop_assert_eq!(once, twice);
        }
    }
}
