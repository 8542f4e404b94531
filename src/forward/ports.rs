//! Reads port lists: every port valid, no name twice, no port twice for one protocol.

use std::num::NonZeroU16;

use super::refusal::quote;
use super::{PortEntry, Refusal, RefusalReason};
use crate::api;
use crate::model::{PortRange, Protocol};

/// The most entries of a list.
const MOST: usize = 64;

/// Reads the list at `path`.
///
/// # Errors
/// When it is empty or too long, or an entry is wrong by itself or beside another.
pub(super) fn ports(path: &str, list: &[api::PortEntry]) -> Result<Vec<PortEntry>, Refusal> {
    if list.is_empty() {
        return Err(Refusal::new(RefusalReason::Required, path, "is empty; write at least one entry with name and port"));
    }
    if list.len() > MOST {
        let what = format_args!("has {} entries and takes {MOST}; use ranges (endPort), or a second PortForward", list.len());
        return Err(Refusal::new(RefusalReason::TooMany, path, what));
    }
    let mut entries: Vec<PortEntry> = Vec::with_capacity(list.len());
    for (index, raw) in list.iter().enumerate() {
        let entry = entry(&format!("{path}[{index}]"), raw)?;
        for earlier in &entries {
            refuse_beside(&format!("{path}[{index}]"), &entry, earlier)?;
        }
        entries.push(entry);
    }
    Ok(entries)
}

fn entry(path: &str, raw: &api::PortEntry) -> Result<PortEntry, Refusal> {
    let port = |field: &str, port: api::Port| {
        u16::try_from(port.0).ok().and_then(NonZeroU16::new).ok_or_else(|| {
            let what = format_args!("{} is not a port; write a number from 1 to 65535", port.0);
            Refusal::new(RefusalReason::InvalidPort, &format!("{path}.{field}"), what)
        })
    };
    let name = name(&format!("{path}.name"), &raw.name)?;
    let first = port("port", raw.port)?;
    let last = raw.end_port.map_or(Ok(first), |last| port("endPort", last))?;
    let target_port = raw.target_port.map(|target| port("targetPort", target)).transpose()?.map(NonZeroU16::get);
    let ports = PortRange::new(first, last).map_err(|_| {
        let what = format_args!("{last} is below port, {first}; write the lower port in port and the higher one in endPort");
        Refusal::new(RefusalReason::InvalidPortRange, &format!("{path}.endPort"), what)
    })?;
    let protocol = match raw.protocol {
        api::Protocol::Tcp => Protocol::Tcp,
        api::Protocol::Udp => Protocol::Udp,
    };
    Ok(PortEntry { name, protocol, ports, target_port })
}

/// An RFC 1123 label.
fn name(path: &str, text: &str) -> Result<String, Refusal> {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let inner = |byte: u8| plain(byte) || byte == b'-';
    let ends = text.bytes().next().is_some_and(plain) && text.bytes().last().is_some_and(plain);
    if ends && text.len() <= 63 && text.bytes().all(inner) {
        return Ok(text.to_owned());
    }
    let what = "is not a name; write lower-case letters, digits and '-', such as http, 63 characters at most";
    Err(Refusal::of(RefusalReason::InvalidName, path, text, what))
}

fn refuse_beside(path: &str, entry: &PortEntry, earlier: &PortEntry) -> Result<(), Refusal> {
    if entry.name == earlier.name {
        let what = format_args!("the name {} is there already; give each entry a name of its own", quote(&entry.name));
        return Err(Refusal::new(RefusalReason::DuplicateName, &format!("{path}.name"), what));
    }
    if entry.protocol != earlier.protocol || !entry.ports.overlaps(earlier.ports) {
        return Ok(());
    }
    let (reason, what) = if entry.ports == earlier.ports {
        (RefusalReason::DuplicatePort, "has the same ports as")
    } else {
        (RefusalReason::OverlappingPorts, "shares ports with")
    };
    let what =
        format_args!("{} {} {what} {} ({}); write each port once", entry.protocol, entry.ports, earlier.name, earlier.ports);
    Err(Refusal::new(reason, path, what))
}
