//! The Events that the operator publishes. What a person must act on also stands in a condition: Events are forgotten
//! after an hour.

use crate::wire_enum::wire_enum;

wire_enum! {
    /// Why an Event was published.
    EventReason {
        /// A pod began to lead.
        LeaderElected,
        /// The leader gave its term back or fell silent.
        LeadershipLost,
        /// The policy `default` was made for a workload that names it.
        PolicyCreated,
        /// The workload names a policy that does not exist in its namespace.
        PolicyNotFound,
        /// The policy that the workload names cannot be used.
        PolicyInvalid,
        /// A workload that was annotated while the webhook was away got its stamp.
        Stamped,
        /// A workload whose annotation was removed while the webhook was away lost its stamp.
        StampRemoved,
        /// A pod was made without its sidecar; the note names the reason.
        InjectionSkipped,
        /// A pod was refused, because its sidecar is required and cannot be injected; the note names the reason.
        InjectionRefused,
        /// Another workload holds the election, and the policy does not share it.
        ElectionNotShared,
        /// An object of the needed name exists and belongs to something else.
        NotOurs,
        /// The workload's election annotation is no valid name.
        ElectionNameInvalid,
    }
}

/// The two types of Events that Kubernetes knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventType {
    /// For information.
    Normal,
    /// Somebody should look.
    Warning,
}

impl EventReason {
    /// Whether somebody should look.
    pub const fn event_type(self) -> EventType {
        match self {
            Self::LeaderElected
            | Self::LeadershipLost
            | Self::PolicyCreated
            | Self::Stamped
            | Self::StampRemoved => EventType::Normal,
            Self::PolicyNotFound
            | Self::PolicyInvalid
            | Self::InjectionSkipped
            | Self::InjectionRefused
            | Self::ElectionNotShared
            | Self::NotOurs
            | Self::ElectionNameInvalid => EventType::Warning,
        }
    }

    /// What was being done: the `action` of an `events.k8s.io/v1` Event.
    pub const fn action(self) -> &'static str {
        match self {
            Self::LeaderElected | Self::LeadershipLost => "Elect",
            Self::InjectionSkipped | Self::InjectionRefused => "Inject",
            Self::Stamped | Self::StampRemoved => "Stamp",
            Self::PolicyCreated
            | Self::PolicyNotFound
            | Self::PolicyInvalid
            | Self::ElectionNotShared
            | Self::NotOurs
            | Self::ElectionNameInvalid => "Reconcile",
        }
    }
}
