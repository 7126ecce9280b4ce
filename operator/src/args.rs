//! The command line and the environment.

use crate::inject::{PullPolicy, SidecarImage};
use clap::{Args as ClapArgs, Parser, Subcommand};
use conch_crds::names::{operator_env, operator_objects};
use conch_process::log::Format;

/// The operator of Conch: injects sidecars, and makes what elections need.
#[derive(Debug, Parser)]
#[command(name = "conch-operator", version)]
pub struct Args {
    /// What to do; `run` if nothing is said.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// What every command needs.
    #[command(flatten)]
    pub common: CommonArgs,
}

/// What to do.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Answer admission requests and, while this replica leads, make what elections need. What runs if no command is given.
    Run(Box<RunArgs>),
    /// Remove the webhooks, end the operator, and say which workloads are left without a new sidecar. The chart runs it before
    /// it is uninstalled.
    Uninstall,
    /// Check an installation: the resource definitions exist and the webhook answers with a certificate that the API server
    /// trusts. `helm test` runs it.
    Check,
}

/// What every command needs.
#[derive(Clone, Debug, ClapArgs)]
pub struct CommonArgs {
    /// Namespace of this operator and of its own Lease, Secret and Service.
    #[arg(long, global = true, env = operator_env::NAMESPACE, default_value = "conch-system")]
    pub namespace: String,
    /// text or json.
    #[arg(long, global = true, env = operator_env::LOG_FORMAT, default_value_t = Format::Text)]
    pub log_format: Format,
    /// Which lines to log: a level, or a filter such as `info,conch_operator=debug`.
    #[arg(long, global = true, env = operator_env::LOG, default_value = "info")]
    pub log: String,
}

/// What running needs.
#[derive(Clone, Debug, ClapArgs)]
pub struct RunArgs {
    /// Name of this pod.
    #[arg(long, env = operator_env::POD_NAME, default_value = "")]
    pub pod_name: String,
    /// UID of this pod.
    #[arg(long, env = operator_env::POD_UID, default_value = "")]
    pub pod_uid: String,
    /// The image that is injected.
    #[arg(long, env = operator_env::SIDECAR_IMAGE)]
    pub sidecar_image: String,
    /// When kubelets fetch it: `Always`, `IfNotPresent` or `Never`.
    #[arg(long, env = operator_env::SIDECAR_PULL_POLICY, default_value = "IfNotPresent")]
    pub sidecar_pull_policy: PullPolicy,
    /// Port of the webhook, on every address.
    #[arg(long, default_value_t = operator_objects::WEBHOOK_PORT)]
    pub webhook_port: u16,
    /// Port of metrics and health, on every address.
    #[arg(long, default_value_t = operator_objects::METRICS_PORT)]
    pub metrics_port: u16,
}

impl Args {
    /// The command; where none was given, running with what the environment says.
    pub fn command_or_run(self) -> Command {
        self.command
            .unwrap_or_else(|| Command::Run(Box::new(FromEnvironment::parse_from(["conch-operator"]).run)))
    }
}

/// Reads the arguments of [`Command::Run`] from the environment alone.
#[derive(Debug, Parser)]
struct FromEnvironment {
    #[command(flatten)]
    run: RunArgs,
}

impl RunArgs {
    /// What is injected.
    pub fn sidecar(&self) -> SidecarImage {
        SidecarImage { reference: self.sidecar_image.clone(), pull_policy: self.sidecar_pull_policy }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn options_of_every_command_may_come_after_it() {
        let args = Args::parse_from(["conch-operator", "check", "--namespace", "conch"]);
        assert!(matches!(args.command, Some(Command::Check)));
        assert_eq!(args.common.namespace, "conch");
    }

    #[test]
    fn an_operator_that_runs_knows_what_to_inject() {
        let args = Args::parse_from(["conch-operator", "run", "--sidecar-image", "image:1"]);
        let Command::Run(run) = args.command_or_run() else { panic!("another command") };
        assert_eq!(run.sidecar().reference, "image:1");
        assert!(
            Args::try_parse_from(["conch-operator", "run", "--sidecar-pull-policy", "Sometimes"]).is_err()
        );
    }
}
