//! What no forward may have as upstream, as client or as route. The tests are named after the attacks that they stop.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::*;
use crate::forward::Direction;
use crate::model::{Nodes, PortRange};

/// The settings of an agent without flags.
fn defaults() -> Policy {
    Policy {
        reserved_ports: ReservedPorts::DEFAULT.parse().unwrap(),
        forbidden_networks: ForbiddenNetworks::DEFAULT.parse().unwrap(),
        ..Policy::default()
    }
}

fn forbidding(list: &str) -> Policy {
    Policy { forbidden_networks: list.parse().unwrap(), ..defaults() }
}

/// The node of the seed in a cluster. It is reached by the address of its internal leg.
fn cluster() -> Facts {
    let nodes = Nodes {
        addresses: ["192.168.0.2", "10.55.7.2", "10.55.7.3"].map(|address| address.parse().unwrap()).into(),
        pods: ["10.244.1.0/24", "10.244.2.0/24"].map(|network| network.parse().unwrap()).into(),
    };
    Facts {
        node_addresses: ["192.168.0.2".parse().unwrap()].into(),
        api_servers: ["10.55.7.1".parse().unwrap()].into(),
        services: ["10.96.0.0/12".parse().unwrap()].into(),
        nodes: Arc::new(nodes),
        ..facts()
    }
}

fn decided(facts: &Facts, policy: &Policy, in_force: &InForce, spec: Value) -> (Verdict, Desired) {
    let plan = plan(facts, &[object("one", spec)], policy, in_force);
    (*plan.verdicts.into_values().next().unwrap(), plan.desired)
}

/// Why the forward is refused as a new one; nothing of it is planned then.
fn refusal(facts: &Facts, policy: &Policy, spec: Value) -> Option<NodeRefusal> {
    let (verdict, desired) = decided(facts, policy, &InForce::default(), spec);
    match verdict.acceptance {
        Acceptance::RefusedHere(refusal) => {
            assert_eq!(desired, Desired::default());
            Some(refusal)
        }
        Acceptance::Accepted => None,
        other => panic!("{other:?}"),
    }
}

fn reason(facts: &Facts, policy: &Policy, spec: Value) -> Option<NodeRefusalReason> {
    refusal(facts, policy, spec).map(|refusal| refusal.reason)
}

fn upstream(address: &str) -> Value {
    with(&[("/upstream/targets/0/address", json!(address))])
}

/// A forward for `client` without a route, on `port`, with one leg or two.
fn client(client: &str, port: u16, legs: u8) -> Value {
    let external = if legs == 1 { json!({"addresses": ["192.168.0.2"]}) } else { json!({"addresses": ["2.2.2.2"]}) };
    with(&[
        ("/client/addresses", json!([client])),
        ("/internal", json!({"addresses": ["192.168.0.2"]})),
        ("/external", external),
        ("/ports/0/port", json!(port)),
    ])
}

/// Attack 1: the connections of the API server to the kubelet end at a host of the attacker.
#[test]
fn the_api_server_is_no_client_and_the_kubelets_port_stays_with_one_leg_and_with_two() {
    for legs in [1, 2] {
        for policy in [defaults(), forbidding("")] {
            let refused = refusal(&cluster(), &policy, client("10.55.7.1", 8080, legs)).unwrap();
            assert_eq!(refused.reason, NodeRefusalReason::ForbiddenClient);
            let message =
                "the client 10.55.7.1 is an API server of this cluster, and no forward may serve it; remove this client";
            assert_eq!(refused.message, message);
            // A network that only contains the API server is a client like any other, but not on a reserved port.
            for around in ["10.0.0.0/8", "10.55.7.0/30"] {
                let reserved = reason(&cluster(), &policy, client(around, 10250, legs));
                assert_eq!(reserved, Some(NodeRefusalReason::ReservedPort), "{around}");
                assert_eq!(reason(&cluster(), &policy, client(around, 8080, legs)), None, "{around}");
            }
        }
        assert_eq!(reason(&cluster(), &defaults(), client("10.55.7.3", 8080, legs)), Some(NodeRefusalReason::ForbiddenClient));
        assert_eq!(reason(&cluster(), &forbidding("pods"), client("10.55.7.3", 8080, legs)), None, "the list has no nodes");
    }
}

#[test]
fn every_port_that_a_node_needs_is_reserved_on_its_own_address_for_tcp() {
    for port in [22, 2379, 2380, 6443, 10249, 10250, 10256, 10257, 10259, 10450] {
        for legs in [1, 2] {
            let spec = client("1.1.1.1", port, legs);
            assert_eq!(reason(&cluster(), &defaults(), spec.clone()), Some(NodeRefusalReason::ReservedPort), "{port}");
            assert_eq!(reason(&facts(), &defaults(), spec.clone()), None, "{port} of an address for forwards");
            let mut udp = spec;
            udp["ports"][0]["protocol"] = json!("UDP");
            assert_eq!(reason(&cluster(), &defaults(), udp), None, "UDP {port}");
        }
    }
}

/// Attack 2: `reverse` from a chosen upstream takes all ports of the node.
#[test]
fn reverse_leaves_every_reserved_port_to_the_node_with_one_leg_and_with_two() {
    for (external, own) in [("192.168.0.2", "192.168.0.2"), ("2.2.2.2", "2.2.2.2")] {
        let facts = Facts { node_addresses: [own.parse().unwrap()].into(), ..cluster() };
        let reverse = |entry: Value| {
            with(&[
                ("/internal", json!({"addresses": ["192.168.0.2"]})),
                ("/external", json!({"addresses": [external]})),
                ("/reverse", json!({"ports": [entry]})),
            ])
        };
        let all = json!({"name": "all", "port": 1, "endPort": 65535, "targetPort": 80, "targetEndPort": 80});
        let (verdict, _) = decided(&facts, &defaults(), &InForce::default(), reverse(all));
        let taken: Vec<PortRange> =
            verdict.directed().filter(|(way, _)| *way == Direction::Reverse).map(|(_, it)| it.flows.ports).collect();
        let taken = |port: u16| taken.iter().any(|ports| ports.contains(port));
        for port in [22, 2379, 2380, 6443, 10249, 10250, 10256, 10257, 10259, 10450] {
            assert!(!taken(port), "{port} of {external}");
        }
        assert!(taken(1) && taken(9100) && taken(10251) && taken(65535));
        let notes = verdict.notes.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
        assert!(notes.contains("22, 2379:2380, 6443, 10249:10250, 10256:10257, 10259, 10450"), "{notes}");
        for port in [2379, 10250] {
            let single = reverse(json!({"name": "one", "port": port}));
            assert_eq!(reason(&facts, &defaults(), single), Some(NodeRefusalReason::ReservedPort), "{port} of {external}");
        }
    }
}

/// Attack 3: routes to clients that are nodes or pods send their packets to the attacker.
#[test]
fn a_node_a_pod_and_a_service_are_no_clients_and_no_route_covers_one() {
    let routed = |client: &str| with(&[("/client/addresses", json!([client]))]);
    for client in ["10.55.7.3", "10.244.2.7", "10.244.2.0/25", "10.244.1.0/24", "10.96.0.10", "10.100.0.0/16"] {
        assert_eq!(reason(&cluster(), &defaults(), routed(client)), Some(NodeRefusalReason::ForbiddenClient), "{client}");
        assert_eq!(reason(&cluster(), &forbidding(""), routed(client)), None, "{client}: {}", "an empty list");
    }
    for (client, covered) in [
        ("10.55.7.2/31", "10.55.7.2, an address of a Node of this cluster"),
        ("10.244.0.0/16", "10.244.1.0/24, a network of pods of this cluster"),
        ("10.244.2.0/23", "10.244.2.0/24, a network of pods of this cluster"),
        ("10.64.0.0/10", "10.96.0.0/12, the network of this cluster's Services"),
        ("100.0.0.0/8", "100.100.100.200, a metadata service (Alibaba Cloud)"),
    ] {
        let (verdict, desired) = decided(&cluster(), &defaults(), &InForce::default(), routed(client));
        assert!(verdict.is_carried() && desired.routes.is_empty(), "{client}");
        let [RoutePlan::Withheld(obstacle)] = &verdict.routes[..] else { panic!("{:?}", verdict.routes) };
        assert_eq!(obstacle.reason, ObstacleReason::ForbiddenRoute);
        assert!(obstacle.message.contains(&format!("it would cover {covered};")), "{}", obstacle.message);
        let allowed = decided(&cluster(), &forbidding("172.16.0.0/12"), &InForce::default(), routed(client));
        let covers_kubernetes = client == "10.64.0.0/10";
        assert_eq!(allowed.1.routes.is_empty(), covers_kubernetes, "{client}: 10.96.0.1 leads to the API servers");
    }
    let elsewhere = decided(&cluster(), &defaults(), &InForce::default(), routed("172.16.0.0/12"));
    assert_eq!((elsewhere.1.routes.len(), elsewhere.0.obstacles), (1, Vec::new()));
}

/// Attack 10: the API server by another address, such as that of a load balancer.
#[test]
fn an_api_server_is_no_upstream_by_any_address_that_is_known_or_listed() {
    for (list, address) in
        [("", "10.55.7.1"), ("", "10.96.0.1"), ("198.51.100.9", "198.51.100.9"), ("198.51.100.0/24", "198.51.100.9")]
    {
        let refused = reason(&cluster(), &forbidding(list), upstream(address));
        assert_eq!(refused, Some(NodeRefusalReason::ForbiddenUpstream), "{list} {address}");
    }
    assert_eq!(reason(&cluster(), &defaults(), upstream("198.51.100.9")), None);
    let nested = refusal(&cluster(), &forbidding("198.51.0.0/16,198.51.100.0/24"), upstream("198.51.100.9")).unwrap().message;
    assert!(nested.contains("lies in 198.51.100.0/24"), "the smallest network is named: {nested}");
    let node = Facts { api_servers: ["10.55.7.2".parse().unwrap()].into(), ..cluster() };
    let message = refusal(&node, &defaults(), upstream("10.55.7.2")).unwrap().message;
    assert!(message.contains("10.55.7.2 is an API server of this cluster"), "also as the address of a Node: {message}");
    let both = Facts { services: ["fd00:10::/108".parse().unwrap(), "10.112.0.0/12".parse().unwrap()].into(), ..cluster() };
    let by_ipv6 = |address: &str| {
        let mut forward = object("one", spec()).forward.unwrap();
        forward.upstream = address.parse().unwrap();
        Floor::of(&both, &"".parse().unwrap()).refuse(&forward).map(|refusal| refusal.reason)
    };
    assert_eq!(by_ipv6("fd00:10::1"), Some(NodeRefusalReason::ForbiddenUpstream));
    assert_eq!((by_ipv6("fd00:10::"), by_ipv6("fd00:10::2")), (None, None));
    let single = Facts { services: ["10.112.0.0/32".parse().unwrap()].into(), ..cluster() };
    assert_eq!(reason(&single, &forbidding(""), upstream("10.112.0.1")), None, "a network of one address has no second one");
    assert_eq!(reason(&both, &forbidding(""), upstream("10.112.0.1")), Some(NodeRefusalReason::ForbiddenUpstream));
    assert_eq!(reason(&both, &forbidding(""), upstream("10.112.0.2")), None);
}

/// Attack 11: cloud metadata, Services and kubelets as upstream.
#[test]
fn metadata_services_nodes_pods_and_services_are_no_upstream_by_default() {
    for (address, word, said) in [
        ("100.100.100.200", "metadata", "is a metadata service (Alibaba Cloud)"),
        ("168.63.129.16", "metadata", "is a metadata service (Azure (WireServer))"),
        ("192.0.0.192", "metadata", "is a metadata service (Oracle Cloud Classic)"),
        ("10.96.0.10", "services", "lies in 10.96.0.0/12, the network of this cluster's Services"),
        ("10.55.7.3", "nodes", "is an address of a Node of this cluster"),
        ("10.244.2.9", "pods", "lies in 10.244.2.0/24, a network of pods of this cluster"),
    ] {
        for policy in [defaults(), forbidding(word)] {
            let refused = refusal(&cluster(), &policy, upstream(address)).unwrap();
            assert_eq!(refused.reason, NodeRefusalReason::ForbiddenUpstream);
            for words in [address, said, "--forbidden-networks", "agent.forbiddenNetworks"] {
                assert!(refused.message.contains(words), "{}", refused.message);
            }
        }
        let others = ["nodes", "pods", "services", "metadata"].into_iter().filter(|other| *other != word);
        let without = forbidding(&others.collect::<Vec<_>>().join(","));
        assert_eq!(reason(&cluster(), &without, upstream(address)), None, "{address}");
    }
    // Without the word, a Service is still no way that works.
    let (verdict, _) = decided(&cluster(), &forbidding("nodes"), &InForce::default(), upstream("10.96.0.10"));
    assert_eq!(verdict.obstacles[0].reason, ObstacleReason::UpstreamIsService);
}

/// A sibling of attack 1: the node holds the address of a Service or of a pod, as with kube-proxy in the mode ipvs or a DNS cache
/// of the node, and the forward takes what pods send there.
#[test]
fn no_forward_listens_on_an_address_of_a_service_or_a_pod() {
    let on = |leg: &str, address: &str| {
        let mut facts = cluster();
        let interface = Some("dns0".parse().unwrap());
        facts.addresses.insert(LocalAddress { address: address.parse().unwrap(), prefix_len: 32, interface });
        (facts, with(&[("/internal", json!({"addresses": ["192.168.0.2"]})), (leg, json!({"addresses": [address]}))]))
    };
    for leg in ["/internal", "/external"] {
        for address in ["10.96.0.10", "10.96.0.1", "10.244.1.1"] {
            let (facts, spec) = on(leg, address);
            let refused = refusal(&facts, &defaults(), spec.clone()).unwrap();
            assert_eq!(refused.reason, NodeRefusalReason::ForbiddenAddress, "{leg} {address}");
            assert!(refused.message.starts_with(&format!("the {} address {address} ", &leg[1..])), "{}", refused.message);
            assert_eq!(reason(&facts, &forbidding("nodes"), spec), None, "{leg} {address}");
        }
        // The address of a Node, which may be an API server too, is a usual address of a leg.
        for address in ["10.55.7.2", "10.55.7.1"] {
            let (facts, spec) = on(leg, address);
            assert_eq!(reason(&facts, &defaults(), spec), None, "{leg} {address}");
        }
    }
}

#[test]
fn an_address_of_this_node_is_still_named_as_a_loop() {
    let own = Facts { api_servers: BTreeSet::new(), ..cluster() };
    let other_leg = with(&[("/upstream/targets/0/address", json!("2.2.2.2")), ("/external", json!({}))]);
    assert_eq!(reason(&own, &defaults(), other_leg), Some(NodeRefusalReason::ForwardLoop));
}

#[test]
fn what_is_in_force_is_withdrawn_when_a_node_gets_the_address_and_comes_back_without_being_a_new_claim() {
    let before = decided(&facts(), &defaults(), &InForce::default(), spec());
    let named = |address: &str| {
        let nodes = Nodes { addresses: [address.parse().unwrap()].into(), ..Nodes::default() };
        Facts { nodes: Arc::new(nodes), ..facts() }
    };
    let listens = node_ports::reached("192.168.0.2", &[node_ports::listener(Protocol::Tcp, "0.0.0.0", 80)]);
    let in_force = |verdict: Verdict| InForce::of(&[(ForwardKey::new("default", "one"), Box::new(verdict))].into());
    for (address, wanted) in [("3.3.3.3", NodeRefusalReason::ForbiddenUpstream), ("1.1.1.1", NodeRefusalReason::ForbiddenClient)]
    {
        let (verdict, desired) = decided(&named(address), &defaults(), &in_force(before.0.clone()), spec());
        let Acceptance::RefusedHere(refusal) = &verdict.acceptance else { panic!("{:?}", verdict.acceptance) };
        assert_eq!((refusal.reason, desired), (wanted, Desired::default()));
        let again = decided(&listens, &defaults(), &in_force(verdict), spec());
        assert_eq!(again.1.translations, before.1.translations, "a program listens there since");
    }
    // What the agent does not know withdraws nothing.
    assert_eq!(decided(&facts(), &defaults(), &in_force(before.0.clone()), spec()).1, before.1);
}

/// A grant for everything, as an administrator may write it by mistake.
#[test]
fn no_grant_lifts_the_floor() {
    let all = json!([{"cidrs": ["0.0.0.0/0"]}]);
    let any = json!(["0.0.0.0/0"]);
    let changes = [
        ("listen", all.clone()),
        ("upstreams", all),
        ("clients", any.clone()),
        ("external", any.clone()),
        ("gateways", json!([{"address": "192.168.0.1", "routes": any}])),
        ("reverse", json!([{}])),
        ("oneLeg", json!(true)),
    ];
    let grants = Grants::Read([super::grants::grant("everything", &changes)].into());
    let granted = Policy { require_grants: RequireGrants::Yes, grants, ..defaults() };
    assert_eq!(reason(&cluster(), &granted, spec()), None, "the grant permits what the floor does");
    for (spec, wanted) in [
        (upstream("10.55.7.1"), NodeRefusalReason::ForbiddenUpstream),
        (upstream("10.55.7.3"), NodeRefusalReason::ForbiddenUpstream),
        (upstream("100.100.100.200"), NodeRefusalReason::ForbiddenUpstream),
        (client("10.55.7.1", 8080, 2), NodeRefusalReason::ForbiddenClient),
        (client("1.1.1.1", 10250, 1), NodeRefusalReason::ReservedPort),
        (client("1.1.1.1", 10250, 2), NodeRefusalReason::ReservedPort),
    ] {
        assert_eq!(reason(&cluster(), &granted, spec), Some(wanted));
    }
    let around_pods = with(&[("/client/addresses", json!(["10.244.0.0/16"]))]);
    let (verdict, desired) = decided(&cluster(), &granted, &InForce::default(), around_pods);
    assert!(verdict.is_carried() && desired.routes.is_empty(), "{:?}", verdict.routes);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// No packet is translated from or to a forbidden address that an object names, and no route covers one.
    #[test]
    fn nothing_planned_uses_a_forbidden_network(
        specs in prop::collection::vec(any_spec(), 1..12),
        nodes in prop::collection::btree_set(prop_oneof![Just("3.3.3.4"), Just("1.1.1.5"), Just("1.1.9.9"), Just("4.4.4.4")], 0..4),
        pods in prop_oneof![Just(None), Just(Some("1.1.0.0/16")), Just(Some("4.5.0.0/16")), Just(Some("3.3.3.0/24"))],
        list in prop_oneof![Just("nodes,pods"), Just("1.1.1.0/29,4.0.0.0/6"), Just("nodes,3.3.3.3")],
        in_force in any::<bool>(),
    ) {
        let candidates: Vec<Candidate> = specs.into_iter().enumerate().map(|(n, spec)| object(&format!("f{n}"), spec)).collect();
        let before = if in_force { InForce::of(&planned(&facts(), &candidates).verdicts) } else { InForce::default() };
        let addresses: BTreeSet<IpAddr> = nodes.iter().map(|address| address.parse().unwrap()).collect();
        let pods: BTreeSet<IpNet> = pods.iter().map(|network| network.parse().unwrap()).collect();
        let named = |word: &str| list.split(',').any(|part| part == word);
        let mut forbidden: Vec<IpNet> = list.split(',').filter_map(|part| part.parse().ok().or_else(|| Some(part.parse::<IpAddr>().ok()?.into()))).collect();
        forbidden.extend(addresses.iter().filter(|_| named("nodes")).map(|address| IpNet::from(*address)));
        forbidden.extend(pods.iter().filter(|_| named("pods")));
        let facts = Facts { nodes: Arc::new(Nodes { addresses, pods }), ..facts() };
        let desired = plan(&facts, &candidates, &forbidding(list), &before).desired;
        for translation in &desired.translations {
            let parties = [translation.flows.source, translation.destination.address.into()];
            prop_assert!(!forbidden.iter().any(|net| parties.iter().any(|party| net.contains(party))), "{:?}", translation);
        }
        for route in &desired.routes {
            let overlap = |net: &IpNet| net.contains(&route.destination) || route.destination.contains(net);
            prop_assert!(!forbidden.iter().any(overlap), "{:?}", route);
        }
    }
}
