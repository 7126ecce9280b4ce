//! The controller: for each election `observe` → `plan` → `apply`.
//!
//! * [`observe`] keeps slim copies of what matters, from watches, and gathers for one election what a decision needs.
//! * [`plan`] is pure: what should be written, and when to look again. A pass with nothing to do plans no write.
//! * [`apply`] does what the plan says, in its order, and decides nothing.
//!
//! A pass may stop after any write, because the next one starts from what is there.

pub mod apply;
pub mod controller;
pub mod knowledge;
pub mod mark;
pub mod metrics;
pub mod observe;
pub mod plan;
pub mod publish;
pub mod queue;

/// One election of one namespace.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ElectionKey {
    /// The namespace.
    pub namespace: String,
    /// The election's name, without any prefix.
    pub name: String,
}

/// One policy of one namespace.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PolicyKey {
    /// The namespace.
    pub namespace: String,
    /// The policy's name.
    pub name: String,
}

/// What one pass is about.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Key {
    /// An election and everything that belongs to it.
    Election(ElectionKey),
    /// The status of a policy.
    Policy(PolicyKey),
}

impl ElectionKey {
    /// Of its two parts.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

impl PolicyKey {
    /// Of its two parts.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}
