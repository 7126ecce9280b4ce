//! Answers to what cannot be done: a reason from a closed list, and a sentence.

use axum::{
    Extension, Json,
    http::{StatusCode, header::CACHE_CONTROL},
    response::{IntoResponse, Response},
};
use conch_election::NotCurrent;
use serde_json::json;

/// Every path that answers, for those who took a wrong one.
pub(super) const ENDPOINTS: [&str; 7] = [
    "GET /v1/leader",
    "GET /v1/lead",
    "GET /v1/watch",
    "GET /v1/status",
    "POST /v1/resign",
    "POST /v1/heartbeat",
    "POST /v1/term",
];

/// Every reason for a refusal.
pub(super) const REASONS: [&str; 11] = [
    "ForeignHost",
    "OriginRefused",
    "RequestHeaderMissing",
    "NotFound",
    "MethodNotAllowed",
    "BadQuery",
    "BadBody",
    "NotCurrent",
    "TermPending",
    "TooManyStreams",
    "Wrapped",
];

/// The reason of a refusal, in its response's extensions, for those who count.
#[derive(Clone, Copy, Debug)]
pub(super) struct Refused(pub(super) &'static str);

/// Why a request is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// The `Host` is none of this pod's loopback names, as it is when a web page was lured here.
    ForeignHost,
    /// A web page asks.
    OriginRefused,
    /// A POST without the header that no web page can send unasked.
    RequestHeaderMissing,
    /// No such path.
    NotFound,
    /// The path exists, not with this method.
    MethodNotAllowed,
    /// `?wait=` is no duration, or too long, or something else was asked.
    BadQuery(String),
    /// The body is not what this path takes.
    BadBody(String),
    /// That term is not the running one.
    NotCurrent(NotCurrent),
    /// A new term was asked for, and the store has not confirmed it yet.
    TermPending,
    /// All streams are taken.
    TooManyStreams,
    /// This process runs the program itself: nobody else claims the lead or gives it away.
    Wrapped,
}

impl Refusal {
    fn status(&self) -> StatusCode {
        match self {
            Self::ForeignHost | Self::OriginRefused | Self::RequestHeaderMissing => StatusCode::FORBIDDEN,
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::BadQuery(_) | Self::BadBody(_) => StatusCode::BAD_REQUEST,
            Self::NotCurrent(_) | Self::Wrapped => StatusCode::CONFLICT,
            Self::TermPending | Self::TooManyStreams => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::ForeignHost => "ForeignHost",
            Self::OriginRefused => "OriginRefused",
            Self::RequestHeaderMissing => "RequestHeaderMissing",
            Self::NotFound => "NotFound",
            Self::MethodNotAllowed => "MethodNotAllowed",
            Self::BadQuery(_) => "BadQuery",
            Self::BadBody(_) => "BadBody",
            Self::NotCurrent(_) => "NotCurrent",
            Self::TermPending => "TermPending",
            Self::TooManyStreams => "TooManyStreams",
            Self::Wrapped => "Wrapped",
        }
    }

    fn message(&self) -> String {
        match self {
            Self::ForeignHost => "Ask localhost, 127.0.0.1 or [::1].".to_owned(),
            Self::OriginRefused => "Web pages may not ask: the request has an Origin.".to_owned(),
            Self::RequestHeaderMissing => "Send the header \"Conch-Request: 1\" with every POST.".to_owned(),
            Self::NotFound => "There is nothing here.".to_owned(),
            Self::MethodNotAllowed => "This path does not take this method.".to_owned(),
            Self::BadQuery(detail) | Self::BadBody(detail) => detail.clone(),
            Self::NotCurrent(not_current) => format!("That is not the running term: {not_current}."),
            Self::TermPending => {
                "The store has not confirmed the new term yet; GET /v1/leader tells the token of the running one.".to_owned()
            }
            Self::TooManyStreams => "Too many streams are open.".to_owned(),
            Self::Wrapped => "This process runs the program itself: the lead is given away when the program exits.".to_owned(),
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut body = json!({ "reason": self.reason(), "message": self.message() });
        if matches!(self, Self::NotFound | Self::MethodNotAllowed) {
            body["endpoints"] = json!(ENDPOINTS);
        }
        let refused = Extension(Refused(self.reason()));
        (self.status(), refused, [(CACHE_CONTROL, "no-store")], Json(body)).into_response()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use conch_election::Token;
    use serde_json::Value;
    use std::iter::successors;

    /// The one after it. Fails to compile when there is another one.
    fn next(refusal: &Refusal) -> Option<Refusal> {
        match refusal {
            Refusal::ForeignHost => Some(Refusal::OriginRefused),
            Refusal::OriginRefused => Some(Refusal::RequestHeaderMissing),
            Refusal::RequestHeaderMissing => Some(Refusal::NotFound),
            Refusal::NotFound => Some(Refusal::MethodNotAllowed),
            Refusal::MethodNotAllowed => Some(Refusal::BadQuery("No.".to_owned())),
            Refusal::BadQuery(_) => Some(Refusal::BadBody("No.".to_owned())),
            Refusal::BadBody(_) => Some(Refusal::NotCurrent(NotCurrent { current: Some(Token(7)) })),
            Refusal::NotCurrent(_) => Some(Refusal::TermPending),
            Refusal::TermPending => Some(Refusal::TooManyStreams),
            Refusal::TooManyStreams => Some(Refusal::Wrapped),
            Refusal::Wrapped => None,
        }
    }

    #[test]
    fn the_documents_reasons_are_these_and_each_has_a_sentence() {
        let text = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/openapi.yaml"));
        let document: Value = serde_saphyr::from_str(text).unwrap();
        let refusals: Vec<Refusal> = successors(Some(Refusal::ForeignHost), next).collect();
        let reasons: Vec<&str> = refusals.iter().map(Refusal::reason).collect();
        assert_eq!(document["components"]["schemas"]["RefusalReason"]["enum"], json!(reasons));
        assert!(refusals.iter().all(|refusal| refusal.message().ends_with('.')));
    }

    #[test]
    fn every_endpoint_that_is_told_is_in_the_document() {
        let text = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/openapi.yaml"));
        let document: Value = serde_saphyr::from_str(text).unwrap();
        for endpoint in ENDPOINTS {
            let (method, path) = endpoint.split_once(' ').unwrap();
            assert!(document["paths"][path][method.to_lowercase()].is_object(), "{endpoint}");
        }
    }
}
