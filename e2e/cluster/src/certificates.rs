//! The cluster's certificates: one authority for all, one for the aggregation layer, a key for tokens.

use std::fs;
use std::path::Path;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};

use crate::error::{Context, Result};
use crate::layout::{API_SERVICE_ADDRESS, CONTROL_ADDRESS, Layout, node_address, node_name};

/// Whom a certificate names.
struct Subject {
    name: &'static str,
    common_name: &'static str,
    organization: Option<&'static str>,
}

/// The clients of the API server; the file is named by the first field.
const CLIENTS: &[Subject] = &[
    Subject { name: "admin", common_name: "admin", organization: Some("system:masters") },
    Subject {
        name: "kube-controller-manager",
        common_name: "system:kube-controller-manager",
        organization: None,
    },
    Subject { name: "kube-scheduler", common_name: "system:kube-scheduler", organization: None },
    Subject { name: "kube-proxy", common_name: "system:kube-proxy", organization: None },
    // What the API server shows to kubelets for logs, exec and port-forward.
    Subject {
        name: "apiserver-to-kubelet",
        common_name: "kube-apiserver-kubelet-client",
        organization: Some("system:masters"),
    },
];

/// Names under which pods and people reach the API server.
const API_NAMES: &[&str] = &[
    "localhost",
    "127.0.0.1",
    CONTROL_ADDRESS,
    API_SERVICE_ADDRESS,
    "kubernetes",
    "kubernetes.default",
    "kubernetes.default.svc",
    "kubernetes.default.svc.cluster.local",
];

type Authority = Issuer<'static, KeyPair>;

/// Writes every certificate and key of a cluster with this number of nodes.
pub(crate) fn write_all(layout: &Layout, nodes: usize) -> Result<()> {
    let authority = authority(layout, "ca", "kubernetes-ca")?;
    for client in CLIENTS {
        issue(layout, &authority, client.name, client.common_name, client.organization, &[])?;
    }
    let api_names: Vec<String> = API_NAMES.iter().map(ToString::to_string).collect();
    issue(layout, &authority, "apiserver", "kube-apiserver", None, &api_names)?;
    for number in 1..=nodes {
        let name = node_name(number);
        let user = format!("system:node:{name}");
        let names = [name.clone(), node_address(number)];
        issue(layout, &authority, &name, &user, Some("system:nodes"), &names)?;
    }
    let front = self::authority(layout, "front-proxy-ca", "front-proxy-ca")?;
    issue(layout, &front, "front-proxy-client", "front-proxy-client", None, &[])?;
    let tokens = KeyPair::generate()?;
    write_secret(&layout.key("service-accounts"), &tokens.serialize_pem())?;
    let public = layout.certificate("service-accounts");
    fs::write(&public, tokens.public_key_pem()).at("write", &public)
}

fn authority(layout: &Layout, name: &str, common_name: &str) -> Result<Authority> {
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name.push(DnType::CommonName, common_name);
    parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    let key = KeyPair::generate()?;
    let certificate = parameters.self_signed(&key)?;
    let path = layout.certificate(name);
    fs::write(&path, certificate.pem()).at("write", &path)?;
    // The controller manager signs what pods and people ask for.
    write_secret(&layout.key(name), &key.serialize_pem())?;
    Ok(Issuer::new(parameters, key))
}

fn issue(
    layout: &Layout,
    authority: &Authority,
    name: &str,
    common_name: &str,
    organization: Option<&str>,
    alternative_names: &[String],
) -> Result<()> {
    let mut parameters = CertificateParams::new(alternative_names.to_vec())?;
    parameters.distinguished_name.push(DnType::CommonName, common_name);
    if let Some(organization) = organization {
        parameters.distinguished_name.push(DnType::OrganizationName, organization);
    }
    parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    parameters.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
    let key = KeyPair::generate()?;
    let certificate = parameters.signed_by(&key, authority)?;
    let path = layout.certificate(name);
    fs::write(&path, certificate.pem()).at("write", &path)?;
    write_secret(&layout.key(name), &key.serialize_pem())
}

/// Writes a file that only its owner can read.
pub(crate) fn write_secret(path: &Path, content: &str) -> Result<()> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .at("create", path)?;
    file.write_all(content.as_bytes()).at("write", path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn every_user_gets_a_certificate_and_a_private_key_file() {
        let directory = tempfile::tempdir().unwrap();
        let layout = Layout::under(directory.path(), "c").unwrap();
        fs::create_dir_all(layout.root().join("certificates")).unwrap();
        write_all(&layout, 2).unwrap();
        for name in ["admin", "apiserver", "node-1", "node-2", "front-proxy-client", "service-accounts"] {
            assert!(layout.certificate(name).exists(), "{name}");
            let mode = fs::metadata(layout.key(name)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{name}");
        }
        assert!(!layout.certificate("node-3").exists());
    }
}
