//! Reading and extending raw JSON whose shape nobody has checked.

use serde_json::{Map, Value};

/// The string at a JSON pointer.
pub(super) fn text<'a>(value: &'a Value, pointer: &str) -> Option<&'a str> {
    value.pointer(pointer).and_then(Value::as_str)
}

/// The elements of the list at a JSON pointer; none where there is no list.
pub(super) fn list<'a>(value: &'a Value, pointer: &str) -> &'a [Value] {
    value.pointer(pointer).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// The value of a key in the map of strings at a JSON pointer, e.g. one of the labels. Keys may hold a slash.
pub(super) fn entry<'a>(value: &'a Value, pointer: &str, key: &str) -> Option<&'a str> {
    value.pointer(pointer).and_then(|map| map.get(key)).and_then(Value::as_str)
}

/// The `name` of a container, volume or variable.
pub(super) fn name(value: &Value) -> Option<&str> {
    value.get("name").and_then(Value::as_str)
}

/// The object under this key, made if it is missing. `None` if something else is there.
pub(super) fn object_in<'a>(
    parent: &'a mut Map<String, Value>,
    key: &str,
) -> Option<&'a mut Map<String, Value>> {
    slot(parent, key, || Value::Object(Map::new())).as_object_mut()
}

/// The list under this key, made if it is missing. `None` if something else is there.
pub(super) fn list_in<'a>(parent: &'a mut Map<String, Value>, key: &str) -> Option<&'a mut Vec<Value>> {
    slot(parent, key, || Value::Array(Vec::new())).as_array_mut()
}

/// JSON's `null` is a missing value to Kubernetes.
fn slot<'a>(parent: &'a mut Map<String, Value>, key: &str, empty: impl FnOnce() -> Value) -> &'a mut Value {
    let value = parent.entry(key).or_insert(Value::Null);
    if value.is_null() {
        *value = empty();
    }
    value
}
