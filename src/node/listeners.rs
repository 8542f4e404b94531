//! The ports on which programs of this node listen, read from the kernel (`sock_diag`(7)).
//!
//! Decides which socket is a listener: one that receives packets from any sender. A socket that may have its port by chance
//! is not one.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::Once;

use netlink_packet_sock_diag::inet::nlas::Nla;
use netlink_packet_sock_diag::inet::{ExtensionFlags, InetRequest, InetResponse, SocketId, StateFlags};
use netlink_packet_sock_diag::{AF_INET, AF_INET6, SockDiagMessage};
use netlink_sys::protocols::NETLINK_SOCK_DIAG;
use rustix::io::Errno;
use tracing::warn;

use super::links::Links;
use super::{FactsError, listing, proc_file};
use crate::model::{Listener, PortRange, Protocol};
use crate::netlink::{NetlinkError, Socket};

/// Logs only once that the kernel cannot list sockets.
static UNLISTED: Once = Once::new();

pub(super) async fn read(links: &Links) -> Result<BTreeSet<Listener>, FactsError> {
    let listing = listing("sockets");
    let mut socket = Socket::open(NETLINK_SOCK_DIAG).map_err(&listing)?;
    let ephemeral = Ephemeral::read()?;
    let mut found = BTreeSet::new();
    for protocol in Protocol::ALL {
        for id in [SocketId::new_v4(), SocketId::new_v6()] {
            let answer = socket.dump(request(protocol, id), |message| match message {
                SockDiagMessage::InetResponse(socket) => listener(protocol, &socket, links),
                _ => None,
            });
            match answer.await {
                Ok(listeners) => found.extend(listeners.into_iter().filter(|listener| !ephemeral.may_be(listener))),
                // The kernel was built without it, or the module cannot be loaded. What is not known refuses nothing.
                Err(NetlinkError::Refused(refusal)) if matches!(refusal.errno, Errno::NOENT | Errno::OPNOTSUPP) => {
                    UNLISTED.call_once(|| warn!(%protocol, "the kernel cannot list sockets (modules tcp_diag, udp_diag); programs that listen are not known"));
                }
                Err(error) => return Err(listing(error)),
            }
        }
    }
    Ok(found)
}

fn request(protocol: Protocol, socket_id: SocketId) -> SockDiagMessage {
    SockDiagMessage::InetRequest(InetRequest {
        family: if socket_id.source_address.is_ipv4() { AF_INET } else { AF_INET6 },
        protocol: protocol.number(),
        extensions: ExtensionFlags::empty(),
        states: match protocol {
            Protocol::Tcp => StateFlags::LISTEN,
            // Not connected: it receives packets from any sender.
            Protocol::Udp => StateFlags::CLOSE,
        },
        socket_id,
    })
}

/// The listener for `socket`, if it receives IPv4.
fn listener(protocol: Protocol, socket: &InetResponse, links: &Links) -> Option<Listener> {
    let id = &socket.header.socket_id;
    let only_v6 = socket.nlas.contains(&Nla::SkV6Only(true));
    let address = match id.source_address {
        IpAddr::V4(address) => address,
        IpAddr::V6(_) if only_v6 => return None,
        IpAddr::V6(address) if address.is_unspecified() => Ipv4Addr::UNSPECIFIED,
        IpAddr::V6(address) => address.to_ipv4_mapped()?,
    };
    let device = match id.interface_id {
        0 => None,
        // No forward can name such an interface or have its address on it.
        index => Some(*links.name(index)?),
    };
    (id.source_port != 0).then_some(Listener { protocol, address: IpAddr::V4(address), port: id.source_port, device })
}

/// The ports that the kernel assigns to sockets without a fixed port (`ip_local_port_range`, ip-sysctl).
///
/// A UDP socket in this range is weak evidence: a resolver opens many for a moment each, and they cannot be distinguished
/// from a listener. Ports that the kernel is configured to leave out (`ip_local_reserved_ports`) are used on purpose.
#[derive(Debug)]
struct Ephemeral {
    range: Option<PortRange>,
    reserved: Vec<PortRange>,
}

impl Ephemeral {
    fn read() -> Result<Self, FactsError> {
        let setting = |name: &str| proc_file(&Path::new("/proc/sys/net/ipv4").join(name));
        Ok(Self::parse(&setting("ip_local_port_range")?, &setting("ip_local_reserved_ports")?))
    }

    fn parse(range: &str, reserved: &str) -> Self {
        let range = range.split_ascii_whitespace().collect::<Vec<_>>().join(":").parse().ok();
        let reserved = reserved.trim().split(',').filter_map(|part| part.replace('-', ":").parse().ok()).collect();
        Self { range, reserved }
    }

    /// Whether `listener` may be a socket with a random port that does not listen.
    fn may_be(&self, listener: &Listener) -> bool {
        match listener.protocol {
            Protocol::Tcp => false,
            Protocol::Udp => {
                let within = |range: &PortRange| range.contains(listener.port);
                self.range.as_ref().is_some_and(within) && !self.reserved.iter().any(within)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_udp_socket_on_a_port_that_the_kernel_may_have_chosen_is_no_evidence() {
        let ephemeral = Ephemeral::parse("32768\t60999\n", "51820,40000-40009\n");
        let may_be =
            |protocol, port| ephemeral.may_be(&Listener { protocol, address: Ipv4Addr::UNSPECIFIED.into(), port, device: None });
        assert!(may_be(Protocol::Udp, 32768) && may_be(Protocol::Udp, 60999) && may_be(Protocol::Udp, 40010));
        for port in [53, 32767, 61000, 51820, 40000, 40009] {
            assert!(!may_be(Protocol::Udp, port), "{port}");
        }
        assert!(!may_be(Protocol::Tcp, 40010), "who calls listen(2) listens");
        assert!(Ephemeral::parse("32768\t60999\n", "\n").reserved.is_empty());
    }
}
