//! `agent`: keeps this node's kernel as the forwards ask for.

use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tracing::info;

use super::Exit;
use super::options::{KernelOptions, PolicyOptions, StateOptions, label, remembered};
use super::serving::ServingOptions;
use crate::agent::{self, Memory, Node, Pace, Publisher};
use crate::cluster::{self, DEFAULT_NAMESPACE, connect};
use crate::dataplane::iptables::Variant;
use crate::forward::Forward;
use crate::metrics::{Health, Metrics};
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
    /// Work without an API server: on the PortForward manifests (*.yaml, *.yml, *.json) of this folder, watched for changes
    #[arg(long, value_name = "DIR", conflicts_with_all = ["kubeconfig", "namespace"])]
    manifests: Option<PathBuf>,
    /// With --manifests: where the status of every forward is kept as JSON; default: status.json in the state directory
    #[arg(long, value_name = "FILE", requires = "manifests")]
    status_file: Option<PathBuf>,
    /// With --manifests: a label of this node, for nodeSelector; may be given several times
    #[arg(long = "node-label", value_name = "KEY=VALUE", value_parser = label, requires = "manifests")]
    node_labels: Vec<(String, String)>,
    /// How to reach the API server; default: KUBECONFIG, ~/.kube/config, or what a pod is given
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// The namespace of the agents, where each keeps its Lease
    #[arg(long, value_name = "NAMESPACE", default_value = DEFAULT_NAMESPACE, env = "POD_NAMESPACE")]
    namespace: String,
    #[command(flatten)]
    serving: ServingOptions,
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
    let state_dir = options.state.state_dir.clone();
    let _lock = record::lock(&state_dir)?;
    let variant = options.kernel.variant().await?;
    let memory = Memory::new(state_dir.clone(), &name, remembered(&state_dir, &name));
    let wake = Arc::new(Notify::new());
    let _watch = watch(&wake);
    let (reports, newest) = watch::channel(None);
    let health = Arc::new(Health::new(Instant::now()));
    let (owners, owned) = watch::channel(Arc::default());
    let node = |source, observer, memory, metrics: &Arc<Metrics>| Node {
        source,
        observer,
        dataplane: options.kernel.kernel(variant).counting(options.serving.counting()),
        policy: Policy { reserved_ports: options.policy.reserved_ports.0.clone() },
        memory,
        wake: Arc::clone(&wake),
        reports,
        pace: pace(variant),
        metrics: Arc::clone(metrics),
        health: Arc::clone(&health),
        owners,
    };
    let state = state_dir.display();
    if let Some(folder) = &options.manifests {
        info!(node = name, %variant, %state, manifests = %folder.display(), "agent starts");
        let labels = options.node_labels.iter().cloned().collect();
        let source = folder::watch(folder.clone(), labels, memory.forwards().to_vec(), Arc::clone(&wake), check);
        let status_file = options.status_file.clone().unwrap_or_else(|| state_dir.join("status.json"));
        let metrics = Arc::new(Metrics::new(variant, None, options.serving.per_forward()));
        let _server = options.serving.serve(&metrics, &health, owned);
        let publisher = Publisher::new(name, StatusFile::new(status_file), Arc::clone(&metrics));
        let node = node(source, Observer::default(), memory, &metrics);
        until_stopped(agent::run(node), agent::publish(publisher, newest)).await
    } else {
        let connection = connect(options.kubeconfig.as_deref()).await?;
        info!(node = name, %variant, %state, server = connection.url, namespace = options.namespace, "agent starts");
        let remembered = memory.snapshot().unwrap_or_default();
        let cluster = cluster::join(&connection, &name, &options.namespace, &remembered, &wake);
        let metrics = Arc::new(Metrics::new(variant, Some(cluster.contact()), options.serving.per_forward()));
        let _server = options.serving.serve(&metrics, &health, owned);
        let node = node(cluster.source.clone(), Observer::new(connection.api_servers), memory, &metrics);
        let publish = async move { cluster::publish(&cluster, &name, metrics, newest).await };
        Box::pin(until_stopped(agent::run(node), publish)).await
    }
}

/// Runs the sync loop until a signal says to stop, and beside it the publisher as a task of its own: whatever that waits for,
/// a terminal, a disk or an API server, delays no kernel.
async fn until_stopped(
    run: impl Future<Output = ()>,
    publish: impl Future<Output = ()> + Send + 'static,
) -> anyhow::Result<Exit> {
    let mut terminate = signal(SignalKind::terminate()).context("SIGTERM cannot be listened to")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT cannot be listened to")?;
    let publisher = tokio::spawn(publish);
    tokio::select! {
        () = run => {}
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    publisher.abort();
    info!("agent stops; what is in the kernel stays");
    Ok(Exit::Done)
}

pub(super) fn check(object: &crate::api::PortForward) -> Result<(), String> {
    Forward::parse(object).map(drop).map_err(|refusal| format!("{}: {refusal}", refusal.reason))
}
