//! Parses addresses and networks: canonical, unicast, IPv4.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net};

use super::{Refusal, RefusalReason};

/// The networks in which no host can have an address. The order matters where one contains another.
const NOT_UNICAST: [(Ipv4Addr, u8, RefusalReason, &str); 7] = [
    (Ipv4Addr::UNSPECIFIED, 8, RefusalReason::UnspecifiedAddress, "0.0.0.0/8 (\"this network\", RFC 791)"),
    (Ipv4Addr::new(127, 0, 0, 0), 8, RefusalReason::LoopbackAddress, "127.0.0.0/8 (loopback, RFC 1122)"),
    (Ipv4Addr::new(169, 254, 169, 254), 32, RefusalReason::MetadataAddress, "169.254.169.254 (the metadata of a cloud)"),
    (Ipv4Addr::new(169, 254, 0, 0), 16, RefusalReason::LinkLocalAddress, "169.254.0.0/16 (link-local, RFC 3927)"),
    (Ipv4Addr::new(224, 0, 0, 0), 4, RefusalReason::MulticastAddress, "224.0.0.0/4 (multicast, RFC 5771)"),
    (Ipv4Addr::BROADCAST, 32, RefusalReason::BroadcastAddress, "255.255.255.255 (broadcast, RFC 919)"),
    (Ipv4Addr::new(240, 0, 0, 0), 4, RefusalReason::ReservedAddress, "240.0.0.0/4 (reserved, RFC 1112)"),
];

/// Parses the address of one host.
///
/// # Errors
/// When `text` is not one canonical unicast IPv4 address.
pub(crate) fn address(path: &str, text: &str) -> Result<IpAddr, Refusal> {
    if text.contains('/') {
        let what = "is a network or has a prefix; write the address alone, such as 192.168.0.2";
        return Err(Refusal::of(RefusalReason::PrefixNotAllowed, path, text, what));
    }
    let address = ipv4(path, text, text)?;
    refuse_unless_unicast(path, text, Ipv4Net::from(address))?;
    Ok(address.into())
}

/// Parses an entry of `client.addresses`: an address, which becomes a /32, or a network.
///
/// # Errors
/// When `text` is neither a canonical unicast IPv4 address nor a canonical network of unicast addresses that is shorter than
/// /32 and has host bits zero.
pub(super) fn client(path: &str, text: &str) -> Result<IpNet, Refusal> {
    let Some(network) = network(path, text)? else { return address(path, text).map(IpNet::from) };
    if network.prefix_len() == 0 {
        let what = "contains every address; a forward must name its clients, because only these may use it: write their networks";
        return Err(Refusal::of(RefusalReason::UnspecifiedAddress, path, text, what));
    }
    refuse_unless_canonical(path, text, network)?;
    refuse_unless_unicast(path, text, network)?;
    Ok(network.into())
}

/// Parses a network or an address that bounds what others may name. It may contain addresses that no host can have, and
/// 0.0.0.0/0 means every address.
///
/// # Errors
/// When `text` is neither a canonical unicast IPv4 address nor a canonical network that is shorter than /32 and has host bits
/// zero, or no address in the network is one that a host can have.
pub(crate) fn bound(path: &str, text: &str) -> Result<IpNet, Refusal> {
    let Some(network) = network(path, text)? else { return address(path, text).map(IpNet::from) };
    refuse_unless_canonical(path, text, network)?;
    refuse_within_non_unicast(path, text, network)?;
    Ok(network.into())
}

/// Parses a network. `None` if `text` has no prefix.
fn network(path: &str, text: &str) -> Result<Option<Ipv4Net>, Refusal> {
    let Some((before, prefix)) = text.split_once('/') else { return Ok(None) };
    let address = ipv4(path, text, before)?;
    let plain = prefix.len() <= 2 && !prefix.is_empty() && prefix.bytes().all(|byte| byte.is_ascii_digit());
    let length = prefix.parse().ok().filter(|_| plain && (prefix == "0" || !prefix.starts_with('0')));
    let network = length.and_then(|length| Ipv4Net::new(address, length).ok());
    network.map(Some).ok_or_else(|| {
        let what = "has no valid prefix length; write a number from 1 to 31 after the '/', such as 192.0.2.0/24";
        Refusal::of(RefusalReason::InvalidCIDR, path, text, what)
    })
}

fn refuse_unless_canonical(path: &str, text: &str, network: Ipv4Net) -> Result<(), Refusal> {
    let address = network.addr();
    if network.prefix_len() == 32 {
        return Err(Refusal::of(RefusalReason::PrefixNotAllowed, path, text, format_args!("is one address; write {address}")));
    }
    if network.trunc() != network {
        let what = format_args!("has host bits that are not zero; write {} or {address}", network.trunc());
        return Err(Refusal::of(RefusalReason::HostBitsSet, path, text, what));
    }
    Ok(())
}

/// Parses `text`, which is the whole `value` of the field or the part before its prefix.
fn ipv4(path: &str, value: &str, text: &str) -> Result<Ipv4Addr, Refusal> {
    if value.is_empty() {
        return Err(Refusal::of(RefusalReason::Required, path, value, "is empty; write an IPv4 address, such as 192.168.0.2"));
    }
    if let Ok(address) = text.parse::<Ipv4Addr>() {
        return Ok(address);
    }
    if let Ok(address) = text.split('%').next().unwrap_or(text).parse::<Ipv6Addr>() {
        let Some(plain) = address.to_ipv4_mapped() else {
            let what = "is an IPv6 address, which is not supported yet; write an IPv4 address";
            return Err(Refusal::of(RefusalReason::UnsupportedFamily, path, value, what));
        };
        let what = format_args!("is an IPv4 address in IPv6 notation; write {plain}");
        return Err(Refusal::of(RefusalReason::NonCanonicalAddress, path, value, what));
    }
    let (reason, what) = if has_leading_zeros(text) {
        (RefusalReason::NonCanonicalAddress, "has leading zeros, which some programs read as octal; write it without them")
    } else {
        (RefusalReason::InvalidAddress, "is not an IPv4 address; write four numbers, such as 192.168.0.2, and nothing else")
    };
    Err(Refusal::of(reason, path, value, what))
}

/// Whether `text` is an IPv4 address except for leading zeros.
fn has_leading_zeros(text: &str) -> bool {
    let number = |part: &str| !part.is_empty() && part.len() < 16 && part.bytes().all(|byte| byte.is_ascii_digit());
    text.split('.').count() == 4
        && text.split('.').all(number)
        && text.split('.').any(|part| part.len() > 1 && part.starts_with('0'))
}

fn refuse_within_non_unicast(path: &str, text: &str, network: Ipv4Net) -> Result<(), Refusal> {
    let within = NOT_UNICAST.iter().find(|(start, length, ..)| Ipv4Net::new_assert(*start, *length).contains(&network));
    let Some((_, _, reason, name)) = within else { return Ok(()) };
    let what = format_args!("lies in {name}, where no host has an address; write the unicast address of the host");
    Err(Refusal::of(*reason, path, text, what))
}

fn refuse_unless_unicast(path: &str, text: &str, network: Ipv4Net) -> Result<(), Refusal> {
    refuse_within_non_unicast(path, text, network)?;
    for (start, length, reason, name) in NOT_UNICAST {
        let block = Ipv4Net::new_assert(start, length);
        if length < 32 && network.contains(&block) {
            let what = format_args!("contains {name}; write the networks of the clients and no more");
            return Err(Refusal::of(reason, path, text, what));
        }
    }
    Ok(())
}
