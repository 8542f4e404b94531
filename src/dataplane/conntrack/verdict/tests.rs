//! One test for each sentence of the rule, and properties that hold for all sets.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use netlink_packet_netfilter::conntrack::Status;
use proptest::prelude::*;

use super::*;
use crate::dataplane::conntrack::table::Tuple;
use crate::model::{Destination, FlowMatch, PortRange, Shift, TargetPorts, Translations};

const CLIENT: &str = "1.1.1.1";
const LISTEN: &str = "192.168.0.2:80";
const UPSTREAM: &str = "3.3.3.3:8080";
const EXTERNAL: &str = "2.2.2.2";

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn endpoint(text: &str) -> (IpAddr, u16) {
    let (host, port) = text.split_once(':').unwrap();
    (address(host), port.parse().unwrap())
}

/// The translation of `client` at `LISTEN` to `upstream` as `source`.
fn translation(protocol: Protocol, client: &str, upstream: &str, source: SourceNat) -> Translation {
    let (destination, port) = endpoint(LISTEN);
    let (upstream, upstream_port) = endpoint(upstream);
    Translation {
        flows: FlowMatch {
            protocol,
            destination,
            ports: port.to_string().parse().unwrap(),
            source: client.parse().unwrap(),
            interface: None,
        },
        destination: Destination { address: upstream, ports: TargetPorts::One(upstream_port) },
        source,
    }
}

fn ours(protocol: Protocol) -> Translation {
    translation(protocol, "1.1.1.1/32", UPSTREAM, SourceNat::Address(address(EXTERNAL)))
}

/// A flow of `CLIENT` to `LISTEN` that is sent on to `upstream` with the source `source`.
fn entry(protocol: Protocol, upstream: &str, source: &str) -> Entry {
    let (destination, destination_port) = endpoint(LISTEN);
    let (upstream, upstream_port) = endpoint(upstream);
    Entry {
        protocol,
        original: Tuple { source: address(CLIENT), destination, source_port: 40000, destination_port },
        reply: Tuple { source: upstream, destination: address(source), source_port: upstream_port, destination_port: 40000 },
        status: Status::empty(),
        id: Some(1),
        mark: 0,
    }
}

/// The node has every listen address of these.
fn held<'a>(translations: impl IntoIterator<Item = &'a Translation>) -> BTreeSet<IpAddr> {
    translations.into_iter().map(|translation| translation.flows.destination).collect()
}

fn is_wrong(entry: &Entry, before: &[Translation], now: &[Translation]) -> bool {
    !stale(std::slice::from_ref(entry), &Index::new(before), &Index::new(now), &held(now)).is_empty()
}

#[test]
fn what_lacks_the_mark_is_a_translated_flow_of_ours_whose_bit_is_not_set() {
    let (rules, mark) = ([ours(Protocol::Tcp)], Connmark::default());
    let now = Index::new(&rules);
    let flow = entry(Protocol::Tcp, UPSTREAM, EXTERNAL);
    assert!(lacks(&flow, mark, &now), "it began before the rules");
    assert!(lacks(&Entry { mark: !mark.bit(), ..flow.clone() }, mark, &now), "the bits of others do not count");
    assert!(!lacks(&Entry { mark: mark.bit() | 1, ..flow.clone() }, mark, &now));
    assert!(lacks(&entry(Protocol::Tcp, "9.9.9.9:80", EXTERNAL), mark, &now), "TCP stays with its upstream");
    let untranslated = entry(Protocol::Tcp, LISTEN, CLIENT);
    assert!(!lacks(&untranslated, mark, &now));
    let mut other = flow;
    other.original.source = address("1.1.1.2");
    assert!(!lacks(&other, mark, &now), "another program translates it");
}

#[test]
fn what_a_standby_merely_routes_is_not_its_to_judge() {
    let mut routed = entry(Protocol::Udp, UPSTREAM, EXTERNAL);
    (routed.reply.source, routed.reply.source_port) = (routed.original.destination, routed.original.destination_port);
    let rules = [ours(Protocol::Udp)];
    let (before, now) = (Index::new(&[]), Index::new(&rules));
    assert!(!is_stale(&routed, &before, &now, &BTreeSet::new()), "the address is elsewhere");
    assert!(is_stale(&routed, &before, &now, &held(&rules)), "it came here, and the flow began before");
}

#[test]
fn an_entry_translated_as_the_rule_in_force_gives_stays() {
    for protocol in Protocol::ALL {
        let rules = [ours(protocol)];
        assert!(!is_wrong(&entry(protocol, UPSTREAM, EXTERNAL), &rules, &rules));
        assert!(!is_wrong(&entry(protocol, UPSTREAM, EXTERNAL), &[], &rules), "also right after it came into force");
    }
}

#[test]
fn an_entry_of_a_forward_that_is_gone_is_wrong() {
    for protocol in Protocol::ALL {
        assert!(is_wrong(&entry(protocol, UPSTREAM, EXTERNAL), &[ours(protocol)], &[]));
        let other = translation(protocol, "9.9.9.9/32", UPSTREAM, SourceNat::Masquerade);
        assert!(is_wrong(&entry(protocol, UPSTREAM, EXTERNAL), &[ours(protocol)], &[other]), "the client is no longer allowed");
        assert!(is_wrong(&entry(protocol, "4.4.4.4:1", EXTERNAL), &[ours(protocol)], &[]), "also with an older upstream");
    }
}

#[test]
fn an_entry_that_began_while_the_rule_was_missing_is_wrong() {
    for protocol in Protocol::ALL {
        assert!(is_wrong(&entry(protocol, LISTEN, CLIENT), &[], &[ours(protocol)]));
        assert!(
            is_wrong(&entry(protocol, LISTEN, CLIENT), &[ours(protocol)], &[ours(protocol)]),
            "also when a rule was repaired"
        );
    }
}

#[test]
fn udp_with_another_translation_is_wrong() {
    let rules = [ours(Protocol::Udp)];
    for (upstream, source) in [("4.4.4.4:8080", EXTERNAL), ("3.3.3.3:8081", EXTERNAL), (UPSTREAM, "2.2.2.9"), (UPSTREAM, CLIENT)]
    {
        assert!(is_wrong(&entry(Protocol::Udp, upstream, source), &rules, &rules), "{upstream} as {source}");
    }
}

#[test]
fn tcp_with_another_translation_stays_with_its_upstream() {
    let rules = [ours(Protocol::Tcp)];
    for (upstream, source) in [("4.4.4.4:8080", EXTERNAL), ("3.3.3.3:8081", EXTERNAL), (UPSTREAM, "2.2.2.9")] {
        assert!(!is_wrong(&entry(Protocol::Tcp, upstream, source), &rules, &rules), "{upstream} as {source}");
    }
}

#[test]
fn masquerade_accepts_any_source_but_the_clients_and_the_one_named_until_now() {
    let masquerade = [translation(Protocol::Udp, "1.1.1.1/32", UPSTREAM, SourceNat::Masquerade)];
    let named = [ours(Protocol::Udp)];
    assert!(!is_wrong(&entry(Protocol::Udp, UPSTREAM, "2.2.2.7"), &masquerade, &masquerade));
    assert!(!is_wrong(&entry(Protocol::Udp, UPSTREAM, "2.2.2.7"), &named, &masquerade));
    assert!(is_wrong(&entry(Protocol::Udp, UPSTREAM, EXTERNAL), &named, &masquerade));
    assert!(is_wrong(&entry(Protocol::Udp, UPSTREAM, CLIENT), &masquerade, &masquerade));
}

#[test]
fn an_entry_that_no_rule_of_ours_matched_stays() {
    for protocol in Protocol::ALL {
        let elsewhere = [translation(protocol, "9.9.9.9/32", UPSTREAM, SourceNat::Masquerade)];
        for upstream in [UPSTREAM, LISTEN] {
            assert!(!is_wrong(&entry(protocol, upstream, EXTERNAL), &elsewhere, &elsewhere));
        }
        assert!(!is_wrong(&entry(protocol, LISTEN, CLIENT), &[ours(protocol)], &[]), "to the node itself: never ours");
    }
}

#[test]
fn rules_that_differ_by_interface_are_all_tried() {
    let [mut eth1, mut eth2] = [ours(Protocol::Udp), ours(Protocol::Udp)];
    eth1.flows.interface = Some("eth1".parse().unwrap());
    eth2.flows.interface = Some("eth2".parse().unwrap());
    eth2.destination.address = address("4.4.4.4");
    let rules = [eth1, eth2];
    assert!(!is_wrong(&entry(Protocol::Udp, UPSTREAM, EXTERNAL), &rules, &rules));
    assert!(!is_wrong(&entry(Protocol::Udp, "4.4.4.4:8080", EXTERNAL), &rules, &rules));
    assert!(is_wrong(&entry(Protocol::Udp, "5.5.5.5:8080", EXTERNAL), &rules, &rules));
}

#[test]
fn a_range_without_a_target_port_keeps_each_port() {
    let mut rule = ours(Protocol::Udp);
    rule.flows.ports = "70:90".parse().unwrap();
    rule.destination.ports = TargetPorts::Same;
    let rules = [rule];
    assert!(!is_wrong(&entry(Protocol::Udp, "3.3.3.3:80", EXTERNAL), &rules, &rules));
    assert!(is_wrong(&entry(Protocol::Udp, "3.3.3.3:81", EXTERNAL), &rules, &rules));
}

#[test]
fn a_shifted_range_gives_each_port_its_own_target() {
    let mut rule = ours(Protocol::Udp);
    rule.flows.ports = "70:90".parse().unwrap();
    rule.destination.ports = shifted("70:90", "8070:8090");
    let rules = [rule];
    assert!(!is_wrong(&entry(Protocol::Udp, "3.3.3.3:8080", EXTERNAL), &rules, &rules));
    for upstream in ["3.3.3.3:8081", "3.3.3.3:8070", "3.3.3.3:80"] {
        assert!(is_wrong(&entry(Protocol::Udp, upstream, EXTERNAL), &rules, &rules), "{upstream}");
        assert!(
            !is_wrong(&entry(Protocol::Tcp, upstream, EXTERNAL), &rules.clone().map(tcp), &rules.clone().map(tcp)),
            "{upstream}"
        );
    }
    let mut further = rules.clone();
    further[0].destination.ports = shifted("70:90", "9070:9090");
    assert!(is_wrong(&entry(Protocol::Udp, "3.3.3.3:8080", EXTERNAL), &rules, &further), "the target ports have changed");
}

fn shifted(from: &str, to: &str) -> TargetPorts {
    TargetPorts::Shifted(Shift::new(from.parse().unwrap(), to.parse().unwrap()).unwrap())
}

fn tcp(mut translation: Translation) -> Translation {
    translation.flows.protocol = Protocol::Tcp;
    translation
}

/// A small set of addresses, so that flows and rules match often.
fn small_address() -> impl Strategy<Value = IpAddr> {
    (0..4_u8).prop_map(|last| IpAddr::V4(Ipv4Addr::new(10, 0, 0, last)))
}

fn any_protocol() -> impl Strategy<Value = Protocol> {
    prop::sample::select(Protocol::ALL.to_vec())
}

fn any_translation() -> impl Strategy<Value = Translation> {
    let source = prop_oneof![Just(SourceNat::Masquerade), small_address().prop_map(SourceNat::Address)];
    let ports = (1..6_u16, 0..4_u16).prop_map(|(first, more)| format!("{first}:{}", first + more).parse().unwrap());
    let client = (small_address(), 29..=32_u8).prop_map(|(address, length)| ipnet::IpNet::new(address, length).unwrap().trunc());
    let interface = prop::option::of(prop::sample::select(vec!["eth0", "eth1"]));
    (any_protocol(), small_address(), ports, client, interface, small_address(), (0..3_u8, 1..6_u16), source).prop_map(
        |(protocol, destination, ports, client, interface, address, target, source)| Translation {
            flows: FlowMatch {
                protocol,
                destination,
                ports,
                source: client,
                interface: interface.map(|name| name.parse().unwrap()),
            },
            destination: Destination { address, ports: target_ports(ports, target) },
            source,
        },
    )
}

/// Each of the three kinds, for `ports`.
fn target_ports(ports: PortRange, (kind, first): (u8, u16)) -> TargetPorts {
    match kind {
        0 => TargetPorts::Same,
        1 => TargetPorts::One(first),
        _ => shifted(&ports.to_string(), &format!("{first}:{}", first + ports.last() - ports.first())),
    }
}

fn any_entry() -> impl Strategy<Value = Entry> {
    let tuple = || (small_address(), small_address(), 1..9_u16, 1..9_u16);
    let tuple = move || {
        tuple().prop_map(|(source, destination, source_port, destination_port)| Tuple {
            source,
            destination,
            source_port,
            destination_port,
        })
    };
    (any_protocol(), tuple(), tuple()).prop_map(|(protocol, original, reply)| Entry {
        protocol,
        original,
        reply,
        status: Status::empty(),
        id: None,
        mark: 0,
    })
}

fn set() -> impl Strategy<Value = Translations> {
    prop::collection::btree_set(any_translation(), 0..12).prop_map(|set| set.into_iter().collect())
}

fn matches(translation: &Translation, entry: &Entry) -> bool {
    let (flows, tuple) = (&translation.flows, entry.original);
    flows.protocol == entry.protocol
        && flows.destination == tuple.destination
        && flows.ports.contains(tuple.destination_port)
        && flows.source.contains(&tuple.source)
}

proptest! {
    #[test]
    fn the_index_finds_what_a_look_at_every_translation_finds(translations in set(), entry in any_entry()) {
        let index = Index::new(&translations);
        let found: BTreeSet<_> = index.matching(&entry).collect();
        prop_assert_eq!(found, translations.iter().filter(|translation| matches(translation, &entry)).collect());
    }

    #[test]
    fn what_no_rule_matches_is_never_wrong(before in set(), now in set(), entry in any_entry()) {
        let foreign = !before.iter().chain(&now).any(|translation| matches(translation, &entry));
        let every = held(before.iter().chain(&now));
        let (before, now) = (Index::new(&before), Index::new(&now));
        prop_assert!(!(foreign && is_stale(&entry, &before, &now, &every)));
    }

    #[test]
    fn translated_tcp_is_cut_only_when_no_rule_is_left(before in set(), now in set(), entry in any_entry()) {
        let kept = entry.protocol == Protocol::Tcp && is_translated(&entry) && now.iter().any(|t| matches(t, &entry));
        let every = held(before.iter().chain(&now));
        let (before, now) = (Index::new(&before), Index::new(&now));
        prop_assert!(!(kept && is_stale(&entry, &before, &now, &every)));
    }

    #[test]
    fn an_untranslated_entry_is_wrong_exactly_when_a_rule_is_in_force(before in set(), now in set(), mut entry in any_entry()) {
        (entry.reply.source, entry.reply.source_port) = (entry.original.destination, entry.original.destination_port);
        let in_force = now.iter().any(|translation| matches(translation, &entry));
        prop_assert_eq!(is_stale(&entry, &Index::new(&before), &Index::new(&now), &held(&now)), in_force);
    }
}
