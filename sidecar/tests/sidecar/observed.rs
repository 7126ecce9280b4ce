//! What people and their tools see of a real run: metrics, log lines, the status.

use crate::{exposition::Exposition, lease_server::LeaseServer, running::Running};
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::TcpListener,
    path::Path,
    thread,
    time::{Duration, Instant},
};

/// What may take as long as it does on a busy machine.
const SOON: Duration = Duration::from_secs(20);

fn scrape(running: &Running) -> Exposition {
    Exposition::read(&running.metrics())
}

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < SOON, "{what}");
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn metrics_have_the_names_and_types_that_are_promised_and_move_as_they_must() {
    let server = LeaseServer::start();
    let running = Running::candidate("me", &server.kubeconfig(), &[], None);
    let before = scrape(&running);
    let status =
        |metrics: &Exposition| metrics.value("leader_election_master_status", "name=\"default/jobs\"");
    assert_eq!(status(&before), Some(0.0));
    let kinds: BTreeMap<_, _> =
        before.0.iter().map(|(name, family)| (name.as_str(), family.kind.as_str())).collect();
    assert_eq!(
        kinds.into_iter().collect::<Vec<_>>(),
        [
            ("conch_answers", "counter"),
            ("conch_build", "info"),
            ("conch_refusals", "counter"),
            ("conch_renewal_duration_seconds", "histogram"),
            ("conch_renewal_margin_seconds", "histogram"),
            ("conch_store_requests", "counter"),
            ("conch_streams", "gauge"),
            ("conch_transitions", "counter"),
            ("leader_election_master_status", "gauge"),
        ]
    );
    assert_eq!(before.value("conch_transitions_total", "cause=\"Acquired\""), Some(0.0), "not absent");
    assert_eq!(before.value("conch_refusals_total", "reason=\"ForeignHost\""), Some(0.0), "not absent");

    let token = running.lead();
    eventually("a renewal is counted", || {
        scrape(&running).value("conch_renewal_margin_seconds_count", "") > Some(2.0)
    });
    running.exchange(b"GET /v1/leader HTTP/1.1\r\nHost: evil\r\nConnection: close\r\n\r\n");
    let stream = running.connect();
    std::io::Write::write_all(&mut &stream, b"GET /v1/watch HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    eventually("a stream is counted", || {
        scrape(&running).value("conch_streams", "endpoint=\"watch\"") == Some(1.0)
    });
    let leading = scrape(&running);
    assert_eq!(status(&leading), Some(1.0));
    for (name, labels) in [
        ("conch_transitions_total", "cause=\"Acquired\""),
        ("conch_answers_total", "endpoint=\"leader\",leader=\"true\""),
        ("conch_answers_total", "endpoint=\"watch\",leader=\"true\""),
        ("conch_refusals_total", "reason=\"ForeignHost\""),
    ] {
        assert_eq!(leading.value(name, labels), Some(1.0), "{name} {labels}");
    }
    let margin = leading.value("conch_renewal_margin_seconds_sum", "").unwrap()
        / leading.value("conch_renewal_margin_seconds_count", "").unwrap();
    assert!(margin > 2.0 && margin < 3.5, "of 3.5 s validity less an interval: {margin}");

    drop(stream);
    running.resign(&token);
    server.take_away("somebody");
    eventually("the loss is counted", || {
        let after = scrape(&running);
        after.value("conch_transitions_total", "cause=\"Resigned\"") == Some(1.0)
            && after.value("conch_transitions_total", "cause=\"Observed\"") >= Some(1.0)
            && after.value("conch_streams", "endpoint=\"watch\"") == Some(0.0)
            && status(&after) == Some(0.0)
    });
    assert_labels_are_closed(&scrape(&running));
}

/// Every label but the election's name and the version has few values, which the documentation lists.
fn assert_labels_are_closed(metrics: &Exposition) {
    let documented = document("docs/sidecar.md");
    for ((name, labels), _) in metrics.0.values().flat_map(|family| &family.samples) {
        for label in labels.split(',').filter(|label| !label.is_empty()) {
            let (label, value) = label.split_once('=').unwrap();
            if !["le", "name", "version"].contains(&label) {
                let value = value.trim_matches('"');
                assert!(documented.contains(&format!("`{value}`")), "{name}{{{labels}}}: {value}");
            }
        }
    }
}

fn document(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)).unwrap()
}

/// The names in the first column of the table that begins with this head.
fn documented(path: &str, head: &str) -> BTreeSet<String> {
    let text = document(path);
    let table = text.lines().skip_while(|line| !line.starts_with(head)).skip(2);
    let rows = table.take_while(|line| line.starts_with('|'));
    let names = rows.flat_map(|row| row.split('|').nth(1).unwrap().split('`').skip(1).step_by(2));
    names.map(|name| name.split('{').next().unwrap().to_owned()).collect()
}

#[test]
fn what_is_documented_is_served_and_what_is_served_is_documented() {
    let running = Running::alone(&[]);
    let served: BTreeSet<_> = scrape(&running).names().into_iter().collect();
    assert_eq!(documented("docs/sidecar.md", "| Metric |"), served);
    let alerts = documented("docs/operating.md", "| Metric |");
    let ours: BTreeSet<_> = alerts
        .into_iter()
        .filter(|name| {
            !["conch_operator", "conch_webhook", "conch_admissions"].iter().any(|of| name.starts_with(of))
        })
        .collect();
    assert!(ours.len() >= 4 && ours.is_subset(&served), "{ours:?}");
}

/// The lines of one process about who leads: from, to, cause, and whether a token is named.
type Line = (String, String, String, bool);

fn field(line: &str, name: &str) -> Option<String> {
    let rest = &line[line.find(&format!(" {name}="))? + name.len() + 2..];
    Some(rest.split(' ').next().unwrap().trim_matches('"').to_owned())
}

fn lines_of_text(said: &str) -> Vec<Line> {
    let line = |line: &str| {
        let part = |name| field(line, name);
        Some((part("from")?, part("to")?, part("cause")?, part("token")?.len() == 20))
    };
    said.lines().filter_map(line).collect()
}

fn lines_of_json(said: &str) -> Vec<Line> {
    let line = |line: &str| {
        let line: Value = serde_json::from_str(line).unwrap_or_else(|_| panic!("no JSON: {line}"));
        for name in ["timestamp", "level", "target", "message"] {
            assert!(line[name].is_string(), "{line}");
        }
        let part = |name: &str| line[name].as_str().map(str::to_owned);
        Some((part("from")?, part("to")?, part("cause")?, part("token")?.len() == 20))
    };
    said.lines().filter_map(line).collect()
}

#[test]
fn each_change_of_who_leads_is_one_line_in_both_formats() {
    let server = LeaseServer::start();
    let text = Running::candidate("text", &server.kubeconfig(), &[], None);
    let json = Running::candidate("json", &server.kubeconfig(), &["--log-format", "json"], None);
    let first = text.lead();
    let second = thread::scope(|scope| {
        let second = scope.spawn(|| json.lead());
        thread::sleep(Duration::from_millis(300));
        text.resign(&first);
        second.join().unwrap()
    });
    eventually("the first saw the second", || lines_of_text(&text.said()).len() >= 3);
    server.take_away("somebody");
    eventually("both saw it", || {
        lines_of_text(&text.said()).len() >= 4 && lines_of_json(&json.said()).len() >= 3
    });
    let line = |from: &str, to: &str, cause: &str, token: bool| {
        (from.to_owned(), to.to_owned(), cause.to_owned(), token)
    };
    assert_eq!(
        lines_of_text(&text.said()),
        [
            line("", "text", "Acquired", true),
            line("text", "", "Resigned", true),
            line("", "json", "Observed", false),
            line("json", "somebody", "Observed", false),
        ],
        "{}",
        text.said()
    );
    let of_second = lines_of_json(&json.said());
    let end = &of_second[of_second.len() - 2..];
    assert_eq!(
        end,
        [line("", "json", "Acquired", true), line("json", "somebody", "OtherHolder", true)],
        "{}",
        json.said()
    );
    let seen: Vec<_> = of_second[..of_second.len() - 2].iter().map(|line| (&*line.0, &*line.1)).collect();
    assert_eq!(seen, [("", "text"), ("text", "")], "{}", json.said());
    assert!(second > first);
}

#[test]
fn status_says_all_there_is_to_people_and_to_programs() {
    let program = TcpListener::bind("127.0.0.1:0").unwrap();
    let target = format!("tcp://localhost:{}", program.local_addr().unwrap().port());
    let running = Running::alone(&[
        "--presence",
        "Heartbeat",
        "--heartbeat-timeout-ms",
        "60000",
        "--check",
        &target,
        "--check-period-ms",
        "500",
        "--check-timeout-ms",
        "100",
    ]);
    let json = || -> Value {
        let output = running.run(&["status", "--json"]);
        assert_eq!(output.status.code(), Some(0), "it answered, though it does not lead");
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let idle = json();
    assert_eq!(
        (&idle["presence"], &idle["candidate"], &idle["objection"], &idle["heartbeatAgeMs"]),
        (&"Heartbeat".into(), &false.into(), &"HeartbeatMissing".into(), &Value::Null)
    );
    assert_eq!((&idle["transitions"], &idle["promisesLeftMs"]), (&Value::Array(Vec::new()), &0.into()));
    let people = String::from_utf8(running.run(&["status"]).stdout).unwrap();
    assert!(people.contains("Candidate    false: HeartbeatMissing\n"), "{people}");
    assert!(people.contains("Heartbeat    -\n") && people.contains("Leads        false\n"), "{people}");

    eventually("the check passes", || json()["check"]["passed"] == true);
    assert_eq!(running.post("/v1/heartbeat", "").statuses(), [200]);
    let token = running.lead();
    let leads = json();
    assert_eq!((&leads["leader"], &leads["candidate"]), (&true.into(), &true.into()));
    assert_eq!(leads["objection"], Value::Null);
    assert!(leads["heartbeatAgeMs"].as_u64().unwrap() < 20_000);
    // 1 s, an eighth more for a slow clock, and the stop grace.
    let left = leads["promisesLeftMs"].as_u64().unwrap();
    assert!(left > 0 && left <= 1_625, "{left}");
    let change = &leads["transitions"][0];
    assert_eq!((&change["cause"], &change["to"]), (&"Acquired".into(), &"me".into()));
    assert_eq!(change["token"], *token);
    let people = String::from_utf8(running.run(&["status"]).stdout).unwrap();
    for part in [
        "Leads        true\n",
        "Check        passed ",
        "ns of CLOCK_BOOTTIME",
        " Acquired: ",
        "Presence     Heartbeat",
    ] {
        assert!(people.contains(part), "{part}\n{people}");
    }
    drop(program);
    eventually("the check fails", || json()["check"]["passed"] == false);
}

#[test]
fn status_fails_where_nobody_answers() {
    let port = crate::real::two_free_ports().to_string();
    for arguments in [&["status", "--port", &port][..], &["status", "--json", "--port", &port]] {
        let output = std::process::Command::new(crate::running::BINARY).args(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        assert!(output.stdout.is_empty());
        assert!(String::from_utf8_lossy(&output.stderr).contains("failed to ask the sidecar on port"));
    }
}
