//! The server: it notes when a connection arrived and at which upstream, and closes it.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::net::sockopt::set_socket_linger;

use crate::bed::netns::Netns;

/// One connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arrival {
    /// When it was accepted.
    pub(crate) at: Instant,
    /// The address that it reached.
    pub(crate) upstream: Ipv4Addr,
}

/// A server on port 80 of all addresses of a namespace. It ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Sink {
    arrivals: Mutex<Receiver<Arrival>>,
    listener: Arc<TcpListener>,
    accepting: Option<JoinHandle<()>>,
}

impl Sink {
    /// Begins to listen.
    pub(crate) fn new(netns: &Netns) -> Self {
        let listener = netns.run(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, 80))).expect("port 80 is free");
        let listener = Arc::new(listener);
        let (sender, arrivals) = mpsc::channel();
        let accepted = Arc::clone(&listener);
        let accepting = thread::spawn(move || {
            while let Ok((stream, _)) = accepted.accept() {
                let at = Instant::now();
                // A reset leaves nothing behind on either side.
                let _ = set_socket_linger(&stream, Some(Duration::ZERO));
                if let Ok(SocketAddr::V4(local)) = stream.local_addr() {
                    let _ = sender.send(Arrival { at, upstream: *local.ip() });
                }
            }
        });
        Self { arrivals: Mutex::new(arrivals), listener, accepting: Some(accepting) }
    }

    /// Forgets what has arrived.
    pub(crate) fn forget(&self) {
        while self.arrivals().try_recv().is_ok() {}
    }

    /// The next arrival, if it comes before the deadline.
    pub(crate) fn next(&self, deadline: Instant) -> Option<Arrival> {
        self.arrivals().recv_timeout(deadline.saturating_duration_since(Instant::now())).ok()
    }

    /// Waits for a connection that reaches this upstream. Returns when it arrived.
    pub(crate) fn wait(&self, upstream: Ipv4Addr, limit: Duration) -> Option<Instant> {
        let deadline = Instant::now() + limit;
        while let Some(arrival) = self.next(deadline) {
            if arrival.upstream == upstream {
                return Some(arrival.at);
            }
        }
        None
    }

    fn arrivals(&self) -> MutexGuard<'_, Receiver<Arrival>> {
        self.arrivals.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        let _ = rustix::net::shutdown(&*self.listener, rustix::net::Shutdown::Both);
        if let Some(accepting) = self.accepting.take() {
            let _ = accepting.join();
        }
    }
}
