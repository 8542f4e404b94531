//! Rules of other programs that packets of ours meet, as far as this program understands them.
//!
//! What it does not understand is `Uncertain`, and never taken for a match, a pass or a drop.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

/// The base chains of other programs on the hooks that our flows pass, in no particular order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Firewall {
    /// The chains.
    pub chains: Vec<BaseChain>,
}

/// A chain that the kernel itself calls (nft(8), "base chain"; a built-in chain of iptables(8)).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BaseChain {
    /// Whose tool shows and changes it.
    pub tool: Tool,
    /// The table.
    pub table: String,
    /// Its name.
    pub name: String,
    /// What it is for.
    pub purpose: Purpose,
    /// Where packets meet it.
    pub hook: Hook,
    /// Chains of a hook are asked from the lowest priority to the highest.
    pub priority: i32,
    /// The interfaces that it is bound to; empty where it is bound to none.
    pub devices: BTreeSet<String>,
    /// What becomes of a packet that no rule decides about.
    pub policy: Policy,
    /// Its rules.
    pub rules: Vec<FilterRule>,
    /// The chains that its rules jump to, by name. One that is missing is not understood.
    pub jumps: BTreeMap<String, Vec<FilterRule>>,
}

/// Whose tool shows and changes a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tool {
    /// nft(8), with the address family of the table.
    Nft(TableFamily),
    /// `iptables-nft`.
    IptablesNft,
    /// `iptables-legacy`.
    IptablesLegacy,
}

/// The address family of a table of `nf_tables` that IPv4 packets pass (nft(8)).
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

/// What a base chain is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// It lets pass or drops.
    Filter,
    /// It translates the first packet of a flow. The first chain that does decides.
    Nat,
}

/// Where packets meet a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hook {
    /// As they enter by an interface, before anything else.
    Ingress,
    /// Before they are routed.
    Prerouting,
    /// Once they are routed to another host.
    Forward,
    /// Before they leave.
    Postrouting,
    /// As they leave by an interface, after anything else.
    Egress,
}

/// What becomes of a packet that no rule decides about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// It passes.
    Accept,
    /// It is dropped.
    Drop,
}

/// A rule: what it does to packets for which all conditions hold.
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
    /// Nothing that decides: counts, logs, marks.
    Continue,
    /// Lets pass, as far as this base chain goes.
    Accept,
    /// Drops or rejects.
    Drop,
    /// Goes back to where the chain was jumped to from; in a base chain, the policy decides.
    Return,
    /// Goes on in another chain, and comes back if that one does not decide.
    Jump(String),
    /// Goes on in another chain, and does not come back.
    Goto(String),
    /// Translates a destination or a source.
    Translate,
    /// Keeps the packet from being tracked: it is then not translated.
    Untrack,
    /// Something else.
    Uncertain,
}

/// What a packet must be for a rule to match.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// A number is, or is not, within one of these ranges.
    Within {
        /// Which number.
        field: Field,
        /// The ranges.
        ranges: Vec<RangeInclusive<u64>>,
        /// Whether it has to be, or must not be.
        polarity: Polarity,
    },
    /// One of these bits is, or none of them are, set.
    AnyBit {
        /// Of which number.
        field: Field,
        /// The bits.
        mask: u64,
        /// Whether one has to be set, or none may be.
        polarity: Polarity,
    },
    /// An interface has, or has not, one of these names.
    Interface {
        /// Which interface.
        way: Way,
        /// The names.
        names: Vec<NamePattern>,
        /// Whether it has to have one, or must have none.
        polarity: Polarity,
    },
    /// Something else.
    Uncertain,
}

/// Whether a condition asks for something or for its absence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Polarity {
    /// It asks for it.
    Is,
    /// It asks for its absence.
    IsNot,
}

/// The interface that a packet enters or leaves by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Enters.
    In,
    /// Leaves.
    Out,
}

/// A name of an interface, or how it begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NamePattern {
    /// The whole name.
    Exact(String),
    /// How it begins.
    Prefix(String),
}

/// A number that a packet has.
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
    /// The source port.
    SourcePort,
    /// The destination port.
    DestinationPort,
    /// The index of the interface that it enters by.
    InIndex,
    /// The index of the interface that it leaves by.
    OutIndex,
    /// The mark that programs of this node put on packets.
    Mark,
    /// What it is to the flow, as one bit: 1 invalid, 2 established, 4 related, 8 new, 64 untracked (nft(8), `ct state`).
    State,
    /// What has happened to the flow, as bits: 0x10 source translated, 0x20 destination translated (`IPS_*`, `nf_conntrack_common.h`).
    Status,
    /// 0 the way of the flow's first packet, 1 the way back.
    Direction,
    /// The source of the flow's first packet, before any translation.
    OriginalSource,
    /// The destination of the flow's first packet, before any translation.
    OriginalDestination,
    /// The destination port of the flow's first packet, before any translation.
    OriginalDestinationPort,
}

impl BaseChain {
    /// Whether no packet of ours can come to harm in it: it lets pass, and no rule of it does anything else.
    #[must_use]
    pub fn is_harmless(&self) -> bool {
        let harmless = |rule: &FilterRule| match &rule.action {
            Action::Continue | Action::Accept | Action::Return => true,
            Action::Jump(chain) | Action::Goto(chain) => self.jumps.contains_key(chain),
            Action::Drop | Action::Translate | Action::Untrack | Action::Uncertain => false,
        };
        self.policy == Policy::Accept && self.rules.iter().chain(self.jumps.values().flatten()).all(harmless)
    }
}

impl FilterRule {
    /// A rule that is not understood at all.
    #[must_use]
    pub fn uncertain() -> Self {
        Self { conditions: vec![Condition::Uncertain], action: Action::Uncertain }
    }
}
