//! The generated files in the chart are those of the types.

#[path = "../examples/crdgen/manifests.rs"]
mod manifests;
#[path = "../examples/crdgen/readme.rs"]
mod readme;

use serde_json::Value;
use std::fs;

#[test]
fn the_generated_files_in_the_chart_are_up_to_date() {
    for manifest in manifests::crds().unwrap().into_iter().chain([readme::readme().unwrap()]) {
        let committed = fs::read_to_string(&manifest.path).unwrap_or_default();
        assert!(
            committed == manifest.content,
            "{} differs from what it is generated from; run: cargo run -p conch-crds --example crdgen",
            manifest.path.display()
        );
    }
}

#[test]
fn every_field_is_explained() {
    for manifest in manifests::crds().unwrap() {
        let crd: Value = serde_saphyr::from_str(&manifest.content).unwrap();
        let schema = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
        let mut missing = Vec::new();
        find_unexplained(schema, "", &mut missing);
        assert_eq!(missing, Vec::<String>::new(), "{}", manifest.path.display());
    }
}

fn find_unexplained(schema: &Value, path: &str, missing: &mut Vec<String>) {
    if !schema["description"].as_str().is_some_and(|text| text.len() > 5 && !text.contains("Auto-generated"))
    {
        missing.push(path.to_owned());
    }
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        find_unexplained(field, &format!("{path}.{name}"), missing);
    }
    if let Some(items) = schema["items"].as_object().filter(|items| items.contains_key("properties")) {
        find_unexplained(&Value::Object(items.clone()), &format!("{path}[]"), missing);
    }
}
