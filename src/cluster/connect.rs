//! The way to the API server: from a kubeconfig, or from what a kubelet gives a pod.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use tokio::net::lookup_host;
use tokio::time::timeout;

/// The agents' namespace where nothing else says so.
pub const DEFAULT_NAMESPACE: &str = "portforward-system";

/// How long a read may bring nothing; longer than a watch lasts, so that only a dead connection is given up.
const SILENCE: Duration = Duration::from_secs(35);

/// How long the start waits for the name of the API server.
const RESOLVED_WITHIN: Duration = Duration::from_secs(5);

/// Why there is no way to the API server.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Neither a kubeconfig nor a pod's service account.
    #[error(
        "no way to an API server is known; give --kubeconfig, set KUBECONFIG, run in a pod, or work on a folder with --manifests"
    )]
    Unknown(#[source] kube::config::InferConfigError),
    /// The kubeconfig cannot be used.
    #[error("the kubeconfig cannot be used; correct it or give another with --kubeconfig")]
    Kubeconfig(#[from] kube::config::KubeconfigError),
    /// No client can be made of it.
    #[error("no client can be made for the API server")]
    Client(#[from] kube::Error),
}

/// The way to an API server.
#[derive(Clone)]
pub struct Connection {
    /// The client.
    pub client: Client,
    /// Where it is, as addresses, which no route of a forward may cover.
    pub api_servers: BTreeSet<IpAddr>,
    /// Its name, or address, and port.
    pub host: (String, u16),
    /// Its address, for people.
    pub url: String,
}

/// Finds the way to the API server; makes no connection yet.
///
/// # Errors
/// When there is no usable kubeconfig and this is no pod.
pub async fn connect(kubeconfig: Option<&Path>) -> Result<Connection, ConnectError> {
    let mut config = match kubeconfig {
        Some(path) => Config::from_custom_kubeconfig(Kubeconfig::read_from(path)?, &KubeConfigOptions::default()).await?,
        None => Config::infer().await.map_err(ConnectError::Unknown)?,
    };
    config.connect_timeout = Some(Duration::from_secs(5));
    config.read_timeout = Some(SILENCE);
    // Retries are ours, with the newest content: the client's own may go on with an old one for many minutes.
    config.default_retry = false;
    let url = config.cluster_url.to_string();
    let host = config.cluster_url.host().unwrap_or_default().to_owned();
    let port = config.cluster_url.port_u16().unwrap_or(443);
    // Where this fails it is said, and tried again, by the watcher of the API servers.
    let resolved = timeout(RESOLVED_WITHIN, lookup_host((host.as_str(), port))).await;
    let api_servers = resolved.map_or_else(|_| BTreeSet::new(), |found| found.into_iter().flatten().map(|to| to.ip()).collect());
    Ok(Connection { client: Client::try_from(config)?, api_servers, host: (host, port), url })
}
