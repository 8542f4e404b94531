//! The metrics that exist only if forwards come from an API server.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::registry::{registered, shown};
use crate::cluster::{Contact, Reached};

/// The metrics about the cluster, as this agent sees it.
#[derive(Debug)]
pub(super) struct ClusterMetrics {
    contact: Contact,
    agents: Gauge,
    up: Gauge,
    overwritten: Counter,
    contested: Gauge,
}

impl ClusterMetrics {
    /// Registers the metrics.
    pub(super) fn new(registry: &mut Registry, contact: Contact) -> Self {
        let agents = registered(registry, "live_agents", LIVE_AGENTS, Gauge::default());
        let up = registered(registry, "api_server_up", API_SERVER_UP, Gauge::default());
        let overwritten = registered(registry, "status_overwritten", STATUS_OVERWRITTEN, Counter::default());
        let contested = registered(registry, "status_contested", STATUS_CONTESTED, Gauge::default());
        Self { contact, agents, up, overwritten, contested }
    }

    /// Reads the newest values before a scrape.
    pub(super) fn refresh(&self) {
        self.agents.set(shown(self.contact.live_agents()));
        self.up.set(match self.contact.reached() {
            Reached::Yes => 1,
            Reached::No => 0,
        });
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
