//! One rule of the operator as a value: its match and its target.
//!
//! Written for `iptables-restore` and read back from `iptables-save` or `-S` with the same grammar, so that rules are
//! compared as values, not as the text of a certain version of iptables. Only typed values are written: no string of an
//! object reaches a tool.

mod reading;

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

use super::chain::ChainName;
use super::variant::Variant;
use crate::model::{Connmark, Destination, InterfaceName, PortRange, Protocol, TargetPorts};

/// A rule in one of the operator's chains.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rule {
    /// The conditions.
    pub matches: Matches,
    /// The action for matching packets.
    pub target: Target,
}

/// The conditions of a rule. An absent part matches every packet.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Matches {
    /// `-s`: the packet's source. Never a prefix of length 0, which iptables does not print.
    pub source: Option<IpNet>,
    /// `-d`: the packet's destination. Never a prefix of length 0.
    pub destination: Option<IpNet>,
    /// `-i`: the incoming interface.
    pub interface: Option<InterfaceName>,
    /// `-p`: its transport protocol.
    pub protocol: Option<Protocol>,
    /// `--dport`: its destination port; needs `protocol`.
    pub ports: Option<PortRange>,
    /// Which packets of a connection match. Values other than `Any` need TCP.
    pub packets: Packets,
    /// What the conntrack entry of the packet must contain.
    pub original: Option<Original>,
    /// Whether the flow of the packet must be marked.
    pub mark: Option<MarkMatch>,
}

/// A condition on the connection mark: `-m connmark --mark` (iptables-extensions(8)).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum MarkMatch {
    /// The bit is set: the flow is the operator's.
    Set(Connmark),
    /// The bit is not set.
    Unset(Connmark),
}

/// Which packets of a connection a rule matches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Packets {
    /// All packets.
    #[default]
    Any,
    /// The one that opens it (`--syn`).
    Opening,
}

/// The expansion of `--syn`, as iptables prints it.
const SYN: [&str; 2] = ["FIN,SYN,RST,ACK", "SYN"];

/// The first packet of a flow whose destination was translated: `-m conntrack --ctstate DNAT` (iptables-extensions(8)).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Original {
    /// `--ctproto`: its transport protocol.
    pub protocol: Protocol,
    /// `--ctorigdst`: the original destination address.
    pub destination: Option<IpNet>,
    /// `--ctorigdstport`: the original destination port.
    pub ports: Option<PortRange>,
}

/// The action of a rule.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Target {
    /// Jumps to another chain of the operator.
    Jump(ChainName),
    /// `ACCEPT`.
    Accept,
    /// `DROP`.
    Drop,
    /// `DNAT --to-destination`.
    Dnat(Destination),
    /// `SNAT --to-source`.
    Snat(IpAddr),
    /// `MASQUERADE`.
    Masquerade,
    /// `RETURN`.
    Return,
    /// `CONNMARK`: sets the bit, and no other one.
    Mark(Connmark),
    /// `CONNMARK`: removes the bit, and no other one.
    Unmark(Connmark),
}

/// A rule in a form that the operator does not write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a rule that this project writes")]
pub struct ForeignRule;

impl Rule {
    /// Whether it decides about a packet, instead of only directing or marking it.
    #[must_use]
    pub const fn is_verdict(&self) -> bool {
        match self.target {
            Target::Accept | Target::Drop | Target::Dnat(_) | Target::Snat(_) | Target::Masquerade => true,
            Target::Jump(_) | Target::Return | Target::Mark(_) | Target::Unmark(_) => false,
        }
    }

    /// Whether the other rules of its chain rely on it: it marks their flows, or leaves out the flows of others.
    #[must_use]
    pub const fn guards(&self) -> bool {
        matches!(self.target, Target::Return | Target::Mark(_))
    }

    /// The rule as `iptables-restore` of `variant` reads it, without the leading `-A CHAIN`.
    #[must_use]
    pub fn text(&self, variant: Variant) -> String {
        format!("{}{}", MatchText(&self.matches, variant), self.target)
    }
}

struct MatchText<'a>(&'a Matches, Variant);

impl fmt::Display for MatchText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(matches, variant) = self;
        if let Some(source) = matches.source {
            write!(f, "-s {source} ")?;
        }
        if let Some(destination) = matches.destination {
            write!(f, "-d {destination} ")?;
        }
        if let Some(interface) = &matches.interface {
            write!(f, "-i {interface} ")?;
        }
        if let Some(protocol) = matches.protocol {
            write!(f, "-p {} ", protocol.keyword())?;
            if let Some(ports) = matches.ports {
                match (protocol, variant) {
                    // The udp match of iptables looks each port up with getaddrinfo(3), which makes loading nine times
                    // slower. With nf_tables, multiport is not a native match and makes each new flow slower, so the native
                    // match is used there.
                    (Protocol::Udp, Variant::Legacy) => write!(f, "-m multiport --dports {ports} ")?,
                    (Protocol::Tcp | Protocol::Udp, Variant::Nft | Variant::Legacy) => {
                        write!(f, "-m {} --dport {ports} ", protocol.keyword())?;
                    }
                }
            }
            if matches.packets == Packets::Opening {
                write!(f, "--tcp-flags {} ", SYN.join(" "))?;
            }
        }
        if let Some(original) = &matches.original {
            write!(f, "-m conntrack --ctstate DNAT --ctproto {} ", original.protocol.number())?;
            if let Some(destination) = original.destination {
                write!(f, "--ctorigdst {destination} ")?;
            }
            if let Some(ports) = original.ports {
                write!(f, "--ctorigdstport {ports} ")?;
            }
        }
        match matches.mark {
            Some(MarkMatch::Set(bit)) => write!(f, "-m connmark --mark {bit}/{bit} "),
            Some(MarkMatch::Unset(bit)) => write!(f, "-m connmark ! --mark {bit}/{bit} "),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Jump(chain) => write!(f, "-j {chain}"),
            Self::Accept => f.write_str("-j ACCEPT"),
            Self::Drop => f.write_str("-j DROP"),
            Self::Dnat(Destination { address, ports }) => {
                write!(f, "-j DNAT --to-destination {address}")?;
                match ports {
                    TargetPorts::Same => Ok(()),
                    TargetPorts::One(port) => write!(f, ":{port}"),
                    TargetPorts::Shifted(shift) => write!(f, ":{shift}"),
                }
            }
            Self::Snat(address) => write!(f, "-j SNAT --to-source {address}"),
            Self::Masquerade => f.write_str("-j MASQUERADE"),
            Self::Return => f.write_str("-j RETURN"),
            Self::Mark(bit) => write!(f, "-j CONNMARK --set-xmark {bit}/{bit}"),
            Self::Unmark(bit) => write!(f, "-j CONNMARK --set-xmark 0x0/{bit}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: [&str; 16] = [
        "-j CONNMARK --set-xmark 0x1000/0x1000",
        "-j CONNMARK --set-xmark 0x0/0x1000",
        "-m connmark ! --mark 0x1000/0x1000 -j RETURN",
        "-m connmark --mark 0x1000/0x1000 -j ACCEPT",
        "-s 1.1.1.1/32 -d 192.168.0.2/32 -p tcp -m tcp --dport 80 -j DROP",
        "-s 3.3.3.3/32 -p tcp -j DROP",
        "-s 3.3.3.3/32 -d 2.2.2.2/32 -p tcp -m tcp --dport 1:65535 --tcp-flags FIN,SYN,RST,ACK SYN -j DNAT --to-destination 1.1.1.1:80",
        "-s 1.1.1.1/32 -d 192.168.0.2/32 -i eth1 -p tcp -m tcp --dport 80 -j DNAT --to-destination 3.3.3.3:80",
        "-s 10.0.0.0/8 -d 192.168.0.2/32 -p udp -m udp --dport 5000:5100 -j DNAT --to-destination 3.3.3.3",
        "-s 10.0.0.0/8 -d 192.168.0.2/32 -p udp -m udp --dport 34000:34099 -j DNAT --to-destination 3.3.3.3:44000-44099/34000",
        "-d 192.168.0.0/20 -j PF-ptc0a80",
        "-p tcp -m tcp --dport 4096:8191 -j PF-ptc0a80002-1",
        "-m conntrack --ctstate DNAT --ctproto 6 --ctorigdst 192.168.0.2/32 --ctorigdstport 80 -j SNAT --to-source 2.2.2.2",
        "-s 10.1.0.0/16 -m conntrack --ctstate DNAT --ctproto 17 --ctorigdst 192.168.0.2/32 --ctorigdstport 1:9 -j MASQUERADE",
        "-m conntrack --ctstate DNAT --ctproto 6 -j PF-ft",
        "-m conntrack --ctstate DNAT --ctproto 6 --ctorigdst 192.168.0.2/32 --ctorigdstport 80 -j ACCEPT",
    ];

    #[test]
    fn a_rule_reads_as_it_is_written() {
        for text in OURS {
            assert_eq!(text.parse::<Rule>().unwrap().text(Variant::Nft), text);
        }
    }

    #[test]
    fn what_iptables_prints_differently_means_the_same() {
        for (printed, written) in [
            ("-m conntrack --ctstate DNAT --ctproto 6 --ctorigdst 192.168.0.2 -j ACCEPT", "--ctorigdst 192.168.0.2/32"),
            ("-d 10.0.0.1/32 -p udp -m multiport --dports 53 -j DNAT --to-destination 3.3.3.3:53", "-m udp --dport 53"),
            ("-d 10.0.0.1/32 -p udp -m udp --dport 53 -c 7 420 -j DNAT --to-destination 3.3.3.3:53", "-m udp --dport 53 -j"),
        ] {
            let rule: Rule = printed.parse().unwrap();
            assert!(rule.text(Variant::Nft).contains(written));
            assert_eq!(rule.text(Variant::Nft).parse(), Ok(rule.clone()));
            assert_eq!(rule.text(Variant::Legacy).parse(), Ok(rule));
        }
    }

    #[test]
    fn what_ours_never_say_is_foreign() {
        for text in [
            "",
            "-j",
            "! -s 1.1.1.1/32 -j ACCEPT",
            "-s 1.1.1.1/32 -m comment --comment x -j ACCEPT",
            "-j DNAT --to-destination 3.3.3.3:80 --random",
            "-j DNAT --to-destination 3.3.3.3:80-90",
            "-j DNAT --to-destination 3.3.3.3-3.3.3.9:80",
            "-j DNAT --to-destination 3.3.3.3:0",
            "-j LOG",
            "-i eth+ -j ACCEPT",
            "-c 1 -j ACCEPT",
            "-m conntrack --ctstate ESTABLISHED -j ACCEPT",
            "--ctorigdst 1.1.1.1 -j ACCEPT",
            "-g PF-x",
            "-m connmark --mark 0x1000 -j ACCEPT",
            "-m connmark --mark 0x1000/0x3000 -j ACCEPT",
            "-m connmark --mark 0x3000/0x3000 -j ACCEPT",
            "-m connmark ! -j RETURN",
            "-j CONNMARK --set-xmark 0x1000/0xffffffff",
            "-j CONNMARK --set-xmark 0x3000/0x3000",
            "-j CONNMARK --save-mark --nfmask 0xffffffff --ctmask 0xffffffff",
            "-p tcp -m tcp --tcp-flags SYN SYN -j ACCEPT",
        ] {
            assert_eq!(text.parse::<Rule>(), Err(ForeignRule), "{text}");
        }
    }
}
