//! Properties of every plan.

mod amended;
mod contained;
mod cycles;
mod floor;
mod grants;
mod in_force;
mod names;
mod next_hops;
mod node_ports;
mod owners;
mod protected;
mod rules;
mod share;
mod told;
mod ways;

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::api;
use crate::model::{
    Link, Listener, LocalAddress, Protocol, Route, RouteKind, RoutingPolicy, RoutingRule, RpFilter, RuleAction, Translations,
};

#[allow(clippy::needless_pass_by_value, reason = "every caller makes the value for this call")]
fn object(name: &str, spec: Value) -> Candidate {
    let document =
        json!({"apiVersion": "portforward.dev/v1alpha1", "kind": "PortForward", "metadata": {"name": name}, "spec": spec});
    Candidate::of(&api::decode(document).unwrap())
}

pub(super) fn spec() -> Value {
    json!({
        "client": {"addresses": ["1.1.1.1"]},
        "internal": {"addresses": ["192.168.0.2"], "interface": "eth1", "gateways": ["192.168.0.1"]},
        "external": {"addresses": ["2.2.2.2"], "interface": "eth0"},
        "upstream": {"targets": [{"address": "3.3.3.3"}]},
        "ports": [{"name": "http", "port": 80}]
    })
}

/// The specification of the seed, with the value at `pointer` replaced.
pub(super) fn with(changes: &[(&str, Value)]) -> Value {
    let mut spec = spec();
    for (pointer, value) in changes {
        if let Some(place) = spec.pointer_mut(pointer) {
            *place = value.clone();
        } else {
            let (parent, field) = pointer.rsplit_once('/').unwrap();
            spec.pointer_mut(parent).unwrap()[field] = value.clone();
        }
    }
    spec
}

/// The proxy node of the seed.
pub(super) fn facts() -> Facts {
    let name = |text: &str| text.parse::<crate::model::InterfaceName>().unwrap();
    let link = |index| Link { index, up: true, rp_filter: RpFilter::Off, forwarding: true, master: None };
    let address = |text: &str, interface: &str| LocalAddress {
        address: text.parse().unwrap(),
        prefix_len: 24,
        interface: Some(name(interface)),
    };
    let route = |destination: &str, gateway: Option<&str>, interface: &str| Route {
        kind: RouteKind::Unicast,
        destination: destination.parse().unwrap(),
        gateway: gateway.map(|gateway| gateway.parse().unwrap()),
        interface: Some(name(interface)),
        hops: Vec::new(),
        metric: 0,
        ours: false,
    };
    Facts {
        labels: BTreeMap::from([("zone".to_owned(), "a".to_owned())]),
        links: BTreeMap::from([(name("eth0"), link(2)), (name("eth1"), link(3))]),
        addresses: BTreeSet::from([address("192.168.0.2", "eth1"), address("2.2.2.2", "eth0")]),
        routes: [
            route("192.168.0.0/24", None, "eth1"),
            route("2.2.2.0/24", None, "eth0"),
            route("0.0.0.0/0", Some("2.2.2.1"), "eth0"),
        ]
        .into_iter()
        .collect(),
        ip_forward: true,
        ..Facts::default()
    }
}

/// A rule for marked packets, to a table that leads them to another gateway.
fn by_mark() -> RoutingPolicy {
    let marked = RoutingRule {
        priority: 100,
        unknown: vec!["fwmark 0x1".to_owned()],
        action: RuleAction::Table { table: 100, suppressed: None },
        ..RoutingRule::default()
    };
    let main = RoutingRule {
        priority: 32766,
        action: RuleAction::Table { table: RoutingPolicy::MAIN, suppressed: None },
        ..RoutingRule::default()
    };
    let default = Route {
        kind: RouteKind::Unicast,
        destination: "0.0.0.0/0".parse().unwrap(),
        gateway: Some("2.2.2.9".parse().unwrap()),
        interface: Some("eth0".parse().unwrap()),
        hops: Vec::new(),
        metric: 0,
        ours: false,
    };
    RoutingPolicy { rules: vec![marked, main], tables: [(100, [default].into_iter().collect())].into() }
}

fn planned(facts: &Facts, candidates: &[Candidate]) -> Plan {
    plan(facts, candidates, &Policy::default(), &InForce::default())
}

pub(super) fn verdict(facts: &Facts, spec: Value) -> Verdict {
    *planned(facts, &[object("one", spec)]).verdicts.into_values().next().unwrap()
}

pub(super) fn worst(facts: &Facts, spec: Value) -> Option<ObstacleReason> {
    let verdict = verdict(facts, spec);
    assert_eq!(verdict.acceptance, Acceptance::Accepted);
    verdict.obstacles.first().map(|obstacle| obstacle.reason)
}

fn policy() -> Policy {
    Policy { reserved_ports: "22/TCP,30000-32767".parse().unwrap(), ..Policy::default() }
}

fn refused(facts: &Facts, spec: Value) -> Option<NodeRefusalReason> {
    let plan = plan(facts, &[object("one", spec)], &policy(), &InForce::default());
    match &plan.verdicts.values().next().unwrap().acceptance {
        Acceptance::RefusedHere(refusal) => {
            assert!(plan.desired.translations.is_empty(), "a refused forward leaves nothing");
            Some(refusal.reason)
        }
        _ => None,
    }
}

#[test]
fn the_seed_is_one_translation_and_one_route() {
    let plan = planned(&facts(), &[object("bank-a-web", spec())]);
    assert_eq!(plan.desired.translations.len(), 1);
    let route = plan.desired.routes.first().unwrap();
    assert_eq!(
        (route.destination.to_string(), route.gateway.to_string(), route.interface.to_string()),
        ("1.1.1.1/32".into(), "192.168.0.1".into(), "eth1".into())
    );
    let verdict = &plan.verdicts.values().next().unwrap();
    assert_eq!((verdict.role, verdict.obstacles.as_slice(), verdict.notes.as_slice()), (Some(Role::Active), &[][..], &[][..]));
}

#[test]
fn a_node_with_a_link_in_the_subnet_stands_by_and_another_is_no_candidate() {
    let mut standby = facts();
    standby.addresses = standby
        .addresses
        .into_iter()
        .map(|mut local| {
            if local.address.to_string() == "192.168.0.2" {
                local.address = "192.168.0.3".parse().unwrap();
            }
            local
        })
        .collect();
    let plan = planned(&standby, &[object("one", spec())]);
    assert_eq!(plan.verdicts.values().next().unwrap().role, Some(Role::Standby));
    assert_eq!((plan.desired.translations.len(), plan.desired.routes.len()), (1, 1));
    for (facts, spec) in [
        (Facts { addresses: BTreeSet::new(), ..facts() }, spec()),
        (facts(), with(&[("/nodeSelector", json!({"matchLabels": {"zone": "b"}}))])),
    ] {
        let plan = planned(&facts, &[object("one", spec)]);
        assert_eq!(plan.verdicts.values().next().unwrap().role, None);
        assert_eq!(plan.desired, Desired::default());
    }
}

#[test]
fn the_older_wins_then_the_name_and_the_loser_takes_over_when_the_winner_goes() {
    let (a, b) = (object("a", spec()), object("b", spec()));
    let loser = |candidates: &[Candidate]| {
        let plan = planned(&facts(), candidates);
        plan.verdicts.iter().find_map(|(key, verdict)| match &verdict.acceptance {
            Acceptance::Conflict(conflict) => Some((key.name.clone(), conflict.winner.name.clone())),
            _ => None,
        })
    };
    assert_eq!(loser(&[b.clone(), a.clone()]), Some(("b".into(), "a".into())));
    let older = Candidate { created: Some("2026-01-01T00:00:00Z".parse().unwrap()), ..b.clone() };
    let younger = Candidate { created: Some("2026-01-02T00:00:00Z".parse().unwrap()), ..a.clone() };
    assert_eq!(loser(&[younger, older]), Some(("a".into(), "b".into())));
    assert_eq!(loser(&[b]), None);
    assert_eq!(loser(&[object("a", with(&[("/mode", json!("Disabled"))])), object("b", spec())]), None);
}

#[test]
fn forwards_conflict_only_where_a_packet_would_match_both_or_one_client_had_two_gateways() {
    let conflicts = |changes: &[(&str, Value)]| {
        let plan = planned(&facts(), &[object("a", spec()), object("b", with(changes))]);
        plan.verdicts.values().any(|verdict| matches!(verdict.acceptance, Acceptance::Conflict(_)))
    };
    assert!(conflicts(&[]));
    assert!(conflicts(&[("/ports/0", json!({"name": "x", "port": 70, "endPort": 90}))]));
    assert!(conflicts(&[("/client/addresses", json!(["1.1.0.0/16"]))]));
    assert!(
        conflicts(&[("/internal", json!({"addresses": ["192.168.0.2"], "gateways": ["192.168.0.1"]}))]),
        "no interface matches every one"
    );
    assert!(!conflicts(&[("/ports/0/protocol", json!("UDP"))]));
    assert!(!conflicts(&[("/ports/0/port", json!(81))]));
    assert!(!conflicts(&[("/client/addresses", json!(["1.1.1.2"]))]));
    assert!(!conflicts(&[("/internal/addresses", json!(["192.168.0.7"]))]));
    assert!(!conflicts(&[("/internal/interface", json!("eth2"))]));
    assert!(
        conflicts(&[("/internal/interface", json!("eth2")), ("/external/addresses", json!(["2.2.2.9"]))]),
        "POSTROUTING could not tell them apart"
    );
    assert!(conflicts(&[("/ports/0/port", json!(81)), ("/internal/gateways", json!(["192.168.0.254"]))]));
    let reverse = json!({"ports": [{"name": "all", "port": 1, "endPort": 65535, "targetPort": 80, "targetEndPort": 80}]});
    let both = [
        object("a", with(&[("/reverse", reverse.clone())])),
        object("b", with(&[("/reverse", reverse), ("/client/addresses", json!(["1.1.1.2"]))])),
    ];
    let plan = planned(&facts(), &both);
    assert!(
        matches!(plan.verdicts.values().nth(1).unwrap().acceptance, Acceptance::Conflict(_)),
        "one upstream opens to one client"
    );
}

#[test]
fn what_only_the_node_can_tell_refuses() {
    assert_eq!(refused(&facts(), spec()), None);
    assert_eq!(
        refused(
            &facts(),
            with(&[("/upstream/targets/0/address", json!("192.168.0.1")), ("/internal/gateways", json!(["192.168.0.9"]))])
        ),
        None
    );
    let mut own = facts();
    own.addresses.insert(LocalAddress { address: "3.3.3.3".parse().unwrap(), prefix_len: 32, interface: None });
    assert_eq!(refused(&own, spec()), Some(NodeRefusalReason::ForwardLoop));
    assert_eq!(
        refused(&Facts { api_servers: ["3.3.3.3".parse().unwrap()].into(), ..facts() }, spec()),
        Some(NodeRefusalReason::ForbiddenUpstream)
    );
    assert_eq!(
        refused(&facts(), with(&[("/upstream/targets/0/address", json!("2.2.2.0"))])),
        Some(NodeRefusalReason::NetworkAddress)
    );
    assert_eq!(
        refused(&facts(), with(&[("/internal/gateways", json!(["192.168.0.255"]))])),
        Some(NodeRefusalReason::BroadcastAddress)
    );
}

#[test]
fn every_obstacle_is_seen() {
    let mut no_forwarding = Facts { ip_forward: false, ..facts() };
    no_forwarding.links.values_mut().for_each(|link| link.forwarding = false);
    assert_eq!(worst(&no_forwarding, spec()), Some(ObstacleReason::ForwardingDisabled));
    assert_eq!(worst(&facts(), with(&[("/external/interface", json!("eth7"))])), Some(ObstacleReason::WaitingForInterface));
    let mut down = facts();
    down.links.values_mut().for_each(|link| link.up = false);
    assert_eq!(worst(&down, spec()), Some(ObstacleReason::InterfaceDown));
    let mut enslaved = facts();
    enslaved.links.get_mut(&"eth1".parse().unwrap()).unwrap().master = Some(2);
    assert_eq!(worst(&enslaved, spec()), Some(ObstacleReason::EnslavedInterface));
    assert_eq!(
        worst(&facts(), with(&[("/external/addresses", json!(["2.2.2.77"]))])),
        Some(ObstacleReason::ExternalAddressMissing)
    );
    let swapped = with(&[("/internal/interface", json!("eth0")), ("/external/interface", json!("eth1"))]);
    assert_eq!(worst(&facts(), swapped), Some(ObstacleReason::AddressNotOnInterface));
    assert_eq!(worst(&facts(), with(&[("/internal/gateways", json!(["10.9.9.9"]))])), Some(ObstacleReason::GatewayNotOnLink));
    let mut no_default = facts();
    no_default.routes = facts().routes.iter().filter(|route| route.destination.prefix_len() > 0).cloned().collect();
    assert_eq!(worst(&no_default, spec()), Some(ObstacleReason::NoRouteToUpstream));
    assert_eq!(
        worst(&Facts { routing: by_mark(), ..no_default.clone() }, spec()),
        None,
        "where a rule may lead to another table, main proves nothing"
    );
    let no_gateway = with(&[("/internal/gateways", json!([])), ("/upstream/targets/0/address", json!("2.2.2.9"))]);
    assert_eq!(worst(&no_default, no_gateway.clone()), Some(ObstacleReason::NoRouteToClient));
    let mut strict = facts();
    strict.links.values_mut().for_each(|link| link.rp_filter = RpFilter::Strict);
    assert_eq!(worst(&strict, no_gateway), Some(ObstacleReason::AsymmetricRoute));
    let mut inside = facts();
    let by_eth1 = |route: &Route| Route { interface: Some("eth1".parse().unwrap()), ..route.clone() };
    inside.routes = facts().routes.iter().map(by_eth1).collect();
    assert_eq!(worst(&inside, spec()), Some(ObstacleReason::UpstreamNotOnInterface));
}

prop_compose! {
    fn any_spec()(
        client in prop_oneof!["1\\.1\\.1\\.[1-9]", Just("1.1.0.0/16".to_owned()), Just("4.0.0.0/8".to_owned())],
        internal in prop_oneof![Just("192.168.0.2"), Just("192.168.0.3"), Just("10.0.0.1")],
        interface in prop_oneof![Just(None), Just(Some("eth1")), Just(Some("eth2"))],
        gateway in prop_oneof![Just(None), Just(Some("192.168.0.1")), Just(Some("192.168.0.254"))],
        external in prop_oneof![Just(None), Just(Some("2.2.2.2")), Just(Some("2.2.2.3"))],
        upstream in prop_oneof![Just("3.3.3.3"), Just("3.3.3.4"), Just("2.2.2.2")],
        port in 78u16..84, width in prop_oneof![Just(0u16), 0u16..10],
        protocol in prop_oneof![Just("TCP"), Just("UDP")],
        reverse in any::<bool>(), disabled in 0u8..8,
    ) -> Value {
        let mut spec = json!({
            "client": {"addresses": [client]}, "internal": {"addresses": [internal]}, "upstream": {"targets": [{"address": upstream}]},
            "ports": [{"name": "a", "port": port, "endPort": port + width, "protocol": protocol}],
        });
        if let Some(interface) = interface { spec["internal"]["interface"] = json!(interface); }
        if let Some(gateway) = gateway { spec["internal"]["gateways"] = json!([gateway]); }
        if let Some(external) = external { spec["external"] = json!({"addresses": [external]}); }
        if reverse { spec["reverse"] = json!({"ports": [{"name": "b", "port": port, "protocol": protocol}]}); }
        if disabled == 0 { spec["mode"] = json!("Disabled"); }
        spec
    }
}

/// Whether some packet matches both.
fn both_match(a: &crate::model::FlowMatch, b: &crate::model::FlowMatch) -> bool {
    a.protocol == b.protocol
        && a.destination == b.destination
        && a.ports.overlaps(b.ports)
        && (a.source.contains(&b.source) || b.source.contains(&a.source))
        && (a.interface.is_none() || b.interface.is_none() || a.interface == b.interface)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn no_two_rules_in_force_match_one_packet_and_the_order_of_input_never_matters(
        specs in prop::collection::vec(any_spec(), 0..24), turn in 0usize..24,
    ) {
        let candidates: Vec<Candidate> = specs.into_iter().enumerate().map(|(n, spec)| object(&format!("f{n}"), spec)).collect();
        let plan = planned(&facts(), &candidates);
        let all: Vec<_> = plan.desired.translations.iter().collect();
        for (n, a) in all.iter().enumerate() {
            prop_assert!(a.flows.source.prefix_len() > 0, "no rule without a client");
            for b in &all[n + 1..] {
                prop_assert!(!both_match(&a.flows, &b.flows), "{a:?} and {b:?}");
            }
        }
        let gateways: BTreeMap<_, BTreeSet<_>> = plan.desired.routes.iter().fold(BTreeMap::new(), |mut map, route| { map.entry(route.destination).or_insert_with(BTreeSet::new).insert(route.gateway); map });
        prop_assert!(gateways.values().all(|gateways| gateways.len() == 1));
        let carried: Translations = plan.verdicts.values().flat_map(|verdict| verdict.translations.iter().cloned()).collect();
        prop_assert_eq!(&carried, &plan.desired.translations);
        let mut shuffled = candidates.clone();
        shuffled.rotate_left(turn % candidates.len().max(1));
        shuffled.reverse();
        prop_assert_eq!(planned(&facts(), &shuffled), plan);
    }
}
