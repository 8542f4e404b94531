//! Reads a rule as iptables prints it.

use std::net::IpAddr;
use std::num::NonZeroU16;
use std::str::{FromStr, SplitAsciiWhitespace};

use ipnet::IpNet;

use super::{ForeignRule, MarkMatch, Matches, Original, Packets, Rule, SYN, Target};
use crate::model::{Connmark, Destination, Protocol, TargetPorts};

/// Reads what `iptables-save` prints after `-A CHAIN`. A rule in a form that the operator does not write is foreign.
impl FromStr for Rule {
    type Err = ForeignRule;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut words = text.split_ascii_whitespace();
        let mut matches = Matches::default();
        while let Some(word) = words.next() {
            match word {
                "-s" => matches.source = Some(network(&mut words)?),
                "-d" => matches.destination = Some(network(&mut words)?),
                "-i" => matches.interface = Some(value(&mut words)?),
                "-p" => matches.protocol = Some(protocol(&mut words)?),
                "-m" => match words.next() {
                    Some("tcp" | "udp" | "multiport") => {}
                    Some("conntrack") => matches.original = Some(original_start(&mut words)?),
                    Some("connmark") => matches.mark = Some(mark_match(&mut words)?),
                    Some(_) | None => return Err(ForeignRule),
                },
                "--dport" | "--dports" => matches.ports = Some(value(&mut words)?),
                "--tcp-flags" if SYN.iter().all(|part| words.next() == Some(*part)) => matches.packets = Packets::Opening,
                "--ctorigdst" => original(&mut matches)?.destination = Some(network(&mut words)?),
                "--ctorigdstport" => original(&mut matches)?.ports = Some(value(&mut words)?),
                // The counter, which is not part of the rule.
                "-c" => {
                    value::<u64>(&mut words)?;
                    value::<u64>(&mut words)?;
                }
                "-j" => return Ok(Self { matches, target: target(&mut words)? }),
                _ => return Err(ForeignRule),
            }
        }
        Err(ForeignRule)
    }
}

fn value<T: FromStr>(words: &mut SplitAsciiWhitespace<'_>) -> Result<T, ForeignRule> {
    words.next().and_then(|word| word.parse().ok()).ok_or(ForeignRule)
}

/// A network, or a single address, which iptables prints without its prefix length.
fn network(words: &mut SplitAsciiWhitespace<'_>) -> Result<IpNet, ForeignRule> {
    let word = words.next().ok_or(ForeignRule)?;
    word.parse().or_else(|_| word.parse::<IpAddr>().map(IpNet::from)).map_err(|_| ForeignRule)
}

fn protocol(words: &mut SplitAsciiWhitespace<'_>) -> Result<Protocol, ForeignRule> {
    let word = words.next().ok_or(ForeignRule)?;
    Protocol::ALL
        .into_iter()
        .find(|protocol| protocol.keyword() == word || word.parse() == Ok(protocol.number()))
        .ok_or(ForeignRule)
}

/// `--ctstate DNAT --ctproto P`, the beginning of every conntrack match of the operator.
fn original_start(words: &mut SplitAsciiWhitespace<'_>) -> Result<Original, ForeignRule> {
    let begins = words.next() == Some("--ctstate") && words.next() == Some("DNAT") && words.next() == Some("--ctproto");
    if begins { Ok(Original { protocol: protocol(words)?, destination: None, ports: None }) } else { Err(ForeignRule) }
}

/// `--mark B/B` or `! --mark B/B`, with one bit `B`.
fn mark_match(words: &mut SplitAsciiWhitespace<'_>) -> Result<MarkMatch, ForeignRule> {
    match words.next() {
        Some("--mark") => bits(words).map(MarkMatch::Set),
        Some("!") if words.next() == Some("--mark") => bits(words).map(MarkMatch::Unset),
        _ => Err(ForeignRule),
    }
}

/// A value and a mask that are the same bit.
fn bits(words: &mut SplitAsciiWhitespace<'_>) -> Result<Connmark, ForeignRule> {
    let (value, mask) = words.next().and_then(|word| word.split_once('/')).ok_or(ForeignRule)?;
    if value == mask { mask.parse().map_err(|_| ForeignRule) } else { Err(ForeignRule) }
}

/// `--set-xmark VALUE/MASK`, which sets or removes one bit.
fn xmark(words: &mut SplitAsciiWhitespace<'_>) -> Result<Target, ForeignRule> {
    let (value, mask) = option(words, "--set-xmark")?.split_once('/').ok_or(ForeignRule)?;
    let bit = mask.parse().map_err(|_| ForeignRule)?;
    match value {
        "0x0" => Ok(Target::Unmark(bit)),
        value if value == mask => Ok(Target::Mark(bit)),
        _ => Err(ForeignRule),
    }
}

fn original(matches: &mut Matches) -> Result<&mut Original, ForeignRule> {
    matches.original.as_mut().ok_or(ForeignRule)
}

fn target(words: &mut SplitAsciiWhitespace<'_>) -> Result<Target, ForeignRule> {
    let target = match words.next().ok_or(ForeignRule)? {
        "ACCEPT" => Target::Accept,
        "DROP" => Target::Drop,
        "MASQUERADE" => Target::Masquerade,
        "RETURN" => Target::Return,
        "CONNMARK" => xmark(words)?,
        "SNAT" => Target::Snat(option(words, "--to-source")?.parse().map_err(|_| ForeignRule)?),
        "DNAT" => dnat(option(words, "--to-destination")?)?,
        chain => Target::Jump(chain.parse().map_err(|_| ForeignRule)?),
    };
    if words.next().is_some() { Err(ForeignRule) } else { Ok(target) }
}

fn option<'a>(words: &mut SplitAsciiWhitespace<'a>, name: &str) -> Result<&'a str, ForeignRule> {
    if words.next() == Some(name) { words.next().ok_or(ForeignRule) } else { Err(ForeignRule) }
}

fn dnat(text: &str) -> Result<Target, ForeignRule> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(Target::Dnat(Destination { address, ports: TargetPorts::Same }));
    }
    let (address, ports) = text.rsplit_once(':').ok_or(ForeignRule)?;
    let one = ports.parse::<NonZeroU16>().map(|port| TargetPorts::One(port.get()));
    let ports = one.or_else(|_| ports.parse().map(TargetPorts::Shifted)).map_err(|_| ForeignRule)?;
    Ok(Target::Dnat(Destination { address: host(address)?, ports }))
}

/// An address before a port. An IPv6 address is in brackets.
fn host(text: &str) -> Result<IpAddr, ForeignRule> {
    let bracketed = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    match bracketed {
        Some(inner) => inner.parse().map(IpAddr::V6),
        None => text.parse().map(IpAddr::V4),
    }
    .map_err(|_| ForeignRule)
}
