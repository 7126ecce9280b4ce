//! The Helm chart: installed, tested, upgraded, removed.

use conch_e2e::{Environment, Namespace, OPERATOR_NAMESPACE, RELEASE, Tools, Workload, chart_directory};

use crate::support::{PATIENCE, environment, wait_leader};

/// Puts the chart back, also when the test fails.
struct Reinstall<'a>(&'a Environment);

impl Drop for Reinstall<'_> {
    fn drop(&mut self) {
        self.0.install().unwrap();
    }
}

fn leads_in_a_new_namespace(words: &str) {
    let namespace = Namespace::new(environment(), words).unwrap();
    let workload = Workload { replicas: 1, policy: Some("default"), ..Workload::deployment("app") };
    namespace.apply(workload.manifest()).unwrap();
    namespace.wait_rolled_out(&workload.reference()).unwrap();
    wait_leader(&namespace, "app");
}

#[test]
fn helm_test_passes() {
    let said = environment()
        .tools
        .helm(&["test", RELEASE, "--namespace", OPERATOR_NAMESPACE, "--timeout=2m"])
        .unwrap();
    assert!(said.contains("Succeeded"), "{said}");
}

#[test]
fn an_upgrade_leaves_leaders_alone() {
    let environment = environment();
    let namespace = Namespace::new(environment, "upgrade").unwrap();
    let workload = Workload { policy: Some("default"), ..Workload::deployment("app") };
    namespace.apply(workload.manifest()).unwrap();
    namespace.wait_rolled_out(&workload.reference()).unwrap();
    let before = wait_leader(&namespace, "app");
    environment.install().unwrap();
    let after = wait_leader(&namespace, "app");
    assert_eq!((&before.0, &before.1["token"]), (&after.0, &after.1["token"]), "the same term");
}

#[test]
fn after_an_uninstallation_nothing_blocks_pods_and_elections_go_on_and_it_can_be_installed_again() {
    let environment = environment();
    let namespace = Namespace::new(environment, "uninstall").unwrap();
    let workload = Workload { policy: Some("default"), ..Workload::deployment("app") };
    namespace.apply(workload.manifest()).unwrap();
    namespace.wait_rolled_out(&workload.reference()).unwrap();
    let (leader, _) = wait_leader(&namespace, "app");

    let reinstall = Reinstall(environment);
    let chart = chart_directory();
    assert!(chart.is_dir());
    environment.tools.helm(&["uninstall", RELEASE, "--namespace", OPERATOR_NAMESPACE, "--wait"]).unwrap();
    let hooks = environment.tools.kubectl(&["get", "mutatingwebhookconfigurations", "-o", "name"]).unwrap();
    assert!(!hooks.contains("conch"), "{hooks}");
    // A stamped workload's new pod is created, without a sidecar, and the others elect.
    namespace.kubectl(&["delete", "pod", &leader]).unwrap();
    Tools::wait_for("new pod", PATIENCE, || {
        let pods = crate::support::pods(&namespace, "app")?;
        Ok(if pods.len() == 3 { Ok(()) } else { Err(format!("{} pods", pods.len())) })
    })
    .unwrap();

    drop(reinstall);
    leads_in_a_new_namespace("install-again");
}
