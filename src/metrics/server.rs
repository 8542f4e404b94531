//! Serves metrics and health over HTTP. An error here must not stop the agent's work.
//!
//! Each has its own address: metrics are often scraped from another machine, while health is checked by the kubelet of this
//! node.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::time::Instant;
use tracing::{error, info};

use super::unserved::explain;
use super::{Health, Liveness, Metrics};

/// The media type of the exposition (`OpenMetrics` 1.0.0).
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// How soon binding an address is tried again. The address may be in use by an old agent that is about to exit.
pub(super) const RETRY: Duration = Duration::from_secs(10);

/// The content that is served at one address.
#[derive(Clone, Debug)]
pub enum Served {
    /// `/metrics`.
    Metrics(Arc<Metrics>),
    /// `/livez` with its alias `/healthz`, and `/readyz`.
    Health(Arc<Health>),
}

impl Served {
    /// The pages.
    pub fn router(self) -> Router {
        match self {
            Self::Metrics(metrics) => Router::new().route("/metrics", get(exposition)).with_state(metrics),
            Self::Health(health) => Router::new()
                .route("/livez", get(livez))
                .route("/healthz", get(livez))
                .route("/readyz", get(readyz))
                .with_state(health),
        }
    }

    /// The flag that sets the address.
    const fn flag(&self) -> &'static str {
        match self {
            Self::Metrics(_) => "--metrics-address",
            Self::Health(_) => "--health-address",
        }
    }

    /// The chart values that set the address.
    const fn values(&self) -> &'static str {
        match self {
            Self::Metrics(_) => "metrics.listen, metrics.port",
            Self::Health(_) => "health.port",
        }
    }

    pub(super) const fn name(&self) -> &'static str {
        match self {
            Self::Metrics(_) => "metrics",
            Self::Health(_) => "health",
        }
    }
}

/// Serves at `address` and never returns. If the address cannot be bound, this is logged once and tried again.
pub async fn serve(address: SocketAddr, served: Served) {
    let what = served.name();
    let listener = listen(address, &served).await;
    info!(what, %address, "served over HTTP");
    // It ends only with the task: axum retries errors of accept(2).
    if let Err(error) = axum::serve(listener, served.router()).await {
        error!(what, %address, %error, "not served any more");
    }
}

pub(super) async fn listen(address: SocketAddr, served: &Served) -> TcpListener {
    let mut told = None;
    loop {
        match TcpListener::bind(address).await {
            Ok(listener) => return listener,
            Err(error) => {
                if told != Some(error.kind()) {
                    told = Some(error.kind());
                    error!("{}", explain(served.name(), address, &error, served.flag(), served.values()));
                }
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

async fn exposition(State(metrics): State<Arc<Metrics>>) -> Response {
    match metrics.exposition() {
        Ok(text) => ([(header::CONTENT_TYPE, CONTENT_TYPE)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

async fn livez(State(health): State<Arc<Health>>) -> Response {
    match health.liveness(Instant::now()) {
        Liveness::Alive => "ok\n".into_response(),
        Liveness::Stuck { since } => {
            let text = format!("the sync loop has made no progress for {} s\n", since.as_secs());
            (StatusCode::SERVICE_UNAVAILABLE, text).into_response()
        }
    }
}

async fn readyz(State(health): State<Arc<Health>>) -> Response {
    if health.is_ready() {
        "ok\n".into_response()
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "the first complete sync is not finished; the log shows the reason\n").into_response()
    }
}
