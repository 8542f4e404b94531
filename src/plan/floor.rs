//! The floor: what no forward may have as upstream, as client or as route, whoever created it and however long it has been in
//! force.
//!
//! A tenant must not keep what it claimed before a Node got the address, so the floor also withdraws what is in force. It uses
//! only what is known: while the addresses of the cluster cannot be read, the last known ones count.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use super::forbidden::{ForbiddenNetworks, Word};
use super::node_rules::refusal;
use super::verdict::{NodeRefusal, NodeRefusalReason, Obstacle, ObstacleReason, RoutePlan};
use crate::forward::Forward;
use crate::model::Facts;

/// What to do about a forbidden network that the administrator can allow.
const LIST: &str = "change the list of this node (--forbidden-networks, chart value agent.forbiddenNetworks)";

/// The forbidden networks of one node.
#[derive(Debug)]
pub(super) struct Floor<'a> {
    /// The networks that are few: everything except what the Node objects say.
    networks: BTreeMap<IpNet, Kind>,
    nodes: Option<&'a BTreeSet<IpAddr>>,
    pods: Option<&'a BTreeSet<IpNet>>,
    /// The prefix lengths of `networks` and `pods`, so that a look-up tries no others.
    lengths: BTreeSet<u8>,
}

/// What a forbidden network is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    ApiServer,
    Node,
    Pods,
    Services,
    /// The metadata service of this cloud.
    Metadata(&'static str),
    /// An address or network of the administrator's list.
    Listed,
}

/// A forbidden network, and what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Forbidden {
    network: IpNet,
    kind: Kind,
}

impl<'a> Floor<'a> {
    /// The forbidden networks of a node with these facts and this list. API servers are always forbidden.
    pub(super) fn of(facts: &'a Facts, list: &ForbiddenNetworks) -> Self {
        let services = || facts.services.iter().copied();
        let servers = facts.api_servers.iter().map(|address| IpNet::from(*address)).chain(services().filter_map(first));
        // If two kinds have the same network, the last one is named: an API server rather than an entry of the list.
        let networks: BTreeMap<IpNet, Kind> = list
            .networks()
            .map(|network| (network, Kind::Listed))
            .chain(list.metadata().map(|(network, cloud)| (network, Kind::Metadata(cloud))))
            .chain(services().filter(|_| list.names(Word::Services)).map(|network| (network, Kind::Services)))
            .chain(servers.map(|network| (network, Kind::ApiServer)))
            .collect();
        let pods = list.names(Word::Pods).then_some(&facts.nodes.pods);
        let lengths = networks.keys().chain(pods.into_iter().flatten()).map(IpNet::prefix_len).collect();
        Self { networks, nodes: list.names(Word::Nodes).then_some(&facts.nodes.addresses), pods, lengths }
    }

    /// Why `forward` is refused, both if it is new and if it is in force.
    ///
    /// A client network is refused if all of it is forbidden. A wider network that only contains a forbidden address is a
    /// client like any other: refusing 10.0.0.0/8 because of one Node would break forwards that harm nobody, and the reserved
    /// ports protect the node from the rest.
    pub(super) fn refuse(&self, forward: &Forward) -> Option<NodeRefusal> {
        let upstream = self.around(forward.upstream.into()).map(|forbidden| self::upstream(forward.upstream, forbidden));
        let clients = || forward.clients.iter().find_map(|client| Some(self::client(*client, self.around(*client)?)));
        let legs = || {
            let legs = [("internal", Some(forward.internal.address)), ("external", forward.external)];
            legs.into_iter().find_map(|(leg, address)| self.leg(leg, address?))
        };
        upstream.or_else(clients).or_else(legs)
    }

    /// Why `address` cannot be that of a leg. A node may hold addresses of pods and Services (kube-proxy in the mode ipvs, a DNS
    /// cache of the node), and a forward on one of them would take the connections of pods. The address of a Node, which may also
    /// be an API server, is a usual address of a leg.
    fn leg(&self, leg: &str, address: IpAddr) -> Option<NodeRefusal> {
        let forbidden = self.around(address.into())?;
        match forbidden.kind {
            Kind::Pods | Kind::Services => {}
            Kind::ApiServer if self.is_service(address) => {}
            Kind::ApiServer | Kind::Node | Kind::Metadata(_) | Kind::Listed => return None,
        }
        let message = format!(
            "the {leg} address {address} {}, and no forward may use it; write an address of the node that is for forwards, or {LIST}",
            forbidden.of(address.into())
        );
        Some(refusal(NodeRefusalReason::ForbiddenAddress, message))
    }

    /// Whether `address` lies in a network of Services that is forbidden. The first address there counts as an API server.
    fn is_service(&self, address: IpAddr) -> bool {
        self.networks.iter().any(|(network, kind)| *kind == Kind::Services && network.contains(&address))
    }

    /// The planned `routes`, with those withheld that would cover a forbidden address. The client of a route that lies inside of a
    /// forbidden network was refused already.
    pub(super) fn withholding(&self, mut routes: Vec<RoutePlan>) -> Vec<RoutePlan> {
        for plan in &mut routes {
            if let RoutePlan::Install(route) = plan
                && let Some(forbidden) = self.within(route.destination)
            {
                let (destination, gateway) = (route.destination, route.gateway);
                let message = format!(
                    "the route to {destination} through {gateway} is withheld: it would cover {forbidden}; write smaller client networks, or {LIST}"
                );
                *plan = RoutePlan::Withheld(Obstacle { reason: ObstacleReason::ForbiddenRoute, message });
            }
        }
        routes
    }

    /// The forbidden network that contains all of `network`.
    fn around(&self, network: IpNet) -> Option<Forbidden> {
        let nodes = self.nodes.filter(|_| is_host(network));
        if nodes.is_some_and(|nodes| nodes.contains(&network.addr())) && !self.networks.contains_key(&network) {
            return Some(Forbidden { network, kind: Kind::Node });
        }
        // The smallest network first, which says most.
        self.lengths.iter().rev().filter(|length| **length <= network.prefix_len()).find_map(|length| {
            let network = IpNet::new(network.addr(), *length).ok()?.trunc();
            self.kind(network).map(|kind| Forbidden { network, kind })
        })
    }

    fn kind(&self, network: IpNet) -> Option<Kind> {
        let pods = || self.pods.filter(|pods| pods.contains(&network)).map(|_| Kind::Pods);
        self.networks.get(&network).copied().or_else(pods)
    }

    /// The first forbidden network inside of `network`.
    fn within(&self, network: IpNet) -> Option<Forbidden> {
        // Networks are ordered by their first address, so those inside of `network` follow it directly.
        let known = self.networks.range(network..).next().map(|(inner, kind)| Forbidden { network: *inner, kind: *kind });
        let nodes = self.nodes.and_then(|nodes| nodes.range(network.network()..=network.broadcast()).next());
        let nodes = nodes.map(|address| Forbidden { network: IpNet::from(*address), kind: Kind::Node });
        let pods = self.pods.and_then(|pods| pods.range(network..).next());
        let pods = pods.map(|inner| Forbidden { network: *inner, kind: Kind::Pods });
        [known, nodes, pods].into_iter().flatten().find(|forbidden| network.contains(&forbidden.network))
    }
}

/// The first address of a network of Services. The API server gives it to the Service `kubernetes`, by which pods reach the API
/// servers (kube-apiserver(1), `--service-cluster-ip-range`).
fn first(network: IpNet) -> Option<IpNet> {
    let first: IpAddr = match network.network() {
        IpAddr::V4(base) => Ipv4Addr::from(u32::from(base).checked_add(1)?).into(),
        IpAddr::V6(base) => Ipv6Addr::from(u128::from(base).checked_add(1)?).into(),
    };
    network.contains(&first).then(|| first.into())
}

fn is_host(network: IpNet) -> bool {
    network.prefix_len() == network.max_prefix_len()
}

fn upstream(address: IpAddr, forbidden: Forbidden) -> NodeRefusal {
    let what = forbidden.of(address.into());
    let advice = match forbidden.kind {
        Kind::ApiServer => "write the address of another host".to_owned(),
        Kind::Services => format!(
            "no host has such an address, and kube-proxy does not translate a flow that a forward has translated; write the address of a load balancer or of another host outside the cluster, or {LIST}"
        ),
        Kind::Node | Kind::Pods | Kind::Metadata(_) | Kind::Listed => format!("write the address of another host, or {LIST}"),
    };
    let message = format!("the upstream {address} {what}, and no forward may lead there; {advice}");
    refusal(NodeRefusalReason::ForbiddenUpstream, message)
}

fn client(network: IpNet, forbidden: Forbidden) -> NodeRefusal {
    let shown = if is_host(network) { network.addr().to_string() } else { network.to_string() };
    let what = forbidden.of(network);
    let advice = match forbidden.kind {
        Kind::ApiServer => "remove this client".to_owned(),
        Kind::Node | Kind::Pods | Kind::Services | Kind::Metadata(_) | Kind::Listed => format!("remove this client, or {LIST}"),
    };
    let message = format!("the client {shown} {what}, and no forward may serve it; {advice}");
    refusal(NodeRefusalReason::ForbiddenClient, message)
}

impl Forbidden {
    /// What `party`, which lies in the forbidden network, is: "is an API server of this cluster".
    fn of(self, party: IpNet) -> String {
        if party == self.network {
            return format!("is {}", self.kind);
        }
        format!("lies in {}, {}", self.network, self.kind)
    }
}

/// The network with what it is, for a route that covers it.
impl fmt::Display for Forbidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if is_host(self.network) {
            write!(f, "{}, {}", self.network.addr(), self.kind)
        } else {
            write!(f, "{}, {}", self.network, self.kind)
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ApiServer => f.write_str("an API server of this cluster"),
            Self::Node => f.write_str("an address of a Node of this cluster"),
            Self::Pods => f.write_str("a network of pods of this cluster"),
            Self::Services => f.write_str("the network of this cluster's Services"),
            Self::Metadata(cloud) => write!(f, "a metadata service ({cloud})"),
            Self::Listed => f.write_str("a network that this node forbids"),
        }
    }
}
