//! Options of `agent` about what it serves over HTTP.

use std::sync::Arc;

use clap::{Args, ValueEnum};
use tokio::sync::watch;

use crate::agent::follow_traffic;
use crate::dataplane::iptables::Counting;
use crate::metrics::{Detail, Health, ListenAddress, Metrics, Owners, PerForward, Served, serve};
use crate::supervise::Tasks;

/// Only this node may ask, unless the administrator says otherwise. No well-known program of a node uses the port.
const METRICS_ADDRESS: &str = "127.0.0.1:10450";
/// The kubelet of this node asks, and nobody else has to.
const HEALTH_ADDRESS: &str = "127.0.0.1:10451";
/// So many series, and some, are no burden for whoever scrapes.
const FORWARDS: usize = 1000;

#[derive(Args, Debug)]
pub(super) struct ServingOptions {
    /// Where /metrics is served over HTTP; empty for nowhere
    #[arg(long, value_name = "ADDR:PORT", default_value = METRICS_ADDRESS, env = "PORTFORWARD_METRICS_ADDRESS")]
    metrics_address: ListenAddress,
    /// Where /livez, /readyz and /healthz are served over HTTP; empty for nowhere
    #[arg(long, value_name = "ADDR:PORT", default_value = HEALTH_ADDRESS, env = "PORTFORWARD_HEALTH_ADDRESS")]
    health_address: ListenAddress,
    /// What /metrics counts for each forward: nothing, its connections, or also their packets and bytes (where the kernel counts them: net.netfilter.nf_conntrack_acct=1)
    #[arg(long, value_enum, default_value_t = ForwardMetrics::Connections, value_name = "WHAT", env = "PORTFORWARD_FORWARD_METRICS")]
    forward_metrics: ForwardMetrics,
    /// Of how many forwards, by namespace and name, that is shown
    #[arg(long, default_value_t = FORWARDS, value_name = "N", env = "PORTFORWARD_FORWARD_METRICS_LIMIT")]
    forward_metrics_limit: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum ForwardMetrics {
    None,
    Connections,
    Traffic,
}

impl ServingOptions {
    /// Which series there are for single forwards.
    pub(super) const fn per_forward(&self) -> PerForward {
        let detail = match self.forward_metrics {
            ForwardMetrics::None => Detail::Off,
            ForwardMetrics::Connections => Detail::Connections,
            ForwardMetrics::Traffic => Detail::Traffic,
        };
        PerForward { detail, limit: self.forward_metrics_limit }
    }

    /// Whether the counters of the rules are needed for that.
    pub(super) const fn counting(&self) -> Counting {
        match self.forward_metrics {
            ForwardMetrics::None => Counting::Off,
            ForwardMetrics::Connections | ForwardMetrics::Traffic => Counting::On,
        }
    }

    /// Serves metrics and health, and counts what the connections of `owners` carry if that is asked for: each one
    /// of `tasks`.
    pub(super) fn serve(
        &self,
        metrics: &Arc<Metrics>,
        health: &Arc<Health>,
        owners: watch::Receiver<Arc<Owners>>,
        tasks: &mut Tasks,
    ) {
        if self.forward_metrics == ForwardMetrics::Traffic {
            tasks.spawn("traffic of forwards", follow_traffic(Arc::clone(metrics), owners));
        }
        let served = [
            ("HTTP server of metrics", self.metrics_address, Served::Metrics(Arc::clone(metrics))),
            ("HTTP server of health", self.health_address, Served::Health(Arc::clone(health))),
        ];
        for (name, address, served) in served {
            match address {
                ListenAddress::Off => {}
                ListenAddress::At(address) => {
                    tasks.spawn(name, serve(address, served));
                }
            }
        }
    }
}
