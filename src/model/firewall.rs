//! The firewall rules of other programs that forwarded packets meet.
//!
//! A rule or condition that this program cannot interpret is `Uncertain`. It is never counted as a match, as an accept or
//! as a drop.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

/// The base chains of other programs at the hooks that forwarded packets pass, in no particular order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Firewall {
    /// The chains.
    pub chains: Vec<BaseChain>,
    /// The priorities of the operator's own chains.
    pub nat_priorities: NatPriorities,
}

/// The priorities of the operator's own NAT chains. Of all NAT chains of a hook, the first one that translates a flow decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NatPriorities {
    /// In PREROUTING.
    pub prerouting: i32,
    /// In POSTROUTING.
    pub postrouting: i32,
}

impl Default for NatPriorities {
    /// Those of iptables (`NF_IP_PRI_NAT_DST`, `NF_IP_PRI_NAT_SRC`, `include/uapi/linux/netfilter_ipv4.h`).
    fn default() -> Self {
        Self { prerouting: -100, postrouting: 100 }
    }
}

/// A chain that the kernel calls by itself (nft(8), "base chain"; a built-in chain of iptables(8)).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BaseChain {
    /// The tool that shows and changes it.
    pub tool: Tool,
    /// The table.
    pub table: String,
    /// Its name.
    pub name: String,
    /// What the chain is used for.
    pub purpose: Purpose,
    /// The hook that it is attached to.
    pub hook: Hook,
    /// The priority. The chains of a hook run from the lowest priority to the highest.
    pub priority: i32,
    /// The interfaces that it is bound to. Empty if it is not bound to an interface.
    pub devices: BTreeSet<String>,
    /// What happens to a packet if no rule decides.
    pub policy: Policy,
    /// Its rules.
    pub rules: Vec<FilterRule>,
    /// The chains that its rules jump to, by name. A chain that is missing here could not be interpreted.
    pub jumps: BTreeMap<String, Vec<FilterRule>>,
}

/// The tool that shows and changes a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tool {
    /// nft(8), with the address family of the table.
    Nft(TableFamily),
    /// `iptables-nft`.
    IptablesNft,
    /// `iptables-legacy`.
    IptablesLegacy,
}

/// The address family of an `nf_tables` table through which IPv4 packets pass (nft(8)).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TableFamily {
    /// `ip`.
    Ip,
    /// `inet`.
    Inet,
    /// `netdev`.
    Netdev,
    /// `bridge`.
    Bridge,
}

/// What a base chain is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// It accepts or drops packets.
    Filter,
    /// It translates the first packet of a flow. The first chain that translates decides.
    Nat,
}

/// The hook at which packets pass a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hook {
    /// When they enter by an interface, before all other hooks.
    Ingress,
    /// Before they are routed.
    Prerouting,
    /// After they were routed to another host.
    Forward,
    /// Before they leave.
    Postrouting,
    /// When they leave by an interface, after all other hooks.
    Egress,
}

/// What happens to a packet if no rule decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// It is accepted.
    Accept,
    /// It is dropped.
    Drop,
}

/// A rule: an action for the packets that meet all conditions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilterRule {
    /// The conditions.
    pub conditions: Vec<Condition>,
    /// What it does.
    pub action: Action,
}

/// What a rule does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Does not decide: counts, logs or marks the packet.
    Continue,
    /// Accepts the packet. Later base chains can still drop it.
    Accept,
    /// Drops or rejects.
    Drop,
    /// Returns to the calling chain. In a base chain, the policy decides.
    Return,
    /// Continues in another chain, and returns if that chain does not decide.
    Jump(String),
    /// Continues in another chain, and does not return.
    Goto(String),
    /// Translates a destination or a source.
    Translate(NewAddress),
    /// Excludes the packet from connection tracking. It is then not translated.
    Untrack,
    /// Assigns the packet to a zone of connection tracking. The number is the zone of the flow's replies: replies in another
    /// zone are not recognised. `None` if the number is not known.
    Zone(Option<u16>),
    /// Changes the packet mark.
    Mark,
    /// Changes these bits of the connection mark, which conntrack keeps for the flow.
    Connmark(u32),
    /// An action that could not be interpreted.
    Uncertain,
}

/// The address that a translation gives to a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NewAddress {
    /// This IPv4 address, as a number.
    Fixed(u64),
    /// An address of this node: that of the incoming interface for a destination, that of the outgoing interface for a source.
    Own,
    /// An address that could not be interpreted, or one of several.
    Unknown,
}

/// A condition that a packet must meet for the rule to match.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// A field is, or is not, within one of these ranges.
    Within {
        /// The field.
        field: Field,
        /// The ranges.
        ranges: Vec<RangeInclusive<u64>>,
        /// Whether it must be within, or must not be.
        polarity: Polarity,
    },
    /// At least one of these bits is set, or none of them is.
    AnyBit {
        /// The field.
        field: Field,
        /// The bits.
        mask: u64,
        /// Whether one bit must be set, or none may be set.
        polarity: Polarity,
    },
    /// The bits of `mask` of a field are, or are not, exactly those of `value`.
    Masked {
        /// The field.
        field: Field,
        /// The bits that are compared.
        mask: u64,
        /// Those that must be set; all others of `mask` must not be.
        value: u64,
        /// Whether they must be equal, or must differ.
        polarity: Polarity,
    },
    /// In at least one of these cases, or in none of them, all conditions of the case hold.
    Any {
        /// The cases.
        cases: Vec<Vec<Condition>>,
        /// Whether one must hold, or none may.
        polarity: Polarity,
    },
    /// An interface has, or does not have, one of these names.
    Interface {
        /// Which interface: incoming or outgoing.
        way: Way,
        /// The names.
        names: Vec<NamePattern>,
        /// Whether it must have one of the names, or must have none of them.
        polarity: Polarity,
    },
    /// The packet exceeds a rate or a number that the rule sets.
    Excess,
    /// A condition that could not be interpreted.
    Uncertain,
}

/// Whether a condition is negated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Polarity {
    /// It must hold.
    Is,
    /// It must not hold.
    IsNot,
}

impl Polarity {
    /// The other one.
    #[must_use]
    pub const fn inverted(self) -> Self {
        match self {
            Self::Is => Self::IsNot,
            Self::IsNot => Self::Is,
        }
    }
}

/// The incoming or the outgoing interface of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// The incoming interface.
    In,
    /// The outgoing interface.
    Out,
}

/// The name of an interface, or the beginning of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NamePattern {
    /// The whole name.
    Exact(String),
    /// The beginning of the name.
    Prefix(String),
}

/// A field of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Field {
    /// The family of the packet, `NFPROTO_*`: 2 for IPv4.
    Family,
    /// The type of the Ethernet frame: 0x0800 for IPv4.
    EtherType,
    /// The protocol that IPv4 carries.
    Protocol,
    /// The source address.
    Source,
    /// The destination address.
    Destination,
    /// The fragment offset with its flags: 0x1fff is the offset, which is 0 in a packet that is not a later fragment.
    Fragment,
    /// The flags of a TCP segment: FIN 1, SYN 2, RST 4, PSH 8, ACK 0x10, URG 0x20 (RFC 9293, section 3.1).
    TcpFlags,
    /// The source port.
    SourcePort,
    /// The destination port.
    DestinationPort,
    /// The source address of the Ethernet frame.
    SourceHardware,
    /// To whom the frame was sent: 0 to this node, 1 broadcast, 2 multicast (`PACKET_*`, packet(7)).
    PacketType,
    /// The length of the IPv4 packet in its header, in bytes.
    Length,
    /// The length of the packet as the kernel counts it, in bytes.
    WholeLength,
    /// The time to live.
    TimeToLive,
    /// The type of service: the DSCP in the upper six bits, ECN in the lower two.
    Tos,
    /// The maximum segment size that the segment announces, in bytes.
    SegmentSize,
    /// 1 if the route back to the source leaves by the incoming interface, otherwise 0.
    StrictSourceRoute,
    /// 1 if there is a route back to the source, otherwise 0.
    LooseSourceRoute,
    /// The type of the source address: 1 unicast, 2 local (`RTN_*`, rtnetlink(7)).
    SourceType,
    /// The type of the destination address.
    DestinationType,
    /// The index of the incoming interface.
    InIndex,
    /// The index of the outgoing interface.
    OutIndex,
    /// The packet mark that programs of this node set.
    Mark,
    /// The connection tracking state, as one bit: 1 invalid, 2 established, 4 related, 8 new, 64 untracked (nft(8), `ct
    /// state`).
    State,
    /// The connection tracking status, as bits: 0x10 source translated, 0x20 destination translated (`IPS_*`,
    /// `nf_conntrack_common.h`).
    Status,
    /// The direction: 0 for the direction of the flow's first packet, 1 for the reply direction.
    Direction,
    /// The source of the flow's first packet, before any translation.
    OriginalSource,
    /// The destination of the flow's first packet, before any translation.
    OriginalDestination,
    /// The destination port of the flow's first packet, before any translation.
    OriginalDestinationPort,
}

impl BaseChain {
    /// Whether the chain cannot harm a forwarded packet: its policy accepts, and no rule has another action than to accept
    /// or continue. A mark counts as harm, because other chains may drop by it.
    #[must_use]
    pub fn is_harmless(&self) -> bool {
        let harmless = |rule: &FilterRule| match &rule.action {
            Action::Continue | Action::Accept | Action::Return => true,
            Action::Jump(chain) | Action::Goto(chain) => self.jumps.contains_key(chain),
            Action::Drop
            | Action::Translate(_)
            | Action::Untrack
            | Action::Zone(_)
            | Action::Mark
            | Action::Connmark(_)
            | Action::Uncertain => false,
        };
        self.policy == Policy::Accept && self.rules.iter().chain(self.jumps.values().flatten()).all(harmless)
    }
}

impl FilterRule {
    /// A rule that could not be interpreted at all.
    #[must_use]
    pub fn uncertain() -> Self {
        Self { conditions: vec![Condition::Uncertain], action: Action::Uncertain }
    }
}
