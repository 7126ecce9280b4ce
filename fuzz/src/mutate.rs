//! Changes JSON into other JSON. Bytes that are changed at random are hardly ever JSON again, so that a fuzzer would test
//! little besides the parser.

use fastrand::Rng;
use serde_json::{Map, Value, json};

/// Words that mean something to somebody here, as keys or values, and some that do not.
const WORDS: &[&str] = &[
    conch_crds::names::POLICY,
    conch_crds::names::ELECTION_LABEL,
    conch_crds::names::INJECTION,
    conch_crds::names::INJECTED,
    conch_crds::names::RECORD,
    conch_crds::names::FRESH,
    conch_crds::names::LONGEST_LEASE,
    conch_crds::names::POD_DELETION,
    conch_crds::names::SIDECAR_CONTAINER,
    conch_crds::names::TOKEN_VOLUME,
    conch_crds::names::ENV_URL,
    "metadata",
    "annotations",
    "labels",
    "spec",
    "template",
    "selector",
    "matchLabels",
    "matchExpressions",
    "key",
    "name",
    "containers",
    "initContainers",
    "ephemeralContainers",
    "volumes",
    "env",
    "ports",
    "containerPort",
    "protocol",
    "restartPolicy",
    "Always",
    "hostNetwork",
    "os",
    "nodeSelector",
    "kubernetes.io/os",
    "object",
    "oldObject",
    "strategy",
    "preferredHolder",
    "holderIdentity",
    "leaseDurationSeconds",
    "deletionTimestamp",
    "Required",
    "Optional",
    "default",
    "tight",
    "unsafe",
    "1h",
    "999999h999999m",
    "0s",
    "1.001s",
    "true",
    "",
    "-",
    "~/1",
    "\u{1f41a}",
    "a_b_00000000000000000000000000000abc",
    "00000000000000000000000000000abc.2",
];

/// Turns the JSON in `data[..size]` into other JSON of at most `max_size` bytes, and returns its size. `None`: it is no
/// JSON or grew too long, or its bytes should be changed this time.
pub fn json(data: &mut [u8], size: usize, max_size: usize, seed: u32) -> Option<usize> {
    let mut random = Rng::with_seed(seed.into());
    if random.u8(..4) == 0 {
        return None;
    }
    let mut document: Value = serde_json::from_slice(&data[..size]).ok()?;
    for _ in 0..=random.u8(..3) {
        change(&mut document, &mut random);
    }
    let text = serde_json::to_vec(&document).ok()?;
    let room = data.get_mut(..text.len()).filter(|_| text.len() <= max_size)?;
    room.copy_from_slice(&text);
    Some(text.len())
}

fn change(document: &mut Value, random: &mut Rng) {
    let count = count(document);
    let other = nth(document, &mut random.usize(..count)).map(|value| value.clone()).unwrap_or_default();
    if let Some(value) = nth(document, &mut random.usize(..count)) {
        change_value(value, other, random);
    }
}

fn change_value(value: &mut Value, other: Value, random: &mut Rng) {
    match (random.u8(..4), &mut *value) {
        (0, _) => *value = other,
        (1, _) => *value = leaf(random),
        (_, Value::Array(list)) => change_list(list, other, random),
        (_, Value::Object(map)) => change_map(map, other, random),
        (_, Value::String(text)) => change_text(text, random),
        (2, _) => *value = json!([value.clone()]),
        (_, _) => *value = leaf(random),
    }
}

fn change_list(list: &mut Vec<Value>, other: Value, random: &mut Rng) {
    let at = random.usize(..=list.len());
    match random.u8(..4) {
        0 if at < list.len() => drop(list.remove(at)),
        1 if at < list.len() => list.push(list[at].clone()),
        2 => random.shuffle(list),
        _ => list.insert(at, other),
    }
}

fn change_map(map: &mut Map<String, Value>, other: Value, random: &mut Rng) {
    let key = random.choice(map.keys().cloned().collect::<Vec<_>>());
    let value = if random.bool() { other } else { leaf(random) };
    match (random.u8(..3), key) {
        (0, Some(key)) => drop(map.remove(&key)),
        (1, Some(key)) => {
            let kept = map.remove(&key).unwrap_or_default();
            map.insert(word(random), kept);
        }
        _ => drop(map.insert(word(random), value)),
    }
}

/// A text may be JSON itself, as the annotations of a Lease are.
fn change_text(text: &mut String, random: &mut Rng) {
    if let Ok(mut inner @ (Value::Object(_) | Value::Array(_))) = serde_json::from_str(text) {
        change(&mut inner, random);
        *text = inner.to_string();
        return;
    }
    let mut symbols: Vec<char> = text.chars().collect();
    let at = random.usize(..=symbols.len());
    match random.u8(..4) {
        0 if at < symbols.len() => drop(symbols.remove(at)),
        1 if at < symbols.len() => symbols[at] = random.char('\0'..='\u{ff}'),
        2 => symbols.truncate(at),
        3 => symbols.extend(word(random).chars()),
        _ => symbols.insert(at, random.char(' '..='~')),
    }
    *text = symbols.into_iter().collect();
}

fn leaf(random: &mut Rng) -> Value {
    match random.u8(..10) {
        0 => Value::Null,
        1 => json!(random.bool()),
        2 => json!([]),
        3 => json!({}),
        4 => json!(random.u8(..20)),
        5 => json!(i64::MIN >> random.u8(..63)),
        6 => json!(u64::MAX >> random.u8(..64)),
        7 => json!(f64::from(random.u8(..)) / 10.0),
        8 => json!([4_040, 4_041, 65_535, 81_234, 3_600][random.usize(..5)]),
        _ => Value::String(word(random)),
    }
}

fn word(random: &mut Rng) -> String {
    WORDS[random.usize(..WORDS.len())].to_owned()
}

fn count(value: &Value) -> usize {
    1 + match value {
        Value::Array(list) => list.iter().map(count).sum(),
        Value::Object(map) => map.values().map(count).sum(),
        _ => 0,
    }
}

/// The value that comes after `left` others.
fn nth<'a>(value: &'a mut Value, left: &mut usize) -> Option<&'a mut Value> {
    if *left == 0 {
        return Some(value);
    }
    *left -= 1;
    match value {
        Value::Array(list) => list.iter_mut().find_map(|element| nth(element, left)),
        Value::Object(map) => map.values_mut().find_map(|element| nth(element, left)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn json_becomes_much_other_json() {
        let text = br#"{"metadata": {"annotations": {"conch.rs/record": "{\"form\":1}"}}, "spec": [1, "a"]}"#;
        let mut others = BTreeSet::new();
        for seed in 0..1_000 {
            let mut data = text.to_vec();
            data.resize(4_096, 0);
            if let Some(size) = json(&mut data, text.len(), 4_096, seed) {
                others.insert(serde_json::from_slice::<Value>(&data[..size]).unwrap().to_string());
            }
        }
        assert!(others.len() > 500, "{}", others.len());
        assert!(
            others.iter().any(|other| other.contains(r#"{\"form\":"#) && !other.contains(r#"\"form\":1}"#))
        );
    }

    #[test]
    fn what_is_no_json_or_would_grow_too_long_is_left_to_others() {
        for seed in 0..100 {
            assert_eq!(json(&mut [b'{'; 64], 64, 64, seed), None);
            assert!(json(&mut b"[1]".to_vec(), 3, 3, seed).is_none_or(|size| size <= 3));
        }
    }
}
