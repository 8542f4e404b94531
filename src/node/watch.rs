//! Wakes a waiter when something in this network namespace may have changed: a link, an address, a route, a rule, a sysctl
//! of the network, or anything in `nf_tables`. Neighbours are handled by [`super::NextHops`].
//!
//! Only signals that there may be a change. An error never ends it: it logs the error once, waits and subscribes again, and
//! then also wakes the waiter, because events may have been missed. Changes of legacy iptables cause no event.

use std::sync::Arc;
use std::time::Duration;

use rtnetlink::MulticastGroup;
use rustix::io::Errno;
use tokio::sync::Notify;
use tokio::time::Instant;
use tracing::warn;

use crate::netlink::{NetlinkError, Socket};
use crate::supervise::Tasks;

/// The minimum and the maximum time between two attempts to subscribe.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_mins(1));
/// Every change of `nf_tables`, by any program (include/uapi/linux/netfilter/nfnetlink.h).
const NFNLGRP_NFTABLES: u32 = 7;

/// Subscribes at once, in the network namespace of the calling thread, and notifies at every change from now on: `rules` if
/// `nf_tables` changed, otherwise `wake`. Adds two tasks to `tasks`.
///
/// It may notify without a change. It never misses a change, except where it logs this.
///
/// # Panics
/// Outside of a tokio runtime.
pub fn watch(wake: &Arc<Notify>, rules: &Arc<Notify>, tasks: &mut Tasks) {
    for (name, source, wake) in
        [("events of the network", Source::Network, wake), ("events of nf_tables", Source::NfTables, rules)]
    {
        let first = source.subscribe();
        tasks.spawn(name, source.follow(first, Arc::clone(wake)));
    }
}

/// A netlink family with change notifications.
#[derive(Clone, Copy, Debug)]
enum Source {
    /// Links, addresses, routes, rules, settings.
    Network,
    /// `nf_tables`, iptables-nft included.
    NfTables,
}

impl Source {
    fn subscribe(self) -> Result<Socket, NetlinkError> {
        match self {
            Self::Network => {
                let socket = Socket::open_route()?;
                let groups = [
                    MulticastGroup::Link,
                    MulticastGroup::Ipv4Ifaddr,
                    MulticastGroup::Ipv4Route,
                    MulticastGroup::Ipv4Rule,
                    MulticastGroup::Ipv4Netconf,
                ];
                socket.join(&groups.map(|group| group as u32))?;
                Ok(socket)
            }
            Self::NfTables => {
                let socket = Socket::open(netlink_sys::protocols::NETLINK_NETFILTER)?;
                socket.join(&[NFNLGRP_NFTABLES])?;
                Ok(socket)
            }
        }
    }

    async fn follow(self, first: Result<Socket, NetlinkError>, wake: Arc<Notify>) {
        let (shortest, longest) = BACKOFF;
        let (mut attempt, mut pause, mut reported) = (first, shortest, false);
        loop {
            let begun = Instant::now();
            let error = match attempt {
                Ok(mut socket) => {
                    // Changes between two subscriptions were missed.
                    wake.notify_one();
                    hear(&mut socket, &wake).await
                }
                Err(error) => error,
            };
            if begun.elapsed() > longest {
                (pause, reported) = (shortest, false);
            }
            if !reported {
                let error = &error as &(dyn std::error::Error + Send + Sync);
                warn!(source = ?self, error, "changes are not heard; subscribing again until they are");
                reported = true;
            }
            tokio::time::sleep(pause).await;
            pause = longest.min(pause * 2);
            attempt = self.subscribe();
        }
    }
}

/// Wakes at every change until the socket fails.
async fn hear(socket: &mut Socket, wake: &Notify) -> NetlinkError {
    loop {
        match socket.receive().await {
            Ok(()) => wake.notify_one(),
            // There were more events than fit into the buffer. For the waiter this is just one more change.
            Err(error) if Errno::from_io_error(&error) == Some(Errno::NOBUFS) => wake.notify_one(),
            Err(error) => return error.into(),
        }
    }
}
