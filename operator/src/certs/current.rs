//! The certificate that is served now.

use arc_swap::ArcSwapOption;
use rustls::{
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use std::sync::Arc;

/// The certificate that the next handshake gets. Without one, handshakes fail.
#[derive(Debug, Default)]
pub struct CurrentCertificate(ArcSwapOption<CertifiedKey>);

impl CurrentCertificate {
    /// Is there one?
    pub fn is_set(&self) -> bool {
        self.0.load().is_some()
    }

    /// Serves this one from now on. Tells whether it is another one than before.
    pub(super) fn set(&self, certificate: CertifiedKey) -> bool {
        let is_new = self.0.load().as_ref().is_none_or(|old| old.cert != certificate.cert);
        if is_new {
            self.0.store(Some(Arc::new(certificate)));
        }
        is_new
    }
}

impl ResolvesServerCert for CurrentCertificate {
    fn resolve(&self, _client: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.load_full()
    }
}
