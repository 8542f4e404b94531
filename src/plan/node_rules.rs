//! The checks of a valid forward that depend on the node.

use std::net::IpAddr;

use ipnet::IpNet;

use super::verdict::{NodeRefusal, NodeRefusalReason};
use crate::forward::Forward;
use crate::model::{Facts, InterfaceName, Listener};

/// The interfaces that container networks create, by their whole names: `br-lan`, for example, is an ordinary bridge.
const CONTAINER_NETWORKS: [(&str, Ending); 17] = [
    ("docker", Ending::Number),
    ("docker_gwbridge", Ending::Nothing),
    ("br-", Ending::Hex(12)),
    ("podman", Ending::Number),
    ("cni", Ending::Number),
    ("cni-podman", Ending::Number),
    ("cbr", Ending::Number),
    ("flannel.", Ending::Number),
    ("cali", Ending::Hex(11)),
    ("vxlan.calico", Ending::Nothing),
    ("cilium_host", Ending::Nothing),
    ("cilium_net", Ending::Nothing),
    ("cilium_vxlan", Ending::Nothing),
    ("lxc_health", Ending::Nothing),
    ("kube-bridge", Ending::Nothing),
    ("kube-dummy-if", Ending::Nothing),
    ("kube-ipvs", Ending::Number),
];

/// The rest of the name of an interface.
#[derive(Clone, Copy)]
enum Ending {
    Nothing,
    /// A decimal number.
    Number,
    /// This number of hexadecimal digits.
    Hex(usize),
}

fn of_a_container_network(interface: &InterfaceName) -> bool {
    CONTAINER_NETWORKS.iter().any(|(beginning, ending)| {
        interface.as_str().strip_prefix(beginning).is_some_and(|rest| match ending {
            Ending::Nothing => rest.is_empty(),
            Ending::Number => !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_digit()),
            Ending::Hex(digits) => rest.len() == *digits && rest.bytes().all(|byte| byte.is_ascii_hexdigit()),
        })
    })
}

/// Whether the pods of a cluster are reached by `interface`. Container networks of the node alone, such as Docker's, do not count:
/// clients of a leased line may have addresses of their networks.
pub(super) fn leads_to_pods(interface: &InterfaceName) -> bool {
    let of_the_node = ["docker", "br-", "podman", "cni-podman"].iter().any(|beginning| interface.as_str().starts_with(beginning));
    of_a_container_network(interface) && !of_the_node
}

/// Why this node cannot carry `forward`, both if it is new and if it is in force.
pub(super) fn refuse(facts: &Facts, forward: &Forward) -> Option<NodeRefusal> {
    loops(facts, forward)
}

/// Why this node would not carry `forward` if it were new.
pub(super) fn refuse_new(facts: &Facts, forward: &Forward) -> Option<NodeRefusal> {
    client_loops(facts, forward).or_else(|| subnet_ends(facts, forward)).or_else(|| container_network(facts, forward))
}

pub(super) fn refusal(reason: NodeRefusalReason, message: String) -> NodeRefusal {
    NodeRefusal { reason, message }
}

fn loops(facts: &Facts, forward: &Forward) -> Option<NodeRefusal> {
    let gateway = forward.gateway.map(|gateway| ("gateway", gateway.into()));
    looping(facts, [("upstream", forward.upstream.into())].into_iter().chain(gateway))
}

/// A client whose address the node got later cannot use the forward, but the other clients can.
fn client_loops(facts: &Facts, forward: &Forward) -> Option<NodeRefusal> {
    looping(facts, forward.clients.iter().map(|client| ("client", *client)))
}

/// A party to which this node delivers packets itself.
fn looping(facts: &Facts, mut parties: impl Iterator<Item = (&'static str, IpNet)>) -> Option<NodeRefusal> {
    parties.find_map(|(party, network)| {
        let address = network.addr();
        let route = facts.delivered_by(network);
        let of_one = network.prefix_len() == network.max_prefix_len();
        let message = match route {
            Some(route) if route.destination.prefix_len() < route.destination.max_prefix_len() => {
                let (shown, destination) = (if of_one { address.to_string() } else { network.to_string() }, route.destination);
                format!(
                    "the {party} {shown} lies in {destination}, which this node delivers to itself: the flow would come back to it; remove the route (ip route del local {destination} table local), or write the address of another host"
                )
            }
            _ if of_one && facts.holds(address) => format!(
                "the {party} {address} is an address of this node: the flow would come back to it; write the address of the other host"
            ),
            _ => return None,
        };
        Some(refusal(NodeRefusalReason::ForwardLoop, message))
    })
}

/// RFC 919 and RFC 950: the first and the last address of a subnet are not host addresses, except for /31 (RFC 3021) and
/// /32. The kernel sends nothing to a client at the last address, but does to one at the first.
fn subnet_ends(facts: &Facts, forward: &Forward) -> Option<NodeRefusal> {
    let parties = [
        ("internal address", Some(forward.internal.address)),
        ("external address", forward.external),
        ("gateway", forward.gateway),
    ];
    let parties = parties.into_iter().chain([("upstream", Some(forward.upstream))]);
    let clients = forward.clients.iter().filter(|client| client.prefix_len() == 32).map(|client| ("client", Some(client.addr())));
    parties.chain(clients).filter_map(|(party, address)| Some((party, address?))).find_map(|(party, address)| {
        let subnet = facts.connected(address).filter(|local| local.prefix_len < 31)?.subnet();
        let (reason, what) = match address {
            address if address == subnet.network() && party != "client" => (NodeRefusalReason::NetworkAddress, "first"),
            address if address == subnet.broadcast() => (NodeRefusalReason::BroadcastAddress, "last"),
            _ => return None,
        };
        Some(refusal(
            reason,
            format!("the {party} {address} is the {what} address of {subnet}, which is no host's; write the address of a host"),
        ))
    })
}

fn container_network(facts: &Facts, forward: &Forward) -> Option<NodeRefusal> {
    let address = forward.internal.address;
    let interface = facts.interface_of(address).filter(|interface| of_a_container_network(interface))?;
    let message = format!(
        "the internal address {address} is on {interface}, an interface of a container network; write an address of the leg that faces the client"
    );
    Some(refusal(NodeRefusalReason::ForbiddenInterface, message))
}

/// Whether the program behind `listener` receives packets to `address` that enter by `enters`.
pub(super) fn hears(facts: &Facts, listener: &Listener, address: IpAddr, enters: Option<&InterfaceName>) -> bool {
    let bound = listener.address.is_unspecified() || listener.address == address;
    let here = |device: &InterfaceName| enters.is_some_and(|enters| device == enters || facts.on_one_wire(device, enters));
    bound && listener.device.as_ref().is_none_or(here)
}
