//! Messages of `nf_tables` as bytes: attributes are written into one buffer and read as slices
//! (`include/uapi/linux/netfilter/nf_tables.h`).
//!
//! A set of ten thousand elements is one answer of a megabyte, so nothing of it is copied twice. Does not know what a message means.

use netlink_packet_core::{NLA_TYPE_MASK, NetlinkDeserializable, NetlinkHeader, NetlinkSerializable};

/// The netfilter subsystem of `nf_tables` (`NFNL_SUBSYS_NFTABLES`), and where it is in a message type.
const SUBSYSTEM: u8 = 10;
const NFTABLES: u16 = (SUBSYSTEM as u16) << 8;
/// `struct nfgenmsg` of an IPv4 request.
const IPV4: [u8; 4] = [2, 0, 0, 0];
/// The length of `struct nfgenmsg`, in bytes.
const GENERIC_LEN: usize = 4;
/// The length of the header of an attribute, in bytes.
const HEADER_LEN: usize = 4;
/// The flag of an attribute that contains others (`NLA_F_NESTED`).
const NESTED: u16 = 1 << 15;
/// The messages around a transaction.
const NFNL_MSG_BATCH_BEGIN: u16 = 16;
const NFNL_MSG_BATCH_END: u16 = 17;

/// A message with undecoded content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Raw {
    kind: u16,
    payload: Vec<u8>,
}

impl Raw {
    /// A message of `nf_tables` about IPv4. `kind` is one of `NFT_MSG_*`.
    pub(crate) fn nftables(kind: u16, attributes: Attributes) -> Self {
        let Attributes(bytes) = attributes;
        Self { kind: NFTABLES | kind, payload: IPV4.into_iter().chain(bytes).collect() }
    }

    /// The messages that begin and end a transaction.
    pub(crate) fn borders() -> [Self; 2] {
        // `struct nfgenmsg` of a border has the subsystem instead of a family.
        [NFNL_MSG_BATCH_BEGIN, NFNL_MSG_BATCH_END].map(|kind| Self { kind, payload: vec![0, 0, 0, SUBSYSTEM] })
    }

    /// The attributes, if this is a message of `kind`.
    pub(crate) fn attributes(&self, kind: u16) -> Option<&[u8]> {
        if self.kind == NFTABLES | kind { self.payload.get(GENERIC_LEN..) } else { None }
    }
}

impl NetlinkSerializable for Raw {
    fn message_type(&self) -> u16 {
        self.kind
    }

    fn buffer_len(&self) -> usize {
        self.payload.len()
    }

    fn serialize(&self, buffer: &mut [u8]) {
        buffer[..self.payload.len()].copy_from_slice(&self.payload);
    }
}

impl NetlinkDeserializable for Raw {
    type Error = std::convert::Infallible;

    fn deserialize(header: &NetlinkHeader, payload: &[u8]) -> Result<Self, Self::Error> {
        Ok(Self { kind: header.message_type, payload: payload.to_vec() })
    }
}

/// Attributes, written one after the other.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Attributes(Vec<u8>);

impl Attributes {
    /// Adds an attribute with these bytes.
    pub(crate) fn bytes(mut self, kind: u16, value: &[u8]) -> Self {
        self.push(kind, value);
        self
    }

    /// Adds a number in network byte order.
    pub(crate) fn number(self, kind: u16, value: u32) -> Self {
        self.bytes(kind, &value.to_be_bytes())
    }

    /// Adds a text, with the zero byte that ends it.
    pub(crate) fn text(self, kind: u16, value: &str) -> Self {
        self.bytes(kind, &[value.as_bytes(), &[0]].concat())
    }

    /// Adds an attribute that contains others.
    pub(crate) fn nested(self, kind: u16, inner: &Self) -> Self {
        self.bytes(kind | NESTED, &inner.0)
    }

    /// The number of bytes.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    fn push(&mut self, kind: u16, value: &[u8]) {
        // An attribute of more than 64 KiB does not exist: the callers split what may be long.
        let length = u16::try_from(HEADER_LEN + value.len()).unwrap_or(u16::MAX);
        self.0.extend_from_slice(&length.to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }
}

/// The attributes in `bytes`: kind without flags, and value. What cannot be read ends them.
pub(crate) fn each(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(*rest.first_chunk()?));
        let kind = u16::from_ne_bytes(*rest.get(2..)?.first_chunk()?) & NLA_TYPE_MASK;
        let value = rest.get(HEADER_LEN..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// The value of the first attribute of `kind`.
pub(crate) fn value(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    each(bytes).find(|(found, _)| *found == kind).map(|(_, value)| value)
}

/// The text in the first attribute of `kind`.
pub(crate) fn text(bytes: &[u8], kind: u16) -> Option<&str> {
    std::str::from_utf8(value(bytes, kind)?).ok().map(|text| text.trim_end_matches('\0'))
}

/// The number in the first attribute of `kind`, which is in network byte order.
pub(crate) fn number(bytes: &[u8], kind: u16) -> Option<u32> {
    Some(u32::from_be_bytes(*value(bytes, kind)?.first_chunk()?))
}
