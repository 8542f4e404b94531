//! `agent`: keeps the kernel of this node as the forwards ask.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use tokio::sync::{Notify, oneshot, watch};
use tokio::time::{Instant, timeout};
use tracing::{info, warn};

use super::logging::LogOptions;
use super::options::{KernelOptions, PolicyOptions, StateOptions, believed, keeper, label, remembered};
use super::serving::{ServingOptions, serve_health_in};
use super::stop::Stop;
use super::turn::{self, Turn};
use super::{Exit, files};
use crate::agent::{self, Fallback, Memory, Node, Pace, Publisher, Recorder};
use crate::api::{DecodeErrors, PortForward, PortForwardGrant};
use crate::cluster::{self, DEFAULT_NAMESPACE, ForwardSelector, Member, Scrapers, connect};
use crate::dataplane::Ownership;
use crate::forward::{Forward, Refusals};
use crate::grant::Grant;
use crate::metrics::{Health, Metrics, RecordAge};
use crate::node::{NextHops, Observer, Patience, watch};
use crate::publish::StatusFile;
use crate::record::{self, Boot, Loaded, Purpose};
use crate::source::folder::{self, Remembered};
use crate::supervise::Tasks;

/// The names of the tasks that this command starts itself.
const LOOP: &str = "sync loop";
const PUBLISHER: &str = "publisher of status";
const LEAVING: &str = "remover of entries from forwards that are not followed any more";
/// How long the agent waits at its end until the last record is on the disk.
const LAST_RECORD: Duration = Duration::from_secs(3);

#[derive(Args, Debug)]
#[command(
    after_help = "Stopping the agent (SIGTERM, Ctrl-C) changes no rules, routes or connections.\n\nIn a folder, a file that does not parse or holds a refused object changes nothing: its last good content stays in force."
)]
pub(super) struct AgentOptions {
    /// Folder with PortForward manifests (*.yaml, *.yml, *.json), watched for changes; used instead of an API server
    #[arg(long, value_name = "DIR", conflicts_with_all = ["kubeconfig", "namespace", "forward_selector"])]
    manifests: Option<PathBuf>,
    /// With --manifests: file for the status of all forwards, as JSON [default: status.json in the state directory]
    #[arg(long, value_name = "FILE", requires = "manifests")]
    status_file: Option<PathBuf>,
    /// With --manifests: label of this node, for nodeSelector; repeat for several labels
    #[arg(long = "node-label", value_name = "KEY=VALUE", value_parser = label, requires = "manifests")]
    node_labels: Vec<(String, String)>,
    /// Kubeconfig of the API server [default: KUBECONFIG, ~/.kube/config, or the service account of the pod]
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// Namespace of the agents, where each agent renews its Lease
    #[arg(long, value_name = "NAMESPACE", default_value = DEFAULT_NAMESPACE, env = "POD_NAMESPACE")]
    namespace: String,
    /// Label selector of the PortForwards that this agent follows, as for kubectl get -l: 'pool=edge', 'pool in (a,b),!test';
    /// empty for all of them. The API server sends only these. What is not selected is withdrawn. Each forward needs one pool of
    /// agents: the selectors of agents with Leases in different namespaces must not overlap
    #[arg(long, value_name = "SELECTOR", default_value_t, hide_default_value = true, env = "PORTFORWARD_FORWARD_SELECTOR")]
    forward_selector: ForwardSelector,
    #[command(flatten)]
    serving: ServingOptions,
    #[command(flatten)]
    state: StateOptions,
    #[command(flatten)]
    kernel: KernelOptions,
    #[command(flatten)]
    policy: PolicyOptions,
    #[command(flatten)]
    pub(super) log: LogOptions,
}

/// How often the kernel is compared with the plan without any event. Changes of rules, links, addresses and routes are events; listeners and
/// ranges of ports are not.
const PACE: Pace = Pace { every: Duration::from_secs(10), times: 1000 };

pub(super) async fn run(options: AgentOptions) -> anyhow::Result<Exit> {
    let name = options.state.node_name()?;
    let state_dir = options.state.state_dir.clone();
    files::raise_limit();
    let mut stop = Stop::listen()?;
    // A pod that is being replaced, or a running restore, ends soon.
    let lock = match turn::wait(&state_dir, Purpose::Agent, &mut stop).await? {
        Turn::Ours(lock) => Arc::new(lock),
        Turn::Kept(_) | Turn::Stopped => return Ok(Exit::Done),
    };
    let backend = options.kernel.backend().await?;
    let (records, due) = agent::recording();
    let mut loaded = remembered(&state_dir, &name);
    let keeper = keeper(&state_dir, loaded.as_mut());
    let fallback = Fallback::of(loaded.as_ref().map_or(Boot::This, |loaded| loaded.boot));
    let outdated = loaded.as_ref().is_some_and(|loaded| loaded.outdated.is_some());
    let withheld = loaded.as_ref().map(Loaded::withheld).unwrap_or_default();
    let memory = Memory::new(&name, loaded.as_ref().map(believed)).holding(withheld).recorded_by(records);
    drop(loaded);
    let (wake, rules) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let mut tasks = Tasks::default();
    watch(&wake, if backend.is_in_nf_tables() { &rules } else { &wake }, &mut tasks);
    tasks.spawn("changes of legacy xtables", backend.watch_unreported(Arc::clone(&wake), Arc::clone(&rules), Arc::clone(&wake)));
    let next_hops = NextHops::ask(Patience::Brief, &wake, &mut tasks);
    let (reports, newest) = watch::channel(None);
    let health = Arc::new(Health::new(Instant::now()));
    serve_health_in(&state_dir, &health, &mut tasks);
    let (owners, owned) = watch::channel(Arc::default());
    let node = |source, observer, memory, metrics: &Arc<Metrics>| Node {
        source,
        observer,
        dataplane: options
            .kernel
            .kernel(backend, options.policy.connmark)
            .owned(options.kernel.ownership(Ownership::Owned))
            .counting(options.serving.counting()),
        policy: options.policy.policy(),
        memory,
        fallback,
        wake: Arc::clone(&wake),
        rules: Arc::clone(&rules),
        reports,
        pace: PACE,
        metrics: Arc::clone(metrics),
        health: Arc::clone(&health),
        owners,
    };
    let (keeping, kept) = oneshot::channel();
    let record = |metrics: &Arc<Metrics>, tasks: &mut Tasks| {
        if outdated {
            metrics.record_is(RecordAge::Outdated);
        }
        let recorder = Recorder { keeper, lock: Arc::clone(&lock), metrics: Arc::clone(metrics) };
        tasks.spawn("writer of the record", agent::keep_record(recorder, due, keeping));
    };
    let state = state_dir.display();
    let sync_loop = if let Some(folder) = &options.manifests {
        info!(node = name, %backend, %state, manifests = %folder.display(), "agent starts");
        let labels = options.node_labels.iter().cloned().collect();
        let grants = memory.recorded_grants().cloned();
        let before = Remembered { forwards: memory.forwards().clone(), grants, seen: record::written(&state_dir) };
        let source = folder::watch(folder.clone(), labels, &before, Arc::clone(&wake), CHECK, &mut tasks);
        let status_file = options.status_file.clone().unwrap_or_else(|| state_dir.join("status.json"));
        let metrics = Arc::new(Metrics::new(backend, None, options.serving.per_forward()));
        options.serving.serve(&metrics, owned, None, &mut tasks);
        let publisher = Publisher::new(name, StatusFile::new(status_file), Arc::clone(&metrics));
        record(&metrics, &mut tasks);
        let node = node(source, Observer::default().beside(backend).asking(next_hops), memory, &metrics);
        tasks.spawn(PUBLISHER, agent::publish(publisher, newest));
        tasks.spawn(LOOP, agent::run(node))
    } else {
        let connection = connect(options.kubeconfig.as_deref()).await?;
        let namespace = &options.namespace;
        let selector = &options.forward_selector;
        let followed = if selector.selects_all() { "all".to_owned() } else { selector.to_string() };
        info!(node = name, %backend, %state, server = connection.url, namespace, forwards = followed, "agent starts");
        let remembered = memory.snapshot().unwrap_or_default();
        let required = options.policy.policy().require_grants;
        let (namespace, others) = (options.namespace.as_str(), options.policy.other_nodes());
        let member = Member { node: &name, namespace, others, forwards: selector };
        let cluster = cluster::join(&connection, member, &remembered, required, &wake, &health, &mut tasks);
        let metrics = Arc::new(Metrics::new(backend, Some(Box::new(cluster.contact())), options.serving.per_forward()));
        let secure = options.serving.secure(&name, || Arc::new(Scrapers::new(connection.client.clone())));
        options.serving.serve(&metrics, owned, secure, &mut tasks);
        record(&metrics, &mut tasks);
        let api_servers = connection.api_servers.into_iter().chain(connection.service).collect();
        let observer = Observer::new(api_servers).beside(backend).asking(next_hops);
        let node = node(cluster.source.clone(), observer, memory, &metrics);
        let cluster = Arc::new(cluster);
        if !selector.selects_all() {
            let (cluster, node, selector, reports) = (Arc::clone(&cluster), name.clone(), selector.clone(), newest.clone());
            tasks.spawn(LEAVING, async move { cluster::leave(&cluster, (&node, selector), remembered, reports).await });
        }
        tasks.spawn(PUBLISHER, async move { cluster::publish(&cluster, &name, metrics, newest).await });
        tasks.spawn(LOOP, agent::run(node))
    };
    let ended = until_stopped(&mut tasks, stop).await;
    // The last record may not be on the disk yet.
    sync_loop.abort();
    settle(kept).await;
    ended
}

/// Waits until the last record is on the disk, for a limited time, because the kubelet also kills a pod after a time limit.
async fn settle(kept: oneshot::Receiver<()>) {
    if timeout(LAST_RECORD, kept).await.is_err() {
        warn!(
            seconds = LAST_RECORD.as_secs(),
            "the disk does not answer: the record may be older than the state of the kernel, and a reboot would restore the older state"
        );
    }
}

/// Waits until a signal asks the agent to stop, or a task of `tasks` ends, which is an error.
async fn until_stopped(tasks: &mut Tasks, mut stop: Stop) -> anyhow::Result<Exit> {
    tokio::select! {
        ended = tasks.ended() => Err(ended.into()),
        () = stop.requested() => {
            info!("agent stops; rules, routes and connections in the kernel stay");
            Ok(Exit::Done)
        }
    }
}

/// Refuses an object of a folder that is wrong by itself.
pub(super) const CHECK: folder::Check = folder::Check { forward: check, grant: check_grant };

fn check(decoded: Result<PortForward, DecodeErrors>) -> Result<PortForward, Vec<String>> {
    let parsed = decoded.map_err(Refusals::from).and_then(|object| Forward::parse(&object).map(|_| object));
    parsed.map_err(|refusals| lines(&refusals))
}

fn check_grant(decoded: Result<PortForwardGrant, DecodeErrors<PortForwardGrant>>) -> Result<PortForwardGrant, Vec<String>> {
    let parsed = decoded.map_err(Refusals::from).and_then(|object| Grant::parse(&object).map(|_| object));
    parsed.map_err(|refusals| lines(&refusals))
}

fn lines(refusals: &Refusals) -> Vec<String> {
    refusals.as_slice().iter().map(|refusal| format!("{}: {refusal}", refusal.reason)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_agent_ends_with_an_error_that_names_the_task_that_ended() {
        let mut tasks = Tasks::default();
        tasks.spawn(LOOP, std::future::pending());
        tasks.spawn(PUBLISHER, async {});
        let error = until_stopped(&mut tasks, Stop::listen().unwrap()).await.unwrap_err().to_string();
        assert!(
            error.contains("\"publisher of status\" stopped by itself")
                && error.contains("The rules and routes in the kernel stay"),
            "{error}"
        );
    }
}
