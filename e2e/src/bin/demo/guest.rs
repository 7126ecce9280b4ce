//! The demo on somebody else's cluster. Its nodes have clocks and processes of their own, so that times are those which
//! this machine sees, and nothing is judged.

use std::time::{Duration, Instant};

use anyhow::Result;
use conch_e2e::{KUBECONFIG_VARIABLE, Namespace, Tools, Workload, median};
use serde_json::Value;

use crate::{
    DELETIONS, NAMESPACE, PATIENCE, REPLICAS, WORKLOAD, annotate_workload, ask, say, show, show_leader,
};

/// What the demo shows on a cluster of its own alone.
const SKIPPED: [&str; 3] =
    ["cut the power of the leader's node", "judge what all programs were told", "measure resident memory"];

/// Everything from the Deployment on.
pub(crate) fn demonstrate(namespace: &Namespace<'_>) -> Result<()> {
    let tools = namespace.tools();
    say("An ordinary Deployment. Its program asks once a second whether it leads, and logs each answer");
    let workload = Workload { replicas: REPLICAS, ..Workload::deployment(WORKLOAD) };
    println!("$ kubectl apply -f payments.json");
    print!("{}", namespace.apply(workload.manifest())?);
    namespace.wait_rolled_out(&workload.reference())?;
    annotate_workload(tools)?;
    let mut leader = wait_leader(namespace, "")?;
    namespace.wait_rolled_out(&workload.reference())?;
    show_leader(tools)?;
    ask(tools, &leader)?;

    say("Delete the leader: the next one leads as soon as the old program has ended");
    let mut times = Vec::new();
    for _ in 0..DELETIONS {
        let began = Instant::now();
        show(tools, &format!("kubectl --namespace {NAMESPACE} delete pod {leader} --wait=false"))?;
        leader = wait_leader(namespace, &leader)?;
        times.push(began.elapsed());
        println!("  the Election names {leader} after {:.1} s", began.elapsed().as_secs_f64());
        namespace.wait_rolled_out(&workload.reference())?;
    }
    show(tools, &format!("kubectl --namespace {NAMESPACE} get elections"))?;

    say("Summary");
    println!(
        "kubectl delete pod of the leader -> the Election names the next one: {:.1} s (median of {DELETIONS})",
        median(times).as_secs_f64()
    );
    for what in SKIPPED {
        println!("SKIPPED {what}: the cluster of {KUBECONFIG_VARIABLE} is not ours to break or to look into");
    }
    println!("\nConch stays installed, with the namespace {NAMESPACE}.");
    Ok(())
}

/// The pod that the Election names, once it is another one than before and does not end.
fn wait_leader(namespace: &Namespace<'_>, before: &str) -> Result<String> {
    let leader = Tools::wait_for("leader", PATIENCE + Duration::from_secs(30), || {
        let election: Value = namespace.get(&["election", WORKLOAD])?;
        let holder = election["status"]["holder"].as_str().unwrap_or_default();
        let new = !holder.is_empty() && holder != before;
        Ok(if new { Ok(holder.to_owned()) } else { Err(election["status"].to_string()) })
    })?;
    Ok(leader)
}
