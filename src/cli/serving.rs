//! Options of `agent` about what it serves over HTTP.

use std::sync::Arc;

use clap::Args;
use tokio::task::JoinSet;

use crate::metrics::{Health, ListenAddress, Metrics, Served, serve};

/// Only this node may ask, unless the administrator says otherwise. No well-known program of a node uses the port.
const METRICS_ADDRESS: &str = "127.0.0.1:10450";
/// The kubelet of this node asks, and nobody else has to.
const HEALTH_ADDRESS: &str = "127.0.0.1:10451";

#[derive(Args, Debug)]
pub(super) struct ServingOptions {
    /// Where /metrics is served over HTTP; empty for nowhere
    #[arg(long, value_name = "ADDR:PORT", default_value = METRICS_ADDRESS, env = "PORTFORWARD_METRICS_ADDRESS")]
    metrics_address: ListenAddress,
    /// Where /livez, /readyz and /healthz are served over HTTP; empty for nowhere
    #[arg(long, value_name = "ADDR:PORT", default_value = HEALTH_ADDRESS, env = "PORTFORWARD_HEALTH_ADDRESS")]
    health_address: ListenAddress,
}

impl ServingOptions {
    /// Serves metrics and health, in tasks of their own that end with what is given back.
    pub(super) fn serve(&self, metrics: &Arc<Metrics>, health: &Arc<Health>) -> JoinSet<()> {
        let mut tasks = JoinSet::new();
        let served = [
            (self.metrics_address, Served::Metrics(Arc::clone(metrics))),
            (self.health_address, Served::Health(Arc::clone(health))),
        ];
        for (address, served) in served {
            match address {
                ListenAddress::Off => {}
                ListenAddress::At(address) => {
                    tasks.spawn(serve(address, served));
                }
            }
        }
        tasks
    }
}
