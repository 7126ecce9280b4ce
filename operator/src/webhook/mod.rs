//! The admission webhook: stamps workloads and injects sidecars.
//!
//! It writes nothing, so a dry run is like any other request. What it cannot answer, because a policy cannot be read, it
//! answers with an HTTP error: then the API server goes by the webhook's `failurePolicy`, as if there were no operator.

mod handle;
mod lookup;
mod metrics;
mod review;
mod serve;

pub use lookup::{Knowledge, KnownPolicy, LookupError, Policies, WatchedPolicies};
pub use metrics::WebhookMetrics;
pub use serve::{Webhook, router, serve};
