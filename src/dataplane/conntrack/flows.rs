//! What the translated flows of this network namespace have carried, by the kernel's accounting
//! (`net.netfilter.nf_conntrack_acct`): those that are there, and those that end, which the kernel tells with their last counts.
//!
//! Reads and listens; switches nothing on, adds nothing up.

use std::io;

use netlink_packet_core::{DefaultNla, NLA_TYPE_MASK, Nla, NlasIterator};
use netlink_packet_netfilter::NetfilterMessageInner;
use netlink_packet_netfilter::conntrack::{ConntrackAttribute, ConntrackMessage, Status};
use rustix::io::Errno;

use super::table::{Entry, Table, entry};
use super::{ConntrackError, table};
use crate::netlink::{Frame, NetlinkError, Socket, frames};

/// Where the kernel says whether it counts.
const ACCOUNTING: &str = "/proc/sys/net/netfilter/nf_conntrack_acct";
/// Every flow that ends (include/uapi/linux/netfilter/nfnetlink.h).
const NFNLGRP_CONNTRACK_DESTROY: u32 = 3;
/// How much the kernel keeps for us of what ended until we read it, in bytes: some ten thousand flows.
const BACKLOG: usize = 8 << 20;
/// What a flow has carried, each way (`include/uapi/linux/netfilter/nfnetlink_conntrack.h`); in each, packets and bytes.
const CTA_COUNTERS_ORIG: u16 = 9;
const CTA_COUNTERS_REPLY: u16 = 10;
const CTA_COUNTERS_PACKETS: u16 = 1;
const CTA_COUNTERS_BYTES: u16 = 2;
/// With `CTA_STATUS`: only flows with these bits are listed; a kernel that does not know it lists all.
const CTA_STATUS_MASK: u16 = 26;

/// Packets and the bytes in them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Volume {
    /// Packets.
    pub packets: u64,
    /// Bytes, with the headers of IP and above.
    pub bytes: u64,
}

/// What flows carried, both ways.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Volumes {
    /// From whoever opened them.
    pub original: Volume,
    /// The answers.
    pub reply: Volume,
}

/// A flow that is counted, and what it has carried since it began.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flow {
    /// The flow.
    pub entry: Entry,
    /// What it has carried.
    pub volumes: Volumes,
}

/// Whether the kernel counts the packets and bytes of each connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accounting {
    /// It does.
    On,
    /// It does not.
    Off,
}

/// What was heard of flows that ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heard {
    /// These.
    Ended(Vec<Flow>),
    /// More than the kernel could keep for us; it dropped some.
    TooMuch,
}

/// An open way to the flows.
pub struct Flows {
    table: Table,
    ends: Socket,
}

/// Whether the kernel counts, in the network namespace of this thread.
#[must_use]
pub fn accounting() -> Accounting {
    match std::fs::read_to_string(ACCOUNTING) {
        Ok(value) if value.trim() != "0" => Accounting::On,
        Ok(_) | Err(_) => Accounting::Off,
    }
}

impl Flows {
    /// Listens for flows of this thread's network namespace that end, from now on.
    ///
    /// # Errors
    /// When the kernel has no netfilter netlink, or without `CAP_NET_ADMIN`.
    pub fn open() -> Result<Self, ConntrackError> {
        let ends = Socket::open(netlink_sys::protocols::NETLINK_NETFILTER)?;
        ends.keep(BACKLOG)?;
        ends.join(&[NFNLGRP_CONNTRACK_DESTROY])?;
        Ok(Self { table: Table::open()?, ends })
    }

    /// Gives every translated flow that is counted to `each`, as they are read; one that is about to go is left to [`ended`](Self::ended).
    ///
    /// # Errors
    /// When the table cannot be listed.
    pub async fn look(&mut self, mut each: impl FnMut(Flow)) -> Result<(), ConntrackError> {
        let mask = DefaultNla::new(CTA_STATUS_MASK, Status::DstNat.bits().to_be_bytes().to_vec());
        let filter = vec![ConntrackAttribute::CtaStatus(Status::DstNat), ConntrackAttribute::Other(mask)];
        let keep = |inner| {
            if let NetfilterMessageInner::Conntrack(ConntrackMessage::New(attributes)) = inner
                && let Some(flow) = flow(&attributes)
                && !flow.entry.status.contains(Status::Dying)
            {
                each(flow);
            }
            None::<()>
        };
        self.table.list(filter, keep).await?;
        Ok(())
    }

    /// Waits until translated flows end that were counted.
    ///
    /// # Errors
    /// When the socket fails.
    pub async fn ended(&mut self) -> Result<Heard, ConntrackError> {
        let received = self.ends.receive().await;
        self.heard(received)
    }

    /// What has been heard by now and was not told yet, one datagram of it; `None` once there is no more.
    ///
    /// # Errors
    /// When the socket fails.
    pub fn ended_by_now(&mut self) -> Result<Option<Heard>, ConntrackError> {
        match self.ends.receive_now() {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            received => self.heard(received).map(Some),
        }
    }

    fn heard(&self, received: io::Result<()>) -> Result<Heard, ConntrackError> {
        match received {
            Ok(()) => Ok(Heard::Ended(frames(self.ends.received()).filter_map(|frame| ended(&frame.ok()?)).collect())),
            Err(error) if Errno::from_io_error(&error) == Some(Errno::NOBUFS) => Ok(Heard::TooMuch),
            Err(error) => Err(NetlinkError::from(error).into()),
        }
    }
}

fn ended(frame: &Frame<'_>) -> Option<Flow> {
    match table::inner(frame)? {
        NetfilterMessageInner::Conntrack(ConntrackMessage::Delete(attributes)) => flow(&attributes),
        _ => None,
    }
}

/// A translated flow, if it is counted.
fn flow(attributes: &[ConntrackAttribute]) -> Option<Flow> {
    let volume = |kind: u16| {
        attributes.iter().find_map(|attribute| match attribute {
            // The crate leaves the mark of nested attributes in the kind.
            ConntrackAttribute::Other(other) if other.kind() & NLA_TYPE_MASK == kind => volume(other),
            _ => None,
        })
    };
    let volumes = Volumes { original: volume(CTA_COUNTERS_ORIG)?, reply: volume(CTA_COUNTERS_REPLY)? };
    let entry = entry(attributes).filter(|entry| entry.status.contains(Status::DstNat))?;
    Some(Flow { entry, volumes })
}

fn volume(attribute: &DefaultNla) -> Option<Volume> {
    let mut bytes = vec![0; attribute.value_len()];
    attribute.emit_value(&mut bytes);
    let count = |kind: u16| {
        let found = NlasIterator::new(&bytes).flatten().find(|part| part.kind() == kind)?;
        found.value().try_into().ok().map(u64::from_be_bytes)
    };
    Some(Volume { packets: count(CTA_COUNTERS_PACKETS)?, bytes: count(CTA_COUNTERS_BYTES)? })
}
