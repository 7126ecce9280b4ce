//! `make demo`: the main job on a cluster of its own, each command with its real output, and what was measured. With
//! `CONCH_KUBECONFIG` set, on that cluster, without what needs one of our own.

mod guest;

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Result;
use conch_crds::names;
use conch_e2e::{
    CONTAINER, Environment, Namespace, OPERATOR_NAMESPACE, Probes, RELEASE, Tools, image_file, median,
    milliseconds, resident_kib,
};
use conch_images::Program;

const CLUSTER: &str = "conch-demo";
const NAMESPACE: &str = "conch-demo";
const WORKLOAD: &str = "payments";
const REPLICAS: usize = 3;
const DELETIONS: usize = 5;
const PATIENCE: Duration = Duration::from_mins(1);

/// What the demo measured.
#[derive(Default)]
struct Measured {
    hand_overs: Vec<Duration>,
    power_cut: Duration,
    sidecars_kib: Vec<u64>,
    operators_kib: Vec<u64>,
}

fn main() -> Result<()> {
    let began = Instant::now();
    let environment = install()?;
    let namespace = Namespace::lasting(&environment, NAMESPACE)?;
    if environment.cluster.is_none() {
        return guest::demonstrate(&namespace);
    }
    let probes = deploy(&namespace)?;
    annotate(&probes)?;
    ask(&environment.tools, &probes.leader()?.name)?;
    let measured = Measured {
        hand_overs: delete_leaders(&probes)?,
        power_cut: cut_power(&probes)?,
        sidecars_kib: resident_kib(probes.cluster(), &namespace.list(&["pods"])?, names::SIDECAR_CONTAINER)?,
        operators_kib: resident_kib(probes.cluster(), &environment.operator_pods()?, "operator")?,
    };
    summary(&probes, measured, began)
}

/// A headline.
fn say(text: &str) {
    println!("\n# {text}");
}

/// Prints a command as a user would type it, then what it prints.
fn show(tools: &Tools, line: &str) -> Result<String> {
    println!("$ {line}");
    let mut words = line.split(' ');
    let program = words.next().unwrap_or_default();
    let text = conch_e2e::run(tools.command(program).args(words))?;
    println!("{}", text.trim_end());
    Ok(text)
}

fn install() -> Result<Environment> {
    say("A cluster");
    let environment = Environment::open_or(CLUSTER)?;
    if environment.cluster.is_some() {
        println!("$ conch-cluster --name {CLUSTER} up");
        for program in Program::ALL {
            println!("$ conch-cluster --name {CLUSTER} load out/{}.tar", program.name());
        }
    }
    environment.load_images()?;
    show(&environment.tools, "kubectl get nodes")?;

    say("Install Conch");
    println!(
        "$ helm install {RELEASE} charts/conch --namespace {OPERATOR_NAMESPACE} --create-namespace --wait"
    );
    environment.install()?;
    show(&environment.tools, &format!("kubectl --namespace {OPERATOR_NAMESPACE} get pods"))?;
    Ok(environment)
}

fn deploy<'a>(namespace: &'a Namespace<'a>) -> Result<Probes<'a>> {
    say("An ordinary Deployment. Its program asks every 10 ms whether it leads, and writes down each answer");
    let probes = Probes::prepare(namespace, WORKLOAD)?;
    println!("$ kubectl apply -f payments.json");
    print!("{}", namespace.apply(probes.workload(REPLICAS).manifest())?);
    namespace.wait_rolled_out(&format!("deployment/{WORKLOAD}"))?;
    show(namespace.tools(), &format!("kubectl --namespace {NAMESPACE} get pods -o wide"))?;
    Ok(probes)
}

/// Annotates the workload and waits until its pods are new.
fn annotate_workload(tools: &Tools) -> Result<()> {
    say("Give it a leader: one annotation. The pods roll once, each with a sidecar");
    show(
        tools,
        &format!("kubectl --namespace {NAMESPACE} annotate deployment {WORKLOAD} {}=default", names::POLICY),
    )?;
    show(
        tools,
        &format!("kubectl --namespace {NAMESPACE} rollout status deployment/{WORKLOAD} --timeout=2m"),
    )?;
    Ok(())
}

fn show_leader(tools: &Tools) -> Result<()> {
    show(tools, &format!("kubectl --namespace {NAMESPACE} get pods -o wide"))?;
    show(tools, &format!("kubectl --namespace {NAMESPACE} get elections,coordinationpolicies"))?;
    Ok(())
}

fn annotate(probes: &Probes<'_>) -> Result<()> {
    let tools = probes.namespace.tools();
    annotate_workload(tools)?;
    probes.wait_complete(REPLICAS)?;
    wait_shown(probes, &probes.leader()?.name)?;
    show_leader(tools)
}

fn ask(tools: &Tools, leader: &str) -> Result<()> {
    say("Ask who leads, from inside a pod (in an image with curl: curl -f localhost:4040/v1/leader)");
    let ask = format!(
        "kubectl --namespace {NAMESPACE} exec {leader} -c {CONTAINER} -- /conch-probe get /v1/leader"
    );
    show(tools, &ask)?;
    Ok(())
}

fn delete_leaders(probes: &Probes<'_>) -> Result<Vec<Duration>> {
    say("Delete the leader: the next one leads as soon as the old program has ended");
    let mut hand_overs = Vec::new();
    for _ in 0..DELETIONS {
        let leader = probes.leader()?;
        show(
            probes.namespace.tools(),
            &format!("kubectl --namespace {NAMESPACE} delete pod {} --wait=false", leader.name),
        )?;
        let exit = probes.wait_exit(&leader, PATIENCE)?;
        let time = probes.wait_next_term(exit, PATIENCE)?;
        println!(
            "  {} was told that it leads {} after that program's exit",
            probes.leader()?.name,
            milliseconds(time)
        );
        hand_overs.push(time);
        probes.wait_complete(REPLICAS)?;
    }
    Ok(hand_overs)
}

fn cut_power(probes: &Probes<'_>) -> Result<Duration> {
    say("Cut the power of the leader's node: the next one leads when the lease of 15 s is over");
    let leader = probes.leader()?;
    println!("$ conch-cluster --name {CLUSTER} fault kill-node {}", leader.node);
    let event = conch_probe::now();
    probes.cluster().kill_node(leader.node)?;
    let time = probes.wait_next_term(event, PATIENCE)?;
    println!("  {} was told that it leads {} after the power cut", probes.leader()?.name, milliseconds(time));
    println!("$ conch-cluster --name {CLUSTER} fault restart-node {}", leader.node);
    probes.cluster().restart_node(leader.node)?;
    probes.wait_complete(REPLICAS)?;
    wait_shown(probes, &probes.leader()?.name)?;
    show(probes.namespace.tools(), &format!("kubectl --namespace {NAMESPACE} get elections"))?;
    Ok(time)
}

/// The operator shows a leader a moment after it leads.
fn wait_shown(probes: &Probes<'_>, leader: &str) -> Result<()> {
    Tools::wait_for("leader in the Election's status", PATIENCE, || {
        let holder = probes.namespace.get(&["election", WORKLOAD])?["status"]["holder"].clone();
        Ok(if holder == leader { Ok(()) } else { Err(holder.to_string()) })
    })?;
    Ok(())
}

fn summary(probes: &Probes<'_>, measured: Measured, began: Instant) -> Result<()> {
    say("What all programs were told, judged");
    let verdict = probes.history()?.judge();
    println!("{verdict}");
    say("Summary");
    let hand_over = milliseconds(median(measured.hand_overs));
    println!("leader's program exits -> next leader's first answer   {hand_over} (median of {DELETIONS})");
    println!("leader's node loses power -> next leader's first answer {}", milliseconds(measured.power_cut));
    println!("memory of the sidecars                                  {:?} KiB", measured.sidecars_kib);
    println!("memory of the operator's replicas                       {:?} KiB", measured.operators_kib);
    for program in [Program::Sidecar, Program::Operator] {
        println!("image of {:<47}{} bytes", program.name(), size(&image_file(program))?);
    }
    println!("time of this demo                                       {} s", began.elapsed().as_secs());
    println!(
        "\nThe cluster is still up. Look around: KUBECONFIG={}",
        probes.namespace.tools().kubeconfig().display()
    );
    println!("End it: make clean-cluster");
    anyhow::ensure!(verdict.faults().is_empty(), "promises were broken: {:?}", verdict.faults());
    Ok(())
}

fn size(path: &Path) -> Result<u64> {
    Ok(std::fs::metadata(path)?.len())
}
