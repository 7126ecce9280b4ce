//! `conch-sidecar run` as a process, over a register in its own memory.

use crate::{
    real::{LEASE, STOP_GRACE, two_free_ports},
    wrapping::{BINARY, Mark, Wrapper, run_command, until},
};
use rustix::process::{Signal, kill_process};
use std::{
    fs,
    io::Write,
    os::unix::process::ExitStatusExt,
    process::{Command, Stdio},
    time::{Duration, Instant},
};
use tempfile::tempdir;

#[test]
fn a_program_runs_with_its_token_and_its_exit_code_is_passed_on() {
    let directory = tempdir().unwrap();
    let script = "read -r line; echo \"$line $CONCH_TOKEN $CONCH_URL\"; exit 3";
    let port = two_free_ports();
    let mut command = run_command(&directory, port, script);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"from outside\n").unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(3));
    let said = String::from_utf8(output.stdout).unwrap();
    let token = said.strip_prefix("from outside ").and_then(|said| said.split(' ').next()).unwrap();
    assert!(token.len() == 20 && token.bytes().all(|digit| digit.is_ascii_digit()), "{said}");
    assert!(said.ends_with(&format!(" http://127.0.0.1:{port}\n")), "{said}");
}

#[test]
fn a_program_that_cannot_be_started_or_dies_of_a_signal_ends_as_in_a_shell() {
    let directory = tempdir().unwrap();
    for (script, code) in [("exec /missing", 127), ("kill -KILL $$", 137), ("true", 0)] {
        assert_eq!(Wrapper::start(&directory, script).ends().code(), Some(code), "{script}");
    }
    let status = |program: &str| {
        let arguments = ["run", "--store", "memory", "--election", "jobs", "--instance-id", "me", "--port"];
        let port = two_free_ports().to_string();
        let mut command = Command::new(BINARY);
        command
            .args(arguments)
            .args([port.as_str(), "--state-directory"])
            .arg(directory.path())
            .args(["--", program]);
        command.stderr(Stdio::null()).status().unwrap().code()
    };
    assert_eq!(status("/missing"), Some(127));
    assert_eq!(status("/etc/passwd"), Some(126));
}

#[test]
fn a_signal_is_passed_on_and_the_lead_lasts_until_the_program_has_ended() {
    let directory = tempdir().unwrap();
    let ready = directory.path().join("ready");
    let script =
        format!("trap 'sleep 1; exit 5' TERM; touch {}; while :; do sleep 0.01; done", ready.display());
    let mut wrapper = Wrapper::start(&directory, &script);
    until("the program runs", || ready.exists());
    wrapper.signal(Signal::TERM);
    std::thread::sleep(Duration::from_millis(300));
    let (status, answer) = wrapper.ask("GET", "/v1/leader");
    assert_eq!((status, &answer["terminating"]), (200, &true.into()), "{answer}");
    assert_eq!(wrapper.ends().code(), Some(5));
}

#[test]
fn when_the_wrapper_is_killed_everything_dies_and_only_then_may_another_start() {
    let directory = tempdir().unwrap();
    let (old, new) = (Mark::new(), Mark::new());
    let wrapper = Wrapper::start(&directory, &old.stubborn());
    old.wait_for(2);
    wrapper.signal(Signal::KILL);
    let killed = Instant::now();
    let _next = Wrapper::start(&directory, &new.sleep());
    until("the next program runs", || {
        let runs = new.alive() > 0; // looked at first: what follows must have been so before
        assert!(!runs || old.alive() == 0, "two programs run at a time");
        runs
    });
    assert!(killed.elapsed() < STOP_GRACE + Duration::from_secs(5), "{:?}", killed.elapsed());
}

#[test]
fn when_the_wrapper_is_stopped_the_program_is_dead_before_its_lease_is_over() {
    let directory = tempdir().unwrap();
    let mark = Mark::new();
    let wrapper = Wrapper::start(&directory, &mark.stubborn());
    mark.wait_for(2);
    wrapper.signal(Signal::STOP);
    let stopped = Instant::now();
    mark.wait_for(0);
    assert!(stopped.elapsed() < LEASE, "{:?}", stopped.elapsed());
    wrapper.signal(Signal::CONT);
    mark.wait_for(2); // it leads again, in a term of its own
}

#[test]
fn when_the_guard_is_killed_the_wrapper_kills_what_is_left() {
    let directory = tempdir().unwrap();
    let mark = Mark::new();
    let mut wrapper = Wrapper::start(&directory, &mark.stubborn());
    mark.wait_for(2);
    kill_process(wrapper.guard(), Signal::KILL).unwrap();
    assert_eq!(wrapper.ends().code(), Some(137));
    assert_eq!(mark.alive(), 0);
}

#[test]
fn nobody_else_can_give_away_or_claim_the_lead_of_a_program_that_runs() {
    let directory = tempdir().unwrap();
    let mark = Mark::new();
    let wrapper = Wrapper::start(&directory, &mark.sleep());
    mark.wait_for(1);
    for (method, path) in
        [("POST", "/v1/resign"), ("POST", "/v1/term"), ("GET", "/v1/lead"), ("POST", "/v1/heartbeat")]
    {
        let (status, answer) = wrapper.ask(method, path);
        assert_eq!((status, &answer["reason"]), (409, &"Wrapped".into()), "{path}: {answer}");
    }
    assert_eq!(wrapper.ask("GET", "/v1/leader").0, 200);
    assert_eq!(mark.alive(), 1);
}

#[test]
fn two_processes_are_never_one_instance() {
    let directory = tempdir().unwrap();
    let serve = || {
        let mut command = Command::new(BINARY);
        command.args(["serve", "--store", "memory", "--election", "jobs", "--instance-id", "me"]);
        command.args(["--port", &two_free_ports().to_string(), "--state-directory"]).arg(directory.path());
        command
    };
    let mut first = serve().stderr(Stdio::null()).spawn().unwrap();
    let lock = directory.path().join("conch_default_jobs_me.lock");
    until("the lock is taken", || fs::read_to_string(&lock).is_ok_and(|text| text.lines().count() == 2));
    let second = serve().output().unwrap();
    let said = String::from_utf8(second.stderr).unwrap();
    assert_eq!(second.status.code(), Some(1));
    assert!(said.contains(&first.id().to_string()) && said.contains(lock.to_str().unwrap()), "{said}");
    first.kill().unwrap();
    assert_eq!(first.wait().unwrap().signal(), Some(9));
}

#[test]
fn a_key_that_is_not_known_is_said_and_a_flag_beats_the_environment_beats_the_file() {
    let directory = tempdir().unwrap();
    let config = directory.path().join("conch.yaml");
    let said = |variable: Option<&str>, flag: Option<&str>, file: &str| {
        fs::write(&config, format!("election: jobs\nstore: memory\nstate-directory: /missing\n{file}"))
            .unwrap();
        let mut command = Command::new(BINARY);
        command.args(["serve", "--config"]).arg(&config).env_remove("KUBECONFIG");
        command.envs(variable.map(|id| ("CONCH_INSTANCE_ID", id)));
        command.args(flag.map(|id| format!("--instance-id={id}")));
        let output = command.output().unwrap();
        assert!(!output.status.success());
        String::from_utf8(output.stderr).unwrap()
    };
    let file = "instance-id: of-file\n";
    assert!(said(None, None, file).contains("_of-file.lock"));
    assert!(said(Some("of-variable"), None, file).contains("_of-variable.lock"));
    assert!(said(Some("of-variable"), Some("of-flag"), file).contains("_of-flag.lock"));
    let unknown = said(None, None, "instanceId: x\n");
    assert!(unknown.contains("\"instanceId\"") && unknown.contains("instance-id"), "{unknown}");
}

#[test]
fn a_stop_grace_in_which_no_program_can_be_ended_is_refused() {
    let directory = tempdir().unwrap();
    let arguments =
        ["run", "--store", "memory", "--election", "jobs", "--instance-id", "me", "--stop-grace-ms", "199"];
    let mut command = Command::new(BINARY);
    command.args(arguments).arg("--state-directory").arg(directory.path()).args(["--", "true"]);
    let output = command.output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && said.contains("200ms"), "{said}");
}

#[test]
fn help_says_everything() {
    for (name, arguments) in
        [("all", &["--help"][..]), ("serve", &["serve", "--help"]), ("run", &["run", "--help"])]
    {
        let output = Command::new(BINARY).args(arguments).env_clear().output().unwrap();
        let help = String::from_utf8(output.stdout).unwrap();
        insta::with_settings!({ omit_expression => true, prepend_module_to_snapshot => false }, {
            insta::assert_snapshot!(format!("help_{name}"), help);
        });
    }
}
