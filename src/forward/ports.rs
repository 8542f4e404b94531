//! Parses port lists: every port is valid, no name occurs twice, no port occurs twice for one protocol.

use std::fmt;
use std::num::NonZeroU16;

use super::refusal::Found;
use super::{PortEntry, Refusal, RefusalReason};
use crate::api::{self, quoted};
use crate::model::{InvalidShift, PortRange, Protocol, Shift, TargetPorts};

/// The maximum number of entries of a list.
const MOST: usize = 64;

/// Parses the list of `reverse`, at `path`. It must not be empty.
///
/// `None` after mistakes, which are added to `found`.
pub(super) fn reverse(found: &mut Found, path: &str, list: &[api::PortEntry]) -> Option<Vec<PortEntry>> {
    if list.is_empty() {
        let what = "is empty; write at least one entry with port, or leave reverse out";
        found.push(Refusal::new(RefusalReason::Required, path, what));
        return None;
    }
    ports(found, path, list)
}

/// Parses the list at `path`. It may be empty.
///
/// `None` after mistakes, which are added to `found`: the list is too long, or an entry is wrong by itself or together with
/// another.
pub(super) fn ports(found: &mut Found, path: &str, list: &[api::PortEntry]) -> Option<Vec<PortEntry>> {
    if list.len() > MOST {
        let what = format_args!("has {} entries, {MOST} are allowed; use ranges (endPort), or a second PortForward", list.len());
        found.push(Refusal::new(RefusalReason::TooMany, path, what));
        return None;
    }
    let mut entries: Vec<PortEntry> = Vec::with_capacity(list.len());
    let mut valid = true;
    for (index, raw) in list.iter().enumerate() {
        let path = format!("{path}[{index}]");
        let Some(entry) = entry(found, &path, raw) else {
            valid = false;
            continue;
        };
        // One message is enough: an entry that conflicts with one entry often conflicts with the next one too.
        valid &= found.take(entries.iter().try_for_each(|earlier| refuse_beside(&path, &entry, earlier))).is_some();
        entries.push(entry);
    }
    valid.then_some(entries)
}

/// Parses one entry. `None` after mistakes, which are added to `found`.
fn entry(found: &mut Found, path: &str, raw: &api::PortEntry) -> Option<PortEntry> {
    let port = |field: &str, value: api::Port| port(&format!("{path}.{field}"), value);
    let name = found.take(name(&format!("{path}.name"), &raw.name));
    let first = found.take(port("port", raw.port));
    let last = found.take(raw.end_port.map(|last| port("endPort", last)).transpose());
    let target_port = found.take(raw.target_port.map(|target| port("targetPort", target)).transpose());
    let target_end = found.take(raw.target_end_port.map(|target| port("targetEndPort", target)).transpose());
    let (first, last, target_port, target_end) = (first?, last?, target_port?, target_end?);
    let last = last.unwrap_or(first);
    let ports = found.take(port_range(path, first, last))?;
    let protocol = protocol(raw.protocol);
    let asked = match raw.end_port {
        None => Asked::Port(ports, target_port, target_end),
        Some(_) => Asked::Range(ports, target_port, target_end),
    };
    let target = found.take(target(path, &asked))?;
    Some(PortEntry { name: name?, protocol, ports, target })
}

/// Parses the port at `path`.
///
/// # Errors
/// When it is not in 1 to 65535.
pub(crate) fn port(path: &str, port: api::Port) -> Result<NonZeroU16, Refusal> {
    u16::try_from(port.0).ok().and_then(NonZeroU16::new).ok_or_else(|| {
        let what = format_args!("{} is not a port; write a number from 1 to 65535", port.0);
        Refusal::new(RefusalReason::InvalidPort, path, what)
    })
}

/// The range of the fields `port` and `endPort` below `path`.
///
/// # Errors
/// When `endPort` is below `port`.
pub(crate) fn port_range(path: &str, first: NonZeroU16, last: NonZeroU16) -> Result<PortRange, Refusal> {
    PortRange::new(first, last).map_err(|_| {
        let what = format_args!("{last} is below port, {first}; write the lower port in port and the higher one in endPort");
        Refusal::new(RefusalReason::InvalidPortRange, &format!("{path}.endPort"), what)
    })
}

/// The protocol in the words of the model.
pub(crate) const fn protocol(raw: api::Protocol) -> Protocol {
    match raw {
        api::Protocol::Tcp => Protocol::Tcp,
        api::Protocol::Udp => Protocol::Udp,
    }
}

/// The ports of an entry, and its first and last target port.
enum Asked {
    /// One port, without `endPort`.
    Port(PortRange, Option<NonZeroU16>, Option<NonZeroU16>),
    /// A range, with `endPort`.
    Range(PortRange, Option<NonZeroU16>, Option<NonZeroU16>),
}

fn target(path: &str, asked: &Asked) -> Result<TargetPorts, Refusal> {
    match *asked {
        Asked::Port(ports, target, None) => Ok(TargetPorts::One(target.map_or(ports.first(), NonZeroU16::get))),
        Asked::Range(ports, target, None) if ports.is_single() => {
            Ok(TargetPorts::One(target.map_or(ports.first(), NonZeroU16::get)))
        }
        Asked::Range(_, None, None) => Ok(TargetPorts::Same),
        Asked::Range(ports, Some(first), Some(last)) => range(path, ports, first, last),
        Asked::Port(_, _, Some(last)) => {
            let what = format_args!(
                "{last} ends a range of target ports, but this entry is one port; write endPort too, or remove targetEndPort"
            );
            Err(Refusal::new(RefusalReason::InvalidPortRange, &format!("{path}.targetEndPort"), what))
        }
        Asked::Range(_, None, Some(last)) => {
            let what = format_args!(
                "is missing: targetEndPort {last} ends a range that begins with targetPort; write targetPort too, or remove targetEndPort"
            );
            Err(Refusal::new(RefusalReason::Required, &format!("{path}.targetPort"), what))
        }
        Asked::Range(ports, Some(first), None) => {
            let what = format_args!("is missing: a range with targetPort needs it; {}", forms(ports, first));
            Err(Refusal::new(RefusalReason::Required, &format!("{path}.targetEndPort"), what))
        }
    }
}

/// The target of the range `ports` that goes to the ports `first` to `last`.
fn range(path: &str, ports: PortRange, first: NonZeroU16, last: NonZeroU16) -> Result<TargetPorts, Refusal> {
    let refuse = |what: fmt::Arguments<'_>| Refusal::new(RefusalReason::InvalidPortRange, &format!("{path}.targetEndPort"), what);
    let target =
        PortRange::new(first, last).map_err(|_| refuse(format_args!("{last} is below targetPort; {}", forms(ports, first))))?;
    match Shift::new(ports, target) {
        _ if target.is_single() => Ok(TargetPorts::One(first.get())),
        Ok(shift) if shift.from() == shift.to() => Ok(TargetPorts::Same),
        Ok(shift) => Ok(TargetPorts::Shifted(shift)),
        Err(InvalidShift) => Err(refuse(format_args!(
            "the target range {target} has {} ports, but the range {ports} has {}; {}",
            target.count(),
            ports.count(),
            forms(ports, first)
        ))),
    }
}

/// The values that are possible for `targetEndPort`, for the range `ports` with the `targetPort` `first`.
fn forms(ports: PortRange, first: NonZeroU16) -> String {
    let every = format!("targetEndPort: {first} (all of them go to {first})");
    match first.get().checked_add(ports.last() - ports.first()) {
        Some(last) => {
            format!("write targetEndPort: {last} ({} goes to {first}, {} to {last}), or {every}", ports.first(), ports.last())
        }
        None => format!("write {every}; a range of equal width would end above 65535"),
    }
}

/// Checks an RFC 1123 label.
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
        let what = format_args!(
            "the name {} is used twice; give each entry its own name (only one entry may have none; its name is then default)",
            quoted(&entry.name)
        );
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
