//! `check`: checks the installation with the rights of an agent. Writes nothing.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::{Args, ValueEnum};
use kube::Client;
use tokio::time::{Instant, sleep};

use super::Exit;
use super::exit::print;
use super::logging::LogOptions;
use crate::cluster::guard::{Guard, guard};
use crate::cluster::survey::{self, Agents};
use crate::cluster::{Connection, DEFAULT_NAMESPACE, connect};

/// The pause before the policy is checked again.
const AGAIN: Duration = Duration::from_millis(500);

/// The result of a check that did not fail.
enum Finding {
    Well(String),
    /// The check was not possible or not requested.
    Open(String),
}

/// Whether the admission policy must be in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum AdmissionPolicy {
    /// It must be in force; every installation has it unless the administrator switched it off
    Required,
    /// It may be switched off
    Optional,
}

#[derive(Args, Debug)]
#[command(
    after_help = "Checks that the API server serves PortForwards, and which agents renew their Leases. This takes up to 15 seconds. With the token of an agent it also checks that the admission policy is in force: a write for another node, as a dry run, must be refused. In a pod: helm test. Whether the agent of a node is ready: portforward-operator health ready.\n\nExit status:\n  0  every check succeeded\n  1  a check failed; its line says why\n\nExample:\n  portforward-operator check --kubeconfig ~/.kube/config"
)]
pub(super) struct CheckOptions {
    /// Kubeconfig of the API server [default: KUBECONFIG, ~/.kube/config, or the service account of the pod]
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// Namespace of the agents, where each agent renews its Lease
    #[arg(long, value_name = "NAMESPACE", default_value = DEFAULT_NAMESPACE, env = "POD_NAMESPACE")]
    namespace: String,
    /// Whether the check fails if the admission policy is not in force
    #[arg(long, value_enum, default_value_t = AdmissionPolicy::Required, value_name = "WHAT")]
    admission_policy: AdmissionPolicy,
    #[command(flatten)]
    pub(super) log: LogOptions,
}

pub(super) async fn run(options: CheckOptions) -> anyhow::Result<Exit> {
    let Connection { client, url, .. } = connect(options.kubeconfig.as_deref()).await?;
    let (forwards, agents, policy) = tokio::join!(
        forwards(client.clone(), &url),
        agents(client.clone(), &options.namespace),
        policy(client, &options.namespace, options.admission_policy)
    );
    let well = |said: anyhow::Result<String>| said.map(Finding::Well);
    let looks = [("forwards", well(forwards)), ("agents", well(agents)), ("policy", policy)];
    let (mut text, mut exit) = (String::new(), Exit::Done);
    for (what, said) in looks {
        let (verdict, said) = match said {
            Ok(Finding::Well(said)) => ("ok", said),
            Ok(Finding::Open(said)) => ("note", said),
            Err(error) => {
                exit = Exit::Failed;
                ("failed", format!("{error:#}"))
            }
        };
        let _ = writeln!(text, "{verdict:<6}  {what:<10}  {said}");
    }
    print(&text)?;
    Ok(exit)
}

async fn forwards(client: Client, url: &str) -> anyhow::Result<String> {
    let count = survey::count_forwards(client).await.with_context(|| url.to_owned())?;
    Ok(format!("{url} serves PortForwards and has {count} of them"))
}

async fn agents(client: Client, namespace: &str) -> anyhow::Result<String> {
    let Agents { live, silent } = survey::agents(client, namespace).await?;
    let named = |nodes: &std::collections::BTreeSet<String>| nodes.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
    let quiet = if silent.is_empty() { String::new() } else { format!("; no renewed Lease from {}", named(&silent)) };
    if live.is_empty() {
        bail!(
            "no live agent in namespace {namespace}{quiet}; give the namespace of the agents with --namespace, or see their pods and logs: kubectl get pods --namespace {namespace}"
        );
    }
    Ok(format!("{} live: {}{quiet}", live.len(), named(&live)))
}

/// Checks that each agent can write only for its own node. A newly installed policy comes into force a moment later.
async fn policy(client: Client, namespace: &str, wanted: AdmissionPolicy) -> anyhow::Result<Finding> {
    let ends = Instant::now() + survey::PATIENCE;
    loop {
        let found = guard(client.clone(), namespace).await?;
        if !matches!(found, Guard::NotArmed(_)) || wanted == AdmissionPolicy::Optional || Instant::now() >= ends {
            return judged(found, namespace, wanted);
        }
        sleep(AGAIN).await;
    }
}

fn judged(found: Guard, namespace: &str, wanted: AdmissionPolicy) -> anyhow::Result<Finding> {
    match (found, wanted) {
        (Guard::Armed(name), _) => Ok(Finding::Well(format!("admission policy: in force; {name} refused a forged Lease"))),
        (Guard::Unproven(user), _) => Ok(Finding::Open(format!(
            "admission policy: not checked; {user} is not an agent of namespace {namespace}, so the policy does not apply to \
             it: run helm test, or check with the token of an agent"
        ))),
        (Guard::NotArmed(user), AdmissionPolicy::Optional) => Ok(Finding::Open(format!(
            "admission policy: not in force; {user} may write for every node (admissionPolicy.enabled)"
        ))),
        (Guard::NotArmed(user), AdmissionPolicy::Required) => bail!(
            "admission policy: not in force; {user} may write for every node. Apply the ValidatingAdmissionPolicy and its binding \
             (admissionPolicy.enabled, or deploy/base), and check that the ClusterRoleBinding of the agents has the label \
             portforward.dev/agents=true"
        ),
    }
}
