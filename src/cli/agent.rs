//! `agent`: keeps this node's kernel as the forwards ask for.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, watch};
use tracing::info;

use super::Exit;
use super::options::{KernelOptions, PolicyOptions, StateOptions, remembered};
use crate::agent::{self, Memory, Node, Pace, Publisher};
use crate::dataplane::iptables::Variant;
use crate::dataplane::{Forwarding, Kernel};
use crate::forward::Forward;
use crate::node::{Observer, watch};
use crate::plan::Policy;
use crate::publish::StatusFile;
use crate::record;
use crate::source::folder;

#[derive(Args, Debug)]
#[command(
    after_help = "Stopping the agent (SIGTERM, Ctrl-C) leaves rules, routes and connections as they are.\nA file that does not parse, or holds a refused object, leaves its last good content in force."
)]
pub(super) struct AgentOptions {
    /// The folder of PortForward manifests (*.yaml, *.yml, *.json) to carry out, watched for changes
    #[arg(long, value_name = "DIR")]
    manifests: PathBuf,
    /// Where the status of every forward is kept as JSON; default: status.json in the state directory
    #[arg(long, value_name = "FILE")]
    status_file: Option<PathBuf>,
    /// Switch routing of packets on (net.ipv4.ip_forward=1) whenever it is off; otherwise it is only reported
    #[arg(long)]
    set_ip_forward: bool,
    #[command(flatten)]
    state: StateOptions,
    #[command(flatten)]
    kernel: KernelOptions,
    #[command(flatten)]
    policy: PolicyOptions,
}

/// How often the kernel is compared with the plan although nothing was heard.
const fn pace(variant: Variant) -> Pace {
    match variant {
        // Every change of nf_tables, of a link, an address or a route is heard at once.
        Variant::Nft => Pace { every: Duration::from_secs(10) },
        // The older xtables tell nobody.
        Variant::Legacy => Pace { every: Duration::from_secs(1) },
    }
}

pub(super) async fn run(options: AgentOptions) -> anyhow::Result<Exit> {
    let name = options.state.node_name()?;
    let _lock = record::lock(&options.state.state_dir)?;
    let variant = options.kernel.variant().await?;
    let record = remembered(&options.state.state_dir, &name);
    info!(node = name, %variant, manifests = %options.manifests.display(), state = %options.state.state_dir.display(), "agent starts");
    let memory = Memory::new(options.state.state_dir.clone(), &name, record);
    let wake = Arc::new(Notify::new());
    let _watch = watch(&wake);
    let source = folder::watch(options.manifests, memory.forwards().to_vec(), Arc::clone(&wake), check);
    let (reports, newest) = watch::channel(None);
    let status_file = options.status_file.unwrap_or_else(|| options.state.state_dir.join("status.json"));
    let publisher = Publisher::new(name, StatusFile::new(status_file));
    let node = Node {
        source,
        observer: Observer::new(options.policy.labels(), [].into()),
        dataplane: Kernel::new(variant, if options.set_ip_forward { Forwarding::Enable } else { Forwarding::Leave }),
        policy: Policy { reserved_ports: options.policy.reserved_ports.0 },
        memory,
        wake,
        reports,
        pace: pace(variant),
    };
    let mut terminate = signal(SignalKind::terminate()).context("SIGTERM cannot be listened to")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT cannot be listened to")?;
    tokio::select! {
        () = agent::run(node) => {}
        () = agent::publish(publisher, newest) => {}
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    info!("agent stops; what is in the kernel stays");
    Ok(Exit::Done)
}

pub(super) fn check(object: &crate::api::PortForward) -> Result<(), String> {
    Forward::parse(object).map(drop).map_err(|refusal| format!("{}: {refusal}", refusal.reason))
}
