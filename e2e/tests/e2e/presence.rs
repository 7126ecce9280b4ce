//! What a policy asks of the program, on a real cluster: a stream that ends with it, a check that it fails when it hangs.

use std::path::Path;
use std::time::Duration;

use conch_e2e::{CONTAINER, Namespace, Probes, Tools, milliseconds};
use rustix::process::Signal;
use serde_json::json;

use crate::candidates::{
    LEASE, PROMISES, SOON, add_arguments, first_answer, manifest, pod_of, prepare, start, with_stop_grace,
};
use crate::support::{FAIL_OVER_LIMIT, PATIENCE, breakable, judge_history};

/// Of a workload: a program that holds the stream writes only what it is told.
fn wait_told(probes: &Probes<'_>, replicas: usize) {
    probes.namespace.wait_rolled_out(probes.reference()).unwrap();
    Tools::wait_for("leader and followers that were told so", PATIENCE, || {
        let history = probes.history()?;
        let (told, leader) = (history.answering_since(0), history.leader());
        Ok(if told >= replicas && leader.is_some() { Ok(()) } else { Err(format!("{told}, {leader:?}")) })
    })
    .unwrap();
}

#[test]
fn a_program_that_holds_the_stream_and_is_killed_is_replaced_in_well_under_a_second() {
    let test = "9 SIGKILL of the leader's program, which holds the stream (presence: Stream)";
    let Some(environment) = breakable(test) else { return };
    let namespace = Namespace::new(environment, "stream-killed").unwrap();
    prepare(&namespace, &json!({"presence": "Stream"}));
    let probes = Probes::prepare(&namespace, "probe").unwrap();
    let workload = probes.workload(3);
    namespace.apply(manifest(&workload, |pod| add_arguments(pod, &["--stream"]))).unwrap();
    wait_told(&probes, 3);

    let leader = probes.leader().unwrap();
    let processes = probes.processes(&leader, CONTAINER).unwrap();
    let event = conch_probe::now();
    probes.kill_program(&leader).unwrap();
    let died = Tools::wait_for("end of the program", PATIENCE, || {
        let lives = |process: &u32| Path::new(&format!("/proc/{process}")).exists();
        Ok(if processes.iter().any(lives) { Err("it lives".to_owned()) } else { Ok(conch_probe::now()) })
    })
    .unwrap();
    let fail_over = probes.wait_next_term(event, FAIL_OVER_LIMIT).unwrap();
    assert_ne!(probes.leader().unwrap(), leader);

    let mut history = probes.history().unwrap();
    // Its last word was a deadline that it did not live to see. It was dead before anybody could look.
    history.note_death(&pod_of(&leader), died.min(event + 10_000_000));
    judge_history(&history, test, &format!("fail-over {}", milliseconds(fail_over)));
    assert!(fail_over < Duration::from_millis(500), "{fail_over:?}");
}

#[test]
fn a_leader_that_hangs_fails_its_check_and_another_leads() {
    let test = "3 SIGSTOP of the leader's program, with a check of its health";
    let Some(environment) = breakable(test) else { return };
    let namespace = Namespace::new(environment, "hung").unwrap();
    let check = json!({
        "httpGet": {"path": "/healthz", "port": 8080}, "period": "500ms", "timeout": "300ms",
        "failureThreshold": 2, "successThreshold": 2,
    });
    let program = json!({"healthCheck": check, "coolDown": "5s"});
    let probes = start(&namespace, 3, &program, |pod| add_arguments(pod, &["--health-port", "8080"]));

    let leader = probes.leader().unwrap();
    let event = conch_probe::now();
    probes.signal(&leader, CONTAINER, Signal::STOP).unwrap();
    let fail_over = probes.wait_next_term(event, FAIL_OVER_LIMIT);
    std::thread::sleep(LEASE);
    let awake = conch_probe::now();
    probes.signal(&leader, CONTAINER, Signal::CONT).unwrap();
    let fail_over = fail_over.unwrap();
    assert_ne!(probes.leader().unwrap(), leader);
    assert!(!first_answer(&probes, &leader, awake), "the program that hung leads on");
    probes.wait_complete(3).unwrap();
    judge_history(
        &with_stop_grace(probes.history().unwrap()),
        test,
        &format!("fail-over {}", milliseconds(fail_over)),
    );
    // Two checks that fail, then every promise: it does not wait for the lease, and the leader's sidecar renewed until then.
    let limit = 2 * Duration::from_millis(800) + PROMISES + SOON;
    assert!(fail_over < limit, "{fail_over:?}");
}
