//! The expressions of rules, as the kernel takes and gives them (`include/uapi/linux/netfilter/nf_tables.h`).
//!
//! Each is written with every attribute that the kernel gives back, so that what was written and what is read are compared value by
//! value.

use crate::netlink::raw::{Attributes, each, number, text, value};

const NFTA_EXPR_NAME: u16 = 1;
const NFTA_EXPR_DATA: u16 = 2;
pub(super) const NFTA_LIST_ELEM: u16 = 1;
pub(super) const NFTA_DATA_VALUE: u16 = 1;
pub(super) const DATA_VERDICT: u16 = 2;
pub(super) const VERDICT_CODE: u16 = 1;
pub(super) const VERDICT_CHAIN: u16 = 2;

/// The first words of the payload of a packet: the IPv4 header (RFC 791), and those of TCP and UDP (RFC 9293, RFC 768).
const NETWORK_HEADER: u32 = 1;
const TRANSPORT_HEADER: u32 = 2;
const SOURCE_AT: u32 = 12;
const DESTINATION_AT: u32 = 16;
const DESTINATION_PORT_AT: u32 = 2;
const TCP_FLAGS_AT: u32 = 13;

/// Keys of `meta` and of `ct`.
const META_IIFNAME: u32 = 6;
const META_L4PROTO: u32 = 16;
const CT_STATE: u32 = 0;
const CT_MARK: u32 = 3;
const CT_PROTO_DST: u32 = 12;
const CT_SRC_IP: u32 = 19;
const CT_DST_IP: u32 = 20;
/// The direction of the packet that began the flow (`IP_CT_DIR_ORIGINAL`).
const ORIGINAL: u8 = 0;

/// What `fib` gives: the type of the destination address (`NFT_FIB_RESULT_ADDRTYPE`, `NFTA_FIB_F_DADDR`).
const FIB_TYPE: u32 = 3;
const FIB_DESTINATION: u32 = 2;

/// The flags of `nat`: an address, and a port (`NF_NAT_RANGE_MAP_IPS`, `NF_NAT_RANGE_PROTO_SPECIFIED`).
const MAP_IPS: u32 = 1;
const PROTO_SPECIFIED: u32 = 2;
const NFPROTO_IPV4: u32 = 2;
const NFT_NAT_SNAT: u32 = 0;
const NFT_NAT_DNAT: u32 = 1;

const NF_DROP: u32 = 0;
const NFT_REG_VERDICT: u32 = 0;

/// Operators of `cmp`.
const EQUAL: u32 = 0;
const NOT_EQUAL: u32 = 1;

/// One expression of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Expression {
    name: &'static str,
    attributes: Attributes,
}

/// The name of the word number `word` of the registers. A register of 16 bytes is four of these words.
pub(super) const fn register(word: u32) -> u32 {
    if word.is_multiple_of(4) { 1 + word / 4 } else { 8 + word }
}

impl Expression {
    const fn of(name: &'static str, attributes: Attributes) -> Self {
        Self { name, attributes }
    }

    fn payload(base: u32, offset: u32, len: u32, word: u32) -> Self {
        let attributes = Attributes::default().number(1, register(word)).number(2, base).number(3, offset).number(4, len);
        Self::of("payload", attributes)
    }

    pub(super) fn source(word: u32) -> Self {
        Self::payload(NETWORK_HEADER, SOURCE_AT, 4, word)
    }

    pub(super) fn destination(word: u32) -> Self {
        Self::payload(NETWORK_HEADER, DESTINATION_AT, 4, word)
    }

    pub(super) fn destination_port(word: u32) -> Self {
        Self::payload(TRANSPORT_HEADER, DESTINATION_PORT_AT, 2, word)
    }

    pub(super) fn tcp_flags(word: u32) -> Self {
        Self::payload(TRANSPORT_HEADER, TCP_FLAGS_AT, 1, word)
    }

    fn meta(key: u32, word: u32) -> Self {
        Self::of("meta", Attributes::default().number(1, register(word)).number(2, key))
    }

    pub(super) fn protocol(word: u32) -> Self {
        Self::meta(META_L4PROTO, word)
    }

    pub(super) fn interface(word: u32) -> Self {
        Self::meta(META_IIFNAME, word)
    }

    fn ct(key: u32, word: u32) -> Self {
        Self::of("ct", Attributes::default().number(1, register(word)).number(2, key))
    }

    fn ct_original(key: u32, word: u32) -> Self {
        Self::of("ct", Attributes::default().number(1, register(word)).number(2, key).bytes(3, &[ORIGINAL]))
    }

    pub(super) fn state(word: u32) -> Self {
        Self::ct(CT_STATE, word)
    }

    pub(super) fn mark(word: u32) -> Self {
        Self::ct(CT_MARK, word)
    }

    pub(super) fn set_mark(word: u32) -> Self {
        Self::of("ct", Attributes::default().number(2, CT_MARK).number(4, register(word)))
    }

    pub(super) fn original_source(word: u32) -> Self {
        Self::ct_original(CT_SRC_IP, word)
    }

    pub(super) fn original_destination(word: u32) -> Self {
        Self::ct_original(CT_DST_IP, word)
    }

    pub(super) fn original_port(word: u32) -> Self {
        Self::ct_original(CT_PROTO_DST, word)
    }

    /// Loads the type of the destination address (`RTN_*`, `include/uapi/linux/rtnetlink.h`).
    pub(super) fn destination_type(word: u32) -> Self {
        let attributes = Attributes::default().number(1, register(word)).number(2, FIB_TYPE).number(3, FIB_DESTINATION);
        Self::of("fib", attributes)
    }

    /// Keeps the bits of `mask` in a word, then flips those of `flipped`.
    pub(super) fn bits(word: u32, mask: &[u8], flipped: &[u8]) -> Self {
        let data = |bytes: &[u8]| Attributes::default().bytes(NFTA_DATA_VALUE, bytes);
        let len = u32::try_from(mask.len()).unwrap_or(u32::MAX);
        let attributes = Attributes::default().number(1, register(word)).number(2, register(word)).number(3, len);
        Self::of("bitwise", attributes.nested(4, &data(mask)).nested(5, &data(flipped)))
    }

    /// Keeps the bits of `mask` in a word.
    pub(super) fn masked(word: u32, mask: &[u8]) -> Self {
        Self::bits(word, mask, &vec![0; mask.len()])
    }

    fn compared(word: u32, operator: u32, with: &[u8]) -> Self {
        let data = Attributes::default().bytes(NFTA_DATA_VALUE, with);
        Self::of("cmp", Attributes::default().number(1, register(word)).number(2, operator).nested(3, &data))
    }

    /// The rule ends unless the word is this.
    pub(super) fn is(word: u32, value: &[u8]) -> Self {
        Self::compared(word, EQUAL, value)
    }

    /// The rule ends if the word is this.
    pub(super) fn is_not(word: u32, value: &[u8]) -> Self {
        Self::compared(word, NOT_EQUAL, value)
    }

    /// The rule ends unless the words from the first on are in `set`.
    pub(super) fn in_set(set: &str) -> Self {
        Self::of("lookup", Attributes::default().text(1, set).number(2, register(0)))
    }

    /// Looks the words from the first on up in `map`, and puts the value there. The rule ends if there is none.
    pub(super) fn value_in(map: &str) -> Self {
        Self::of("lookup", Attributes::default().text(1, map).number(2, register(0)).number(3, register(0)))
    }

    /// Looks the words from the first on up in `map`, and does what the value says.
    pub(super) fn verdict_in(map: &str) -> Self {
        Self::of("lookup", Attributes::default().text(1, map).number(2, register(0)).number(3, NFT_REG_VERDICT))
    }

    fn nat(kind: u32, port: bool) -> Self {
        let (address, number) = (register(0), register(1));
        let attributes = Attributes::default().number(1, kind).number(2, NFPROTO_IPV4).number(3, address).number(4, address);
        Self::of(
            "nat",
            if port {
                attributes.number(5, number).number(6, number).number(7, MAP_IPS | PROTO_SPECIFIED)
            } else {
                attributes.number(7, MAP_IPS)
            },
        )
    }

    /// Translates the destination to the address in the first word, and to the port in the second.
    pub(super) fn dnat_with_port() -> Self {
        Self::nat(NFT_NAT_DNAT, true)
    }

    /// Translates the destination to the address in the first word.
    pub(super) fn dnat() -> Self {
        Self::nat(NFT_NAT_DNAT, false)
    }

    /// Translates the source to the address in the first word.
    pub(super) fn snat() -> Self {
        Self::nat(NFT_NAT_SNAT, false)
    }

    pub(super) fn masquerade() -> Self {
        Self::of("masq", Attributes::default())
    }

    pub(super) fn drop() -> Self {
        let verdict = Attributes::default().number(VERDICT_CODE, NF_DROP);
        let data = Attributes::default().nested(DATA_VERDICT, &verdict);
        Self::of("immediate", Attributes::default().number(1, NFT_REG_VERDICT).nested(2, &data))
    }

    /// Counts packets and bytes.
    pub(super) fn counter() -> Self {
        Self::of("counter", Attributes::default())
    }

    pub(super) fn encoded(&self) -> Attributes {
        Attributes::default().text(NFTA_EXPR_NAME, self.name).nested(NFTA_EXPR_DATA, &self.attributes)
    }

    /// The attributes with data.
    fn nested(&self) -> &'static [u16] {
        match self.name {
            "bitwise" => &[4, 5],
            "cmp" => &[3],
            "immediate" => &[2],
            _ => &[],
        }
    }

    /// Whether an expression that the kernel gives is this one.
    fn is_held_as(&self, held: &[u8]) -> bool {
        let data = value(held, NFTA_EXPR_DATA).unwrap_or_default();
        let wanted = |kind| value(self.attributes.as_bytes(), kind);
        // What is not written here has the default value, which is 0.
        let same = |(kind, found): (u16, &[u8])| match wanted(kind) {
            Some(wanted) if self.nested().contains(&kind) => is_same(found, wanted),
            Some(wanted) => found == wanted,
            None => found.iter().all(|byte| *byte == 0),
        };
        text(held, NFTA_EXPR_NAME) == Some(self.name)
            && each(data).all(same)
            && each(self.attributes.as_bytes()).all(|(kind, _)| value(data, kind).is_some())
    }
}

/// Whether two attributes with data have the same value, or the same verdict.
fn is_same(found: &[u8], wanted: &[u8]) -> bool {
    match [found, wanted].map(|data| (value(data, NFTA_DATA_VALUE), value(data, DATA_VERDICT))) {
        [(Some(found), None), (Some(wanted), None)] => found == wanted,
        [(None, Some(found)), (None, Some(wanted))] => {
            number(found, VERDICT_CODE) == number(wanted, VERDICT_CODE) && value(found, VERDICT_CHAIN).is_none()
        }
        _ => false,
    }
}

/// Whether the expressions of a rule, as the kernel gives them, are these.
pub(super) fn are_held(expressions: &[Expression], held: &[u8]) -> bool {
    let held: Vec<&[u8]> = each(held).map(|(_, expression)| expression).collect();
    held.len() == expressions.len() && expressions.iter().zip(held).all(|(wanted, found)| wanted.is_held_as(found))
}

/// The list of expressions of a rule.
pub(super) fn listed(expressions: &[Expression]) -> Attributes {
    expressions.iter().fold(Attributes::default(), |list, expression| list.nested(NFTA_LIST_ELEM, &expression.encoded()))
}
