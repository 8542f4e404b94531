//! The routes to clients and upstreams: gateways, foreign routes, held addresses.

use super::*;
use crate::model::{Delivery, LocalRoute, LocalTable, Sight};

pub(super) fn install(verdict: &Verdict) -> Vec<String> {
    let route = |route: &crate::model::HostRoute| format!("{} via {} dev {}", route.destination, route.gateway, route.interface);
    verdict.routes.iter().filter_map(RoutePlan::installed).map(route).collect()
}

pub(super) fn noted(verdict: &Verdict) -> String {
    verdict.notes.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

pub(super) fn route(destination: &str, gateway: Option<&str>, interface: &str) -> Route {
    Route {
        kind: RouteKind::Unicast,
        destination: destination.parse().unwrap(),
        gateway: gateway.map(|gateway| gateway.parse().unwrap()),
        interface: Some(interface.parse().unwrap()),
        hops: Vec::new(),
        metric: 0,
        ours: false,
    }
}

pub(super) fn with_routes(more: impl IntoIterator<Item = Route>) -> Facts {
    Facts { routes: facts().routes.iter().cloned().chain(more).collect(), ..facts() }
}

#[test]
fn a_named_gateway_decides_also_where_the_node_has_a_subnet_around_the_client() {
    let mut docker = facts();
    docker.addresses.insert(LocalAddress {
        address: "172.17.0.1".parse().unwrap(),
        prefix_len: 16,
        interface: Some("docker0".parse().unwrap()),
    });
    for (client, route) in [
        ("192.168.0.77", "192.168.0.77/32 via 192.168.0.1 dev eth1"),
        ("192.168.0.128/26", "192.168.0.128/26 via 192.168.0.1 dev eth1"),
        ("172.17.5.4", "172.17.5.4/32 via 192.168.0.1 dev eth1"),
    ] {
        let verdict = verdict(&docker, with(&[("/client/addresses", json!([client]))]));
        assert_eq!(install(&verdict), [route]);
        assert!(noted(&verdict).contains("because internal.gateways says so"), "{client}: {}", noted(&verdict));
        assert_eq!(verdict.obstacles, []);
    }
    let far = verdict(&docker, spec());
    assert_eq!(noted(&far), "", "where there is no shorter way, nothing is to be said");
}

#[test]
fn a_client_in_a_subnet_of_the_node_is_checked_like_every_other() {
    let within = |changes: &[(&str, Value)]| with(&[&[("/client/addresses", json!(["192.168.0.0/25"]))], changes].concat());
    let gateway = ("/internal/gateways", json!(["192.168.0.200"]));
    let mut other = facts();
    other.addresses.retain(|local| local.address.to_string() != "192.168.0.2");
    other.addresses.insert(LocalAddress {
        address: "192.168.0.130".parse().unwrap(),
        prefix_len: 24,
        interface: Some("eth1".parse().unwrap()),
    });
    other.addresses.insert(LocalAddress {
        address: "192.168.0.5".parse().unwrap(),
        prefix_len: 24,
        interface: Some("eth2".parse().unwrap()),
    });
    let internal = ("/internal/addresses", json!(["192.168.0.130"]));
    let spec = within(&[gateway, internal]);
    assert_eq!(worst(&other, spec), Some(ObstacleReason::RouteCapturesNode), "it would cover 192.168.0.5");
    let off_link = with(&[("/client/addresses", json!(["192.168.0.77"])), ("/internal/gateways", json!(["10.9.9.9"]))]);
    assert_eq!(worst(&facts(), off_link), Some(ObstacleReason::GatewayNotOnLink));
}

#[test]
fn a_gateway_behind_another_link_than_the_clients_enter_by_is_asymmetric_where_sources_are_validated() {
    let elsewhere = with(&[("/internal", json!({"addresses": ["192.168.0.2"], "gateways": ["2.2.2.1"]}))]);
    assert_eq!(worst(&facts(), elsewhere.clone()), None);
    let mut strict = facts();
    strict.links.values_mut().for_each(|link| link.rp_filter = RpFilter::Strict);
    assert_eq!(worst(&strict, elsewhere), Some(ObstacleReason::AsymmetricRoute));
    assert_eq!(worst(&strict, spec()), None);
}

#[test]
fn routes_of_others_that_win_within_a_client_network_are_noted() {
    let wide = with(&[("/client/addresses", json!(["10.0.0.0/8"]))]);
    let facts = with_routes([route("10.5.0.0/16", Some("2.2.2.1"), "eth0"), route("10.6.0.0/16", Some("192.168.0.1"), "eth1")]);
    let verdict = verdict(&facts, wide);
    assert_eq!(install(&verdict), ["10.0.0.0/8 via 192.168.0.1 dev eth1"]);
    assert!(noted(&verdict).contains("10.5.0.0/16") && !noted(&verdict).contains("10.6"), "{}", noted(&verdict));
}

#[test]
fn an_upstream_behind_a_route_that_drops_is_not_reached() {
    let facts = with_routes([Route { kind: RouteKind::Nowhere, ..route("3.3.3.0/24", None, "eth0") }]);
    assert_eq!(worst(&facts, spec()), Some(ObstacleReason::NoRouteToUpstream));
}

#[test]
fn the_longest_prefix_wins_between_forwards_and_both_are_told() {
    let client = |name: &str, client: &str, gateway: &str, port: u16| {
        object(
            name,
            with(&[
                ("/client/addresses", json!([client])),
                ("/internal/gateways", json!([gateway])),
                ("/ports/0/port", json!(port)),
            ]),
        )
    };
    for names in [["a", "b"], ["b", "a"]] {
        let outer = client(names[0], "10.0.0.0/8", "192.168.0.1", 80);
        let inner = client(names[1], "10.5.0.7", "192.168.0.254", 81);
        let plan = planned(&facts(), &[outer, inner]);
        let routes: Vec<String> =
            plan.desired.routes.iter().map(|route| format!("{} via {}", route.destination, route.gateway)).collect();
        assert_eq!(routes, ["10.0.0.0/8 via 192.168.0.1", "10.5.0.7/32 via 192.168.0.254"]);
        let verdict = |name: &str| plan.verdicts.values().zip(plan.verdicts.keys()).find(|(_, key)| key.name == name).unwrap().0;
        for (name, other) in [(names[0], names[1]), (names[1], names[0])] {
            let said = noted(verdict(name));
            assert!(said.contains(&format!("default/{other}")) && said.contains("longest prefix wins"), "{name}: {said}");
        }
    }
    let same = [client("a", "10.0.0.0/8", "192.168.0.1", 80), client("b", "10.5.0.7", "192.168.0.1", 81)];
    assert!(planned(&facts(), &same).verdicts.values().all(|verdict| noted(verdict).is_empty()), "one gateway is no question");
    let equal = [client("a", "10.0.0.0/8", "192.168.0.1", 80), client("b", "10.0.0.0/8", "192.168.0.254", 81)];
    let plan = planned(&facts(), &equal);
    assert!(matches!(plan.verdicts.values().nth(1).unwrap().acceptance, Acceptance::Conflict(_)), "one entry has one gateway");
}

fn local_route(destination: &str, interface: &str) -> LocalRoute {
    LocalRoute {
        destination: destination.parse().unwrap(),
        delivery: Delivery::Local,
        interface: Some(interface.parse().unwrap()),
    }
}

#[test]
fn an_address_that_only_a_local_route_delivers_is_held() {
    let own = [("192.168.0.2/32", Some("eth1")), ("2.2.2.2/32", Some("eth0"))];
    let local: LocalTable = [own[0], own[1], ("10.200.0.0/24", None), ("10.201.0.9/32", Some("eth1"))]
        .map(|(destination, interface): (&str, Option<&str>)| LocalRoute {
            destination: destination.parse().unwrap(),
            delivery: Delivery::Local,
            interface: interface.map(|name| name.parse().unwrap()),
        })
        .into_iter()
        .collect();
    let facts = Facts { local: Some(local), ..facts() };
    for address in ["10.200.0.9", "10.201.0.9"] {
        let plan = planned(&facts, &[object("one", with(&[("/internal/addresses", json!([address]))]))]);
        let verdict = plan.verdicts.values().next().unwrap();
        assert_eq!((verdict.role, verdict.obstacles.as_slice()), (Some(Role::Active), &[][..]), "{address}");
        assert!(plan.desired.held.contains(&address.parse().unwrap()));
        let upstream = with(&[("/upstream/targets/0/address", json!(address))]);
        assert_eq!(refused(&facts, upstream), Some(NodeRefusalReason::ForwardLoop), "{address}");
    }
    let external = with(&[("/external/addresses", json!(["10.200.0.7"]))]);
    assert_eq!(worst(&facts, external), None, "the external leg too");
    let clients = |network: &str| with(&[("/client/addresses", json!([network]))]);
    for network in ["10.200.0.0/24", "10.200.0.128/25"] {
        assert_eq!(refused(&facts, clients(network)), Some(NodeRefusalReason::ForwardLoop), "{network}");
    }
    assert_eq!(refused(&facts, clients("10.200.0.0/23")), None, "the node delivers only a part of it");
    let mut deaf = facts;
    deaf.local = Some([local_route("2.2.2.2/32", "eth0")].into_iter().collect());
    assert_eq!(verdict(&deaf, spec()).role, Some(Role::Standby), "the kernel delivers nothing for an address without a route");
}

#[test]
fn a_younger_forward_takes_no_way_from_an_older_one() {
    let seed = |created: &str| Candidate { created: Some(created.parse().unwrap()), ..object("a", spec()) };
    let back = with(&[
        ("/client/addresses", json!(["3.3.3.3"])),
        ("/internal/gateways", json!(["192.168.0.1"])),
        ("/upstream/targets/0/address", json!("1.1.1.1")),
    ]);
    let other = Candidate { created: Some("2026-01-02T00:00:00Z".parse().unwrap()), ..object("b", back) };
    let routes = |plan: &Plan| plan.desired.routes.iter().map(|route| route.destination.to_string()).collect::<Vec<_>>();
    let older = planned(&facts(), &[seed("2026-01-01T00:00:00Z"), other.clone()]);
    assert_eq!(
        routes(&older),
        ["1.1.1.1/32"],
        "the younger one's route would lead the older one's server traffic to the gateway"
    );
    let younger = planned(&facts(), &[seed("2026-01-03T00:00:00Z"), other]);
    assert_eq!(routes(&younger), ["3.3.3.3/32"]);
}

#[test]
fn a_gateway_at_the_other_end_of_a_point_to_point_link_is_on_the_link() {
    let mut tunnel = facts();
    let peer = Route {
        kind: RouteKind::Unicast,
        destination: "172.16.0.1/32".parse().unwrap(),
        gateway: None,
        interface: Some("eth1".parse().unwrap()),
        hops: Vec::new(),
        metric: 0,
        ours: false,
    };
    tunnel.routes = facts().routes.iter().cloned().chain([peer]).collect();
    let spec = with(&[("/internal/gateways", json!(["172.16.0.1"]))]);
    assert_eq!(worst(&tunnel, spec.clone()), None);
    assert_eq!(worst(&facts(), spec), Some(ObstacleReason::GatewayNotOnLink));
}

#[test]
fn a_route_that_would_swallow_what_the_node_needs_is_withheld_and_the_rest_stays() {
    let wide = with(&[("/client/addresses", json!(["5.5.0.0/16", "1.1.1.1"]))]);
    let other = with(&[
        ("/upstream/targets/0/address", json!("5.5.5.5")),
        ("/client/addresses", json!(["1.1.1.9"])),
        ("/ports/0/port", json!(81)),
    ]);
    let plan = planned(&facts(), &[object("wide", wide), object("other", other)]);
    let destinations: Vec<String> = plan.desired.routes.iter().map(|route| route.destination.to_string()).collect();
    assert_eq!(destinations, ["1.1.1.1/32", "1.1.1.9/32"]);
    let verdict = plan.verdicts.values().find(|verdict| !verdict.obstacles.is_empty()).unwrap();
    assert_eq!(verdict.obstacles[0].reason, ObstacleReason::RouteCapturesNode);
    assert_eq!(plan.desired.translations.len(), 3);
}

/// Neither a host's route nor a network's: a client may have the address of an API server.
#[test]
fn no_new_route_is_installed_while_the_api_servers_are_not_all_known_and_ours_stay() {
    let partial = |routes: Vec<Route>| Facts { sight: Sight::Partial, ..with_routes(routes) };
    for client in ["1.1.1.1", "1.1.0.0/16"] {
        let spec = with(&[("/client/addresses", json!([client])), ("/reverse", json!(null))]);
        let destination = if client.contains('/') { client.to_owned() } else { format!("{client}/32") };
        let standing = |ours| Route { ours, ..route(&destination, Some("192.168.0.1"), "eth1") };
        let elsewhere = Route { ours: true, ..route(&destination, Some("192.168.0.9"), "eth1") };
        assert_eq!(worst(&partial(vec![]), spec.clone()), Some(ObstacleReason::ApiServersUnknown), "{client}");
        assert_eq!(worst(&partial(vec![elsewhere]), spec.clone()), Some(ObstacleReason::ApiServersUnknown), "{client}");
        assert_eq!(worst(&partial(vec![standing(true)]), spec.clone()), None, "{client}");
        assert_eq!(worst(&with_routes([]), spec), None, "{client}");
    }
    let no_gateway = with(&[("/internal/gateways", json!([])), ("/client/addresses", json!(["192.168.0.7"]))]);
    assert_eq!(worst(&partial(vec![]), no_gateway), None, "where no route is needed nothing changes");
}

#[test]
fn a_gateway_is_reached_by_the_way_that_the_kernel_takes_to_it() {
    let two_links = |more: Vec<Route>| {
        let mut facts = with_routes(more);
        facts.addresses.insert(LocalAddress {
            address: "192.168.0.3".parse().unwrap(),
            prefix_len: 24,
            interface: Some("eth2".parse().unwrap()),
        });
        facts
    };
    let unnamed = with(&[("/internal", json!({"addresses": ["192.168.0.2"], "gateways": ["192.168.0.1"]}))]);
    let by = |facts: &Facts, spec: &Value| install(&verdict(facts, spec.clone()));
    let (eth1, eth2) = (["1.1.1.1/32 via 192.168.0.1 dev eth1"], ["1.1.1.1/32 via 192.168.0.1 dev eth2"]);
    let one_subnet_twice = two_links(vec![]);
    assert_eq!(by(&one_subnet_twice, &unnamed), eth1, "the main table leads to eth1");
    let more_specific = two_links(vec![route("192.168.0.1/32", None, "eth2")]);
    assert_eq!(by(&more_specific, &unnamed), eth2);
    assert_eq!(by(&more_specific, &spec()), eth2, "internal.interface says nothing of where the gateway is");
    let mut down = two_links(vec![]);
    down.addresses.retain(|local| local.interface.as_ref().is_some_and(|name| name.as_str() != "eth2"));
    down.routes = [route("0.0.0.0/0", None, "ppp0")].into_iter().collect();
    assert_eq!(by(&down, &unnamed), eth1, "a default route is no way to a gateway in a subnet of the node");
}

#[test]
fn a_client_at_the_last_address_of_a_subnet_of_the_node_is_refused() {
    let client = |address: &str| refused(&facts(), with(&[("/client/addresses", json!([address]))]));
    assert_eq!(client("192.168.0.255"), Some(NodeRefusalReason::BroadcastAddress));
    assert_eq!((client("192.168.0.0"), client("192.168.1.255")), (None, None));
}

#[test]
fn a_leg_that_is_down_is_told_also_where_no_interface_is_named() {
    let unnamed = with(&[
        ("/internal", json!({"addresses": ["192.168.0.2"], "gateways": ["192.168.0.1"]})),
        ("/external", json!({"addresses": ["2.2.2.2"]})),
    ]);
    for (interface, leg) in [("eth1", "internal"), ("eth0", "external")] {
        let mut down = facts();
        down.links.get_mut(&interface.parse().unwrap()).unwrap().up = false;
        let found = verdict(&down, unnamed.clone()).obstacles.remove(0);
        assert_eq!(found.reason, ObstacleReason::InterfaceDown);
        assert!(found.message.contains(interface) && found.message.contains(leg), "{}", found.message);
    }
}

#[test]
fn a_route_that_drops_the_packets_is_named() {
    let drops = |destination: &str| with_routes([Route { kind: RouteKind::Nowhere, ..route(destination, None, "eth0") }]);
    let unrouted = with(&[("/internal", json!({"addresses": ["192.168.0.2"]}))]);
    for (network, reason) in [("3.3.0.0/16", ObstacleReason::NoRouteToUpstream), ("1.1.1.0/24", ObstacleReason::NoRouteToClient)]
    {
        let found = verdict(&drops(network), unrouted.clone()).obstacles.remove(0);
        assert_eq!(found.reason, reason);
        assert!(found.message.contains(&format!("ip route show {network}")), "{}", found.message);
    }
}
