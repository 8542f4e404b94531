//! Serves metrics and health over HTTP. Whatever goes wrong here must not stop the agent's work.

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

use super::{Health, Liveness, Metrics};

/// The media type of the exposition (`OpenMetrics` 1.0.0).
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// How soon an address is tried again that could not be bound: whoever holds it may be an agent that is about to end.
const RETRY: Duration = Duration::from_secs(10);

/// What is served.
#[derive(Clone, Debug)]
pub struct Served {
    /// The metrics.
    pub metrics: Arc<Metrics>,
    /// The health of the sync loop.
    pub health: Arc<Health>,
}

/// Serves at `address` for as long as it runs. An address that cannot be bound is said once and tried again.
pub async fn serve(address: SocketAddr, served: Served) {
    let listener = listen(address).await;
    info!(%address, "metrics and health are served");
    // It ends with the task only: errors of accept(2) are retried by axum.
    if let Err(error) = axum::serve(listener, router(served)).await {
        error!(%address, %error, "metrics and health are not served any more");
    }
}

async fn listen(address: SocketAddr) -> TcpListener {
    let mut told = None;
    loop {
        match TcpListener::bind(address).await {
            Ok(listener) => return listener,
            Err(error) => {
                if told != Some(error.kind()) {
                    told = Some(error.kind());
                    error!(%address, %error, "no metrics and no health are served; free the address or give another with --metrics-address; forwards work on");
                }
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

/// The pages: `/metrics`, `/livez` with its alias `/healthz`, `/readyz`.
pub fn router(served: Served) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/livez", get(livez))
        .route("/healthz", get(livez))
        .route("/readyz", get(readyz))
        .with_state(served)
}

async fn metrics(State(served): State<Served>) -> Response {
    match served.metrics.exposition() {
        Ok(text) => ([(header::CONTENT_TYPE, CONTENT_TYPE)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

async fn livez(State(served): State<Served>) -> Response {
    match served.health.liveness(Instant::now()) {
        Liveness::Alive => "ok\n".into_response(),
        Liveness::Stuck { since } => {
            let text = format!("a sync has been due for {} s and has not ended\n", since.as_secs());
            (StatusCode::SERVICE_UNAVAILABLE, text).into_response()
        }
    }
}

async fn readyz(State(served): State<Served>) -> Response {
    if served.health.is_ready() {
        "ok\n".into_response()
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "the first complete sync is not done; the log says what it waits for\n").into_response()
    }
}
