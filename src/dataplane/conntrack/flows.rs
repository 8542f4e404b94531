//! The traffic of the translated flows of this network namespace, by the kernel's accounting
//! (`net.netfilter.nf_conntrack_acct`). Covers the present flows, and the flows that end, which the kernel reports with
//! their final counters.
//!
//! Only reads and listens. It does not enable accounting, and it does not add anything up.

use std::io;

use netlink_packet_core::{DefaultNla, NLA_TYPE_MASK, Nla, NlasIterator};
use netlink_packet_netfilter::NetfilterMessageInner;
use netlink_packet_netfilter::conntrack::{ConntrackAttribute, ConntrackMessage, Status};
use rustix::io::Errno;

use super::table::{Entry, Table, entry};
use super::{ConntrackError, table};
use crate::netlink::{Frame, NetlinkError, Socket, frames};

/// The setting that shows whether the kernel counts.
const ACCOUNTING: &str = "/proc/sys/net/netfilter/nf_conntrack_acct";
/// The multicast group for flows that end (include/uapi/linux/netfilter/nfnetlink.h).
const NFNLGRP_CONNTRACK_DESTROY: u32 = 3;
/// The size of the kernel's buffer for ended flows that were not read yet, in bytes: about ten thousand flows.
const BACKLOG: usize = 8 << 20;
/// The counters of a flow in each direction (`include/uapi/linux/netfilter/nfnetlink_conntrack.h`): packets and bytes.
const CTA_COUNTERS_ORIG: u16 = 9;
const CTA_COUNTERS_REPLY: u16 = 10;
const CTA_COUNTERS_PACKETS: u16 = 1;
const CTA_COUNTERS_BYTES: u16 = 2;

/// A number of packets and of bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Volume {
    /// Packets.
    pub packets: u64,
    /// Bytes, including the headers from IP on.
    pub bytes: u64,
}

/// The traffic of flows, in both directions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Volumes {
    /// From the side that opened the flow.
    pub original: Volume,
    /// The reply direction.
    pub reply: Volume,
}

/// A flow with counters, and its traffic since it began.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flow {
    /// The flow.
    pub entry: Entry,
    /// The traffic.
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

/// Notifications about flows that ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heard {
    /// These flows ended.
    Ended(Vec<Flow>),
    /// More flows ended than the kernel could buffer; it dropped some notifications.
    TooMuch,
}

/// An open connection to the kernel for the flows.
pub struct Flows {
    table: Table,
    ends: Socket,
}

/// Whether accounting is enabled in the network namespace of this thread.
#[must_use]
pub fn accounting() -> Accounting {
    match std::fs::read_to_string(ACCOUNTING) {
        Ok(value) if value.trim() != "0" => Accounting::On,
        Ok(_) | Err(_) => Accounting::Off,
    }
}

impl Flows {
    /// Subscribes to the flows of this thread's network namespace that end from now on.
    ///
    /// # Errors
    /// When the kernel has no netfilter netlink, or without `CAP_NET_ADMIN`.
    pub fn open() -> Result<Self, ConntrackError> {
        let ends = Socket::open(netlink_sys::protocols::NETLINK_NETFILTER)?;
        ends.keep(BACKLOG)?;
        ends.join(&[NFNLGRP_CONNTRACK_DESTROY])?;
        Ok(Self { table: Table::open()?, ends })
    }

    /// Calls `each` for every translated flow with counters, as they are read. A flow that is about to end is left to
    /// [`ended`](Self::ended).
    ///
    /// # Errors
    /// When the table cannot be listed.
    pub async fn look(&mut self, mut each: impl FnMut(Flow)) -> Result<(), ConntrackError> {
        let keep = |inner| {
            if let NetfilterMessageInner::Conntrack(ConntrackMessage::New(attributes)) = inner
                && let Some(flow) = flow(&attributes)
                && !flow.entry.status.contains(Status::Dying)
            {
                each(flow);
            }
            None::<()>
        };
        self.table.list(table::translated(), keep).await?;
        Ok(())
    }

    /// Waits until translated flows with counters end.
    ///
    /// # Errors
    /// When the socket fails.
    pub async fn ended(&mut self) -> Result<Heard, ConntrackError> {
        let received = self.ends.receive().await;
        self.heard(received)
    }

    /// One datagram of notifications that were received and not returned yet; `None` if there are no more.
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

/// A translated flow, if it has counters.
fn flow(attributes: &[ConntrackAttribute]) -> Option<Flow> {
    let volume = |kind: u16| {
        attributes.iter().find_map(|attribute| match attribute {
            // The crate does not remove the nested flag from the attribute type.
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
