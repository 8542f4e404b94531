//! UDP packets with any source address, sent and received with their headers by raw sockets (raw(7)).

use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::net::sockopt::{Timeout, set_socket_recv_buffer_size_force, set_socket_timeout};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, ipproto, recv, sendto, socket_with};

use crate::netns::Netns;

/// The time limit for a packet. Ten thousand rules written by hand delay it by less than a millisecond.
const ARRIVAL: Duration = Duration::from_secs(2);

/// The size of a packet in bytes: an IPv4 header without options (RFC 791), a UDP header (RFC 768) and four bytes of data.
const LENGTH: usize = 32;

/// One UDP packet.
#[derive(Clone, Debug)]
pub(crate) struct Packet {
    bytes: [u8; LENGTH],
    to: SocketAddrV4,
}

impl Packet {
    /// A packet between these addresses and ports. The kernel fills in the identification and the checksum of the IPv4 header
    /// (raw(7)). The UDP checksum is 0 (RFC 768), so that no time is spent on it.
    pub(crate) fn new(from: SocketAddrV4, to: SocketAddrV4) -> Self {
        let mut bytes = [0; LENGTH];
        bytes[0] = 0x45;
        bytes[3] = 32;
        bytes[8] = 64;
        bytes[9] = 17;
        bytes[12..16].copy_from_slice(&from.ip().octets());
        bytes[16..20].copy_from_slice(&to.ip().octets());
        bytes[20..22].copy_from_slice(&from.port().to_be_bytes());
        bytes[22..24].copy_from_slice(&to.port().to_be_bytes());
        bytes[25] = 12;
        Self { bytes, to }
    }
}

/// Sends packets from one namespace.
#[derive(Debug)]
pub(crate) struct Sender(OwnedFd);

impl Sender {
    /// A sender in this namespace.
    pub(crate) fn new(netns: &Netns) -> Self {
        Self(raw(netns, ipproto::RAW))
    }

    /// Sends one packet. On veth, the packet has crossed the whole path to the receiver when this returns, unless the kernel
    /// is busy.
    pub(crate) fn send(&self, packet: &Packet) {
        sendto(&self.0, &packet.bytes, SendFlags::empty(), &packet.to).expect("a raw socket takes a packet");
    }
}

/// Receives the UDP packets that arrive in one namespace.
#[derive(Debug)]
pub(crate) struct Receiver(OwnedFd);

impl Receiver {
    /// A receiver in this namespace.
    pub(crate) fn new(netns: &Netns) -> Self {
        let socket = raw(netns, ipproto::UDP);
        set_socket_timeout(&socket, Timeout::Recv, Some(ARRIVAL)).expect("a socket takes a timeout");
        Self(socket)
    }

    /// A receiver that keeps many packets until they are read.
    pub(crate) fn large(netns: &Netns) -> Self {
        let receiver = Self::new(netns);
        set_socket_recv_buffer_size_force(&receiver.0, 64 << 20).expect("root may have large buffers");
        receiver
    }

    /// The source and destination of the next packet, or `None` if no packet arrives in time.
    pub(crate) fn next(&self) -> Option<(SocketAddrV4, SocketAddrV4)> {
        let mut bytes = [0; LENGTH];
        let (length, _) = recv(&self.0, &mut bytes, RecvFlags::empty()).ok()?;
        let end = |address: usize, port: usize| {
            let octets: [u8; 4] = bytes[address..address + 4].try_into().ok()?;
            Some(SocketAddrV4::new(Ipv4Addr::from(octets), u16::from_be_bytes([bytes[port], bytes[port + 1]])))
        };
        (length == LENGTH).then_some((end(12, 20)?, end(16, 22)?))
    }
}

fn raw(netns: &Netns, protocol: rustix::net::Protocol) -> OwnedFd {
    netns
        .run(|| socket_with(AddressFamily::INET, SocketType::RAW, SocketFlags::CLOEXEC, Some(protocol)))
        .expect("root may open raw sockets")
}
