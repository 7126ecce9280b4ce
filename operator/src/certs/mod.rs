//! The webhook's certificates: an authority of our own, kept in one Secret, renewed by the clock, published in the webhook
//! configuration. Nothing else is needed, and nothing is done by hand.
//!
//! Every replica runs the same [`Certificates`]; what they write is settled by compare-and-set on the Secret. When an
//! authority is replaced, the next one is trusted before it signs anything, and the previous one for as long as it is
//! valid: at no time does the API server meet a certificate that it does not trust.

mod current;
mod issue;
mod manager;
mod material;
mod plan;
mod publish;

pub use current::CurrentCertificate;
pub use issue::IssueError;
pub(crate) use manager::WithSources;
pub use manager::{CertificateConfig, CertificateError, CertificateMetrics, Certificates};
pub use plan::{Lifetimes, Rotation, RotationPlan, Window, plan_rotation};
