//! Reads a `PortForwardGrant` into a [`Grant`].

use std::collections::BTreeSet;

use ipnet::IpNet;

use super::{Grant, GrantedGateway, GrantedPorts, Limits, Sockets};
use crate::api::grant as wire;
use crate::api::{self, DecodeErrors, PortForwardGrant, quoted};
use crate::forward::{self, Found, Refusal, RefusalReason, Refusals, address, ports, selector};
use crate::model::PortRange;

/// The most entries of each list.
const MOST: usize = 64;

/// The greatest priority. The least is the same number below zero.
const HIGHEST: i32 = 1000;

impl Grant {
    /// Checks `object` and gives it types. Relies on no schema: the object may come from anywhere.
    ///
    /// # Errors
    /// All mistakes, each with its place and what to write instead.
    ///
    /// # Panics
    /// Never: a field without a value adds its mistake.
    pub fn parse(object: &PortForwardGrant) -> Result<Self, Refusals> {
        let mut found = Found::default();
        let grant = fields(object, &mut found);
        found.finish()?;
        Ok(grant.expect("every field has a value where no mistake was found"))
    }
}

impl From<DecodeErrors<PortForwardGrant>> for Refusals {
    fn from(errors: DecodeErrors<PortForwardGrant>) -> Self {
        Self::of_document(&errors, |object| {
            let mut found = Found::default();
            fields(object, &mut found);
            found.into_refusals()
        })
    }
}

/// Reads all fields. `None` after mistakes, which are added to `found`.
fn fields(object: &PortForwardGrant, found: &mut Found) -> Option<Grant> {
    let spec = &object.spec;
    let name = found.take(name(object));
    found.take(forward::description("spec.description", spec.description.as_deref()));
    let namespaces = namespaces(found, "spec.namespaces", &spec.namespaces);
    let node_selector = selector::selector(found, "spec.nodeSelector", spec.node_selector.as_ref());
    let listen = sockets(found, "spec.listen", &spec.listen, "the addresses and ports on which a forward may listen");
    let clients = networks(found, "spec.clients", &spec.clients, Least::One);
    let upstreams = sockets(found, "spec.upstreams", &spec.upstreams, "the addresses and ports that a forward may lead to");
    let external = networks(found, "spec.external", &spec.external, Least::None);
    let gateways = gateways(found, "spec.gateways", &spec.gateways);
    let reverse = reverse(found, "spec.reverse", &spec.reverse);
    if !spec.reverse.is_empty() && spec.external.is_empty() {
        let what = "listens on the external address of a forward, and this grant permits none; \
                    write the permitted addresses in spec.external, or leave reverse out";
        found.push(Refusal::new(RefusalReason::ReverseNeedsExternalAddress, "spec.reverse", what));
    }
    let limits = limits(found, "spec.limits", spec.limits.as_ref());
    let priority = found.take(priority("spec.priority", spec.priority));
    Some(Grant {
        name: name?,
        uid: object.metadata.uid.clone(),
        generation: object.metadata.generation.unwrap_or_default(),
        namespaces: namespaces?,
        node_selector: node_selector?,
        listen: listen?,
        clients: clients?,
        upstreams: upstreams?,
        external: external?,
        gateways: gateways?,
        reverse: reverse?,
        one_leg: spec.one_leg,
        limits: limits?,
        priority: priority?,
    })
}

fn name(object: &PortForwardGrant) -> Result<String, Refusal> {
    let name = object.metadata.name.clone().unwrap_or_default();
    // A grant is in no namespace.
    api::check_identity(api::DEFAULT_NAMESPACE, &name).map_err(|error| Refusal::from(&error))?;
    Ok(name)
}

/// The least number of entries of a list.
#[derive(Clone, Copy)]
enum Least {
    /// The list may be empty.
    None,
    /// The list needs an entry.
    One,
}

/// Refuses a list that is too short or too long.
fn sized<T>(path: &str, list: &[T], least: Least, wanted: &str) -> Result<(), Refusal> {
    match least {
        Least::One if list.is_empty() => {
            Err(Refusal::new(RefusalReason::Required, path, format_args!("is empty; write {wanted}")))
        }
        Least::None | Least::One if list.len() > MOST => {
            let what = format_args!("has {} entries and takes {MOST}; write fewer, or a second PortForwardGrant", list.len());
            Err(Refusal::new(RefusalReason::TooMany, path, what))
        }
        Least::None | Least::One => Ok(()),
    }
}

fn namespaces(found: &mut Found, path: &str, names: &[String]) -> Option<BTreeSet<String>> {
    found.take(sized(path, names, Least::One, "the namespaces whose forwards may use the grant"))?;
    let mut seen = BTreeSet::new();
    let mut valid = true;
    for (index, name) in names.iter().enumerate() {
        let path = format!("{path}[{index}]");
        if !api::is_label(name) {
            let what = "is not the name of a namespace; write lower-case letters, digits and '-', such as leased-lines, \
                        63 characters at most and no pattern";
            found.push(Refusal::of(RefusalReason::InvalidName, &path, name, what));
            valid = false;
        } else if !seen.insert(name.clone()) {
            found.push(Refusal::of(RefusalReason::DuplicateName, &path, name, "is there already; remove one of the two"));
            valid = false;
        }
    }
    valid.then_some(seen)
}

/// Addresses and networks, merged and sorted.
fn networks(found: &mut Found, path: &str, texts: &[String], least: Least) -> Option<Vec<IpNet>> {
    found.take(sized(path, texts, least, "addresses, such as 192.0.2.7, or networks, such as 192.0.2.0/24"))?;
    forward::networks(found, path, texts, address::bound, RefusalReason::DuplicateNetwork)
}

fn sockets(found: &mut Found, path: &str, list: &[wire::Sockets], wanted: &str) -> Option<Vec<Sockets>> {
    found.take(sized(path, list, Least::One, wanted))?;
    let mut entry = |(index, raw): (usize, &wire::Sockets)| {
        let path = format!("{path}[{index}]");
        let cidrs = networks(found, &format!("{path}.cidrs"), &raw.cidrs, Least::One);
        let ports = port_range(found, &path, raw.port, raw.end_port);
        Some(Sockets { cidrs: cidrs?, protocol: raw.protocol.map(ports::protocol), ports: ports? })
    };
    // Each entry is read, also after a mistake in another one.
    let entries: Vec<_> = list.iter().enumerate().map(&mut entry).collect();
    entries.into_iter().collect()
}

fn gateways(found: &mut Found, path: &str, list: &[wire::Gateway]) -> Option<Vec<GrantedGateway>> {
    found.take(sized(path, list, Least::None, ""))?;
    let mut seen = BTreeSet::new();
    let mut entry = |(index, raw): (usize, &wire::Gateway)| {
        let path = format!("{path}[{index}]");
        let mut address = found.take(address::address(&format!("{path}.address"), &raw.address));
        if address.is_some_and(|address| !seen.insert(address)) {
            let what = format_args!("the gateway {} is there already; write all its routes in one entry", quoted(&raw.address));
            found.push(Refusal::new(RefusalReason::DuplicateNetwork, &format!("{path}.address"), what));
            address = None;
        }
        let routes = networks(found, &format!("{path}.routes"), &raw.routes, Least::One);
        Some(GrantedGateway { address: address?, routes: routes? })
    };
    let entries: Vec<_> = list.iter().enumerate().map(&mut entry).collect();
    let mut gateways: Vec<GrantedGateway> = entries.into_iter().collect::<Option<_>>()?;
    gateways.sort_by_key(|gateway| gateway.address);
    Some(gateways)
}

fn reverse(found: &mut Found, path: &str, list: &[wire::Ports]) -> Option<Vec<GrantedPorts>> {
    found.take(sized(path, list, Least::None, ""))?;
    let mut entry = |(index, raw): (usize, &wire::Ports)| {
        let ports = port_range(found, &format!("{path}[{index}]"), raw.port, raw.end_port)?;
        Some(GrantedPorts { protocol: raw.protocol.map(ports::protocol), ports })
    };
    let entries: Vec<_> = list.iter().enumerate().map(&mut entry).collect();
    entries.into_iter().collect()
}

/// The ports of the fields `port` and `endPort` below `path`: all ports without both.
fn port_range(found: &mut Found, path: &str, port: Option<api::Port>, end: Option<api::Port>) -> Option<PortRange> {
    let first = found.take(port.map(|port| ports::port(&format!("{path}.port"), port)).transpose());
    let last = found.take(end.map(|end| ports::port(&format!("{path}.endPort"), end)).transpose());
    match (first?, last?) {
        (None, None) => Some(PortRange::ALL),
        (Some(first), None) => Some(PortRange::single(first)),
        (Some(first), Some(last)) => found.take(ports::port_range(path, first, last)),
        (None, Some(last)) => {
            let what = format_args!(
                "is missing: endPort {last} ends a range of ports that begins with port; write port too, or remove endPort for every port"
            );
            found.push(Refusal::new(RefusalReason::Required, &format!("{path}.port"), what));
            None
        }
    }
}

fn limits(found: &mut Found, path: &str, raw: Option<&wire::Limits>) -> Option<Limits> {
    let mut limit = |field: &str, number: Option<i64>| {
        found.take(
            number
                .map(|number| {
                    let valid = i32::try_from(number).ok().and_then(|number| u32::try_from(number).ok());
                    let what = format_args!("{number} is not a limit; write a number from 0 to {}, or leave it out", i32::MAX);
                    valid.ok_or_else(|| Refusal::new(RefusalReason::OutOfRange, &format!("{path}.{field}"), what))
                })
                .transpose(),
        )
    };
    let of = |field: fn(&wire::Limits) -> Option<i64>| raw.and_then(field);
    let forwards = limit("forwards", of(|limits| limits.forwards));
    let translations = limit("translations", of(|limits| limits.translations));
    let routes = limit("routes", of(|limits| limits.routes));
    Some(Limits { forwards: forwards?, translations: translations?, routes: routes? })
}

fn priority(path: &str, number: i64) -> Result<i32, Refusal> {
    i32::try_from(number).ok().filter(|number| (-HIGHEST..=HIGHEST).contains(number)).ok_or_else(|| {
        let what = format_args!("{number} is not a priority; write a number from -{HIGHEST} to {HIGHEST}");
        Refusal::new(RefusalReason::OutOfRange, path, what)
    })
}
