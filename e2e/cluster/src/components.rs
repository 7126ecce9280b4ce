//! The command lines of the control plane's programs.

use std::ffi::OsString;
use std::path::Path;

use crate::description::{Description, Fsync};
use crate::error::Result;
use crate::keeper::Daemon;
use crate::layout::{API_PORT, CONTROL_ADDRESS, Layout, POD_NETWORK, SERVICE_NETWORK, node_name};

/// In the cluster's directory: which requests the API server writes into its audit log.
pub(crate) const AUDIT_POLICY: &str = "audit-policy.yaml";

/// One argument with a path in it.
fn with_path(option: &str, path: &Path) -> OsString {
    let mut argument = OsString::from(option);
    argument.push("=");
    argument.push(path);
    argument
}

fn plain(arguments: &[&str]) -> Vec<OsString> {
    arguments.iter().map(OsString::from).collect()
}

/// All daemons of the control plane, in the order in which they are started.
pub(crate) fn control_plane(layout: &Layout, description: &Description) -> Result<Vec<Daemon>> {
    let daemon = |name: &str, program: &str, arguments: Vec<OsString>| -> Result<Daemon> {
        Ok(Daemon {
            name: name.to_owned(),
            program: description.binaries.path(program)?,
            arguments,
            log: layout.log(name),
            restart: true,
        })
    };
    Ok(vec![
        daemon("etcd", "etcd", etcd(layout, description.fsync))?,
        daemon("kube-apiserver", "kube-apiserver", api_server(layout))?,
        daemon("kube-controller-manager", "kube-controller-manager", controller_manager(layout))?,
        daemon("kube-scheduler", "kube-scheduler", scheduler(layout))?,
        // Under the name of a node that exists: otherwise it waits 30 s for one before it makes any rule.
        daemon("kube-proxy", "kube-proxy", proxy(layout, &node_name(1)))?,
    ])
}

fn etcd(layout: &Layout, fsync: Fsync) -> Vec<OsString> {
    let mut arguments = plain(&[
        "--listen-client-urls=http://127.0.0.1:2379",
        "--advertise-client-urls=http://127.0.0.1:2379",
        "--listen-peer-urls=http://127.0.0.1:2380",
        "--initial-advertise-peer-urls=http://127.0.0.1:2380",
        "--initial-cluster=default=http://127.0.0.1:2380",
        "--log-level=warn",
    ]);
    if fsync == Fsync::Off {
        arguments.push("--unsafe-no-fsync".into());
    }
    arguments.push(with_path("--data-dir", &layout.etcd()));
    arguments
}

fn api_server(layout: &Layout) -> Vec<OsString> {
    let mut arguments = plain(&[
        "--etcd-servers=http://127.0.0.1:2379",
        "--bind-address=0.0.0.0",
        "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        "--allow-privileged=true",
        "--kubelet-preferred-address-types=InternalIP",
        "--requestheader-allowed-names=front-proxy-client",
        "--requestheader-extra-headers-prefix=X-Remote-Extra-",
        "--requestheader-group-headers=X-Remote-Group",
        "--requestheader-username-headers=X-Remote-User",
    ]);
    arguments.extend([
        format!("--secure-port={API_PORT}").into(),
        format!("--advertise-address={CONTROL_ADDRESS}").into(),
        format!("--service-cluster-ip-range={SERVICE_NETWORK}").into(),
        with_path("--audit-policy-file", &layout.root().join(AUDIT_POLICY)),
        with_path("--audit-log-path", &layout.log("audit")),
        with_path("--client-ca-file", &layout.certificate("ca")),
        with_path("--tls-cert-file", &layout.certificate("apiserver")),
        with_path("--tls-private-key-file", &layout.key("apiserver")),
        with_path("--service-account-key-file", &layout.certificate("service-accounts")),
        with_path("--service-account-signing-key-file", &layout.key("service-accounts")),
        with_path("--kubelet-client-certificate", &layout.certificate("apiserver-to-kubelet")),
        with_path("--kubelet-client-key", &layout.key("apiserver-to-kubelet")),
        with_path("--kubelet-certificate-authority", &layout.certificate("ca")),
        with_path("--requestheader-client-ca-file", &layout.certificate("front-proxy-ca")),
        with_path("--proxy-client-cert-file", &layout.certificate("front-proxy-client")),
        with_path("--proxy-client-key-file", &layout.key("front-proxy-client")),
    ]);
    arguments
}

/// Timings stay Kubernetes' own (a node counts as lost after 50 s), so that what a test sees is what users see.
fn controller_manager(layout: &Layout) -> Vec<OsString> {
    let mut arguments = plain(&[
        "--leader-elect=false",
        "--use-service-account-credentials=true",
        "--bind-address=127.0.0.1",
        // A new cluster's controllers ask for so much at once that the default of 20 a second holds them up for 5 s.
        "--kube-api-qps=100",
        "--kube-api-burst=200",
    ]);
    arguments.extend([
        with_path("--cluster-signing-cert-file", &layout.certificate("ca")),
        with_path("--cluster-signing-key-file", &layout.key("ca")),
        // The default is a directory of the machine, which would be created.
        with_path("--flex-volume-plugin-dir", &layout.root().join("volume-plugins")),
        with_path("--kubeconfig", &layout.inner_kubeconfig("kube-controller-manager")),
        with_path("--service-account-private-key-file", &layout.key("service-accounts")),
        with_path("--root-ca-file", &layout.certificate("ca")),
    ]);
    arguments
}

fn scheduler(layout: &Layout) -> Vec<OsString> {
    let mut arguments = plain(&["--leader-elect=false", "--bind-address=127.0.0.1"]);
    arguments.push(with_path("--kubeconfig", &layout.inner_kubeconfig("kube-scheduler")));
    arguments
}

/// kube-proxy runs beside the API server too, which calls webhooks by their Service's address.
pub(crate) fn proxy(layout: &Layout, host_name: &str) -> Vec<OsString> {
    let mut arguments = plain(&[
        "--proxy-mode=nftables",
        // Zero leaves these alone: they belong to the machine, and are often read-only.
        "--conntrack-max-per-core=0",
        "--conntrack-min=0",
        "--conntrack-tcp-timeout-established=0",
        "--conntrack-tcp-timeout-close-wait=0",
        "--healthz-bind-address=127.0.0.1:10256",
        "--metrics-bind-address=127.0.0.1:10249",
    ]);
    arguments.extend([
        format!("--cluster-cidr={POD_NETWORK}").into(),
        format!("--hostname-override={host_name}").into(),
        with_path("--kubeconfig", &layout.inner_kubeconfig("kube-proxy")),
    ]);
    arguments
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_joined_to_their_options() {
        assert_eq!(with_path("--kubeconfig", Path::new("/a b/c")), OsString::from("--kubeconfig=/a b/c"));
    }

    #[test]
    fn etcd_waits_for_the_disk_only_where_it_was_asked_to() {
        let layout = Layout::under(Path::new("/state"), "c").unwrap();
        let skips = |fsync| etcd(&layout, fsync).contains(&OsString::from("--unsafe-no-fsync"));
        assert_eq!([skips(Fsync::Off), skips(Fsync::On)], [true, false]);
    }

    #[test]
    fn every_path_of_the_api_server_is_below_the_cluster() {
        let layout = Layout::under(Path::new("/state"), "c").unwrap();
        let arguments = api_server(&layout);
        let paths: Vec<_> = arguments.iter().filter_map(|one| one.to_str()?.split_once("=/")).collect();
        assert_eq!(paths.len(), 13);
        assert!(paths.iter().all(|(_, path)| path.starts_with("state/c/")), "{paths:?}");
    }
}
