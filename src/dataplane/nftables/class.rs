//! Key classes: the flows whose rules differ only in their values, so that one hash map holds all of them.
//!
//! A flow is found by its whole original tuple. A network of clients or a range of ports is a key of which some bits are masked: the
//! same mask for every key of a map. Masks are on a whole level of 4 bits, so the number of maps is small whatever the set.

use std::fmt::Write as _;
use std::net::Ipv4Addr;

use crate::model::{InterfaceName, Protocol};

/// The number of bits of a level.
pub(super) const LEVEL: u8 = 4;
/// The number of bits of an IPv4 address and of a port.
pub(super) const ADDRESS_BITS: u8 = 32;
pub(super) const PORT_BITS: u8 = 16;

/// What the keys of a map or set are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Purpose {
    /// To the new destination: an address and a port.
    Dnat,
    /// To the new destination: an address. The port stays.
    DnatSamePort,
    /// To the new source.
    Snat,
    /// Flows that get the address of the outgoing interface.
    Masquerade,
    /// What conntrack takes for invalid, towards the node itself.
    Invalid,
}

/// The flows whose keys have the same form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Class {
    pub(super) purpose: Purpose,
    /// The number of bits of the client that count.
    pub(super) client: u8,
    /// The number of bits of the port that count.
    pub(super) port: u8,
    /// Whether the incoming interface counts, or in POSTROUTING, where it is not known any more, the new destination.
    pub(super) apart: bool,
    /// Whether only the packet that opens a connection counts.
    pub(super) opening: bool,
}

/// A part of a key, in the order in which the keys have them. What is masked comes first: nft prints no parentheses, so it cannot
/// read back a mask behind a concatenation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Field {
    /// The client, of which this many bits count.
    Client(u8),
    /// The port, of which this many bits count.
    Port(u8),
    /// The incoming interface.
    Interface,
    /// The listen address.
    Listen,
    /// The transport protocol.
    Protocol,
    /// The new destination.
    Upstream,
}

/// The values of a key.
#[derive(Clone, Copy, Debug)]
pub(super) struct Values<'a> {
    pub(super) client: Ipv4Addr,
    pub(super) port: u16,
    pub(super) listen: Ipv4Addr,
    pub(super) protocol: Protocol,
    pub(super) interface: Option<&'a InterfaceName>,
    pub(super) upstream: Ipv4Addr,
}

impl Purpose {
    /// The first part of the name of a map or set. None of these words is a keyword of nft.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Dnat => "new_destination",
            Self::DnatSamePort => "new_destination_same_port",
            Self::Snat => "new_source",
            Self::Masquerade => "masqueraded",
            Self::Invalid => "unanswerable",
        }
    }

    /// The chain that looks a flow up in the maps of this purpose: they are asked together.
    pub(super) const fn chain(self) -> Hooked {
        match self {
            Self::Dnat | Self::DnatSamePort => Hooked::Prerouting,
            Self::Snat | Self::Masquerade => Hooked::Postrouting,
            Self::Invalid => Hooked::Input,
        }
    }
}

/// A base chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Hooked {
    /// The destination is translated.
    Prerouting,
    /// The source is translated.
    Postrouting,
    /// What conntrack takes for invalid does not reach the node.
    Input,
}

impl Class {
    /// The name of its map or set, such as `new_destination_client24_port12_interface`.
    pub(super) fn name(self) -> String {
        // Writing to a string cannot fail.
        let mut name = self.purpose.name().to_owned();
        if self.client < ADDRESS_BITS {
            let _ = write!(name, "_client{}", self.client);
        }
        if self.port < PORT_BITS {
            let _ = write!(name, "_port{}", self.port);
        }
        if self.apart {
            name += match self.purpose.chain() {
                Hooked::Prerouting => "_interface",
                Hooked::Postrouting | Hooked::Input => "_upstream",
            };
        }
        if self.opening {
            name += "_syn";
        }
        name
    }

    /// The parts of its keys.
    pub(super) fn fields(self) -> Vec<Field> {
        let apart = match self.purpose.chain() {
            Hooked::Prerouting => Field::Interface,
            Hooked::Postrouting | Hooked::Input => Field::Upstream,
        };
        let masked = [
            (0 < self.client && self.client < ADDRESS_BITS).then_some(Field::Client(self.client)),
            (0 < self.port && self.port < PORT_BITS).then_some(Field::Port(self.port)),
        ];
        let whole = [
            (self.apart && apart == Field::Interface).then_some(Field::Interface),
            Some(Field::Listen),
            Some(Field::Protocol),
            (self.port == PORT_BITS).then_some(Field::Port(PORT_BITS)),
            (self.client == ADDRESS_BITS).then_some(Field::Client(ADDRESS_BITS)),
            (self.apart && apart == Field::Upstream).then_some(Field::Upstream),
        ];
        masked.into_iter().chain(whole).flatten().collect()
    }

    /// The key of a flow with these values.
    pub(super) fn key(self, values: Values<'_>) -> Vec<u8> {
        self.fields().into_iter().flat_map(|field| field.bytes(values)).collect()
    }

    /// The length of its keys, in bytes.
    pub(super) fn key_len(self) -> u32 {
        self.fields().into_iter().map(Field::len).sum()
    }

    /// The type of its keys for nft: the types of its parts, 6 bits each (`TYPE_BITS`, nftables, `include/datatype.h`).
    pub(super) fn key_type(self) -> u32 {
        self.fields().into_iter().fold(0, |all, field| all << TYPE_BITS | field.kind())
    }
}

/// The types of nft (`enum datatypes`, nftables, `include/datatype.h`).
const TYPE_BITS: u32 = 6;
pub(super) const TYPE_IPV4_ADDR: u32 = 7;
const TYPE_INET_PROTO: u32 = 12;
pub(super) const TYPE_INET_SERVICE: u32 = 13;
const TYPE_IFNAME: u32 = 41;
/// The length of the name of an interface in a register, in bytes (`IFNAMSIZ`).
const NAME_LEN: u32 = 16;

/// The types of an address and a port in one value.
pub(super) const TYPE_ADDRESS_AND_PORT: u32 = TYPE_IPV4_ADDR << TYPE_BITS | TYPE_INET_SERVICE;
/// The types of a listen address and a protocol in one key.
pub(super) const TYPE_LISTEN: u32 = TYPE_IPV4_ADDR << TYPE_BITS | TYPE_INET_PROTO;

impl Field {
    /// The length in a register, in bytes: whole words.
    pub(super) const fn len(self) -> u32 {
        match self {
            Self::Interface => NAME_LEN,
            Self::Client(_) | Self::Port(_) | Self::Listen | Self::Protocol | Self::Upstream => 4,
        }
    }

    const fn kind(self) -> u32 {
        match self {
            Self::Client(_) | Self::Listen | Self::Upstream => TYPE_IPV4_ADDR,
            Self::Port(_) => TYPE_INET_SERVICE,
            Self::Interface => TYPE_IFNAME,
            Self::Protocol => TYPE_INET_PROTO,
        }
    }

    fn bytes(self, values: Values<'_>) -> Vec<u8> {
        match self {
            Self::Client(bits) => (values.client.to_bits() & address_mask(bits)).to_be_bytes().to_vec(),
            Self::Port(bits) => word(&(values.port & port_mask(bits)).to_be_bytes()).to_vec(),
            Self::Listen => values.listen.octets().to_vec(),
            Self::Protocol => word(&[values.protocol.number()]).to_vec(),
            Self::Upstream => values.upstream.octets().to_vec(),
            Self::Interface => {
                let mut name = values.interface.map(|name| name.as_str().as_bytes().to_vec()).unwrap_or_default();
                name.resize(self.len() as usize, 0);
                name
            }
        }
    }
}

/// `bytes` at the beginning of a word: a register holds a short value like this.
pub(super) fn word(bytes: &[u8]) -> [u8; 4] {
    let mut word = [0; 4];
    word[..bytes.len()].copy_from_slice(bytes);
    word
}

/// The mask of the first `bits` bits of an address.
pub(super) fn address_mask(bits: u8) -> u32 {
    u32::MAX.checked_shl(u32::from(ADDRESS_BITS - bits)).unwrap_or(0)
}

/// The mask of the first `bits` bits of a port.
pub(super) fn port_mask(bits: u8) -> u16 {
    u16::MAX.checked_shl(u32::from(PORT_BITS - bits)).unwrap_or(0)
}

/// What a key says about flows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Read {
    pub(super) client: Ipv4Addr,
    pub(super) port: u16,
    pub(super) listen: Ipv4Addr,
    pub(super) protocol: Protocol,
    pub(super) interface: Option<InterfaceName>,
}

impl Class {
    /// The class of a map or set, by its name.
    pub(super) fn parse(name: &str) -> Option<Self> {
        let purposes = [Purpose::DnatSamePort, Purpose::Dnat, Purpose::Snat, Purpose::Masquerade, Purpose::Invalid];
        let (purpose, rest) = purposes.into_iter().find_map(|purpose| Some((purpose, name.strip_prefix(purpose.name())?)))?;
        let mut class = Self { purpose, client: ADDRESS_BITS, port: PORT_BITS, apart: false, opening: false };
        for part in rest.split('_').skip(1) {
            match (part, part.strip_prefix("client"), part.strip_prefix("port")) {
                (_, Some(bits), _) => class.client = bits.parse().ok()?,
                (_, _, Some(bits)) => class.port = bits.parse().ok()?,
                ("interface" | "upstream", _, _) => class.apart = true,
                ("syn", _, _) => class.opening = true,
                _ => return None,
            }
        }
        (class.name() == name).then_some(class)
    }

    /// What `key` says; `None` if it is no key of a forward.
    pub(super) fn read(self, key: &[u8]) -> Option<Read> {
        let none = Ipv4Addr::UNSPECIFIED;
        let mut read = Read { client: none, port: 0, listen: none, protocol: Protocol::Tcp, interface: None };
        let mut rest = key;
        for field in self.fields() {
            let (bytes, after) = rest.split_at_checked(usize::try_from(field.len()).ok()?)?;
            rest = after;
            let address = || Some(Ipv4Addr::from_octets(*bytes.first_chunk()?));
            match field {
                Field::Client(_) => read.client = address()?,
                Field::Port(_) => read.port = u16::from_be_bytes(*bytes.first_chunk()?),
                Field::Listen => read.listen = address()?,
                Field::Protocol => read.protocol = Protocol::from_number(*bytes.first()?)?,
                Field::Interface => {
                    let name = std::str::from_utf8(bytes).ok()?.trim_end_matches('\0');
                    read.interface = Some(name.parse().ok()?);
                }
                Field::Upstream => {}
            }
        }
        rest.is_empty().then_some(read)
    }
}
