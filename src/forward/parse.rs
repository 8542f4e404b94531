//! Reads a `PortForward` into a [`Forward`]. Each field by itself; `consistency` looks at them together.

use std::net::IpAddr;

use ipnet::IpNet;

use super::refusal::{Found, Refusals};
use super::{Forward, ForwardKey, Leg, Lifecycle, Refusal, RefusalReason, address, consistency, networks, ports, selector};
use crate::api::{self, PortForward};
use crate::model::InterfaceName;

/// The most client entries of one object.
const MOST_CLIENTS: usize = 64;

/// The most characters of a description.
const MOST_DESCRIBED: usize = 256;

impl Forward {
    /// Checks `object` and gives it types. Relies on no schema: the object may come from anywhere.
    ///
    /// # Errors
    /// All mistakes, each with its place and what to write instead. Fields are compared with each other only when each is
    /// valid by itself.
    ///
    /// # Panics
    /// Never: a field without a value adds its mistake.
    pub fn parse(object: &PortForward) -> Result<Self, Refusals> {
        let spec = &object.spec;
        let mut found = Found::default();
        let fields = fields(object, &mut found);
        found.finish()?;
        let forward = fields.expect("every field has a value where no mistake was found");
        let mut found = Found::default();
        consistency::check(&mut found, spec, &forward);
        found.finish()?;
        Ok(forward)
    }
}

/// The mistakes in the values of single fields. Fields are not compared with each other.
pub(super) fn values(object: &PortForward) -> Vec<Refusal> {
    let mut found = Found::default();
    fields(object, &mut found);
    found.into_refusals()
}

/// Reads each field by itself. `None` after mistakes, which are added to `found`.
fn fields(object: &PortForward, found: &mut Found) -> Option<Forward> {
    let spec = &object.spec;
    let external = spec.external.as_ref();
    let external_addresses = external.map_or(&[][..], |leg| &leg.addresses);
    let key = found.take(key(object));
    let node_selector = selector::selector(found, "spec.nodeSelector", spec.node_selector.as_ref());
    let clients = clients(found, "spec.client.addresses", &spec.client.addresses);
    let internal = found.take(one("spec.internal.addresses", &spec.internal.addresses));
    let internal_interface = found.take(interface("spec.internal.interface", spec.internal.interface.as_deref()));
    let gateway = found.take(at_most_one("spec.internal.gateways", &spec.internal.gateways));
    let external_address = found.take(at_most_one("spec.external.addresses", external_addresses));
    let external_interface = found.take(interface("spec.external.interface", external.and_then(|leg| leg.interface.as_deref())));
    let upstream = found.take(target("spec.upstream.targets", &spec.upstream.targets));
    let ports = ports::ports(found, "spec.ports", &spec.ports);
    let reverse = match &spec.reverse {
        Some(reverse) => ports::reverse(found, "spec.reverse.ports", &reverse.ports),
        None => Some(Vec::new()),
    };
    found.take(description("spec.description", spec.description.as_deref()));
    Some(Forward {
        key: key?,
        uid: object.metadata.uid.clone(),
        generation: object.metadata.generation.unwrap_or_default(),
        created: object.metadata.creation_timestamp.as_ref().map(|time| time.0),
        lifecycle: object.metadata.deletion_timestamp.as_ref().map_or(Lifecycle::Present, |_| Lifecycle::Deleting),
        mode: spec.mode,
        node_selector: node_selector?,
        clients: clients?,
        internal: Leg { address: internal?, interface: internal_interface? },
        gateway: gateway?,
        external: external_address?,
        external_interface: external_interface?,
        upstream: upstream?,
        ports: ports?,
        reverse: reverse?,
    })
}

/// Free text for people. It is not kept: nothing that reaches a tool or the kernel may hold it.
pub(crate) fn description(path: &str, text: Option<&str>) -> Result<(), Refusal> {
    let length = text.map_or(0, |text| text.chars().count());
    if length <= MOST_DESCRIBED {
        return Ok(());
    }
    let what = format_args!("has {length} characters and takes {MOST_DESCRIBED}; shorten it, or write the rest in an annotation");
    Err(Refusal::new(RefusalReason::TooLong, path, what))
}

fn key(object: &PortForward) -> Result<ForwardKey, Refusal> {
    let name = object.metadata.name.clone().unwrap_or_default();
    let namespace = object.metadata.namespace.clone().unwrap_or_else(|| api::DEFAULT_NAMESPACE.to_owned());
    api::check_identity(&namespace, &name).map_err(|error| Refusal::from(&error))?;
    Ok(ForwardKey::new(namespace, name))
}

/// The client entries, merged and sorted. `None` after mistakes, which are added to `found`.
fn clients(found: &mut Found, path: &str, texts: &[String]) -> Option<Vec<IpNet>> {
    if texts.is_empty() {
        let what = "is empty; write the addresses of those who may use the forward";
        found.push(Refusal::new(RefusalReason::Required, path, what));
        return None;
    }
    if texts.len() > MOST_CLIENTS {
        let what = format_args!("has {} entries and takes {MOST_CLIENTS}; write networks, or a second PortForward", texts.len());
        found.push(Refusal::new(RefusalReason::TooMany, path, what));
        return None;
    }
    networks(found, path, texts, address::client, RefusalReason::DuplicateClient)
}

fn one(path: &str, texts: &[String]) -> Result<IpAddr, Refusal> {
    at_most_one(path, texts)?.ok_or_else(|| Refusal::new(RefusalReason::Required, path, "is empty; write one IPv4 address"))
}

fn at_most_one(path: &str, texts: &[String]) -> Result<Option<IpAddr>, Refusal> {
    match texts {
        [] => Ok(None),
        [text] => address::address(&format!("{path}[0]"), text).map(Some),
        more => Err(too_many(path, more.len())),
    }
}

fn target(path: &str, targets: &[api::Target]) -> Result<IpAddr, Refusal> {
    match targets {
        [] => Err(Refusal::new(RefusalReason::Required, path, "is empty; write one entry with the address of the server")),
        [target] => address::address(&format!("{path}[0].address"), &target.address),
        more => Err(too_many(path, more.len())),
    }
}

fn too_many(path: &str, count: usize) -> Refusal {
    Refusal::new(RefusalReason::TooMany, path, format_args!("has {count} entries and takes one for now; write one"))
}

fn interface(path: &str, text: Option<&str>) -> Result<Option<InterfaceName>, Refusal> {
    let Some(text) = text else { return Ok(None) };
    text.parse().map(Some).map_err(|error| {
        let hint = match text.split([':', '@']).next() {
            Some(plain) if plain != text && plain.parse::<InterfaceName>().is_ok() => format!("; write {plain}"),
            Some(_) | None => format!("; {error}"),
        };
        Refusal::of(RefusalReason::InvalidInterfaceName, path, text, format_args!("is not the name of an interface{hint}"))
    })
}
