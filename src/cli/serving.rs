//! The options of `agent` about the metrics and the health that it serves.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::{Args, ValueEnum};
use tokio::sync::watch;

use crate::agent::follow_traffic;
use crate::dataplane::rules::Counting;
use crate::metrics::{
    Certificate, Detail, Gate, Health, ListenAddress, Metrics, Owners, PerForward, Secure, serve_health, serve_metrics,
    serve_secure,
};
use crate::supervise::Tasks;

/// Only programs of this node can connect, unless the administrator changes the address. No well-known program uses this port
/// on a node.
const METRICS_ADDRESS: &str = "127.0.0.1:10450";
/// About this number of series is cheap to scrape.
const FORWARDS: usize = 1000;

#[derive(Args, Debug)]
pub(super) struct ServingOptions {
    /// Address for /metrics; empty to disable
    #[arg(long, value_name = "ADDR:PORT", default_value = METRICS_ADDRESS, env = "PORTFORWARD_METRICS_ADDRESS")]
    metrics_address: ListenAddress,
    /// Serve /metrics over HTTPS, only to users whom the API server allows to get /metrics (nonResourceURLs of a ClusterRole)
    #[arg(long, env = "PORTFORWARD_METRICS_SECURE", conflicts_with = "manifests")]
    metrics_secure: bool,
    /// With --metrics-secure: the certificate as PEM, read again every minute; default: a self-signed one, created at each start
    #[arg(long, value_name = "FILE", env = "PORTFORWARD_METRICS_CERTIFICATE", requires_all = ["metrics_secure", "metrics_key"])]
    metrics_certificate: Option<PathBuf>,
    /// With --metrics-certificate: its private key as PEM
    #[arg(long, value_name = "FILE", env = "PORTFORWARD_METRICS_KEY", requires = "metrics_certificate")]
    metrics_key: Option<PathBuf>,
    /// Series for single forwards: none; connections, with readiness; or traffic, also with packets and bytes (needs net.netfilter.nf_conntrack_acct=1)
    #[arg(long, value_enum, default_value_t = ForwardMetrics::Connections, value_name = "WHAT", env = "PORTFORWARD_FORWARD_METRICS")]
    forward_metrics: ForwardMetrics,
    /// Maximum number of forwards with their own series; namespaces share it equally
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
    /// The series for single forwards.
    pub(super) const fn per_forward(&self) -> PerForward {
        let detail = match self.forward_metrics {
            ForwardMetrics::None => Detail::Off,
            ForwardMetrics::Connections => Detail::Connections,
            ForwardMetrics::Traffic => Detail::Traffic,
        };
        PerForward { detail, limit: self.forward_metrics_limit }
    }

    /// Whether these series need the counters of the rules.
    pub(super) const fn counting(&self) -> Counting {
        match self.forward_metrics {
            ForwardMetrics::None => Counting::Off,
            ForwardMetrics::Connections | ForwardMetrics::Traffic => Counting::On,
        }
    }

    /// How the metrics of `node` are served to the users that `gate` admits; `None` if everybody may read them.
    pub(super) fn secure(&self, node: &str, gate: impl FnOnce() -> Arc<dyn Gate>) -> Option<Secure> {
        self.metrics_secure.then(|| {
            let certificate = match (&self.metrics_certificate, &self.metrics_key) {
                (Some(certificate), Some(key)) => Certificate::Files { certificate: certificate.clone(), key: key.clone() },
                (None, _) | (_, None) => Certificate::SelfSigned { node: node.to_owned() },
            };
            Secure { certificate, gate: gate() }
        })
    }

    /// Starts in `tasks`: the server of metrics and, if requested, the task that counts the traffic of the connections of
    /// `owners`.
    pub(super) fn serve(
        &self,
        metrics: &Arc<Metrics>,
        owners: watch::Receiver<Arc<Owners>>,
        secure: Option<Secure>,
        tasks: &mut Tasks,
    ) {
        if self.forward_metrics == ForwardMetrics::Traffic {
            tasks.spawn("traffic of forwards", follow_traffic(Arc::clone(metrics), owners));
        }
        if let ListenAddress::At(address) = self.metrics_address {
            let metrics = Arc::clone(metrics);
            match secure {
                Some(secure) => tasks.spawn("HTTPS server of metrics", serve_secure(address, metrics, secure)),
                None => tasks.spawn("HTTP server of metrics", serve_metrics(address, metrics)),
            };
        }
    }
}

/// Starts in `tasks` the server of health in the state directory `dir`, whose lock this process holds.
pub(super) fn serve_health_in(dir: &Path, health: &Arc<Health>, tasks: &mut Tasks) {
    let (dir, health) = (dir.to_owned(), Arc::clone(health));
    tasks.spawn("server of health", async move { serve_health(&dir, health).await });
}
