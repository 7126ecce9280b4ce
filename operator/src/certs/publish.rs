//! The `caBundle` of the webhook configuration: the one field of it that the operator writes.

use json_patch::{AddOperation, Patch, PatchOperation, TestOperation, jsonptr::PointerBuf};
use k8s_openapi::{ByteString, api::admissionregistration::v1::MutatingWebhookConfiguration};
use serde_json::json;

/// The patch after which every webhook of the configuration trusts exactly `bundle`; `None` if it does already.
///
/// It tests the version that was read, because a webhook is named by its place in the list.
pub(super) fn bundle_patch(configuration: &MutatingWebhookConfiguration, bundle: &[u8]) -> Option<Patch> {
    let webhooks = configuration.webhooks.as_deref().unwrap_or_default();
    let stale = |(index, current): (usize, Option<&ByteString>)| {
        (current.map(|bytes| bytes.0.as_slice()) != Some(bundle)).then(|| {
            let index = index.to_string();
            let path = PointerBuf::from_tokens(["webhooks", &index, "clientConfig", "caBundle"]);
            PatchOperation::Add(AddOperation { path, value: json!(ByteString(bundle.to_vec())) })
        })
    };
    let bundles = webhooks.iter().map(|webhook| webhook.client_config.ca_bundle.as_ref());
    let operations: Vec<_> = bundles.enumerate().filter_map(stale).collect();
    if operations.is_empty() {
        return None;
    }
    let test = PatchOperation::Test(TestOperation {
        path: PointerBuf::from_tokens(["metadata", "resourceVersion"]),
        value: json!(configuration.metadata.resource_version),
    });
    Some(Patch([vec![test], operations].concat()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn configuration(bundles: &[Option<&str>]) -> MutatingWebhookConfiguration {
        let webhooks: Vec<_> = bundles
            .iter()
            .map(|bundle| {
                let bundle = bundle.map(|text| ByteString(text.as_bytes().to_vec()));
                json!({
                    "name": "w.conch.rs", "sideEffects": "None", "admissionReviewVersions": ["v1"],
                    "clientConfig": {"caBundle": bundle, "service": {"name": "conch-operator", "namespace": "conch"}},
                })
            })
            .collect();
        serde_json::from_value(json!({"metadata": {"resourceVersion": "7"}, "webhooks": webhooks})).unwrap()
    }

    #[test]
    fn only_a_webhook_that_trusts_something_else_is_changed_and_nothing_but_its_bundle() {
        let before = configuration(&[Some("new"), None, Some("old")]);
        let patch = bundle_patch(&before, b"new").unwrap();
        let mut after = serde_json::to_value(&before).unwrap();
        json_patch::patch(&mut after, &patch).unwrap();
        assert_eq!(
            after,
            serde_json::to_value(configuration(&[Some("new"), Some("new"), Some("new")])).unwrap()
        );
        assert_eq!(patch.0.len(), 3);
    }

    #[test]
    fn where_all_is_well_nothing_is_written() {
        assert_eq!(bundle_patch(&configuration(&[Some("new"), Some("new")]), b"new"), None);
        assert_eq!(bundle_patch(&configuration(&[]), b"new"), None);
    }

    #[test]
    fn a_configuration_that_changed_meanwhile_is_left_alone() {
        let patch = bundle_patch(&configuration(&[None]), b"new").unwrap();
        let mut changed = serde_json::to_value(configuration(&[None])).unwrap();
        changed["metadata"]["resourceVersion"] = json!("8");
        assert!(json_patch::patch(&mut changed, &patch).is_err());
    }
}
