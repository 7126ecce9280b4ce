//! The JSON patch that leads from one raw document to another.

use json_patch::{
    AddOperation, Patch, PatchOperation, RemoveOperation, ReplaceOperation,
    jsonptr::{PointerBuf, Token},
};
use serde_json::{Map, Value};

/// The operations that make `after` out of `before`: additions, removals and replacements, each as deep as possible.
pub fn diff(before: &Value, after: &Value) -> Patch {
    let mut patch = Patch::default();
    differences(before, after, &PointerBuf::new(), &mut patch.0);
    patch
}

fn differences(before: &Value, after: &Value, path: &PointerBuf, operations: &mut Vec<PatchOperation>) {
    match (before, after) {
        _ if before == after => {}
        (Value::Object(before), Value::Object(after)) => in_object(before, after, path, operations),
        (Value::Array(before), Value::Array(after)) => in_array(before, after, path, operations),
        _ => operations.push(replace(path.clone(), after)),
    }
}

fn in_object(
    before: &Map<String, Value>,
    after: &Map<String, Value>,
    path: &PointerBuf,
    operations: &mut Vec<PatchOperation>,
) {
    for (key, value) in after {
        let path = path.with_trailing_token(key.as_str());
        match before.get(key) {
            Some(old) => differences(old, value, &path, operations),
            None => operations.push(add(path, value)),
        }
    }
    let gone = before.keys().filter(|key| !after.contains_key(*key));
    operations.extend(gone.map(|key| remove(path.with_trailing_token(key.as_str()))));
}

/// Lists grow at their end here, or one element moves to the end: it is taken out first, so that the others, which may be
/// large, do not appear in the patch as if each had become its neighbour.
fn in_array(before: &[Value], after: &[Value], path: &PointerBuf, operations: &mut Vec<PatchOperation>) {
    let mut kept: Vec<&Value> = before.iter().collect();
    if let Some(moved) = moved_away(before, after) {
        kept.remove(moved);
        operations.push(remove(path.with_trailing_token(moved)));
    }
    for (index, (old, new)) in kept.iter().zip(after).enumerate() {
        differences(old, new, &path.with_trailing_token(index), operations);
    }
    let surplus = (after.len()..kept.len()).rev();
    operations.extend(surplus.map(|index| remove(path.with_trailing_token(index))));
    let appended = after.iter().skip(kept.len());
    operations.extend(appended.map(|value| add(path.with_trailing_token(Token::new("-")), value)));
}

/// The index of the one element without which `before` is the beginning of `after`, unless it is so already.
fn moved_away(before: &[Value], after: &[Value]) -> Option<usize> {
    let index = before.iter().zip(after).position(|(old, new)| old != new)?;
    let rest = &before[index + 1..];
    let moved_up = after.get(index..index + rest.len()).is_some_and(|elements| elements == rest);
    (moved_up && !rest.is_empty()).then_some(index)
}

fn add(path: PointerBuf, value: &Value) -> PatchOperation {
    PatchOperation::Add(AddOperation { path, value: value.clone() })
}

fn replace(path: PointerBuf, value: &Value) -> PatchOperation {
    PatchOperation::Replace(ReplaceOperation { path, value: value.clone() })
}

fn remove(path: PointerBuf) -> PatchOperation {
    PatchOperation::Remove(RemoveOperation { path })
}
