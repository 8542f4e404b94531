//! The four built-in chains with a jump to the operator's chains, and how a rule in each of them matches its flows.

use std::fmt;
use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net};

use super::prefix::Prefix;
use crate::dataplane::iptables::chain::ChainName;
use crate::dataplane::iptables::rule::{Matches, Original, Rule};
use crate::model::{InterfaceName, PortRange, Protocol};

/// A built-in chain with a jump to the operator's chains.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stage {
    /// `nat PREROUTING`: the destination is translated.
    Prerouting,
    /// `nat POSTROUTING`: the source is translated.
    Postrouting,
    /// `filter FORWARD`: translated flows are accepted.
    Forward,
    /// `filter INPUT`: what conntrack takes for invalid of translated flows does not reach the node itself.
    Input,
}

/// The position of a rule among all flows. Rules with the same key differ in `apart`, or no packet matches both.
#[derive(Clone, Debug)]
pub(super) struct Key {
    pub(super) protocol: Protocol,
    pub(super) address: Prefix,
    pub(super) ports: Prefix,
    pub(super) client: Prefix,
    pub(super) apart: Option<Apart>,
}

/// What distinguishes rules with the same protocol, address, port and client.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Apart {
    /// In PREROUTING, the incoming interface.
    Interface(InterfaceName),
    /// In POSTROUTING, the new destination: the interface is not known there any more.
    Upstream(IpNet),
}

impl Stage {
    /// All four, in the order in which they are written: a flow that is translated is already accepted and gets its new
    /// source.
    pub const ALL: [Self; 4] = [Self::Input, Self::Forward, Self::Postrouting, Self::Prerouting];

    /// The table.
    #[must_use]
    pub const fn table(self) -> Table {
        match self {
            Self::Prerouting | Self::Postrouting => Table::Nat,
            Self::Forward | Self::Input => Table::Filter,
        }
    }

    /// The built-in chain.
    #[must_use]
    pub const fn builtin(self) -> &'static str {
        match self {
            Self::Prerouting => "PREROUTING",
            Self::Postrouting => "POSTROUTING",
            Self::Forward => "FORWARD",
            Self::Input => "INPUT",
        }
    }

    /// The operator's first chain.
    ///
    /// # Panics
    /// Never: the names are well formed.
    #[must_use]
    pub fn root(self) -> ChainName {
        match self {
            Self::Prerouting => "PF-PRE",
            Self::Postrouting => "PF-POST",
            Self::Forward => "PF-FWD",
            Self::Input => "PF-IN",
        }
        .parse()
        .expect("a well-formed name")
    }

    /// The conditions of the jump from the built-in chain to the operator's chain, as iptables prints them.
    ///
    /// PREROUTING takes only packets to this node. Otherwise a standby that routes would capture packets meant for the
    /// active node. FORWARD sees every packet of the node, so the first condition there skips packets without DNAT.
    #[must_use]
    pub const fn jump(self) -> &'static str {
        match self {
            Self::Prerouting => "-m addrtype --dst-type LOCAL -j PF-PRE",
            Self::Postrouting => "-j PF-POST",
            Self::Forward => "-m conntrack --ctstate DNAT -j PF-FWD",
            Self::Input => "-p tcp -m conntrack --ctstate INVALID -j PF-IN",
        }
    }

    /// Whether a chain belongs to this stage, by its name.
    pub(in crate::dataplane::iptables) fn is_of(self, chain: &ChainName) -> bool {
        *chain == self.root() || chain.as_str().strip_prefix("PF-").is_some_and(|path| path.starts_with(self.letter()))
    }

    pub(super) const fn letter(self) -> char {
        match self {
            Self::Prerouting => 'p',
            Self::Postrouting => 's',
            Self::Forward => 'f',
            Self::Input => 'i',
        }
    }

    /// The key of `rule`, a verdict of this stage; `None` for a rule that this stage never has.
    pub(super) fn key(self, rule: &Rule) -> Option<Key> {
        let matches = &rule.matches;
        let anywhere = IpNet::from(Ipv4Net::default());
        let (protocol, address, ports) = match self {
            Self::Prerouting => (matches.protocol?, matches.destination?, matches.ports?),
            Self::Input => (matches.protocol?, matches.destination.unwrap_or(anywhere), matches.ports.unwrap_or(PortRange::ALL)),
            Self::Postrouting | Self::Forward => {
                let original = matches.original.as_ref()?;
                (original.protocol, original.destination.unwrap_or(anywhere), original.ports.unwrap_or(PortRange::ALL))
            }
        };
        let apart = match self {
            Self::Prerouting => matches.interface.map(Apart::Interface),
            Self::Postrouting | Self::Forward => matches.destination.map(Apart::Upstream),
            Self::Input => None,
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

    /// The match of a jump for every flow of `protocol`.
    pub(super) fn to_protocol(self, protocol: Protocol) -> Matches {
        match self {
            Self::Prerouting | Self::Input => Matches { protocol: Some(protocol), ..Matches::default() },
            Self::Postrouting | Self::Forward => {
                Matches { original: Some(Original { protocol, destination: None, ports: None }), ..Matches::default() }
            }
        }
    }

    /// The match of a jump for the flows of `protocol` to `address`.
    pub(super) fn to_address(self, protocol: Protocol, address: Prefix) -> Matches {
        let mut matches = self.to_protocol(protocol);
        match &mut matches.original {
            Some(original) => original.destination = Some(address.network()),
            None => matches.destination = Some(address.network()),
        }
        matches
    }

    /// The match of a jump for the flows of `protocol` to `ports`.
    pub(super) fn to_ports(self, protocol: Protocol, ports: PortRange) -> Matches {
        let mut matches = self.to_protocol(protocol);
        match &mut matches.original {
            Some(original) => original.ports = Some(ports),
            None => matches.ports = Some(ports),
        }
        matches
    }

    /// The match of a jump for the flows of `protocol` from `client`.
    pub(super) fn to_client(self, protocol: Protocol, client: Prefix) -> Matches {
        let anyone = client.len() == 0;
        Matches { source: (!anyone).then(|| client.network()), ..self.to_protocol(protocol) }
    }

    /// The match of a jump for the flows of `protocol` that `apart` distinguishes from others.
    pub(super) fn to_apart(self, protocol: Protocol, apart: Option<&Apart>) -> Matches {
        let mut matches = self.to_protocol(protocol);
        match apart {
            Some(Apart::Interface(interface)) => matches.interface = Some(*interface),
            Some(Apart::Upstream(upstream)) => matches.destination = Some(*upstream),
            None => {}
        }
        matches
    }
}

/// A table of iptables with chains of the operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Table {
    /// `filter`.
    Filter,
    /// `nat`.
    Nat,
}

impl Table {
    /// Both, in the order in which they are written: no flow is translated that FORWARD does not accept.
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

/// The network that consists of this address.
pub(super) fn host(address: IpAddr) -> IpNet {
    IpNet::from(address)
}

/// The network, unless it contains all addresses: iptables prints no prefix of length 0.
pub(super) fn narrowed(network: IpNet) -> Option<IpNet> {
    (network.prefix_len() > 0).then_some(network)
}
