//! Making and reading certificates.

use super::plan::Window;
use jiff::{SignedDuration, Timestamp};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose,
};
use rustls::{crypto::ring, sign::CertifiedKey};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use std::{
    collections::BTreeSet,
    fmt,
    time::{Duration, SystemTime},
};
use x509_parser::{certificate::X509Certificate, extensions::GeneralName, prelude::FromDer};

/// Clocks of API servers may be behind by this much, or by a tenth of a short life.
const BACKDATED: Duration = Duration::from_hours(1);

/// Why a certificate could not be made or read.
#[derive(Debug, thiserror::Error)]
pub enum IssueError {
    /// It could not be made.
    #[error("failed to make a certificate")]
    Make(#[source] rcgen::Error),
    /// It is no certificate in PEM.
    #[error("failed to read a certificate")]
    Read,
    /// Its private key is none, or another one's.
    #[error("failed to read a private key")]
    Key,
    /// It cannot be served.
    #[error("failed to prepare a certificate for serving")]
    Serve(#[source] rustls::Error),
}

/// A certificate as PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Certificate {
    pub(super) pem: String,
    pub(super) window: Window,
}

/// A certificate and its private key, both as PEM.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Keyed {
    pub(super) certificate: Certificate,
    pub(super) key: String,
}

impl fmt::Debug for Keyed {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Keyed").field("certificate", &self.certificate).finish_non_exhaustive()
    }
}

impl Certificate {
    pub(super) fn read(pem: &[u8]) -> Result<Self, IssueError> {
        let pem = String::from_utf8(pem.to_vec()).map_err(|_| IssueError::Read)?;
        let der = CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|_| IssueError::Read)?;
        let window = window(&parse(&der)?)?;
        Ok(Self { pem, window })
    }

    fn der(&self) -> Result<CertificateDer<'static>, IssueError> {
        CertificateDer::from_pem_slice(self.pem.as_bytes()).map_err(|_| IssueError::Read)
    }
}

impl Keyed {
    /// Reads a certificate and the key that belongs to it.
    pub(super) fn read(certificate: &[u8], key: &[u8]) -> Result<Self, IssueError> {
        let certificate = Certificate::read(certificate)?;
        let key = String::from_utf8(key.to_vec()).map_err(|_| IssueError::Key)?;
        let pair = KeyPair::from_pem(&key).map_err(|_| IssueError::Key)?;
        let der = certificate.der()?;
        if parse(&der)?.public_key().subject_public_key.data.as_ref() != pair.public_key_raw() {
            return Err(IssueError::Key);
        }
        Ok(Self { certificate, key })
    }

    /// An authority, valid from `now` for `lifetime`.
    pub(super) fn authority(now: Timestamp, lifetime: Duration) -> Result<Self, IssueError> {
        let mut parameters = parameters(Vec::new(), validity(now, lifetime))?;
        // Two authorities are trusted at a time: different names keep them apart.
        parameters
            .distinguished_name
            .push(DnType::CommonName, format!("Conch webhook authority of {now:.0}"));
        parameters.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().map_err(IssueError::Make)?;
        let certificate = parameters.self_signed(&key).map_err(IssueError::Make)?;
        Self::read(certificate.pem().as_bytes(), key.serialize_pem().as_bytes())
    }

    /// A certificate for a server of these names, signed by this authority, which it does not outlive.
    pub(super) fn issue(
        &self,
        names: &[String],
        now: Timestamp,
        lifetime: Duration,
    ) -> Result<Self, IssueError> {
        let wanted = validity(now, lifetime);
        let window = Window { until: wanted.until.min(self.certificate.window.until), ..wanted };
        let mut parameters = parameters(names.to_vec(), window)?;
        parameters.distinguished_name.push(DnType::CommonName, "Conch webhook");
        parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        parameters.use_authority_key_identifier_extension = true;
        let own_key = KeyPair::from_pem(&self.key).map_err(IssueError::Make)?;
        let issuer = Issuer::from_ca_cert_pem(&self.certificate.pem, own_key).map_err(IssueError::Make)?;
        let key = KeyPair::generate().map_err(IssueError::Make)?;
        let certificate = parameters.signed_by(&key, &issuer).map_err(IssueError::Make)?;
        Self::read(certificate.pem().as_bytes(), key.serialize_pem().as_bytes())
    }

    /// Did this authority sign that certificate, for exactly these names?
    pub(super) fn signed(&self, leaf: &Certificate, names: &[String]) -> Result<bool, IssueError> {
        let (own, leaf) = (self.certificate.der()?, leaf.der()?);
        let (own, leaf) = (parse(&own)?, parse(&leaf)?);
        let alternative = leaf.subject_alternative_name().map_err(|_| IssueError::Read)?;
        let found: BTreeSet<&str> = alternative
            .iter()
            .flat_map(|extension| &extension.value.general_names)
            .filter_map(|name| match name {
                GeneralName::DNSName(name) => Some(*name),
                _ => None,
            })
            .collect();
        let wanted: BTreeSet<&str> = names.iter().map(String::as_str).collect();
        Ok(found == wanted && leaf.verify_signature(Some(own.public_key())).is_ok())
    }

    /// In the form in which it is served.
    pub(super) fn certified(&self) -> Result<CertifiedKey, IssueError> {
        let key = PrivateKeyDer::from_pem_slice(self.key.as_bytes()).map_err(|_| IssueError::Key)?;
        let chain = vec![self.certificate.der()?];
        CertifiedKey::from_der(chain, key, &ring::default_provider()).map_err(IssueError::Serve)
    }
}

fn parameters(names: Vec<String>, window: Window) -> Result<CertificateParams, IssueError> {
    let mut parameters = CertificateParams::new(names).map_err(IssueError::Make)?;
    parameters.distinguished_name = DistinguishedName::new();
    parameters.not_before = SystemTime::from(window.from).into();
    parameters.not_after = SystemTime::from(window.until).into();
    Ok(parameters)
}

/// A certificate holds whole seconds.
fn validity(now: Timestamp, lifetime: Duration) -> Window {
    let seconds =
        |duration: Duration| SignedDuration::from_secs(i64::try_from(duration.as_secs()).unwrap_or(i64::MAX));
    let now = Timestamp::from_second(now.as_second()).unwrap_or(now);
    Window {
        from: now.checked_sub(seconds(BACKDATED.min(lifetime / 10))).unwrap_or(now),
        until: now.checked_add(seconds(lifetime)).unwrap_or(Timestamp::MAX),
    }
}

fn parse<'a>(der: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, IssueError> {
    X509Certificate::from_der(der).map(|(_, certificate)| certificate).map_err(|_| IssueError::Read)
}

fn window(certificate: &X509Certificate<'_>) -> Result<Window, IssueError> {
    let validity = certificate.validity();
    let timestamp = |seconds: i64| Timestamp::from_second(seconds).map_err(|_| IssueError::Read);
    Ok(Window {
        from: timestamp(validity.not_before.timestamp())?,
        until: timestamp(validity.not_after.timestamp())?,
    })
}
