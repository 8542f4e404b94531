//! Makes both ends of a cut connection notice it at once.
//!
//! An end that waits for data sends nothing, so it would never receive the reset with which this node answers. An
//! out-of-sequence acknowledgement, sent to an end as if from the other one, makes it answer with its current sequence
//! numbers (RFC 9293, section 3.10.7.4). The answer comes to this node, which has no such connection any more and resets it
//! (section 3.5.2). The reset has the sequence number that the end itself sent, so an end never accepts a reset that is not
//! meant for it.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use netlink_packet_netfilter::conntrack::Status;
use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, ipproto, sendto, socket_with};
use tracing::debug;

use super::table::{Entry, Table, Tuple};

/// The length of an IPv4 header and of a TCP header, both without options, in bytes.
const IP_LEN: usize = 20;
const TCP_LEN: usize = 20;
/// The flag of an acknowledgement (RFC 9293, section 3.1).
const ACK: u8 = 0x10;

/// The waiting times for the answers, in milliseconds.
const PAUSES_MS: [u64; 6] = [5, 10, 20, 40, 80, 100];

/// Notifies both ends of each TCP connection in `cut`; these were translated and are not tracked any more. Returns the ends
/// that opened them and did not answer in time.
///
/// Best effort: without `CAP_NET_RAW`, an end notices it when it next sends something.
pub(super) async fn tell(table: &mut Table, cut: &[&Entry]) -> BTreeSet<IpAddr> {
    if cut.is_empty() {
        return BTreeSet::new();
    }
    let prodded = prod(cut);
    let (asked, mut untold): (Vec<_>, Vec<_>) = cut.iter().partition(|cut| prodded.contains(&cut.original));
    // The kernel tracks the packets that this node sends as new connections: until there is an answer, or, if the answer is
    // that the end has no such connection, not at all.
    let mut waiting: Vec<&Entry> = asked.into_iter().copied().collect();
    for pause in PAUSES_MS.map(Duration::from_millis) {
        if waiting.is_empty() {
            break;
        }
        tokio::time::sleep(pause).await;
        let Ok(entries) = table.entries().await else { break };
        let unanswered: BTreeSet<Tuple> =
            entries.iter().filter(|it| !it.status.contains(Status::SeenReply)).map(|it| it.original).collect();
        waiting.retain(|cut| unanswered.contains(&cut.original.reversed()));
    }
    untold.extend(waiting.iter());
    untold.iter().map(|cut| cut.original.source).collect()
}

/// Sends an acknowledgement to both ends. Returns the tuples of the ends that it was sent to.
fn prod(entries: &[&Entry]) -> BTreeSet<Tuple> {
    let mut prodded = BTreeSet::new();
    let socket =
        match socket_with(AddressFamily::INET, SocketType::RAW, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, Some(ipproto::RAW))
        {
            Ok(socket) => socket,
            Err(error) => {
                debug!(%error, "the ends of connections that were cut learn it when they send the next time");
                return prodded;
            }
        };
    for Entry { original, reply, .. } in entries {
        // Each packet looks like a packet of the connection on its side, so the answer comes back from the address that it
        // was sent to.
        for end in [original, reply] {
            let Some((packet, to)) = packet(end) else { continue };
            match sendto(&socket, &packet, SendFlags::empty(), &to) {
                Ok(_) => drop(prodded.insert(*end)),
                Err(error) => debug!(%error, %to, "an end of a connection that was cut learns it when it sends the next time"),
            }
        }
    }
    prodded
}

/// An acknowledgement to the sender of `end`'s packets, from their destination; `None` if it is not IPv4.
fn packet(end: &Tuple) -> Option<(Vec<u8>, SocketAddrV4)> {
    let (IpAddr::V4(to), IpAddr::V4(from)) = (end.source, end.destination) else { return None };
    let tcp = segment(from, to, end.destination_port, end.source_port);
    // The kernel fills in the length, the identification and the checksum (raw(7), IP_HDRINCL).
    let mut packet = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, 6, 0, 0];
    packet.extend(from.octets());
    packet.extend(to.octets());
    debug_assert_eq!(packet.len(), IP_LEN);
    packet.extend(tcp);
    Some((packet, SocketAddrV4::new(to, 0)))
}

fn segment(from: Ipv4Addr, to: Ipv4Addr, from_port: u16, to_port: u16) -> [u8; TCP_LEN] {
    let mut segment = [0; TCP_LEN];
    segment[0..2].copy_from_slice(&from_port.to_be_bytes());
    segment[2..4].copy_from_slice(&to_port.to_be_bytes());
    // Sequence and acknowledgement number 0 are out of sequence, except for about one connection in ten thousand, which
    // notices it later.
    segment[12] = 5 << 4;
    segment[13] = ACK;
    let sum = checksum(from, to, &segment);
    segment[16..18].copy_from_slice(&sum.to_be_bytes());
    segment
}

/// The checksum of a TCP segment, including its pseudo-header (RFC 9293, section 3.1).
fn checksum(from: Ipv4Addr, to: Ipv4Addr, segment: &[u8; TCP_LEN]) -> u16 {
    let pseudo = [&from.octets()[..], &to.octets(), &[0, 6, 0, 20]].concat();
    let words = pseudo.chunks(2).chain(segment.chunks(2)).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1]));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_goes_to_whoever_sends_those_of_the_tuple_and_sums_up() {
        let end = Tuple {
            source: "1.1.1.1".parse().unwrap(),
            destination: "192.168.0.2".parse().unwrap(),
            source_port: 40000,
            destination_port: 80,
        };
        let (packet, to) = packet(&end).unwrap();
        assert_eq!(to, "1.1.1.1:0".parse().unwrap());
        assert_eq!((packet.len(), &packet[12..16], &packet[16..20]), (40, &[192, 168, 0, 2][..], &[1, 1, 1, 1][..]));
        assert_eq!((&packet[20..22], &packet[22..24]), (&80_u16.to_be_bytes()[..], &40000_u16.to_be_bytes()[..]));
        let tcp: &[u8; TCP_LEN] = packet[20..].try_into().unwrap();
        assert_eq!(checksum(Ipv4Addr::new(192, 168, 0, 2), Ipv4Addr::new(1, 1, 1, 1), tcp), 0, "a receiver's sum is 0");
    }
}
