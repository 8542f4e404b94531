//! `check`: whether the installation works, as far as can be seen with the rights of an agent. Writes nothing.

use std::fmt::Write as _;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use kube::Client;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

use super::Exit;
use super::exit::print;
use super::logging::LogOptions;
use crate::cluster::survey::{self, Agents};
use crate::cluster::{Connection, DEFAULT_NAMESPACE, connect};
use crate::metrics::ListenAddress;

/// How long an agent may take to answer.
const ANSWER: Duration = Duration::from_secs(5);
/// How soon an agent that is not ready is asked again.
const AGAIN: Duration = Duration::from_millis(500);

#[derive(Args, Debug)]
#[command(
    after_help = "Asks the API server whether it serves PortForwards, and watches which agents renew their Leases, which takes up\nto 15 seconds. With --health-address it also asks the agent of this node whether it is ready. In a pod: helm test.\n\nExit status:\n  0  all is well\n  1  something is not; each line says what\n\nExamples:\n  portforward-operator check --kubeconfig ~/.kube/config\n  portforward-operator check --health-address 127.0.0.1:10451"
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
    let (forwards, agents, health) = tokio::join!(forwards(client.clone(), &url), agents(client, &options.namespace), health);
    let looks = [("forwards", forwards), ("agents", agents)].into_iter().chain(health);
    let (mut text, mut exit) = (String::new(), Exit::Done);
    for (what, said) in looks {
        let (verdict, said) = match said {
            Ok(said) => ("ok", said),
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
    Ok(format!("{url} serves them, and has {count}"))
}

async fn agents(client: Client, namespace: &str) -> anyhow::Result<String> {
    let Agents { live, silent } = survey::agents(client, namespace).await?;
    let named = |nodes: &std::collections::BTreeSet<String>| nodes.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
    let quiet = if silent.is_empty() { String::new() } else { format!("; no sign of life from {}", named(&silent)) };
    if live.is_empty() {
        bail!(
            "none lives in namespace {namespace}{quiet}; see its pods: kubectl get pods --namespace {namespace}, and their logs"
        );
    }
    Ok(format!("{} live: {}{quiet}", live.len(), named(&live)))
}

/// Waits until the agent is ready, for as long as the others take.
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
                return Err(error).with_context(|| format!("{address} serves no health of an agent"));
            }
            Ok(_) | Err(_) => sleep(AGAIN).await,
        }
    }
}

/// What the agent says to `GET /readyz`: the status of HTTP, and why.
async fn readyz(address: SocketAddr) -> io::Result<(u16, String)> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(format!("GET /readyz HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").as_bytes()).await?;
    let mut answer = String::new();
    // Far more than an agent says; whoever else listens there may go on for ever.
    stream.take(64 * 1024).read_to_string(&mut answer).await?;
    let (head, said) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    Ok((status.ok_or(ErrorKind::InvalidData)?, said.to_owned()))
}
