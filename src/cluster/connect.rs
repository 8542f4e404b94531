//! Finds the API server and makes a client for it: from a kubeconfig, or from the service account of a pod.

use std::collections::BTreeSet;
use std::error::Error as _;
use std::io::ErrorKind;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use kube::config::{InferConfigError, KubeConfigOptions, Kubeconfig, KubeconfigError, LoadDataError};
use kube::{Client, Config};
use tokio::net::lookup_host;
use tokio::time::timeout;

/// The namespace of the agents if no flag names another one.
pub const DEFAULT_NAMESPACE: &str = "portforward-system";

/// The longest time that a read waits for data. It is longer than a watch (25 s), so only a dead connection reaches it.
const SILENCE: Duration = Duration::from_secs(35);

/// How long the start waits until DNS resolves the name of the API server.
const RESOLVED_WITHIN: Duration = Duration::from_secs(5);

/// Why there is no connection to an API server.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// There is neither a kubeconfig nor a service account of a pod.
    #[error(
        "no way to an API server is known; give --kubeconfig, set KUBECONFIG, run in a pod, or work on a folder with --manifests"
    )]
    Unknown,
    /// The kubeconfig cannot be used.
    #[error("the kubeconfig{} cannot be used: {reason}; correct it, or give another one with --kubeconfig", named(path.as_deref()))]
    Kubeconfig {
        /// Its path, if it is known.
        path: Option<PathBuf>,
        /// What is wrong with it, for people.
        reason: String,
    },
    /// The client library cannot build a client from the configuration.
    #[error("the certificates or credentials for the API server cannot be used; correct the kubeconfig or the service account")]
    Client(#[from] kube::Error),
}

impl ConnectError {
    /// `path` is the kubeconfig, if it was given.
    fn of(path: Option<&Path>, error: &KubeconfigError) -> Self {
        let path = match error {
            KubeconfigError::ReadConfig(_, path) => Some(path.as_path()),
            _ => path,
        };
        Self::Kubeconfig { path: path.map(Path::to_owned), reason: reason(error) }
    }

    /// The error of a configuration that was looked for in `KUBECONFIG`, in the home directory and in a pod.
    fn inferred(error: &InferConfigError) -> Self {
        match error.source().and_then(|source| source.downcast_ref::<KubeconfigError>()) {
            Some(KubeconfigError::ReadConfig(cause, _))
                if cause.kind() == ErrorKind::NotFound && std::env::var_os("KUBECONFIG").is_none_or(|paths| paths.is_empty()) =>
            {
                Self::Unknown
            }
            Some(KubeconfigError::FindPath) | None => Self::Unknown,
            Some(error) => Self::of(None, error),
        }
    }
}

/// The path in a message, after a space.
fn named(path: Option<&Path>) -> String {
    path.map(|path| format!(" {}", path.display())).unwrap_or_default()
}

/// What is wrong with a kubeconfig. The texts of the client library repeat their causes.
fn reason(error: &KubeconfigError) -> String {
    match error {
        KubeconfigError::ReadConfig(cause, _) => cause.to_string(),
        KubeconfigError::Parse(cause) => {
            let text = cause.to_string();
            let place = text.find("line ").and_then(|at| text[at..].split([':', '\n']).next());
            format!("it is not the YAML of a kubeconfig{}", place.map(|place| format!(" at {place}")).unwrap_or_default())
        }
        KubeconfigError::CurrentContextNotSet => "it has no current-context".to_owned(),
        KubeconfigError::LoadContext(name) => format!("it has no context {name}"),
        KubeconfigError::LoadClusterOfContext(name) => format!("it has no cluster {name}"),
        KubeconfigError::MissingClusterUrl => "its cluster has no server".to_owned(),
        KubeconfigError::ParseClusterUrl(cause) => format!("the server of its cluster is not a URL: {cause}"),
        KubeconfigError::LoadCertificateAuthority(cause) => format!("certificate-authority: {}", unloaded(cause)),
        KubeconfigError::LoadClientCertificate(cause) => format!("client-certificate: {}", unloaded(cause)),
        KubeconfigError::LoadClientKey(cause) => format!("client-key: {}", unloaded(cause)),
        other => other.to_string(),
    }
}

/// Why a certificate or key of a kubeconfig cannot be loaded.
fn unloaded(error: &LoadDataError) -> String {
    match error {
        LoadDataError::ReadFile(cause, path) => format!("{}: {cause}", path.display()),
        LoadDataError::DecodeBase64(cause) => format!("the data is not base64: {cause}"),
        LoadDataError::NoBase64DataOrFile => "it has neither data nor a file".to_owned(),
    }
}

/// A client for an API server, and the addresses of that server.
#[derive(Clone)]
pub struct Connection {
    /// The client.
    pub client: Client,
    /// The IP addresses of the API server. No route of a forward may cover them.
    pub api_servers: BTreeSet<IpAddr>,
    /// The address of the Service `kubernetes`, if this process runs in a pod. It leads to the API servers too.
    pub service: Option<IpAddr>,
    /// The host name or address of the API server, and its port.
    pub host: (String, u16),
    /// The URL of the API server, for messages.
    pub url: String,
}

/// Reads the configuration and makes a client. Does not connect yet.
///
/// # Errors
/// When there is no usable kubeconfig and this process does not run in a pod.
pub async fn connect(kubeconfig: Option<&Path>) -> Result<Connection, ConnectError> {
    let mut config = match kubeconfig {
        Some(path) => from_file(path).await.map_err(|error| ConnectError::of(Some(path), &error))?,
        None => Config::infer().await.map_err(|error| ConnectError::inferred(&error))?,
    };
    config.connect_timeout = Some(Duration::from_secs(5));
    config.read_timeout = Some(SILENCE);
    // The agent retries by itself, with the newest content. The client's own retry can repeat an old request for many minutes.
    config.default_retry = false;
    let url = config.cluster_url.to_string();
    let host = config.cluster_url.host().unwrap_or_default().to_owned();
    let port = config.cluster_url.port_u16().unwrap_or(443);
    // If the name does not resolve here, `endpoints` logs it and tries again.
    let resolved = timeout(RESOLVED_WITHIN, lookup_host((host.as_str(), port))).await;
    let api_servers = resolved.map_or_else(|_| BTreeSet::new(), |found| found.into_iter().flatten().map(|to| to.ip()).collect());
    let service = std::env::var("KUBERNETES_SERVICE_HOST").ok().and_then(|host| host.parse().ok());
    Ok(Connection { client: Client::try_from(config)?, api_servers, service, host: (host, port), url })
}

async fn from_file(path: &Path) -> Result<Config, KubeconfigError> {
    Config::from_custom_kubeconfig(Kubeconfig::read_from(path)?, &KubeConfigOptions::default()).await
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn refusal(path: &Path) -> String {
        let error = connect(Some(path)).await.err().expect("it cannot be used");
        format!("{:#}", anyhow::Error::from(error))
    }

    #[tokio::test]
    async fn the_error_of_a_kubeconfig_says_once_what_is_wrong_where_and_what_to_do() {
        let advice = "correct it, or give another one with --kubeconfig";
        let missing = refusal(Path::new("/nope")).await;
        assert_eq!(missing, format!("the kubeconfig /nope cannot be used: No such file or directory (os error 2); {advice}"));

        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config");
        let cluster = "clusters: [{name: a, cluster: {server: 'https://10.0.0.1', certificate-authority: /nope.crt}}]";
        let context = "contexts: [{name: a, context: {cluster: a, user: a}}]\nusers: [{name: a, user: {}}]";
        for (text, reason) in [
            ("apiVersion: v1\nkind: Config\n".to_owned(), "it has no current-context"),
            ("current-context: b\n".to_owned(), "it has no context b"),
            (
                format!("current-context: a\n{cluster}\n{context}\n"),
                "certificate-authority: /nope.crt: No such file or directory (os error 2)",
            ),
        ] {
            std::fs::write(&path, text).unwrap();
            let wanted = format!("the kubeconfig {} cannot be used: {reason}; {advice}", path.display());
            assert_eq!(refusal(&path).await, wanted);
        }
        std::fs::write(&path, "clusters: [").unwrap();
        let unparsed = refusal(&path).await;
        assert!(unparsed.contains("it is not the YAML of a kubeconfig at line 1") && !unparsed.contains('\n'), "{unparsed}");
    }
}
