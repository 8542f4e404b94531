//! The conntrack table of this network namespace: its IPv4 entries of TCP and UDP (ctnetlink,
//! `include/uapi/linux/netfilter/nfnetlink_conntrack.h`).
//!
//! Reads and deletes; decides nothing. Entries outside of zone 0 belong to programs that keep them apart and are not seen.

use std::net::IpAddr;

use netlink_packet_core::{DefaultNla, Nla};
use netlink_packet_netfilter::conntrack::{
    ConntrackAttribute, ConntrackMessage, IPTuple, ProtoTuple, Protocol as KernelProtocol, Status, Tuple as KernelTuple,
};
use netlink_packet_netfilter::{NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily};
use rustix::io::Errno;

use super::ConntrackError;
use crate::model::Protocol;
use crate::netlink::{Change, Frame, NetlinkError, Socket};

/// The identity of an entry; another flow with the same tuple has another one.
const CTA_ID: u16 = 12;
/// The zone of an entry; absent in zone 0.
const CTA_ZONE: u16 = 18;
/// The zone of one direction only; absent in zone 0.
const CTA_TUPLE_ZONE: u16 = 3;

/// One direction of a flow, as its packets look on the wire on that side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tuple {
    /// Where they come from.
    pub source: IpAddr,
    /// Where they go.
    pub destination: IpAddr,
    /// The port that they come from.
    pub source_port: u16,
    /// The port that they go to.
    pub destination_port: u16,
}

impl Tuple {
    /// The other direction, where nothing is translated.
    pub(super) const fn reversed(self) -> Self {
        Self {
            source: self.destination,
            destination: self.source,
            source_port: self.destination_port,
            destination_port: self.source_port,
        }
    }
}

/// A tracked flow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The transport protocol.
    pub protocol: Protocol,
    /// How its first packet looked, before any translation.
    pub original: Tuple,
    /// How answers look before they are translated back.
    pub reply: Tuple,
    /// What has happened to it (`IPS_*`, `include/uapi/linux/netfilter/nf_conntrack_common.h`).
    pub status: Status,
    /// Its identity, as the kernel gives it.
    pub id: Option<u32>,
}

/// An open way to the table.
pub struct Table(Socket);

impl Table {
    /// Opens the table of this thread's network namespace.
    ///
    /// # Errors
    /// When the kernel has no netfilter netlink, or without `CAP_NET_ADMIN`.
    pub fn open() -> Result<Self, NetlinkError> {
        Ok(Self(Socket::open(netlink_sys::protocols::NETLINK_NETFILTER)?))
    }

    /// Every IPv4 entry of TCP and UDP in zone 0.
    ///
    /// # Errors
    /// When the table cannot be listed.
    pub async fn entries(&mut self) -> Result<Vec<Entry>, NetlinkError> {
        let keep = |inner| match inner {
            NetfilterMessageInner::Conntrack(ConntrackMessage::New(attributes)) => entry(&attributes),
            _ => None,
        };
        self.list(Vec::new(), keep).await
    }

    /// What `keep` makes of every entry that the kernel lists by `filter`.
    pub(super) async fn list<R>(
        &mut self,
        filter: Vec<ConntrackAttribute>,
        mut keep: impl FnMut(NetfilterMessageInner) -> Option<R>,
    ) -> Result<Vec<R>, NetlinkError> {
        self.0.dump(message(ConntrackMessage::Get(filter)), |message: NetfilterMessage| keep(message.inner)).await
    }

    /// Removes exactly `entries`; gives how many were still there.
    ///
    /// # Errors
    /// When the kernel does not remove one of them. The others are removed all the same.
    pub async fn remove(&mut self, entries: &[&Entry]) -> Result<usize, ConntrackError> {
        let changes = entries.iter().map(|entry| Change { message: message(deletion(entry)), flags: 0 }).collect();
        let outcomes = self.0.change(changes).await?;
        let count = outcomes.iter().filter(|outcome| outcome.is_ok()).count();
        let mut refused = outcomes.into_iter().filter_map(Result::err).filter(|refusal| refusal.errno != Errno::NOENT);
        match refused.next() {
            None => Ok(count),
            Some(first) => Err(ConntrackError::Refused { count: 1 + refused.count(), first }),
        }
    }
}

fn message(inner: ConntrackMessage) -> NetfilterMessage {
    NetfilterMessage::new(NetfilterHeader::new(NetfilterProtoFamily::IPv4, 0, 0), inner)
}

/// What an event says.
pub(super) fn inner(frame: &Frame<'_>) -> Option<NetfilterMessageInner> {
    frame.decode::<NetfilterMessage>().ok().map(|message| message.inner)
}

/// An IPv4 entry of TCP or UDP in zone 0.
pub(super) fn entry(attributes: &[ConntrackAttribute]) -> Option<Entry> {
    let (mut original, mut reply, mut status, mut id) = (None, None, Status::empty(), None);
    for attribute in attributes {
        match attribute {
            ConntrackAttribute::CtaTupleOrig(parts) => original = tuple(parts),
            ConntrackAttribute::CtaTupleReply(parts) => reply = tuple(parts),
            ConntrackAttribute::CtaStatus(bits) => status = *bits,
            ConntrackAttribute::Other(other) if other.kind() == CTA_ID => id = value(other).map(u32::from_be_bytes),
            ConntrackAttribute::Other(other) if other.kind() == CTA_ZONE && value(other) != Some([0; 2]) => return None,
            _ => {}
        }
    }
    let ((protocol, original), (_, reply)) = (original?, reply?);
    Some(Entry { protocol, original, reply, status, id })
}

/// One direction; `None` for another protocol and for another zone.
fn tuple(parts: &[KernelTuple]) -> Option<(Protocol, Tuple)> {
    let (mut source, mut destination, mut source_port, mut destination_port, mut protocol) = (None, None, None, None, None);
    for part in parts {
        match part {
            KernelTuple::Ip(addresses) => {
                for address in addresses {
                    match address {
                        IPTuple::SourceAddress(address) => source = Some(*address),
                        IPTuple::DestinationAddress(address) => destination = Some(*address),
                        _ => {}
                    }
                }
            }
            KernelTuple::Proto(transport) => {
                for port in transport {
                    match port {
                        ProtoTuple::Protocol(number) => protocol = Protocol::from_number(u8::from(*number)),
                        ProtoTuple::SourcePort(port) => source_port = Some(*port),
                        ProtoTuple::DestinationPort(port) => destination_port = Some(*port),
                        _ => {}
                    }
                }
            }
            KernelTuple::Other(other) if other.kind() == CTA_TUPLE_ZONE && value(other) != Some([0; 2]) => return None,
            _ => {}
        }
    }
    let tuple =
        Tuple { source: source?, destination: destination?, source_port: source_port?, destination_port: destination_port? };
    Some((protocol?, tuple))
}

fn value<const N: usize>(attribute: &DefaultNla) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    (attribute.value_len() == N).then(|| attribute.emit_value(&mut bytes)).map(|()| bytes)
}

/// The request that deletes exactly `entry`: the kernel compares the tuple and the identity.
fn deletion(entry: &Entry) -> ConntrackMessage {
    let Tuple { source, destination, source_port, destination_port } = entry.original;
    let tuple = vec![
        KernelTuple::Ip(vec![IPTuple::SourceAddress(source), IPTuple::DestinationAddress(destination)]),
        KernelTuple::Proto(vec![
            ProtoTuple::Protocol(KernelProtocol::from(entry.protocol.number())),
            ProtoTuple::SourcePort(source_port),
            ProtoTuple::DestinationPort(destination_port),
        ]),
    ];
    let id = entry.id.map(|id| ConntrackAttribute::Other(DefaultNla::new(CTA_ID, id.to_be_bytes().to_vec())));
    ConntrackMessage::Delete(std::iter::once(ConntrackAttribute::CtaTupleOrig(tuple)).chain(id).collect())
}
