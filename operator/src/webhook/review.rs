//! `AdmissionReview`, version v1: what the API server asks and what it is answered.

use json_patch::Patch;
use k8s_openapi::ByteString;
use serde::{Deserialize, Serialize};
use serde_json::Value;

const API_VERSION: &str = "admission.k8s.io/v1";
const KIND: &str = "AdmissionReview";

/// Why a request is no `AdmissionReview`.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReviewError {
    #[error("failed to read the AdmissionReview")]
    Json(#[from] serde_json::Error),
    #[error("the request is no AdmissionReview of {API_VERSION}")]
    Kind,
}

/// What is asked. Objects stay as raw as they came.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Request {
    uid: String,
    #[serde(default)]
    pub(super) namespace: String,
    #[serde(default)]
    pub(super) object: Value,
    #[serde(default)]
    pub(super) old_object: Value,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Question {
    api_version: String,
    kind: String,
    request: Request,
}

/// What is answered, and to which request.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Answer {
    api_version: &'static str,
    kind: &'static str,
    response: Response,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Response {
    uid: String,
    allowed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<Status>,
    #[serde(skip_serializing_if = "Option::is_none")]
    patch: Option<ByteString>,
    #[serde(skip_serializing_if = "Option::is_none")]
    patch_type: Option<&'static str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Status {
    code: u16,
    message: String,
}

impl Request {
    pub(super) fn read(body: &[u8]) -> Result<Self, ReviewError> {
        let question: Question = serde_json::from_slice(body)?;
        if question.api_version != API_VERSION || question.kind != KIND {
            return Err(ReviewError::Kind);
        }
        Ok(question.request)
    }

    /// It may be stored, after this patch.
    pub(super) fn allow(self, patch: &Patch, warnings: Vec<String>) -> Result<Answer, serde_json::Error> {
        let patch = if patch.0.is_empty() { None } else { Some(ByteString(serde_json::to_vec(patch)?)) };
        let patch_type = patch.is_some().then_some("JSONPatch");
        Ok(answer(Response { uid: self.uid, allowed: true, status: None, patch, patch_type, warnings }))
    }

    /// It must not be stored, for this reason.
    pub(super) fn deny(self, message: String) -> Answer {
        let status = Some(Status { code: 403, message });
        answer(Response {
            uid: self.uid,
            allowed: false,
            status,
            patch: None,
            patch_type: None,
            warnings: Vec::new(),
        })
    }
}

fn answer(response: Response) -> Answer {
    Answer { api_version: API_VERSION, kind: KIND, response }
}
