//! The metrics that exist only if forwards come from an API server.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::registry::{registered, shown};

/// What an agent sees of its cluster. It is asked at each scrape.
pub trait ClusterView: std::fmt::Debug + Send + Sync {
    /// The number of agents that live; 0 until the Leases were read once.
    fn live_agents(&self) -> usize;

    /// Whether the API server answered when it was last asked.
    fn is_reached(&self) -> bool;
}

/// The metrics about the cluster, as this agent sees it.
#[derive(Debug)]
pub(super) struct ClusterMetrics {
    view: Box<dyn ClusterView>,
    agents: Gauge,
    up: Gauge,
    overwritten: Counter,
    contested: Gauge,
}

impl ClusterMetrics {
    /// Registers the metrics.
    pub(super) fn new(registry: &mut Registry, view: Box<dyn ClusterView>) -> Self {
        let agents = registered(registry, "live_agents", LIVE_AGENTS, Gauge::default());
        let up = registered(registry, "api_server_up", API_SERVER_UP, Gauge::default());
        let overwritten = registered(registry, "status_overwritten", STATUS_OVERWRITTEN, Counter::default());
        let contested = registered(registry, "status_contested", STATUS_CONTESTED, Gauge::default());
        Self { view, agents, up, overwritten, contested }
    }

    /// Reads the newest values before a scrape.
    pub(super) fn refresh(&self) {
        self.agents.set(shown(self.view.live_agents()));
        self.up.set(i64::from(self.view.is_reached()));
    }

    /// Counts that another client has overwritten a status.
    pub(super) fn overwritten(&self) {
        self.overwritten.inc();
    }

    /// Shows the number of forwards whose status is contested.
    pub(super) fn contested(&self, count: usize) {
        self.contested.set(shown(count));
    }
}

const LIVE_AGENTS: &str = "Agents that are alive by their Lease; 0 until the Leases were read once";
const API_SERVER_UP: &str = "Whether the API server answered the last request of this agent, even with a refusal: 1 or 0";
const STATUS_OVERWRITTEN: &str =
    "How often another client overwrote or removed what this agent had written into the status of a forward";
const STATUS_CONTESTED: &str = "Forwards whose status another client has overwritten at least six times within ten minutes";
