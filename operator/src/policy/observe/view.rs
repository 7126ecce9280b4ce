//! What the operator remembers of each object: only what a decision depends on. Two views are equal exactly if nothing
//! changed that matters, so that a heartbeat, somebody else's status or a foreign annotation wakes nobody.

use super::readable::Readable;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::core::error_boundary::InvalidObject;

/// A slim copy of an object.
pub trait View: Sized + Clone + PartialEq + Send + 'static {
    /// Which object this is.
    fn identity(&self) -> &Identity;

    /// The elections that it takes part in, all of its own namespace.
    fn elections(&self) -> Vec<String>;

    /// Adds what only two versions together tell. `before` is the version that was known, of whatever object had the name.
    #[must_use]
    fn follow(self, _before: Option<&Self>) -> Self {
        self
    }
}

/// A view that can be taken of objects of type `O`.
pub trait ViewOf<O>: View {
    /// `None`: this object concerns nobody.
    fn of(object: O) -> Option<Self>;

    /// What is known of one that cannot be read.
    fn of_unreadable(_: InvalidObject) -> Option<Self> {
        None
    }
}

impl<O, T: ViewOf<O>> ViewOf<Readable<O>> for T {
    fn of(object: Readable<O>) -> Option<Self> {
        match object.0 {
            Ok(object) => <T as ViewOf<O>>::of(object),
            Err(invalid) => {
                let Identity { namespace, name, .. } = Identity::of(&invalid.metadata);
                tracing::warn!(namespace, name, error = invalid.error, "an object cannot be read");
                <T as ViewOf<O>>::of_unreadable(invalid)
            }
        }
    }
}

/// Which object, and which one of those that had its name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Identity {
    /// Empty for what has no namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
}

impl Identity {
    /// Of an object that the API server sent.
    pub fn of(metadata: &ObjectMeta) -> Self {
        Self {
            namespace: metadata.namespace.clone().unwrap_or_default(),
            name: metadata.name.clone().unwrap_or_default(),
            uid: metadata.uid.clone().unwrap_or_default(),
        }
    }
}

/// The value of an annotation.
pub fn annotation(metadata: &ObjectMeta, name: &str) -> Option<String> {
    metadata.annotations.as_ref()?.get(name).cloned()
}

/// The value of a label.
pub fn label(metadata: &ObjectMeta, name: &str) -> Option<String> {
    metadata.labels.as_ref()?.get(name).cloned()
}
