//! Serves metrics at an address and health at a socket, both over HTTP. An error here must not stop the agent's work.
//!
//! Metrics are often scraped from another machine. Health is only for root of this node: the kubelet asks for it with
//! `portforward-operator health`.

use std::convert::Infallible;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::time::{Instant, sleep};
use tracing::{error, info};

use super::connections::{Door, answer};
use super::unserved::explain;
use super::{HEALTH_SOCKET, Health, Liveness, Metrics, socket};

/// The media type of the exposition (`OpenMetrics` 1.0.0).
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// The first and the longest pause before an address is bound again. It may be in use by an old agent that is about to exit,
/// or by another program for long.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(10));
/// An exposition is used again for this many times the time that making it took, so that requests without a pause use about
/// a tenth of a core.
const REUSED: u32 = 10;

/// The pages about metrics: `/metrics`.
pub fn metrics_pages(metrics: Arc<Metrics>) -> Router {
    let scrapes = Scrapes { metrics, made: Mutex::new(None) };
    Router::new().route("/metrics", get(exposition)).with_state(Arc::new(scrapes))
}

/// The pages about health: `/livez` and `/readyz`.
pub fn health_pages(health: Arc<Health>) -> Router {
    Router::new().route("/livez", get(livez)).route("/readyz", get(readyz)).with_state(health)
}

/// Serves metrics over HTTP at `address`. If the address cannot be bound, this is logged once and tried again.
pub async fn serve_metrics(address: SocketAddr, metrics: Arc<Metrics>) {
    let listener = listen(address).await;
    info!(what = "metrics", %address, "served over HTTP");
    let _: Infallible = answer(listener, Door::Plain, metrics_pages(metrics)).await;
}

/// Serves health over HTTP at the socket in the state directory `dir`. The caller holds the lock of this directory. If the
/// socket cannot be bound, this is logged once and tried again.
pub async fn serve_health(dir: &Path, health: Arc<Health>) {
    let explain = |error: &io::Error| {
        let path = dir.join(HEALTH_SOCKET);
        format!(
            "cannot serve health on {}: {error}; check the state directory and its disk; the agent tries again, and forwards are not affected, but probes fail",
            path.display()
        )
    };
    let listener = bound(|| std::future::ready(socket::bind(dir)), explain).await;
    let _: Infallible = answer(listener, Door::Plain, health_pages(health)).await;
}

pub(super) async fn listen(address: SocketAddr) -> TcpListener {
    bound(|| TcpListener::bind(address), |error| explain(address, error)).await
}

/// Binds with `bind` until it succeeds. Logs each kind of error once.
async fn bound<T, F: Future<Output = io::Result<T>>>(bind: impl Fn() -> F, explain: impl Fn(&io::Error) -> String) -> T {
    let (mut pause, longest) = RETRY;
    let mut told = None;
    loop {
        match bind().await {
            Ok(listener) => return listener,
            Err(error) => {
                if told != Some(error.kind()) {
                    told = Some(error.kind());
                    error!("{}", explain(&error));
                }
                sleep(pause).await;
                pause = longest.min(pause * 2);
            }
        }
    }
}

/// The metrics, and the exposition that was made last.
struct Scrapes {
    metrics: Arc<Metrics>,
    /// The text, and until when it is used again.
    made: Mutex<Option<(Instant, Bytes)>>,
}

impl Scrapes {
    fn exposition(&self) -> Result<Bytes, fmt::Error> {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        let begun = Instant::now();
        if let Some((_, text)) = made.as_ref().filter(|(until, _)| begun < *until) {
            return Ok(text.clone());
        }
        let text = Bytes::from(self.metrics.exposition()?);
        let ended = Instant::now();
        *made = Some((ended + REUSED * (ended - begun), text.clone()));
        Ok(text)
    }
}

async fn exposition(State(scrapes): State<Arc<Scrapes>>) -> Response {
    match scrapes.exposition() {
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
