//! A netlink socket for any family: complete dumps and batches of changes (netlink(7)).
//!
//! Decides when an answer is complete: a dump that the kernel marks as interrupted is requested again, and a lost message
//! is an error, never a short answer. Must not interpret the messages.

mod frame;
mod generation;
pub(crate) mod raw;
pub(crate) mod route;

use std::future::poll_fn;
use std::os::fd::AsFd;
use std::sync::Once;
use std::time::Duration;
use std::{fmt, io};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkDeserializable, NetlinkHeader, NetlinkMessage, NetlinkPayload,
    NetlinkSerializable,
};
use netlink_sys::{AsyncSocket, SocketAddr, TokioSocket};
use rustix::io::Errno;
use rustix::net::sockopt;
use tracing::warn;

use crate::progress;

pub(crate) use frame::{Frame, frames};
pub(crate) use generation::generation;

/// The size of the read buffer, in bytes. The kernel fills at most 32 KiB of it (`netlink_dump`,
/// `net/netlink/af_netlink.c`).
const READ_LEN: usize = 64 * 1024;

/// The number of changes sent at once. The error messages for all of them fit into the default receive buffer.
const BATCH_LEN: usize = 128;

/// The number of attempts for a dump if the table changes during each of them.
const DUMP_TRIES: usize = 8;

/// The time-out for an answer of the kernel. The kernel answers at once unless there is a fault.
const SILENCE: Duration = Duration::from_secs(10);

/// Logs only once that a message could not be decoded, because it would be found again at every read.
static UNREAD: Once = Once::new();

/// Why communication with the kernel by netlink failed.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// The socket cannot be opened, written or read.
    #[error("the netlink socket does not work; the agent needs CAP_NET_ADMIN in the network namespace of the node")]
    Socket(#[from] io::Error),
    /// The kernel refused a whole request.
    #[error("the kernel refused a request to list: {0}")]
    Refused(Refusal),
    /// The table changed during every attempt to list it.
    #[error("the table changed during each of {DUMP_TRIES} attempts to list it; it is listed again at the next change")]
    Unsettled,
    /// The answer is not a valid netlink message.
    #[error("the kernel's answer is incomplete")]
    Malformed,
    /// The kernel did not answer in time.
    #[error("the kernel did not answer for {} seconds", SILENCE.as_secs())]
    Silent,
}

impl NetlinkError {
    /// Whether a retry may succeed.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Socket(error) => Errno::from_io_error(error).is_some_and(passes),
            Self::Refused(refusal) => refusal.is_transient(),
            Self::Unsettled | Self::Malformed | Self::Silent => true,
        }
    }
}

impl Refusal {
    /// Whether a retry may succeed.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        passes(self.errno)
    }
}

/// Whether an error number stands for a temporary condition (errno(3)).
fn passes(errno: Errno) -> bool {
    matches!(errno, Errno::BUSY | Errno::AGAIN | Errno::INTR | Errno::NOBUFS | Errno::NOMEM | Errno::MFILE | Errno::NFILE)
}

/// The kernel's refusal of one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The error number (errno(3)).
    pub errno: Errno,
    /// The kernel's error text, if there is one (`NLMSGERR_ATTR_MSG`, include/uapi/linux/netlink.h).
    pub reason: Option<String>,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.reason {
            Some(reason) => write!(f, "{reason} ({})", strerror(self.errno)),
            None => f.write_str(&strerror(self.errno)),
        }
    }
}

/// The words of the system for an error number, without the addition of the standard library, "(os error 101)".
fn strerror(errno: Errno) -> String {
    let text = errno.to_string();
    text.rsplit_once(" (os error").map_or(text.clone(), |(words, _)| words.to_owned())
}

/// One request for a change: the message, and the flags for creation (`NLM_F_CREATE`, `NLM_F_EXCL`; netlink(7)).
pub(crate) struct Change<T> {
    pub(crate) message: T,
    pub(crate) flags: u16,
}

/// A netlink socket to the kernel, in the network namespace of the thread that opened it.
pub(crate) struct Socket {
    inner: TokioSocket,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Socket {
    /// Opens a socket of `protocol` (netlink(7), `NETLINK_*`). It accepts messages of the kernel only.
    pub(crate) fn open(protocol: isize) -> Result<Self, NetlinkError> {
        let mut socket = TokioSocket::new(protocol)?;
        socket.socket_mut().bind(&SocketAddr::new(0, 0))?;
        socket.socket_ref().connect(&SocketAddr::new(0, 0))?;
        socket.socket_ref().set_ext_ack(true)?;
        socket.socket_ref().set_cap_ack(true)?;
        Ok(Self { inner: socket, sequence: 0, buffer: Vec::with_capacity(READ_LEN) })
    }

    /// Opens a socket for links, addresses and routes. The kernel applies every filter of a request on it, or refuses the
    /// request.
    pub(crate) fn open_route() -> Result<Self, NetlinkError> {
        let socket = Self::open(netlink_sys::protocols::NETLINK_ROUTE)?;
        socket.inner.socket_ref().set_netlink_get_strict_chk(true)?;
        Ok(socket)
    }

    /// Joins the multicast groups `groups` (rtnetlink(7), `RTNLGRP_*`; `NFNLGRP_*`).
    pub(crate) fn join(&self, groups: &[u32]) -> Result<(), NetlinkError> {
        Ok(groups.iter().try_for_each(|&group| self.inner.socket_ref().add_membership(group))?)
    }

    /// Sets the receive buffer to `bytes`, beyond the system limit (`SO_RCVBUFFORCE`, socket(7)).
    pub(crate) fn keep(&self, bytes: usize) -> Result<(), NetlinkError> {
        sockopt::set_socket_recv_buffer_size_force(self.inner.socket_ref().as_fd(), bytes).map_err(io::Error::from)?;
        Ok(())
    }

    /// Sets the send buffer to `bytes`, beyond the system limit (`SO_SNDBUFFORCE`, socket(7)). A transaction is one datagram.
    pub(crate) fn send_up_to(&self, bytes: usize) -> Result<(), NetlinkError> {
        sockopt::set_socket_send_buffer_size_force(self.inner.socket_ref().as_fd(), bytes).map_err(io::Error::from)?;
        Ok(())
    }

    /// The index of the interface `name` (netdevice(7)).
    pub(crate) fn index_of(&self, name: &str) -> Result<u32, Errno> {
        rustix::net::netdevice::name_to_index(self.inner.socket_ref().as_fd(), name)
    }

    /// The name of the interface `index` (netdevice(7)).
    pub(crate) fn name_of(&self, index: u32) -> Result<String, Errno> {
        rustix::net::netdevice::index_to_name(self.inner.socket_ref().as_fd(), index)
    }

    /// Lists a table: the results of `keep` for every message of the answer. A message that cannot be decoded is left out.
    pub(crate) async fn dump<T, R>(&mut self, request: T, mut keep: impl FnMut(T) -> Option<R>) -> Result<Vec<R>, NetlinkError>
    where
        T: NetlinkSerializable + NetlinkDeserializable + Clone,
    {
        for _ in 0..DUMP_TRIES {
            self.begin();
            let sequence = self.push(request.clone(), NLM_F_DUMP);
            self.send().await?;
            if let Some(found) = self.collect(sequence, &mut keep).await? {
                return Ok(found);
            }
        }
        Err(NetlinkError::Unsettled)
    }

    /// Requests a single object that is not a table: the results of `keep` for every message of the answer.
    pub(crate) async fn ask<T, R>(&mut self, request: T, mut keep: impl FnMut(T) -> Option<R>) -> Result<Vec<R>, NetlinkError>
    where
        T: NetlinkSerializable + NetlinkDeserializable,
    {
        self.begin();
        let sequence = self.push(request, NLM_F_ACK);
        self.send().await?;
        // The answer to a request for a single object is never marked as interrupted.
        Ok(self.collect(sequence, &mut keep).await?.unwrap_or_default())
    }

    /// Makes all of the changes or none, between the messages that begin and end a batch (`NFNL_MSG_BATCH_BEGIN`,
    /// include/uapi/linux/netfilter/nfnetlink.h). Returns the first refusal.
    pub(crate) async fn transact<T>(
        &mut self,
        begin: T,
        changes: Vec<Change<T>>,
        end: T,
    ) -> Result<Result<(), Refusal>, NetlinkError>
    where
        T: NetlinkSerializable,
    {
        if changes.is_empty() {
            return Ok(Ok(()));
        }
        self.begin();
        let first = self.push(begin, 0);
        let (mut changes, mut last) = (changes.into_iter().peekable(), first);
        while let Some(Change { message, flags }) = changes.next() {
            let acknowledge = if changes.peek().is_none() { NLM_F_ACK } else { 0 };
            last = self.push(message, flags | acknowledge);
        }
        self.push(end, 0);
        self.send().await?;
        self.batch_outcome(first, last).await
    }

    /// Makes the changes in order and returns the result of each.
    pub(crate) async fn change<T>(&mut self, changes: Vec<Change<T>>) -> Result<Vec<Result<(), Refusal>>, NetlinkError>
    where
        T: NetlinkSerializable,
    {
        let mut outcomes = Vec::with_capacity(changes.len());
        let mut changes = changes.into_iter().peekable();
        while changes.peek().is_some() {
            let first = self.sequence.wrapping_add(1);
            let mut batch = changes.by_ref().take(BATCH_LEN).peekable();
            let mut sent = 0;
            self.begin();
            while let Some(Change { message, flags }) = batch.next() {
                // The kernel reports every refusal. Only the last change asks for an acknowledgement, which marks the end.
                let last = if batch.peek().is_none() { NLM_F_ACK } else { 0 };
                self.push(message, flags | last);
                sent += 1;
            }
            self.send().await?;
            outcomes.extend(self.outcomes(first, sent).await?);
        }
        Ok(outcomes)
    }

    /// Waits for the next datagram. Its messages are then in [`Self::received`].
    pub(crate) async fn receive(&mut self) -> io::Result<()> {
        self.buffer.clear();
        poll_fn(|cx| self.inner.poll_recv(cx, &mut self.buffer)).await.inspect(|()| progress::step())
    }

    /// As [`Self::receive`], but never waits: `WouldBlock` if there is no datagram.
    pub(crate) fn receive_now(&mut self) -> io::Result<()> {
        self.buffer.clear();
        self.inner.socket_ref().recv(&mut self.buffer, 0).map(drop)
    }

    /// The datagram that [`Self::receive`] read last.
    pub(crate) fn received(&self) -> &[u8] {
        &self.buffer
    }

    /// Prepares the buffer for requests: it still contains the last answer, which must not be sent to the kernel.
    fn begin(&mut self) {
        self.buffer.clear();
    }

    /// Appends a request to the buffer and returns its sequence number.
    fn push<T: NetlinkSerializable>(&mut self, message: T, flags: u16) -> u32 {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        header.sequence_number = self.sequence;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(message));
        message.finalize();
        let start = self.buffer.len();
        self.buffer.resize(start + message.buffer_len(), 0);
        message.serialize(&mut self.buffer[start..]);
        self.sequence
    }

    async fn send(&mut self) -> Result<(), NetlinkError> {
        let sent = poll_fn(|cx| self.inner.poll_send(cx, &self.buffer)).await;
        self.buffer.clear();
        sent?;
        Ok(())
    }

    async fn answer(&mut self) -> Result<(), NetlinkError> {
        Ok(tokio::time::timeout(SILENCE, self.receive()).await.map_err(|_| NetlinkError::Silent)??)
    }

    /// Reads one dump to its end; `None` if the table changed in the meantime.
    async fn collect<T, R>(
        &mut self,
        sequence: u32,
        keep: &mut impl FnMut(T) -> Option<R>,
    ) -> Result<Option<Vec<R>>, NetlinkError>
    where
        T: NetlinkDeserializable,
    {
        let mut found = Vec::new();
        let (mut interrupted, mut unread) = (false, 0_usize);
        loop {
            self.answer().await?;
            for frame in frames(&self.buffer) {
                let frame = frame?;
                if frame.sequence != sequence {
                    continue;
                }
                interrupted |= frame.flags & NLM_F_DUMP_INTR != 0;
                if let Some(outcome) = frame.end() {
                    outcome.map_err(NetlinkError::Refused)?;
                    if unread > 0 {
                        UNREAD.call_once(|| {
                            warn!(unread, "this version cannot decode some entries that the kernel listed; they are left out");
                        });
                    }
                    return Ok((!interrupted).then_some(found));
                }
                match frame.decode::<T>() {
                    Ok(message) => found.extend(keep(message)),
                    Err(_) => unread += 1,
                }
            }
        }
    }

    /// The results of the `sent` requests from sequence number `first` on. The last one asks for an acknowledgement.
    async fn outcomes(&mut self, first: u32, sent: usize) -> Result<Vec<Result<(), Refusal>>, NetlinkError> {
        let mut outcomes = vec![Ok(()); sent];
        loop {
            self.answer().await?;
            for frame in frames(&self.buffer) {
                let frame = frame?;
                let place = usize::try_from(frame.sequence.wrapping_sub(first)).unwrap_or(usize::MAX);
                let (Some(outcome), Some(slot)) = (frame.end(), outcomes.get_mut(place)) else { continue };
                *slot = outcome;
                if place + 1 == sent {
                    return Ok(outcomes);
                }
            }
        }
    }

    /// The result of the batch that begins with sequence number `first` and whose last change is number `last`.
    async fn batch_outcome(&mut self, first: u32, last: u32) -> Result<Result<(), Refusal>, NetlinkError> {
        let mut batch = Ok(());
        loop {
            self.answer().await?;
            for frame in frames(&self.buffer) {
                let frame = frame?;
                let mine = frame.sequence.wrapping_sub(first) <= last.wrapping_sub(first);
                let Some(outcome) = frame.end().filter(|_| mine) else { continue };
                batch = batch.and(outcome);
                // The kernel answers the beginning of a batch only if it refuses the whole batch. There is no other answer
                // then.
                if frame.sequence == first || frame.sequence == last {
                    return Ok(batch);
                }
            }
        }
    }
}
