//! The three built-in chains that ours hang from, and how a rule in each says which flows it is for.

use std::fmt;
use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net};

use super::prefix::Prefix;
use crate::dataplane::iptables::chain::ChainName;
use crate::dataplane::iptables::rule::{Matches, Original, Rule};
use crate::model::{InterfaceName, PortRange, Protocol};

/// A built-in chain that ours hang from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stage {
    /// `nat PREROUTING`: the destination is translated.
    Prerouting,
    /// `nat POSTROUTING`: the source is translated.
    Postrouting,
    /// `filter FORWARD`: translated flows may pass.
    Forward,
}

/// Where a rule lies among all flows. Rules with the same key differ in `apart` or match no common packet.
#[derive(Clone, Debug)]
pub(super) struct Key {
    pub(super) protocol: Protocol,
    pub(super) address: Prefix,
    pub(super) ports: Prefix,
    pub(super) client: Prefix,
    pub(super) apart: Option<Apart>,
}

/// What tells rules apart whose flows look the same in protocol, address, port and client.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Apart {
    /// In PREROUTING, the interface that they enter by.
    Interface(InterfaceName),
    /// In POSTROUTING, where they now go to: the interface is no longer known there.
    Upstream(IpNet),
}

impl Stage {
    /// All three, in the order in which they are made: whatever is translated may already pass and leave translated.
    pub const ALL: [Self; 3] = [Self::Forward, Self::Postrouting, Self::Prerouting];

    /// The table.
    #[must_use]
    pub const fn table(self) -> Table {
        match self {
            Self::Prerouting | Self::Postrouting => Table::Nat,
            Self::Forward => Table::Filter,
        }
    }

    /// The built-in chain.
    #[must_use]
    pub const fn builtin(self) -> &'static str {
        match self {
            Self::Prerouting => "PREROUTING",
            Self::Postrouting => "POSTROUTING",
            Self::Forward => "FORWARD",
        }
    }

    /// The first chain of ours.
    ///
    /// # Panics
    /// Never: the names are well formed.
    #[must_use]
    pub fn root(self) -> ChainName {
        match self {
            Self::Prerouting => "PF-PRE",
            Self::Postrouting => "PF-POST",
            Self::Forward => "PF-FWD",
        }
        .parse()
        .expect("a well-formed name")
    }

    /// What the one jump from the built-in chain to ours says, as iptables prints it.
    ///
    /// PREROUTING takes packets to this node only, or a standby that routes would capture what is meant for the active
    /// one. FORWARD sees every packet of the node, so there the first test turns away what no DNAT made.
    #[must_use]
    pub const fn jump(self) -> &'static str {
        match self {
            Self::Prerouting => "-m addrtype --dst-type LOCAL -j PF-PRE",
            Self::Postrouting => "-j PF-POST",
            Self::Forward => "-m conntrack --ctstate DNAT -j PF-FWD",
        }
    }

    /// Whether the name of a chain shows that it hangs from this one; a hashed name does not show it.
    pub(in crate::dataplane::iptables) fn is_of(self, chain: &ChainName) -> bool {
        *chain == self.root() || chain.as_str().strip_prefix("PF-").is_some_and(|path| path.starts_with(self.letter()))
    }

    pub(super) const fn letter(self) -> char {
        match self {
            Self::Prerouting => 'p',
            Self::Postrouting => 's',
            Self::Forward => 'f',
        }
    }

    /// Where `rule`, a verdict of this stage, lies among all flows; `None` for a rule that this stage never holds.
    pub(super) fn key(self, rule: &Rule) -> Option<Key> {
        let matches = &rule.matches;
        let (protocol, address, ports) = match self {
            Self::Prerouting => (matches.protocol?, matches.destination?, matches.ports?),
            Self::Postrouting | Self::Forward => {
                let original = matches.original.as_ref()?;
                (original.protocol, original.destination?, original.ports?)
            }
        };
        let apart = match self {
            Self::Prerouting => matches.interface.clone().map(Apart::Interface),
            Self::Postrouting | Self::Forward => matches.destination.map(Apart::Upstream),
        };
        let anyone = match address {
            IpNet::V4(_) => IpNet::from(Ipv4Net::default()),
            IpNet::V6(_) => IpNet::from(ipnet::Ipv6Net::default()),
        };
        Some(Key {
            protocol,
            address: Prefix::of_network(address),
            ports: Prefix::covering(ports),
            client: Prefix::of_network(matches.source.unwrap_or(anyone)),
            apart,
        })
    }

    /// What a jump to every flow of `protocol` matches here.
    pub(super) fn to_protocol(self, protocol: Protocol) -> Matches {
        match self {
            Self::Prerouting => Matches { protocol: Some(protocol), ..Matches::default() },
            Self::Postrouting | Self::Forward => {
                Matches { original: Some(Original { protocol, destination: None, ports: None }), ..Matches::default() }
            }
        }
    }

    /// What a jump to the flows of `protocol` sent to `address` matches here.
    pub(super) fn to_address(self, protocol: Protocol, address: Prefix) -> Matches {
        let mut matches = self.to_protocol(protocol);
        match &mut matches.original {
            Some(original) => original.destination = Some(address.network()),
            None => matches.destination = Some(address.network()),
        }
        matches
    }

    /// What a jump to the flows of `protocol` sent to `ports` matches here.
    pub(super) fn to_ports(self, protocol: Protocol, ports: PortRange) -> Matches {
        let mut matches = self.to_protocol(protocol);
        match &mut matches.original {
            Some(original) => original.ports = Some(ports),
            None => matches.ports = Some(ports),
        }
        matches
    }

    /// What a jump to the flows of `protocol` from `client` matches here.
    pub(super) fn to_client(self, protocol: Protocol, client: Prefix) -> Matches {
        let anyone = client.len() == 0;
        Matches { source: (!anyone).then(|| client.network()), ..self.to_protocol(protocol) }
    }

    /// What a jump to the flows of `protocol` that `apart` tells from others matches here.
    pub(super) fn to_apart(self, protocol: Protocol, apart: Option<&Apart>) -> Matches {
        let mut matches = self.to_protocol(protocol);
        match apart {
            Some(Apart::Interface(interface)) => matches.interface = Some(interface.clone()),
            Some(Apart::Upstream(upstream)) => matches.destination = Some(*upstream),
            None => {}
        }
        matches
    }
}

/// A table of iptables that holds chains of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Table {
    /// `filter`.
    Filter,
    /// `nat`.
    Nat,
}

impl Table {
    /// Both, in the order in which they are written: nothing is translated that may not pass.
    pub const ALL: [Self; 2] = [Self::Filter, Self::Nat];

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Filter => "filter",
            Self::Nat => "nat",
        }
    }
}

impl fmt::Display for Apart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Interface(interface) => interface.fmt(f),
            Self::Upstream(upstream) => write!(f, "{}", Prefix::of_network(*upstream).digits()),
        }
    }
}

/// A network that is this one address.
pub(super) fn host(address: IpAddr) -> IpNet {
    IpNet::from(address)
}

/// The network, unless it is every address: iptables prints no prefix of length 0.
pub(super) fn narrowed(network: IpNet) -> Option<IpNet> {
    (network.prefix_len() > 0).then_some(network)
}
