//! From the start of a program until all forwards work, and until all statuses are written.

use std::collections::BTreeMap;
use std::fs;
use std::net::Ipv4Addr;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use crate::bed::agent::Agent;
use crate::bed::kernel::Variant;
use crate::field::Field;
use crate::kube_proxy::{KubeProxy, Mode};
use crate::objects;
use crate::plane::access::AGENT_USER;
use crate::prober::{Path, Probed, probing};
use crate::shared::progress;
use crate::shared::shapes::{Forward, Transport};

/// A start that takes longer ends the run.
pub(crate) const LONGEST: Duration = Duration::from_mins(15);
/// The number of forwards that are tried, evenly spread over the set, with its first and last one.
const SAMPLE: usize = 24;

/// What a start took.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Taken {
    /// From the start until each forward of a sample has led a connection to its upstream.
    pub(crate) packet: Duration,
    /// From the start until the list of the forwards was answered completely.
    pub(crate) list: Option<Duration>,
    /// From the start until all forwards were ready.
    pub(crate) status: Option<Duration>,
}

/// Starts the agent.
pub(crate) fn agent(field: &Field, variant: Variant, forwards: &[Forward]) -> (Agent, Taken) {
    progress(&format!("starting the agent with {} forwards", forwards.len()));
    let version = field.beside_api(super::api::Api::version);
    let sample = sample(forwards, |index| objects::forward_path(&forwards[index]));
    let (begun, clock) = (Instant::now(), SystemTime::now());
    let agent = field.start_agent(variant);
    let (packet, ready) = thread::scope(|scope| {
        let ready = scope.spawn(|| field.beside_api(|api| api.wait_all_ready(&version, forwards.len(), LONGEST)));
        let packet = complete(field, sample) - begun;
        (packet, ready.join().expect("the watch does not panic"))
    });
    let ready = ready.unwrap_or_else(|count| panic!("only {count} of {} forwards became ready", forwards.len()));
    (agent, Taken { packet, list: listed(field, clock), status: Some(ready - begun) })
}

/// Starts a kube-proxy.
pub(crate) fn kube_proxy(field: &Field, index: usize, mode: Mode, variant: Variant, forwards: &[Forward]) -> (KubeProxy, Taken) {
    progress(&format!("starting kube-proxy in {} mode with {} Services", mode.name(), forwards.len()));
    field.lead_services_through(index);
    let sample = sample(forwards, objects::service_path);
    let begun = Instant::now();
    let kube_proxy = KubeProxy::start(field, index, mode, variant);
    let packet = complete(field, sample) - begun;
    kube_proxy.wait_quiet(LONGEST);
    (kube_proxy, Taken { packet, ..Taken::default() })
}

/// The paths of a sample by their upstreams.
fn sample(forwards: &[Forward], path: impl Fn(usize) -> Path) -> BTreeMap<Ipv4Addr, Probed> {
    let usable: Vec<usize> = (0..forwards.len()).filter(|&index| forwards[index].transport == Transport::Tcp).collect();
    let step = (usable.len() / SAMPLE).max(1);
    let chosen = usable.iter().step_by(step).chain(usable.last());
    chosen.map(|&index| (*forwards[index].upstream.ip(), Probed::new(path(index)))).collect()
}

/// Waits until every path has led to its upstream. Returns when the last one did.
fn complete(field: &Field, sample: BTreeMap<Ipv4Addr, Probed>) -> Instant {
    let (upstreams, paths): (Vec<Ipv4Addr>, Vec<Probed>) = sample.into_iter().unzip();
    let deadline = Instant::now() + LONGEST;
    probing(&field.bed.client, &paths, || {
        field.sink.forget();
        let mut missing: Vec<usize> = (0..paths.len()).collect();
        loop {
            let arrival = field.sink.next(deadline);
            let arrival = arrival.unwrap_or_else(|| panic!("{} of {} forwards never worked", missing.len(), paths.len()));
            missing.retain(|&index| {
                let is_missing = upstreams[index] != arrival.upstream;
                if !is_missing {
                    paths[index].finish();
                }
                is_missing
            });
            if missing.is_empty() {
                return arrival.at;
            }
        }
    })
}

/// When the last list of forwards of the agents was answered, by the audit log of the API server.
fn listed(field: &Field, since: SystemTime) -> Option<Duration> {
    let text = fs::read_to_string(field.plane.file("audit.log")).unwrap_or_default();
    let lists = text.lines().filter(|line| line.contains(AGENT_USER) && line.contains(r#""resource":"portforwards""#));
    let lists =
        lists.filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok()).filter(|call| call["verb"] == "list");
    let ends = lists.filter_map(|call| call["stageTimestamp"].as_str()?.parse::<jiff::Timestamp>().ok());
    let last = SystemTime::from(ends.max()?);
    last.duration_since(since).ok()
}
