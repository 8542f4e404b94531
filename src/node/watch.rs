//! Wakes a waiter when something in this network namespace may have changed: a link, an address, a route, a rule, a
//! neighbour that stops or begins to answer, a setting of the stack, or anything in `nf_tables`.
//!
//! Says only "look again". Never ends for an error: it reports it once, waits and subscribes anew, and wakes then too,
//! because it may have missed something. Changes of legacy iptables make no event at all.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::neighbour::{NeighbourMessage, NeighbourState};
use rtnetlink::MulticastGroup;
use rustix::io::Errno;
use tokio::sync::Notify;
use tokio::time::Instant;
use tracing::warn;

use super::addresses;
use crate::netlink::{Frame, NetlinkError, Socket, frames};
use crate::supervise::Tasks;

/// The shortest and the longest time between two attempts to subscribe.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_mins(1));
/// The message types about neighbours (rtnetlink(7)).
const RTM_NEWNEIGH: u16 = 28;
const RTM_DELNEIGH: u16 = 29;
/// Every change of `nf_tables`, by whichever program (include/uapi/linux/netfilter/nfnetlink.h).
const NFNLGRP_NFTABLES: u32 = 7;

/// Subscribes at once, in the network namespace of the calling thread, and wakes `wake` at every change from now on: two of
/// `tasks`.
///
/// A wake without a change is possible, a change without a wake is not, save where the log says so.
///
/// # Panics
/// Outside of a tokio runtime.
pub fn watch(wake: &Arc<Notify>, tasks: &mut Tasks) {
    for (name, source) in [("events of the network", Source::Network), ("events of nf_tables", Source::NfTables)] {
        let first = source.subscribe();
        tasks.spawn(name, source.follow(first, Arc::clone(wake)));
    }
}

/// A netlink family that tells of changes.
#[derive(Clone, Copy, Debug)]
enum Source {
    /// Links, addresses, routes, rules, neighbours, settings.
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
                    MulticastGroup::Neigh,
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
                    // What changed between two subscriptions was not heard.
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
    let mut silent = Neighbours::default();
    loop {
        match socket.receive().await {
            Ok(()) => {
                // Every message is looked at, so that no neighbour is forgotten.
                let tells = frames(socket.received()).filter(|frame| frame.as_ref().map_or(true, |frame| silent.tells(frame)));
                if tells.count() > 0 {
                    wake.notify_one();
                }
            }
            // More happened than fits: which is all that a waiter has to know.
            Err(error) if Errno::from_io_error(&error) == Some(Errno::NOBUFS) => wake.notify_one(),
            Err(error) => return error.into(),
        }
    }
}

/// The neighbours that do not answer. Remembered because the kernel tells of every step of its asking, and a step from
/// one good state to another is nothing to look at.
#[derive(Debug, Default)]
struct Neighbours(HashSet<(u32, IpAddr)>);

impl Neighbours {
    /// Whether `frame` tells of a change that matters.
    fn tells(&mut self, frame: &Frame<'_>) -> bool {
        if !matches!(frame.kind, RTM_NEWNEIGH | RTM_DELNEIGH) {
            return true;
        }
        match frame.decode() {
            Ok(RouteNetlinkMessage::NewNeighbour(message)) => self.turns(&message, message.header.state),
            Ok(RouteNetlinkMessage::DelNeighbour(message)) => self.turns(&message, NeighbourState::None),
            // IPv6 neighbours and bridge ports come in forms that do not concern us.
            Ok(_) | Err(_) => false,
        }
    }

    fn turns(&mut self, message: &NeighbourMessage, state: NeighbourState) -> bool {
        let Some(address) = addresses::address(message) else { return false };
        let neighbour = (message.header.ifindex, address);
        match state {
            // Each time anew: it may have been asked again in between, of which the kernel does not tell.
            NeighbourState::Failed => {
                self.0.insert(neighbour);
                true
            }
            _ => self.0.remove(&neighbour),
        }
    }
}

#[cfg(test)]
mod tests {
    use netlink_packet_core::Emitable;
    use netlink_packet_route::AddressFamily;
    use netlink_packet_route::neighbour::{NeighbourAddress, NeighbourAttribute};

    use super::*;

    fn tells(neighbours: &mut Neighbours, kind: u16, state: NeighbourState) -> bool {
        let mut message = NeighbourMessage::default();
        message.header.family = AddressFamily::Inet;
        message.header.ifindex = 2;
        message.header.state = state;
        let address = NeighbourAddress::Inet([192, 168, 0, 1].into());
        message.attributes.push(NeighbourAttribute::Destination(address));
        let mut payload = vec![0; message.buffer_len()];
        message.emit(&mut payload);
        neighbours.tells(&Frame { kind, flags: 0, sequence: 0, payload: &payload })
    }

    #[test]
    fn only_a_neighbour_that_fails_or_recovers_is_worth_a_look() {
        use NeighbourState::{Delay, Failed, Incomplete, Reachable, Stale};
        let mut neighbours = Neighbours::default();
        for state in [Incomplete, Reachable, Stale, Delay] {
            assert!(!tells(&mut neighbours, RTM_NEWNEIGH, state), "{state:?}");
        }
        assert!(!tells(&mut neighbours, RTM_DELNEIGH, Stale));
        assert!(tells(&mut neighbours, RTM_NEWNEIGH, Failed));
        assert!(tells(&mut neighbours, RTM_NEWNEIGH, Failed), "the kernel does not tell that it asked again");
        assert!(tells(&mut neighbours, RTM_NEWNEIGH, Reachable));
        assert!(!tells(&mut neighbours, RTM_NEWNEIGH, Stale));
        assert!(tells(&mut neighbours, RTM_NEWNEIGH, Failed));
        assert!(tells(&mut neighbours, RTM_DELNEIGH, Failed));
        assert!(!tells(&mut neighbours, RTM_DELNEIGH, Failed), "it is forgotten");
    }

    #[test]
    fn what_is_not_about_a_neighbour_is_always_worth_a_look() {
        let frame = Frame { kind: 16, flags: 0, sequence: 0, payload: &[] };
        assert!(Neighbours::default().tells(&frame));
    }
}
