//! Answers HTTP requests on a bounded number of connections, each with bounded memory and for a bounded time.
//!
//! Every user of the node can connect to the loopback address. A client that opens connections without end, sends nothing,
//! or does not read its answer must cost the agent neither its file descriptors nor its memory, and must not keep a
//! scraper out. Does not decide what is served.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::serve::Listener;
use axum_server::accept::Accept;
use axum_server::tls_rustls::{RustlsAcceptor, RustlsConfig};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout};

/// The maximum number of connections at the same time.
const MOST: usize = 32;
/// The time limit for the TLS handshake, and then for the header of the request.
const HEADER: Duration = Duration::from_secs(5);
/// The maximum size of the header of a request, in bytes. A bearer token has about 1 KiB.
const HEADER_BYTES: usize = 16 * 1024;
/// How long a connection is kept for its answer even if other connections wait.
const ANSWER: Duration = Duration::from_secs(5);
/// The time limit for a connection. Prometheus waits 10 seconds by default.
const WHOLE: Duration = Duration::from_secs(30);

/// How a connection begins.
#[derive(Clone, Debug)]
pub(super) enum Door {
    /// With the request.
    Plain,
    /// With a TLS handshake.
    Tls(RustlsConfig),
}

/// Answers the requests that `listener` accepts, one for each connection. Never returns.
///
/// While [`MOST`] connections are open, a new one replaces the oldest one that has no answer yet, or one whose client has
/// not read its answer within [`ANSWER`]. If there is neither, the new one is closed.
pub(super) async fn answer<L: Listener>(mut listener: L, door: Door, router: Router) -> Infallible {
    let mut open = Open::default();
    let mut running = FuturesUnordered::new();
    loop {
        tokio::select! {
            // The requests that have arrived are read first, so that a new connection replaces only one that says nothing.
            biased;
            Some(number) = running.next() => open.close(number),
            (stream, _) = listener.accept() => {
                if let Some((number, connection)) = open.admit(Instant::now()) {
                    let speaking = speak(stream, door.clone(), router.clone(), Arc::clone(&connection));
                    running.push(async move {
                        tokio::select! {
                            _ = timeout(WHOLE, speaking) => {}
                            () = connection.replaced.notified() => {}
                        }
                        number
                    });
                }
            }
        }
    }
}

/// The open connections by number. A newer one has a higher number.
#[derive(Debug, Default)]
struct Open {
    connections: BTreeMap<u64, Arc<Connection>>,
    next: u64,
}

/// What the other connections need to know of one.
#[derive(Debug)]
struct Connection {
    since: Instant,
    /// Whether the answer is known and is being written.
    answered: AtomicBool,
    /// Notified when another connection takes its place.
    replaced: Notify,
}

impl Open {
    /// The place for a connection that was accepted at the moment `now`; `None` if there is no place.
    fn admit(&mut self, now: Instant) -> Option<(u64, Arc<Connection>)> {
        if self.connections.len() >= MOST {
            let oldest = self.replaceable(now)?;
            if let Some(connection) = self.connections.remove(&oldest) {
                connection.replaced.notify_one();
            }
        }
        let connection = Arc::new(Connection { since: now, answered: AtomicBool::new(false), replaced: Notify::new() });
        let number = self.next;
        self.next += 1;
        self.connections.insert(number, Arc::clone(&connection));
        Some((number, connection))
    }

    fn replaceable(&self, now: Instant) -> Option<u64> {
        let oldest = |is: &dyn Fn(&Connection) -> bool| self.connections.iter().find(|(_, it)| is(it)).map(|(number, _)| *number);
        let silent = oldest(&|connection| !connection.answered.load(Ordering::Relaxed));
        silent.or_else(|| oldest(&|connection| now.saturating_duration_since(connection.since) > ANSWER))
    }

    fn close(&mut self, number: u64) {
        self.connections.remove(&number);
    }
}

/// Reads one request and writes its answer. An error ends only this connection, and only its client can do something about
/// it.
async fn speak<S>(stream: S, door: Door, router: Router, connection: Arc<Connection>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    match door {
        Door::Plain => request(stream, router, connection).await,
        Door::Tls(config) => {
            let acceptor = RustlsAcceptor::new(config).handshake_timeout(HEADER);
            if let Ok((stream, _)) = acceptor.accept(stream, ()).await {
                request(stream, router, connection).await;
            }
        }
    }
}

async fn request<S: AsyncRead + AsyncWrite + Unpin>(stream: S, router: Router, connection: Arc<Connection>) {
    let answered = service_fn(move |request| {
        let answer = TowerToHyperService::new(router.clone()).call(request);
        let connection = Arc::clone(&connection);
        async move {
            let answer = answer.await;
            connection.answered.store(true, Ordering::Relaxed);
            answer
        }
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEADER).max_buf_size(HEADER_BYTES).keep_alive(false);
    // The error concerns only the client.
    let _ = pin!(http.serve_connection(TokioIo::new(stream), answered)).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full(now: Instant) -> (Open, Vec<Arc<Connection>>) {
        let mut open = Open::default();
        let all = (0..MOST).map(|_| open.admit(now).expect("there is a place").1).collect();
        (open, all)
    }

    fn is_replaced(connection: &Connection) -> bool {
        futures::FutureExt::now_or_never(connection.replaced.notified()).is_some()
    }

    #[tokio::test]
    async fn a_new_connection_replaces_the_oldest_one_without_an_answer() {
        let now = Instant::now();
        let (mut open, all) = full(now);
        all[0].answered.store(true, Ordering::Relaxed);
        assert!(open.admit(now).is_some());
        assert_eq!(open.connections.len(), MOST);
        let replaced: Vec<usize> = (0..MOST).filter(|number| is_replaced(&all[*number])).collect();
        assert_eq!(replaced, [1]);
    }

    #[tokio::test]
    async fn one_that_is_being_answered_is_replaced_only_when_its_client_is_slow() {
        let now = Instant::now();
        let (mut open, all) = full(now);
        for connection in &all {
            connection.answered.store(true, Ordering::Relaxed);
        }
        assert!(open.admit(now + ANSWER).is_none(), "the new one is closed");
        assert!(open.admit(now + ANSWER + Duration::from_millis(1)).is_some());
        assert!(is_replaced(&all[0]) && !is_replaced(&all[1]));
    }

    #[tokio::test]
    async fn a_connection_that_ends_makes_a_place() {
        let now = Instant::now();
        let (mut open, all) = full(now);
        open.close(7);
        assert!(open.admit(now).is_some());
        assert!(all.iter().all(|connection| !is_replaced(connection)));
    }
}
