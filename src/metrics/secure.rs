//! Serves metrics over TLS to the clients that a [`Gate`] admits.
//!
//! Does not decide who may read: the gate does. An error here must not stop the agent's work.

use std::convert::Infallible;
use std::fmt::Debug;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum_server::tls_rustls::RustlsConfig;
use futures::future::BoxFuture;
use tokio::time::sleep;
use tracing::{error, info, warn};

use super::Metrics;
use super::connections::{Door, answer};
use super::server::{listen, metrics_pages};

/// How soon a certificate that cannot be used is read again.
const RETRY: Duration = Duration::from_secs(10);
/// How often certificate files are read again. Certificates are usually renewed long before they expire.
const RELOAD: Duration = Duration::from_mins(1);

/// The decision of a gate about a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Admission {
    /// Its holder may read the metrics.
    Allowed,
    /// The token is not known, or it has expired.
    Unknown,
    /// The holder of the token has no right to read the metrics.
    Forbidden {
        /// The name of the user.
        user: String,
    },
    /// Too many unknown tokens are waiting to be checked.
    Busy,
    /// The token could not be checked.
    Unavailable {
        /// The reason, for messages.
        error: String,
    },
}

/// Decides who may read the metrics.
pub trait Gate: Debug + Send + Sync {
    /// Checks a bearer token (RFC 6750).
    fn admit<'a>(&'a self, token: &'a str) -> BoxFuture<'a, Admission>;
}

/// The source of the server's certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Certificate {
    /// Self-signed, created at each start, for this name and the address that is served. A scraper cannot verify it.
    SelfSigned {
        /// The name of the node.
        node: String,
    },
    /// From PEM files, which are read again every minute.
    Files {
        /// The certificate and the intermediate certificates up to the root.
        certificate: PathBuf,
        /// Its private key.
        key: PathBuf,
    },
}

/// How metrics are served if access is restricted.
#[derive(Clone, Debug)]
pub struct Secure {
    /// The certificate.
    pub certificate: Certificate,
    /// Decides who may read.
    pub gate: Arc<dyn Gate>,
}

/// Serves metrics at `address` over HTTPS and never returns. An error is logged once, and the operation is tried again.
pub async fn serve_secure(address: SocketAddr, metrics: Arc<Metrics>, secure: Secure) {
    let config = configured(address, &secure.certificate).await;
    let listener = listen(address).await;
    info!(what = "metrics", %address, "served over HTTPS to clients with a token that may get /metrics");
    let pages = metrics_pages(metrics).layer(from_fn_with_state(secure.gate, admitted));
    let serving = answer(listener, Door::Tls(config.clone()), pages);
    let _: Infallible = tokio::select! {
        never = serving => never,
        never = renewed(address, &config, &secure.certificate) => never,
    };
}

/// The TLS configuration, as soon as a certificate could be loaded.
async fn configured(address: SocketAddr, certificate: &Certificate) -> RustlsConfig {
    let mut told = None;
    loop {
        match read(address, certificate).await {
            Ok(config) => return config,
            Err(error) => {
                let text = error.to_string();
                if told.as_ref() != Some(&text) {
                    error!(%address, error = text, "metrics are not served: the certificate or its key cannot be used; check --metrics-certificate and --metrics-key. Forwards are not affected");
                    told = Some(text);
                }
                sleep(RETRY).await;
            }
        }
    }
}

async fn read(address: SocketAddr, certificate: &Certificate) -> io::Result<RustlsConfig> {
    let config = match certificate {
        Certificate::SelfSigned { node } => {
            let made = rcgen::generate_simple_self_signed([node.clone(), address.ip().to_string()]).map_err(io::Error::other)?;
            RustlsConfig::from_der(vec![made.cert.der().to_vec()], made.signing_key.serialize_der()).await?
        }
        Certificate::Files { certificate, key } => RustlsConfig::from_pem_file(certificate, key).await?,
    };
    // The library also offers HTTP/2 (ALPN, RFC 7301), which the connections do not speak.
    let mut inner = (*config.get_inner()).clone();
    inner.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.reload_from_config(Arc::new(inner));
    Ok(config)
}

/// Loads renewed files. If they cannot be used, the former certificate stays in use.
async fn renewed(address: SocketAddr, config: &RustlsConfig, certificate: &Certificate) -> Infallible {
    let Certificate::Files { certificate: file, .. } = certificate else { return std::future::pending().await };
    let mut told = None;
    loop {
        sleep(RELOAD).await;
        match read(address, certificate).await {
            Ok(new) => {
                config.reload_from_config(new.get_inner());
                told = None;
            }
            Err(error) => {
                let text = error.to_string();
                if told.as_ref() != Some(&text) {
                    warn!(file = %file.display(), error = text, "the certificate for the metrics cannot be reloaded; the former one stays in use");
                    told = Some(text);
                }
            }
        }
    }
}

/// Passes a request on if the gate admits its token.
async fn admitted(State(gate): State<Arc<dyn Gate>>, request: Request, next: Next) -> Response {
    let token = request.headers().get(header::AUTHORIZATION).and_then(|value| bearer(value.to_str().ok()?));
    let Some(token) = token.map(str::to_owned) else {
        return unauthorized("send a token: Authorization: Bearer TOKEN");
    };
    match gate.admit(&token).await {
        Admission::Allowed => next.run(request).await,
        Admission::Unknown => unauthorized("the API server does not know this token, or it has expired"),
        Admission::Forbidden { user } => {
            let text =
                format!("{user} may not read the metrics: bind a ClusterRole with nonResourceURLs [/metrics] and verbs [get]\n");
            (StatusCode::FORBIDDEN, text).into_response()
        }
        Admission::Busy => {
            let retry = [(header::RETRY_AFTER, "5")];
            (StatusCode::SERVICE_UNAVAILABLE, retry, "too many unknown tokens are waiting to be checked; try again\n")
                .into_response()
        }
        Admission::Unavailable { error } => {
            (StatusCode::SERVICE_UNAVAILABLE, format!("the token cannot be checked: {error}\n")).into_response()
        }
    }
}

fn unauthorized(what: &str) -> Response {
    (StatusCode::UNAUTHORIZED, [(header::WWW_AUTHENTICATE, "Bearer")], format!("{what}\n")).into_response()
}

/// The token of an `Authorization` header with the scheme Bearer, in any letter case (RFC 9110, section 11.1).
fn bearer(value: &str) -> Option<&str> {
    let (scheme, token) = value.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_read_from_the_header_whatever_the_case_of_the_scheme() {
        for value in ["Bearer abc", "bearer abc", "BEARER  abc "] {
            assert_eq!(bearer(value), Some("abc"), "{value:?}");
        }
        for value in ["", "abc", "Bearer", "Bearer ", "Basic abc", "Bearerabc"] {
            assert_eq!(bearer(value), None, "{value:?}");
        }
    }
}
