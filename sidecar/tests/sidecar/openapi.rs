//! `docs/openapi.yaml`, read as a machine reads it.

use axum::{
    body::{Body, to_bytes},
    http::{Method, StatusCode, response::Parts},
    response::Response,
};
use http_body_util::BodyExt;
use jsonschema::Validator;
use serde_json::{Value, json};
use std::{
    collections::HashMap,
    sync::{Arc, LazyLock, Mutex},
};

/// The document.
pub(crate) static DOCUMENT: LazyLock<Document> = LazyLock::new(Document::read);

pub(crate) struct Document {
    pub(crate) root: Value,
    /// By the text of their schemas.
    validators: Mutex<HashMap<String, Arc<Validator>>>,
}

/// A request that the document describes.
#[derive(Clone, Debug)]
pub(crate) struct Operation {
    pub(crate) path: String,
    pub(crate) method: Method,
}

impl Document {
    fn read() -> Self {
        let text = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/openapi.yaml"));
        Self { root: serde_saphyr::from_str(text).unwrap(), validators: Mutex::default() }
    }

    pub(crate) fn operations(&self) -> Vec<Operation> {
        let paths = self.root["paths"].as_object().unwrap();
        let operation = |path: &str, method: &str| Operation {
            path: path.to_owned(),
            method: method.to_uppercase().parse().unwrap(),
        };
        let methods = |item: &Value| item.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
        paths
            .iter()
            .flat_map(|(path, item)| methods(item).into_iter().map(move |method| operation(path, &method)))
            .collect()
    }

    pub(crate) fn knows(&self, path: &str) -> bool {
        self.root["paths"].get(path).is_some()
    }

    pub(crate) fn operation(&self, path: &str, method: &Method) -> Option<&Value> {
        self.root["paths"].get(path)?.get(method.as_str().to_lowercase())
    }

    /// What a `$ref` points to, or the thing itself.
    pub(crate) fn resolve<'a>(&'a self, value: &'a Value) -> &'a Value {
        match value["$ref"].as_str() {
            None => value,
            Some(pointer) => {
                let found = self.root.pointer(pointer.strip_prefix('#').unwrap());
                self.resolve(found.unwrap_or_else(|| panic!("{pointer} is nowhere")))
            }
        }
    }

    /// Whether the schema allows this.
    pub(crate) fn allows(&self, schema: &Value, instance: &Value) -> bool {
        self.validator(schema).is_valid(instance)
    }

    fn validator(&self, schema: &Value) -> Arc<Validator> {
        let build = || {
            let whole = json!({ "allOf": [schema], "components": self.root["components"] });
            Arc::new(jsonschema::options().should_validate_formats(true).build(&whole).unwrap())
        };
        let mut validators = self.validators.lock().unwrap();
        Arc::clone(validators.entry(schema.to_string()).or_insert_with(build))
    }

    fn assert_allows(&self, schema: &Value, instance: &Value, place: &str) {
        let validator = self.validator(schema);
        let errors: Vec<String> = validator
            .iter_errors(instance)
            .map(|error| format!("{} at {}", error, error.instance_path()))
            .collect();
        assert!(errors.is_empty(), "{place}: {errors:?}\n{instance}");
    }

    /// Panics unless the document allows this answer; returns its status and its body, or the data of its first event.
    pub(crate) async fn check(&self, path: &str, method: &Method, response: Response) -> (StatusCode, Value) {
        let (parts, body) = response.into_parts();
        let place = format!("{method} {path}: {}", parts.status);
        let general = |name: &str| json!({ "$ref": format!("#/components/responses/{name}") });
        let described = match self.operation(path, method) {
            Some(operation) => operation["responses"].get(parts.status.as_str()).cloned(),
            None => match parts.status {
                StatusCode::FORBIDDEN => Some(general("Stranger")),
                StatusCode::NOT_FOUND if !self.knows(path) => Some(general("NotFound")),
                StatusCode::METHOD_NOT_ALLOWED if self.knows(path) => Some(general("MethodNotAllowed")),
                _ => None,
            },
        };
        let described = described.unwrap_or_else(|| panic!("{place} is not in the document"));
        let described = self.resolve(&described);
        self.check_headers(described, &parts, &place);
        let body = if method == Method::HEAD {
            Value::Null
        } else {
            self.check_body(described, &parts, body, &place).await
        };
        (parts.status, body)
    }

    fn check_headers(&self, described: &Value, parts: &Parts, place: &str) {
        let headers = described["headers"].as_object().unwrap_or_else(|| panic!("{place} has no headers"));
        for (name, header) in headers {
            let header = self.resolve(header);
            match parts.headers.get(name) {
                Some(value) => self.assert_allows(&header["schema"], &json!(value.to_str().unwrap()), place),
                None => assert_eq!(header["required"], false, "{place} lacks {name}"),
            }
        }
        for name in parts.headers.keys().filter(|name| name.as_str().starts_with("conch-")) {
            let known = headers.keys().any(|header| header.eq_ignore_ascii_case(name.as_str()));
            assert!(known, "{place}: {name} is not in the document");
        }
    }

    async fn check_body(&self, described: &Value, parts: &Parts, mut body: Body, place: &str) -> Value {
        let content = described["content"].as_object().unwrap_or_else(|| panic!("{place} has no content"));
        let type_ = parts.headers["content-type"].to_str().unwrap();
        let media = content.get(type_).unwrap_or_else(|| panic!("{place}: {type_} is not in the document"));
        let Some(data) = media.get("x-data") else {
            let bytes = to_bytes(body, usize::MAX).await.unwrap();
            let value = serde_json::from_slice(&bytes).unwrap();
            self.assert_allows(&media["schema"], &value, place);
            return value;
        };
        let frame = body.frame().await.unwrap().unwrap().into_data().unwrap();
        let text = String::from_utf8(frame.to_vec()).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix("data: ")).unwrap();
        let value = serde_json::from_str(line).unwrap();
        self.assert_allows(data, &value, place);
        value
    }
}
