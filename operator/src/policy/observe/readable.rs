//! Objects as the API server may send them. One that a library cannot read must not end the watch that brings it: whoever
//! may write one object would make the operator blind for all of its kind.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::{
    Resource,
    core::{DeserializeGuard, error_boundary::InvalidObject},
};
use serde::{Deserialize, Deserializer, de::DeserializeOwned};
use serde_json::Value;
use std::borrow::Cow;

/// An object, or why it cannot be read.
///
/// Kubernetes takes times up to the last microsecond of the year 9999, [`Timestamp`] ends before. An object that holds such
/// a time is read without it.
#[derive(Clone, Debug)]
pub struct Readable<K>(pub Result<K, InvalidObject>);

impl<'de, K: Resource + DeserializeOwned> Deserialize<'de> for Readable<K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut value = Value::deserialize(deserializer)?;
        if let Ok(object) = K::deserialize(&value) {
            return Ok(Self(Ok(object)));
        }
        remove_unreadable_times(&mut value);
        let DeserializeGuard(object) =
            DeserializeGuard::deserialize(value).map_err(serde::de::Error::custom)?;
        Ok(Self(object))
    }
}

impl<K: Resource> Resource for Readable<K> {
    type DynamicType = K::DynamicType;
    type Scope = K::Scope;

    fn kind(kind: &K::DynamicType) -> Cow<'_, str> {
        K::kind(kind)
    }

    fn group(kind: &K::DynamicType) -> Cow<'_, str> {
        K::group(kind)
    }

    fn version(kind: &K::DynamicType) -> Cow<'_, str> {
        K::version(kind)
    }

    fn plural(kind: &K::DynamicType) -> Cow<'_, str> {
        K::plural(kind)
    }

    fn meta(&self) -> &ObjectMeta {
        self.0.as_ref().map_or_else(|invalid| &invalid.metadata, K::meta)
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        self.0.as_mut().map_or_else(|invalid| &mut invalid.metadata, K::meta_mut)
    }
}

fn remove_unreadable_times(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|_, field| !is_unreadable_time(field));
            fields.values_mut().for_each(remove_unreadable_times);
        }
        Value::Array(items) => items.iter_mut().for_each(remove_unreadable_times),
        _ => {}
    }
}

/// Has it the form of RFC 3339, and no meaning here?
fn is_unreadable_time(value: &Value) -> bool {
    let Some(text) = value.as_str() else { return false };
    let form = text.bytes().zip(b"0000-00-00T00:00:00".iter());
    let has_form = text.len() >= "0000-00-00T00:00:00Z".len()
        && form
            .into_iter()
            .all(|(byte, form)| if *form == b'0' { byte.is_ascii_digit() } else { byte == *form });
    has_form && text.parse::<Timestamp>().is_err()
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::{apps::v1::Deployment, coordination::v1::Lease, core::v1::Pod};
    use serde_json::json;

    fn read<K: Resource + DeserializeOwned>(value: Value) -> Readable<K> {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn a_time_that_the_library_cannot_hold_is_left_out_and_the_rest_is_read() {
        let lease = json!({"metadata": {"name": "l"},
            "spec": {"holderIdentity": "h", "renewTime": "9999-12-31T23:59:59.999999Z"}});
        assert!(serde_json::from_value::<Lease>(lease.clone()).is_err(), "or this type is needed no more");
        let spec = read::<Lease>(lease).0.unwrap().spec.unwrap();
        assert_eq!((spec.holder_identity.as_deref(), spec.renew_time), (Some("h"), None));
        let template =
            json!({"metadata": {"creationTimestamp": "9999-12-31T00:00:00Z", "labels": {"a": "b"}}});
        let deployment = json!({"metadata": {"name": "d"}, "spec": {"selector": {}, "template": template}});
        let deployment = read::<Deployment>(deployment).0.unwrap();
        assert_eq!(deployment.spec.unwrap().template.metadata.unwrap().labels.unwrap()["a"], "b");
    }

    #[test]
    fn what_cannot_be_read_at_all_keeps_its_name_and_says_why() {
        let pod = read::<Pod>(json!({"metadata": {"name": "p"}, "spec": {"containers": "none"}}));
        assert_eq!(pod.meta().name.as_deref(), Some("p"));
        assert!(pod.0.unwrap_err().error.contains("none"));
    }

    #[test]
    fn only_impossible_times_are_removed() {
        let mut value = json!({"time": "2026-01-01T00:00:00Z", "name": "9999-12-31T", "last": "9999-12-31T23:59:59Z",
            "list": [{"last": "9999-12-31T23:59:59.999999Z"}], "odd": "2026-13-41T25:61:61Z", "no": "2026-01-01"});
        remove_unreadable_times(&mut value);
        let left =
            json!({"time": "2026-01-01T00:00:00Z", "name": "9999-12-31T", "list": [{}], "no": "2026-01-01"});
        assert_eq!(value, left);
    }
}
