//! All certificates and keys, as the Secret holds them.

use super::{
    issue::{Certificate, IssueError, Keyed},
    plan::{Lifetimes, Rotation, RotationPlan},
};
use jiff::Timestamp;
use k8s_openapi::ByteString;
use std::{collections::BTreeMap, time::Duration};

/// The data of a Secret.
pub(super) type Data = BTreeMap<String, ByteString>;

const AUTHORITY: [&str; 2] = ["ca.crt", "ca.key"];
const NEXT: [&str; 2] = ["next-ca.crt", "next-ca.key"];
const PREVIOUS: &str = "previous-ca.crt";
const LEAF: [&str; 2] = ["tls.crt", "tls.key"];

/// What the Secret holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Material {
    authority: Keyed,
    next: Option<Keyed>,
    /// No longer signs, but what it signed may still be served somewhere.
    previous: Option<Certificate>,
    /// By the authority, for the names that are wanted.
    leaf: Option<Keyed>,
}

impl Material {
    /// Reads the data of a Secret. What cannot be used counts as missing; without an authority there is nothing.
    pub(super) fn read(data: &Data, names: &[String]) -> Option<Self> {
        let keyed =
            |[certificate, key]: [&str; 2]| Keyed::read(&data.get(certificate)?.0, &data.get(key)?.0).ok();
        let authority = keyed(AUTHORITY)?;
        let leaf = keyed(LEAF).filter(|leaf| authority.signed(&leaf.certificate, names).unwrap_or(false));
        let previous = data.get(PREVIOUS).and_then(|pem| Certificate::read(&pem.0).ok());
        Some(Self { next: keyed(NEXT), previous, leaf, authority })
    }

    /// The data of a Secret.
    pub(super) fn data(&self) -> Data {
        fn keyed(keys: [&'static str; 2], keyed: &Keyed) -> [(&'static str, String); 2] {
            [(keys[0], keyed.certificate.pem.clone()), (keys[1], keyed.key.clone())]
        }
        let next = self.next.iter().flat_map(|next| keyed(NEXT, next));
        let leaf = self.leaf.iter().flat_map(|leaf| keyed(LEAF, leaf));
        let previous = self.previous.iter().map(|previous| (PREVIOUS, previous.pem.clone()));
        let entries = keyed(AUTHORITY, &self.authority).into_iter().chain(next).chain(leaf).chain(previous);
        entries.map(|(key, text)| (key.to_owned(), ByteString(text.into_bytes()))).collect()
    }

    /// For the decision what to do.
    pub(super) fn rotation(&self, published_for: Option<Duration>) -> Rotation {
        Rotation {
            authority: self.authority.certificate.window,
            next: self.next.as_ref().map(|next| next.certificate.window),
            published_for,
            leaf: self.leaf.as_ref().map(|leaf| leaf.certificate.window),
        }
    }

    /// Everything that the API server must trust: the authority, the next one, and the previous one while it is valid.
    pub(super) fn bundle(&self, now: Timestamp) -> Vec<u8> {
        let next = self.next.as_ref().map(|next| &next.certificate);
        let previous = self.previous.as_ref().filter(|previous| previous.window.contains(now));
        [Some(&self.authority.certificate), next, previous]
            .into_iter()
            .flatten()
            .map(|certificate| certificate.pem.as_str())
            .collect::<String>()
            .into_bytes()
    }

    /// What is to be served.
    pub(super) fn leaf(&self) -> Option<&Keyed> {
        self.leaf.as_ref()
    }

    /// The next authority as PEM, by which its publication is recognised.
    pub(super) fn next_pem(&self) -> Option<&str> {
        self.next.as_ref().map(|next| next.certificate.pem.as_str())
    }

    /// What the Secret is to hold after `plan`.
    pub(super) fn after(
        plan: RotationPlan,
        before: Option<Self>,
        names: &[String],
        now: Timestamp,
        lifetimes: &Lifetimes,
    ) -> Result<Self, IssueError> {
        let new_authority = || Keyed::authority(now, lifetimes.authority);
        let issue = |authority: &Keyed| authority.issue(names, now, lifetimes.leaf);
        let Some(before) = before.filter(|_| plan != RotationPlan::StartOver) else {
            let authority = new_authority()?;
            return Ok(Self { leaf: Some(issue(&authority)?), next: None, previous: None, authority });
        };
        match (plan, before) {
            (RotationPlan::PrepareNext, before) => Ok(Self { next: Some(new_authority()?), ..before }),
            (RotationPlan::Switch, Self { authority: old, next: Some(authority), .. }) => {
                let leaf = Some(issue(&authority)?);
                Ok(Self { leaf, next: None, previous: Some(old.certificate), authority })
            }
            (RotationPlan::IssueLeaf, before) => Ok(Self { leaf: Some(issue(&before.authority)?), ..before }),
            (_, before) => Ok(before),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::certs::plan::plan_rotation;
    use proptest::{collection::vec, prelude::*};
    use rustls::{
        RootCertStore,
        client::{WebPkiServerVerifier, danger::ServerCertVerifier},
        crypto::ring,
    };
    use rustls_pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject};
    use std::sync::Arc;

    const NAME: &str = "conch-operator.conch.svc";

    fn names() -> Vec<String> {
        vec![format!("{NAME}.cluster.local"), NAME.to_owned()]
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + seconds).unwrap()
    }

    fn started(now: Timestamp) -> Material {
        Material::after(RotationPlan::StartOver, None, &names(), now, &Lifetimes::default()).unwrap()
    }

    /// As the API server would check it.
    fn is_trusted(served: &Keyed, bundle: &[u8], name: &str, now: Timestamp) -> Result<(), rustls::Error> {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(bundle) {
            roots.add(certificate.unwrap()).unwrap();
        }
        let provider = Arc::new(ring::default_provider());
        let verifier =
            WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap();
        let leaf = CertificateDer::from_pem_slice(served.certificate.pem.as_bytes()).unwrap();
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let now = UnixTime::since_unix_epoch(Duration::from_secs(now.as_second().try_into().unwrap()));
        verifier.verify_server_cert(&leaf, &[], &name, &[], now).map(drop)
    }

    #[test]
    fn a_first_certificate_is_trusted_by_its_bundle_under_each_name_and_no_other() {
        let material = started(at(0));
        let (leaf, bundle) = (material.leaf().unwrap(), material.bundle(at(0)));
        for name in names() {
            is_trusted(leaf, &bundle, &name, at(0)).unwrap();
        }
        is_trusted(leaf, &bundle, NAME, at(-3_000)).unwrap();
        assert!(is_trusted(leaf, &bundle, "other.conch.svc", at(0)).is_err());
        assert!(is_trusted(leaf, &bundle, NAME, at(91 * 86_400)).is_err());
        assert!(is_trusted(leaf, &started(at(0)).bundle(at(0)), NAME, at(0)).is_err());
        leaf.certified().unwrap();
    }

    #[test]
    fn what_is_written_is_read_back() {
        let lifetimes = Lifetimes::default();
        let mut material = started(at(0));
        for plan in [
            RotationPlan::PrepareNext,
            RotationPlan::Switch,
            RotationPlan::PrepareNext,
            RotationPlan::IssueLeaf,
        ] {
            assert_eq!(Material::read(&material.data(), &names()), Some(material.clone()));
            let after = Material::after(plan, Some(material.clone()), &names(), at(60), &lifetimes).unwrap();
            assert_ne!(after, material);
            material = after;
        }
        assert_eq!(Material::read(&material.data(), &names()), Some(material));
    }

    #[test]
    fn what_cannot_be_used_counts_as_missing() {
        let whole = started(at(0));
        let other = started(at(0)).data();
        let changed = |key: &str, value: Option<&ByteString>| {
            let mut data = whole.data();
            match value {
                Some(value) => data.insert(key.to_owned(), value.clone()),
                None => data.remove(key),
            };
            Material::read(&data, &names())
        };
        let garbage = ByteString(b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n".to_vec());
        for key in ["ca.crt", "ca.key"] {
            for value in [None, Some(&garbage), other.get(key)] {
                assert_eq!(changed(key, value), None, "{key}");
            }
        }
        for key in ["tls.crt", "tls.key"] {
            for value in [None, Some(&garbage), other.get(key)] {
                assert!(changed(key, value).unwrap().leaf().is_none(), "{key}");
            }
        }
        assert!(
            Material::read(&whole.data(), &[NAME.to_owned()]).unwrap().leaf().is_none(),
            "other names are wanted"
        );
    }

    /// One replica: what it serves, and since when it has seen the next authority published.
    #[derive(Default)]
    struct Replica {
        served: Option<Keyed>,
        published: Option<(String, i64)>,
    }

    impl Replica {
        /// One turn, as the shell does it.
        fn turn(
            &mut self,
            secret: &mut Option<Data>,
            bundle: &mut Vec<u8>,
            seconds: i64,
            lifetimes: &Lifetimes,
            publishes: bool,
        ) {
            let (now, names) = (at(seconds), names());
            let before = secret.as_ref().and_then(|data| Material::read(data, &names));
            let published_for = before.as_ref().and_then(|material| {
                let (next, since) = self.published.as_ref()?;
                (material.next_pem() == Some(next))
                    .then(|| Duration::from_secs((seconds - since).try_into().unwrap()))
            });
            let rotation = before.as_ref().map(|material| material.rotation(published_for));
            let plan = plan_rotation(now, rotation.as_ref(), lifetimes);
            let after = Material::after(plan, before, &names, now, lifetimes).unwrap();
            *secret = Some(after.data());
            self.served = after.leaf().cloned();
            if publishes {
                *bundle = after.bundle(now);
                let next = after.next_pem().map(str::to_owned);
                self.published = next.map(|next| match self.published.take() {
                    Some((known, since)) if known == next => (known, since),
                    _ => (next, seconds),
                });
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 4, ..ProptestConfig::default() })]

        /// Two years; replicas that look at different times and whose writes fail, at most 49 of 50 times: if none
        /// succeeds until the authority ends, nothing can be trusted. The API server hears of a bundle one step late.
        #[test]
        fn the_api_server_always_trusts_what_any_replica_serves(failures in vec(prop::bool::weighted(0.3), 0..50), offset in 0..3_usize) {
            const STEP: i64 = 12 * 3_600;
            let failures = [failures, vec![false]].concat();
            let lifetimes = Lifetimes { publication: Duration::from_hours(24), ..Lifetimes::default() };
            let (mut secret, mut bundle, mut replicas) = (None, Vec::new(), [Replica::default(), Replica::default()]);
            let mut authorities = std::collections::BTreeSet::new();
            for step in 0..2 * 365 * 2_usize {
                let seconds = i64::try_from(step).unwrap() * STEP;
                let heard = bundle.clone();
                for (index, replica) in replicas.iter_mut().enumerate() {
                    let looks = step == 0 || index == 0 || step % 3 == offset;
                    let publishes = step == 0 || !failures[(step + index) % failures.len()];
                    if looks {
                        replica.turn(&mut secret, &mut bundle, seconds, &lifetimes, publishes);
                    }
                }
                for replica in replicas.iter().filter(|_| step > 0) {
                    let trusted = is_trusted(replica.served.as_ref().unwrap(), &heard, NAME, at(seconds));
                    prop_assert!(trusted.is_ok(), "day {}: {trusted:?}", step / 2);
                }
                authorities.insert(secret.as_ref().unwrap()["ca.crt"].0.clone());
            }
            prop_assert!(authorities.len() >= 3, "{}", authorities.len());
        }
    }
}
