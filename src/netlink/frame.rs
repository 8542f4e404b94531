//! The frames of a netlink datagram: where a message ends, and whether it is the last one of an answer (netlink(7)).

use netlink_packet_core::{NLM_F_ACK_TLVS, NetlinkDeserializable, NetlinkHeader, NlasIterator};
use rustix::io::Errno;

use super::{NetlinkError, Refusal};

/// The length of `struct nlmsghdr`, in bytes.
const HEADER_LEN: usize = 16;
/// The length of the error number, in bytes. It comes first in an error message and in the end of a dump.
const ERRNO_LEN: usize = 4;
/// The message types of the protocol itself (include/uapi/linux/netlink.h).
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
/// The attribute with the kernel's error text (include/uapi/linux/netlink.h).
const NLMSGERR_ATTR_MSG: u16 = 1;

/// One message of a datagram.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Frame<'a> {
    /// The message type: one of netlink itself, or one of the family.
    pub(crate) kind: u16,
    /// The flags, `NLM_F_*`.
    pub(crate) flags: u16,
    /// The sequence number of the request that it answers; 0 for an event.
    pub(crate) sequence: u32,
    /// The bytes after the header.
    pub(crate) payload: &'a [u8],
}

impl Frame<'_> {
    /// Whether this is the last message of the answer, and with which result.
    pub(super) fn end(&self) -> Option<Result<(), Refusal>> {
        let attributes = match self.kind {
            NLMSG_DONE => ERRNO_LEN,
            // The header of the request stands before the attributes.
            NLMSG_ERROR => ERRNO_LEN + HEADER_LEN,
            _ => return None,
        };
        let errno = self.payload.first_chunk().map_or(0, |bytes| i32::from_ne_bytes(*bytes));
        if errno == 0 {
            return Some(Ok(()));
        }
        let reason =
            (self.flags & NLM_F_ACK_TLVS != 0).then(|| reason(self.payload.get(attributes..).unwrap_or_default())).flatten();
        Some(Err(Refusal { errno: Errno::from_raw_os_error(errno.wrapping_neg()), reason }))
    }

    /// The message, decoded for the family of the socket.
    pub(crate) fn decode<T: NetlinkDeserializable>(&self) -> Result<T, T::Error> {
        let mut header = NetlinkHeader::default();
        header.message_type = self.kind;
        header.flags = self.flags;
        header.sequence_number = self.sequence;
        T::deserialize(&header, self.payload)
    }
}

fn reason(attributes: &[u8]) -> Option<String> {
    let text = NlasIterator::new(attributes).flatten().find(|attribute| attribute.kind() == NLMSGERR_ATTR_MSG)?;
    let text = String::from_utf8_lossy(text.value());
    Some(text.trim_end_matches('\0').to_owned())
}

/// The messages of a datagram, in order.
pub(crate) fn frames(datagram: &[u8]) -> impl Iterator<Item = Result<Frame<'_>, NetlinkError>> {
    let mut rest = datagram;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let frame = frame(rest);
        rest = match &frame {
            Some(frame) => rest.get((HEADER_LEN + frame.payload.len()).next_multiple_of(4)..).unwrap_or_default(),
            None => &[],
        };
        Some(frame.ok_or(NetlinkError::Malformed))
    })
}

fn frame(bytes: &[u8]) -> Option<Frame<'_>> {
    let length = usize::try_from(u32::from_ne_bytes(*bytes.first_chunk()?)).ok()?;
    let payload = bytes.get(HEADER_LEN..length)?;
    let short = |at: usize| Some(u16::from_ne_bytes(*bytes.get(at..)?.first_chunk()?));
    Some(Frame { kind: short(4)?, flags: short(6)?, sequence: u32::from_ne_bytes(*bytes.get(8..)?.first_chunk()?), payload })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u16, sequence: u32, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(HEADER_LEN + payload.len()).unwrap();
        let mut bytes =
            [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), &[0; 2], &sequence.to_ne_bytes(), &[0; 4], payload].concat();
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    #[test]
    fn a_datagram_is_cut_into_its_messages() {
        let datagram = [message(16, 1, b"abc"), message(NLMSG_DONE, 2, &0_i32.to_ne_bytes())].concat();
        let found: Vec<_> = frames(&datagram).map(Result::unwrap).collect();
        assert_eq!(found.iter().map(|frame| (frame.kind, frame.sequence)).collect::<Vec<_>>(), [(16, 1), (NLMSG_DONE, 2)]);
        assert_eq!(found[0].payload, b"abc");
        assert!(found[0].end().is_none());
        assert_eq!(found[1].end(), Some(Ok(())));
    }

    #[test]
    fn a_datagram_that_is_cut_short_is_an_error() {
        let whole = message(16, 1, b"abcd");
        for length in 1..whole.len() {
            assert!(frames(&whole[..length]).any(|frame| frame.is_err()), "{length}");
        }
        assert!(frames(&[0; HEADER_LEN]).any(|frame| frame.is_err()), "a length of 0");
    }

    #[test]
    fn a_refusal_carries_the_error_number() {
        let datagram = message(NLMSG_ERROR, 7, &[&(-17_i32).to_ne_bytes()[..], &[0; HEADER_LEN]].concat());
        let refusal = frames(&datagram).next().unwrap().unwrap().end().unwrap().unwrap_err();
        assert_eq!(refusal.errno, Errno::EXIST);
    }
}
