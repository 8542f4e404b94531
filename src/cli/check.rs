//! `check`: checks the installation with the rights of an agent. Writes nothing.

use std::fmt::Write as _;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::{Args, ValueEnum};
use kube::Client;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

use super::Exit;
use super::exit::print;
use super::logging::LogOptions;
use crate::cluster::guard::{Guard, guard};
use crate::cluster::survey::{self, Agents};
use crate::cluster::{Connection, DEFAULT_NAMESPACE, connect};
use crate::metrics::ListenAddress;

/// The time limit for an answer of an agent.
const ANSWER: Duration = Duration::from_secs(5);
/// The pause before an agent that is not ready is asked again.
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
    after_help = "Checks that the API server serves PortForwards, and which agents renew their Leases. This takes up to 15 seconds. With the token of an agent it also checks that the admission policy is in force: a write for another node, as a dry run, must be refused. With --health-address it also asks the agent of this node whether it is ready. In a pod: helm test.\n\nExit status:\n  0  every check succeeded\n  1  a check failed; its line says why\n\nExamples:\n  portforward-operator check --kubeconfig ~/.kube/config\n  portforward-operator check --health-address 127.0.0.1:10451"
)]
pub(super) struct CheckOptions {
    /// Kubeconfig of the API server [default: KUBECONFIG, ~/.kube/config, or the service account of the pod]
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// Namespace of the agents, where each agent renews its Lease
    #[arg(long, value_name = "NAMESPACE", default_value = DEFAULT_NAMESPACE, env = "POD_NAMESPACE")]
    namespace: String,
    /// Health address of the agent on this node; without it, that agent is not checked
    #[arg(long, value_name = "ADDR:PORT", env = "PORTFORWARD_HEALTH_ADDRESS")]
    health_address: Option<ListenAddress>,
    /// Whether the check fails if the admission policy is not in force
    #[arg(long, value_enum, default_value_t = AdmissionPolicy::Required, value_name = "WHAT")]
    admission_policy: AdmissionPolicy,
    #[command(flatten)]
    pub(super) log: LogOptions,
}

pub(super) async fn run(options: CheckOptions) -> anyhow::Result<Exit> {
    let Connection { client, url, .. } = connect(options.kubeconfig.as_deref()).await?;
    let health = async {
        match options.health_address {
            Some(ListenAddress::At(address)) => Some(("this agent", ready(address).await)),
            Some(ListenAddress::Off) | None => None,
        }
    };
    let (forwards, agents, policy, health) = tokio::join!(
        forwards(client.clone(), &url),
        agents(client.clone(), &options.namespace),
        policy(client, &options.namespace, options.admission_policy),
        health
    );
    let well = |said: anyhow::Result<String>| said.map(Finding::Well);
    let looks = [("forwards", well(forwards)), ("agents", well(agents)), ("policy", policy)];
    let looks = looks.into_iter().chain(health.map(|(what, said)| (what, well(said))));
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

/// Waits until the agent is ready, at most as long as the other checks take.
async fn ready(address: SocketAddr) -> anyhow::Result<String> {
    let ends = Instant::now() + survey::PATIENCE;
    loop {
        let answer = match timeout(ANSWER, readyz(address)).await {
            Ok(answer) => answer,
            Err(_) => Err(ErrorKind::TimedOut.into()),
        };
        match answer {
            Ok((200, _)) => return Ok(format!("{address} is ready")),
            Ok((status, said)) if Instant::now() >= ends => bail!("{address} answers {status}: {}", said.trim()),
            Err(error) if Instant::now() >= ends => {
                return Err(error).with_context(|| format!("no agent answers at {address}"));
            }
            Ok(_) | Err(_) => sleep(AGAIN).await,
        }
    }
}

/// The answer of the agent to `GET /readyz`: the HTTP status and the reason.
async fn readyz(address: SocketAddr) -> io::Result<(u16, String)> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(format!("GET /readyz HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").as_bytes()).await?;
    let mut answer = String::new();
    // Much more than an agent sends. Another program at this address may send without end.
    stream.take(64 * 1024).read_to_string(&mut answer).await?;
    let (head, said) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    Ok((status.ok_or(ErrorKind::InvalidData)?, said.to_owned()))
}
