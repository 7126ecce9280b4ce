//! Injection: pure functions over raw JSON.
//!
//! A workload is stamped ([`stamp_workload`]), its pods are judged by their stamps ([`decide`]), and get the sidecar
//! ([`inject`]). What a webhook answers is the difference of two raw documents ([`patch::diff`]): a field that this
//! program does not know passes through untouched, because nothing is ever read into types and written back.

mod decide;
mod insert;
mod json;
pub mod patch;
mod sidecar;
mod stamp;
mod workload;

pub use decide::{
    ChosenPolicy, Decision, Injection, PolicyUnusable, Refusal, RefusalReason, SkipReason, decide, timing,
};
pub use insert::{MalformedPod, inject};
pub use sidecar::{Injected, PullPolicy, SidecarImage, UnknownPullPolicy};
pub use stamp::Stamp;
pub use workload::{Stamping, Workload, stamp_workload};
