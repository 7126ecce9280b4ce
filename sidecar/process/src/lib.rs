//! What both programs need of their process: logging, signals, readiness, serving HTTP, metrics and health.

pub mod health;
pub mod log;
pub mod readiness;
pub mod serve;
pub mod signal;
mod stall;
