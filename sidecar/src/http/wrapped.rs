//! The API beside a program that this process runs itself: it may be asked, and nothing else.
//!
//! Whoever could resign, or ask for another term, would have a successor start while the program still runs. The program's
//! exit is its resignation.

use super::{PRE_STOP, counted, guarded, refusal::Refusal, routes, streams::Streams};
use crate::sidecar::Sidecar;
use axum::{
    Router,
    extract::Request,
    http::Method,
    middleware::{Next, from_fn},
    response::{IntoResponse, Response},
};
use std::sync::Arc;

/// Serves the API of a sidecar that runs its program itself.
pub fn wrapped_router(sidecar: Arc<Sidecar>) -> Router {
    let routes = routes(sidecar.clone(), Streams::new(sidecar.clone()));
    counted(guarded(routes).layer(from_fn(only_asking)), sidecar)
}

async fn only_asking(request: Request, next: Next) -> Response {
    let path = request.uri().path();
    let asks = matches!(*request.method(), Method::GET | Method::HEAD) && path != "/v1/lead";
    if asks || path == PRE_STOP { next.run(request).await } else { Refusal::Wrapped.into_response() }
}
