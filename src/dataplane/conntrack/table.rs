//! The conntrack table of this network namespace: its IPv4 entries of TCP and UDP (ctnetlink,
//! `include/uapi/linux/netfilter/nfnetlink_conntrack.h`).
//!
//! Reads, deletes and marks; decides nothing. Entries in other zones than zone 0 belong to other programs and are ignored.

use std::net::IpAddr;

use netlink_packet_core::{DefaultNla, Nla};
use netlink_packet_netfilter::conntrack::{
    ConntrackAttribute, ConntrackMessage, IPTuple, ProtoTuple, Protocol as KernelProtocol, Status, Tuple as KernelTuple,
};
use netlink_packet_netfilter::{NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily};
use rustix::io::Errno;

use super::ConntrackError;
use crate::model::{Connmark, Protocol};
use crate::netlink::{Change, Frame, NetlinkError, Refusal, Socket};

/// The id of an entry. Another flow with the same tuple has another id.
const CTA_ID: u16 = 12;
/// With `CTA_MARK`: the bits that it is about.
const CTA_MARK_MASK: u16 = 21;
/// With `CTA_STATUS`: the kernel lists only flows with these bits set. A kernel that does not support it lists all flows.
const CTA_STATUS_MASK: u16 = 26;
/// The zone of an entry; absent in zone 0.
const CTA_ZONE: u16 = 18;
/// The zone of one direction only; absent in zone 0.
const CTA_TUPLE_ZONE: u16 = 3;

/// One direction of a flow, as its packets look on the network on that side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tuple {
    /// The source address.
    pub source: IpAddr,
    /// The destination address.
    pub destination: IpAddr,
    /// The source port.
    pub source_port: u16,
    /// The destination port.
    pub destination_port: u16,
}

impl Tuple {
    /// The reply direction of an untranslated flow.
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
    /// The first packet, before any translation.
    pub original: Tuple,
    /// The replies, before they are translated back.
    pub reply: Tuple,
    /// The status bits (`IPS_*`, `include/uapi/linux/netfilter/nf_conntrack_common.h`).
    pub status: Status,
    /// The id that the kernel assigned.
    pub id: Option<u32>,
    /// The connection mark.
    pub mark: u32,
}

/// An open connection to the table.
pub struct Table(Socket);

impl Table {
    /// Opens the table of this thread's network namespace.
    ///
    /// # Errors
    /// When the kernel has no netfilter netlink, or without `CAP_NET_ADMIN`.
    pub fn open() -> Result<Self, NetlinkError> {
        Ok(Self(Socket::open(netlink_sys::protocols::NETLINK_NETFILTER)?))
    }

    /// All IPv4 entries of TCP and UDP in zone 0.
    ///
    /// # Errors
    /// When the table cannot be listed.
    pub async fn entries(&mut self) -> Result<Vec<Entry>, NetlinkError> {
        self.entries_that(|_| true).await
    }

    /// Those of the [`entries`](Self::entries) that are `wanted`. The others are not collected.
    ///
    /// # Errors
    /// When the table cannot be listed.
    pub async fn entries_that(&mut self, wanted: impl Fn(&Entry) -> bool) -> Result<Vec<Entry>, NetlinkError> {
        let keep = |inner| match inner {
            NetfilterMessageInner::Conntrack(ConntrackMessage::New(attributes)) => entry(&attributes).filter(&wanted),
            _ => None,
        };
        self.list(Vec::new(), keep).await
    }

    /// Those of the [`entries`](Self::entries) that are `wanted`. The kernel lists only those whose destination is translated and
    /// that do not have the bit `mark`, if it supports this.
    ///
    /// # Errors
    /// When the table cannot be listed.
    pub async fn unmarked(&mut self, mark: Connmark, wanted: impl Fn(&Entry) -> bool) -> Result<Vec<Entry>, NetlinkError> {
        let mut filter = translated();
        filter.extend([ConntrackAttribute::CtaMark(0), mask(mark)]);
        let keep = |inner| match inner {
            NetfilterMessageInner::Conntrack(ConntrackMessage::New(attributes)) => entry(&attributes).filter(&wanted),
            _ => None,
        };
        self.list(filter, keep).await
    }

    /// The results of `keep` for every entry that the kernel lists by `filter`.
    pub(super) async fn list<R>(
        &mut self,
        filter: Vec<ConntrackAttribute>,
        mut keep: impl FnMut(NetfilterMessageInner) -> Option<R>,
    ) -> Result<Vec<R>, NetlinkError> {
        self.0.dump(message(ConntrackMessage::Get(filter)), |message: NetfilterMessage| keep(message.inner)).await
    }

    /// Removes exactly `entries`. Returns how many of them still existed.
    ///
    /// # Errors
    /// When the kernel does not remove one of them. The others are removed in any case.
    pub async fn remove(&mut self, entries: &[&Entry]) -> Result<usize, ConntrackError> {
        let (count, refused) = self.change(entries, |entry| ConntrackMessage::Delete(named(entry))).await?;
        match refused {
            None => Ok(count),
            Some((count, first)) => Err(ConntrackError::Refused { count, first }),
        }
    }

    /// Sets the bit `mark` of exactly `entries`. Returns how many of them still existed.
    ///
    /// # Errors
    /// When the kernel does not mark one of them. The others are marked in any case.
    pub async fn mark(&mut self, entries: &[&Entry], mark: Connmark) -> Result<usize, ConntrackError> {
        let marking = |entry: &Entry| {
            let mark = [ConntrackAttribute::CtaMark(mark.bit()), mask(mark)];
            ConntrackMessage::New(named(entry).into_iter().chain(mark).collect())
        };
        let (count, refused) = self.change(entries, marking).await?;
        match refused {
            None => Ok(count),
            Some((count, first)) => Err(ConntrackError::Unmarked { count, first }),
        }
    }

    /// Sends a message about each of `entries`. Returns how many of them still existed, and how many were refused, with the first
    /// refusal.
    async fn change(
        &mut self,
        entries: &[&Entry],
        about: impl Fn(&Entry) -> ConntrackMessage,
    ) -> Result<(usize, Option<(usize, Refusal)>), NetlinkError> {
        let changes = entries.iter().map(|entry| Change { message: message(about(entry)), flags: 0 }).collect();
        let outcomes = self.0.change(changes).await?;
        let count = outcomes.iter().filter(|outcome| outcome.is_ok()).count();
        let mut refused = outcomes.into_iter().filter_map(Result::err).filter(|refusal| refusal.errno != Errno::NOENT);
        Ok((count, refused.next().map(|first| (1 + refused.count(), first))))
    }
}

/// The filter of a list: the destination is translated.
pub(super) fn translated() -> Vec<ConntrackAttribute> {
    let mask = DefaultNla::new(CTA_STATUS_MASK, Status::DstNat.bits().to_be_bytes().to_vec());
    vec![ConntrackAttribute::CtaStatus(Status::DstNat), ConntrackAttribute::Other(mask)]
}

/// The bit that a value of `CTA_MARK` is about.
fn mask(mark: Connmark) -> ConntrackAttribute {
    ConntrackAttribute::Other(DefaultNla::new(CTA_MARK_MASK, mark.bit().to_be_bytes().to_vec()))
}

fn message(inner: ConntrackMessage) -> NetfilterMessage {
    NetfilterMessage::new(NetfilterHeader::new(NetfilterProtoFamily::IPv4, 0, 0), inner)
}

/// The content of a notification.
pub(super) fn inner(frame: &Frame<'_>) -> Option<NetfilterMessageInner> {
    frame.decode::<NetfilterMessage>().ok().map(|message| message.inner)
}

/// An IPv4 entry of TCP or UDP in zone 0.
pub(super) fn entry(attributes: &[ConntrackAttribute]) -> Option<Entry> {
    let (mut original, mut reply, mut status, mut id, mut mark) = (None, None, Status::empty(), None, 0);
    for attribute in attributes {
        match attribute {
            ConntrackAttribute::CtaTupleOrig(parts) => original = tuple(parts),
            ConntrackAttribute::CtaTupleReply(parts) => reply = tuple(parts),
            ConntrackAttribute::CtaStatus(bits) => status = *bits,
            ConntrackAttribute::CtaMark(bits) => mark = *bits,
            ConntrackAttribute::Other(other) if other.kind() == CTA_ID => id = value(other).map(u32::from_be_bytes),
            ConntrackAttribute::Other(other) if other.kind() == CTA_ZONE && value(other) != Some([0; 2]) => return None,
            _ => {}
        }
    }
    let ((protocol, original), (_, reply)) = (original?, reply?);
    Some(Entry { protocol, original, reply, status, id, mark })
}

/// One direction; `None` for another protocol or another zone.
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

/// What names exactly `entry`. The kernel compares the tuple, and the id when it deletes.
fn named(entry: &Entry) -> Vec<ConntrackAttribute> {
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
    std::iter::once(ConntrackAttribute::CtaTupleOrig(tuple)).chain(id).collect()
}
