//! A forward that a grant contains, compared with the packets that the grant permits.

use super::super::grants::Scopes;
use super::grants::{grant, object_in, with_grants};
use super::*;
use crate::forward::Direction;
use crate::grant::Grant;
use crate::model::SourceNat;

prop_compose! {
    fn any_sockets(address: &'static str)(
        network in prop::sample::subsequence(vec!["192.168.0.2", "192.168.0.0/31", "10.0.0.0/8", "3.3.3.3", "3.3.3.0/24"], 1..5),
        all in any::<bool>(), protocol in prop_oneof![Just(None), Just(Some("TCP")), Just(Some("UDP"))],
        port in 76u16..84, width in 0u16..16,
    ) -> Value {
        let mut entry = json!({"cidrs": if all { vec![address] } else { network }, "port": port, "endPort": port + width});
        if let Some(protocol) = protocol { entry["protocol"] = json!(protocol); }
        entry
    }
}

prop_compose! {
    fn any_grant()(
        clients in prop::sample::subsequence(vec!["1.1.1.0/30", "1.1.1.4/30", "1.1.1.8", "1.1.1.9", "1.1.0.0/17", "1.1.128.0/17"], 1..7),
        listen in prop::collection::vec(any_sockets("192.168.0.0/24"), 1..5),
        upstreams in prop::collection::vec(any_sockets("3.3.3.0/24"), 1..5),
        external in prop::sample::subsequence(vec!["2.2.2.2", "2.2.2.3"], 0..3),
        routes in prop::option::of(prop::sample::subsequence(vec!["1.1.1.0/29", "1.1.1.8/31", "1.1.0.0/17", "1.1.128.0/17"], 1..5)),
        reverse in any::<bool>(), port in 76u16..84, width in 0u16..16,
    ) -> Grant {
        let mut changes = vec![("clients", json!(clients)), ("listen", json!(listen)), ("upstreams", json!(upstreams)), ("external", json!(external))];
        let gateways = routes.map(|routes| json!([{"address": "192.168.0.1", "routes": routes}]));
        changes.push(("gateways", gateways.unwrap_or_else(|| json!([]))));
        if reverse && !external.is_empty() {
            changes.push(("reverse", json!([{"port": port, "endPort": port + width}])));
        }
        grant("a", &changes)
    }
}

/// Whether the grant permits one packet of a forward: from `client`, or to it for `reverse`, and to `port`.
fn permits(
    grant: &Grant,
    forward: &Forward,
    direction: Direction,
    it: &Translation,
    client: std::net::IpAddr,
    port: u16,
) -> bool {
    let socket = |list: &[crate::grant::Sockets], address, port: Option<u16>| {
        list.iter().any(|entry| {
            entry.cidrs.iter().any(|network| network.contains(&address))
                && entry.protocol.is_none_or(|only| only == it.flows.protocol)
                && port.is_none_or(|port| entry.ports.contains(port))
        })
    };
    let holds = |list: &[ipnet::IpNet], address| list.iter().any(|network| network.contains(&address));
    let external = forward.external.is_none_or(|address| holds(&grant.external, address));
    let route = forward
        .gateway
        .is_none_or(|gateway| grant.gateways.iter().any(|entry| entry.address == gateway && holds(&entry.routes, client)));
    let flow = match direction {
        Direction::Forward => {
            socket(&grant.listen, it.flows.destination, Some(port))
                && socket(&grant.upstreams, it.destination.address, Some(it.destination.ports.of(port)))
                && matches!(it.source, SourceNat::Masquerade) == forward.external.is_none()
        }
        Direction::Reverse => {
            let opened = |entry: &crate::grant::GrantedPorts| {
                entry.protocol.is_none_or(|only| only == it.flows.protocol) && entry.ports.contains(port)
            };
            grant.reverse.iter().any(opened) && socket(&grant.upstreams, forward.upstream, None)
        }
    };
    flow && external && route && holds(&grant.clients, client)
}

/// Whether the grant permits each packet of a forward, as far as its clients can be tried one by one.
fn permits_all(grant: &Grant, forward: &Forward) -> bool {
    let reversed = forward.reversed();
    let translations = forward.translations();
    let towards_upstream = translations.len() - reversed;
    translations.iter().enumerate().all(|(place, it)| {
        let direction = if place < towards_upstream { Direction::Forward } else { Direction::Reverse };
        // A network may have millions of addresses: they are tried one after the other, up to the first that is not permitted.
        let network = match direction {
            Direction::Forward => it.flows.source,
            Direction::Reverse => it.destination.address.into(),
        };
        let mut clients = network.hosts().step_by(97).chain([network.broadcast()]);
        let ports = it.flows.ports.first()..=it.flows.ports.last();
        clients.all(|client| ports.clone().all(|port| permits(grant, forward, direction, it, client, port)))
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn each_packet_of_a_contained_forward_is_permitted_and_a_forward_of_permitted_packets_is_contained(
        spec in any_spec(), grant in any_grant(),
    ) {
        let document = json!({"apiVersion": "portforward.dev/v1alpha1", "kind": "PortForward", "metadata": {"name": "f"}, "spec": spec});
        let Ok(forward) = Forward::parse(&api::decode(document).unwrap()) else { return Ok(()) };
        if forward.clients.iter().any(|client| client.prefix_len() < 16) {
            return Ok(());
        }
        let contained = Scopes::of(std::slice::from_ref(&grant), |_| true).containing(&forward).is_ok();
        prop_assert_eq!(contained, permits_all(&grant, &forward), "{:?} in {:?}", forward, grant);
    }
}

proptest! {
    // One case has up to 16 forwards and 4 grants, and is planned twice.
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn with_grants_the_order_of_input_never_matters_and_only_contained_forwards_are_carried(
        specs in prop::collection::vec((any_spec(), 0usize..3), 0..16), grants in prop::collection::vec((any_grant(), 0usize..3, -1i32..2, 0u32..4), 0..4), turn in 0usize..16,
    ) {
        let namespaces = ["a", "b", "c"];
        let candidates: Vec<Candidate> = specs.into_iter().enumerate().map(|(n, (spec, namespace))| object_in(namespaces[namespace], &format!("f{n}"), spec)).collect();
        let grants: Vec<Grant> = grants.into_iter().enumerate().map(|(n, (grant, namespace, priority, forwards))| Grant {
            name: format!("g{n}"), namespaces: [namespaces[namespace].to_owned()].into(), priority,
            limits: crate::grant::Limits { forwards: (forwards > 0).then_some(forwards), ..Default::default() }, ..grant
        }).collect();
        let plan = with_grants(&candidates, &grants);
        let mut shuffled = candidates.clone();
        shuffled.rotate_left(turn % candidates.len().max(1));
        shuffled.reverse();
        prop_assert_eq!(&with_grants(&shuffled, &grants), &plan);
        for candidate in &candidates {
            if plan.verdicts[&candidate.key].translations.is_empty() {
                continue;
            }
            let granted = candidate.forward.as_ref().is_ok_and(|forward| grants.iter().any(|grant| {
                grant.namespaces.contains(&forward.key.namespace) && permits_all(grant, forward)
            }));
            prop_assert!(granted, "{}", candidate.key);
        }
    }
}
