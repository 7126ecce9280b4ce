//! Kubeconfigs: small ones for the components, and one for people that stands alone.

use std::fs;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::certificates::write_secret;
use crate::error::{Context, Result};
use crate::layout::{API_PORT, CONTROL_ADDRESS, Layout, node_name};

/// Writes the components' kubeconfigs and the administrator's for the loopback port.
pub(crate) fn write_all(layout: &Layout, nodes: usize, port: u16) -> Result<()> {
    let components = ["admin", "kube-controller-manager", "kube-scheduler", "kube-proxy"];
    let users = components.map(str::to_owned).into_iter().chain((1..=nodes).map(node_name));
    for user in users {
        let text = kubeconfig(
            layout.name(),
            &format!("https://{CONTROL_ADDRESS}:{API_PORT}"),
            &json!({"certificate-authority": layout.certificate("ca")}),
            &json!({"client-certificate": layout.certificate(&user), "client-key": layout.key(&user)}),
        );
        write_secret(&layout.inner_kubeconfig(&user), &text)?;
    }
    // Embedded certificates, so that the file can be copied or mounted elsewhere.
    let embed =
        |path: std::path::PathBuf| fs::read(&path).at("read", &path).map(|bytes| STANDARD.encode(bytes));
    let text = kubeconfig(
        layout.name(),
        &format!("https://127.0.0.1:{port}"),
        &json!({"certificate-authority-data": embed(layout.certificate("ca"))?}),
        &json!({
            "client-certificate-data": embed(layout.certificate("admin"))?,
            "client-key-data": embed(layout.key("admin"))?,
        }),
    );
    write_secret(&layout.kubeconfig(), &text)
}

/// A kubeconfig in JSON, which is YAML too.
fn kubeconfig(cluster: &str, server: &str, authority: &Value, user: &Value) -> String {
    let name = format!("conch-{cluster}");
    let mut entry = json!({"server": server});
    if let (Some(entry), Some(authority)) = (entry.as_object_mut(), authority.as_object()) {
        entry.extend(authority.clone());
    }
    let whole = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": name, "cluster": entry}],
        "users": [{"name": name, "user": user}],
        "contexts": [{"name": name, "context": {"cluster": name, "user": name}}],
        "current-context": name,
    });
    format!("{whole:#}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kubeconfig_names_its_cluster() {
        let text =
            kubeconfig("dev", "https://127.0.0.1:1", &json!({"certificate-authority": "/ca"}), &json!({}));
        let value: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["current-context"], "conch-dev");
        assert_eq!(value["clusters"][0]["cluster"]["server"], "https://127.0.0.1:1");
        assert_eq!(value["clusters"][0]["cluster"]["certificate-authority"], "/ca");
    }
}
