//! The youngest of forwards that lead to each other in a circle is refused, and a chain is not.

use std::net::IpAddr;

use super::grants::grant;
use super::share::aged;
use super::*;
use crate::model::PortRange;
use crate::plan::cycles::{find, find_within};

/// A forward that listens at `internal` and leads to `upstream`.
#[allow(clippy::needless_pass_by_value, reason = "every caller makes the value for this call")]
fn hop(name: &str, clients: &[&str], internal: &str, external: Option<&str>, upstream: &str, port: Value) -> Candidate {
    let (namespace, name) = name.split_once('/').unwrap_or(("default", name));
    let mut spec = json!({
        "client": {"addresses": clients}, "internal": {"addresses": [internal]},
        "upstream": {"targets": [{"address": upstream}]}, "ports": [port],
    });
    if let Some(external) = external {
        spec["external"] = json!({"addresses": [external]});
    }
    aged(namespace, name, 1, spec)
}

fn udp(port: u16) -> Value {
    json!({"name": "a", "protocol": "UDP", "port": port})
}

fn looping(set: &[Candidate]) -> Vec<String> {
    find(set, |_| Some(0)).into_keys().map(|key| key.name.clone()).collect()
}

/// The address with another last number.
fn last(address: IpAddr, number: u8) -> IpAddr {
    let IpAddr::V4(address) = address else { panic!("{address}") };
    let [a, b, c, _] = address.octets();
    [a, b, c, number].into()
}

/// A node that stands by for two forwards, which are each the other's upstream. On the others, an upstream would be an address
/// of the node itself.
pub(super) fn circle_of_two() -> (Facts, Candidate, Candidate) {
    let l1 = hop("a/l1", &["192.168.0.100", "192.168.0.3"], "192.168.0.2", Some("2.2.2.2"), "192.168.0.3", udp(7777));
    let l2 = hop("b/l2", &["2.2.2.2"], "192.168.0.3", Some("192.168.0.3"), "192.168.0.2", udp(7777));
    let mut third = facts();
    third.addresses =
        third.addresses.into_iter().map(|local| LocalAddress { address: last(local.address, 77), ..local }).collect();
    (third, l1, l2)
}

/// Two forwards on two nodes, each the other's upstream: one packet circulated until its time to live ended, and left a
/// conntrack entry on each round.
#[test]
fn two_forwards_that_are_each_others_upstream_do_not_both_pass() {
    let (third, l1, l2) = circle_of_two();
    let plan = planned(&third, &[l1.clone(), l2.clone()]);
    assert!(plan.verdicts[&l1.key].is_carried(), "the older one goes on");
    let Acceptance::RefusedHere(refusal) = &plan.verdicts[&l2.key].acceptance else { panic!("{:?}", plan.verdicts[&l2.key]) };
    assert_eq!(refusal.reason, NodeRefusalReason::ForwardLoop);
    assert!(refusal.message.contains("through one more forward, to UDP 7777 on 192.168.0.3"), "{}", refusal.message);
    assert!(!refusal.message.contains("a/l1") && !refusal.message.contains("192.168.0.100"), "{}", refusal.message);
    let in_force = InForce::of(&planned(&third, std::slice::from_ref(&l2)).verdicts);
    let later = super::super::plan(&third, &[l1.clone(), l2.clone()], &Policy::default(), &in_force);
    assert!(!later.verdicts[&l2.key].is_carried(), "also where it was in force");
    let mut disabled = l1;
    disabled.forward.as_mut().unwrap().mode = api::Mode::Disabled;
    assert!(planned(&third, &[disabled, l2.clone()]).verdicts[&l2.key].is_carried(), "a disabled forward leads nowhere");
}

#[test]
fn a_circle_is_closed_by_the_youngest_and_names_those_of_its_namespace() {
    let a = hop("a", &["10.0.0.9", "10.0.0.3"], "10.0.0.1", Some("10.0.0.1"), "10.0.0.2", udp(1));
    let b = hop("b", &["10.0.0.1"], "10.0.0.2", Some("10.0.0.2"), "10.0.0.3", udp(1));
    let c = hop("c", &["10.0.0.2"], "10.0.0.3", Some("10.0.0.3"), "10.0.0.1", udp(1));
    assert_eq!(looping(&[a.clone(), b.clone()]), [""; 0], "a chain");
    let circle = [a.clone(), b.clone(), c.clone()];
    assert_eq!(looping(&circle), ["c"]);
    assert_eq!(looping(&[c.clone(), b.clone(), a.clone()]), ["c"], "in any order");
    let oldest = Candidate { created: None, ..c.clone() };
    assert_eq!(looping(&[a.clone(), b.clone(), oldest]), ["b"]);
    let message = find(&circle, |_| Some(0)).into_values().next().unwrap().message;
    assert!(message.contains("come back to it through default/a, default/b, to UDP 1 on 10.0.0.3"), "{message}");
    let granted = |forward: &Forward| (forward.key.name != "a").then_some(0);
    assert!(find(&circle, granted).is_empty(), "what no grant permits leads nowhere");
    for (first, closes) in [("a", "c"), ("b", "c"), ("c", "b")] {
        let prior = |forward: &Forward| Some(i32::from(forward.key.name == first));
        let refused: Vec<_> = find(&circle, prior).into_keys().map(|key| key.name.as_str()).collect();
        assert_eq!(refused, [closes], "the priority of a grant comes before age");
    }
    let others = [a.clone(), b.clone(), hop("c", &["10.0.0.9"], "10.0.0.3", Some("10.0.0.3"), "10.0.0.1", udp(1))];
    assert_eq!(looping(&others), [""; 0], "it does not admit what comes from the second one");
    let masquerading = [a.clone(), hop("b", &["10.0.0.1"], "10.0.0.2", None, "10.0.0.3", udp(1)), others[2].clone()];
    assert_eq!(looping(&masquerading), ["c"], "from which address a masqueraded packet comes is not known");
    let elsewhere = [a.clone(), b.clone(), hop("c", &["10.0.0.2"], "10.0.0.3", Some("10.0.0.3"), "10.0.0.1", udp(2))];
    assert_eq!(looping(&elsewhere), [""; 0], "another port");
    let shifted = json!({"name": "a", "protocol": "UDP", "port": 1, "targetPort": 2});
    let back = hop("c", &["10.0.0.2"], "10.0.0.3", Some("10.0.0.3"), "10.0.0.1", shifted);
    assert_eq!(looping(&[a, b, back]), [""; 0], "it leaves with a port on which nobody listens");
}

/// A restore from a backup renews every age. The forward of a tenant with a lower priority then does not take the place of one
/// with a higher priority by closing a circle with it.
#[test]
fn of_two_tenants_the_one_with_the_lower_priority_closes_the_circle_however_old_it_is() {
    let mut third = facts();
    third.addresses =
        third.addresses.into_iter().map(|local| LocalAddress { address: last(local.address, 77), ..local }).collect();
    let l1 = hop("aaa/l1", &["192.168.0.100", "192.168.0.3"], "192.168.0.2", Some("2.2.2.2"), "192.168.0.3", udp(7777));
    let l2 = hop("bank/l2", &["2.2.2.2"], "192.168.0.3", Some("192.168.0.3"), "192.168.0.2", udp(7777));
    let wide = |name, namespace: &str, priority: i32, elsewhere: bool| {
        let all = json!([{"cidrs": ["0.0.0.0/0"]}]);
        let node = if elsewhere { json!({"matchLabels": {"zone": "b"}}) } else { json!({}) };
        grant(
            name,
            &[
                ("namespaces", json!([namespace])),
                ("priority", json!(priority)),
                ("listen", all.clone()),
                ("upstreams", all),
                ("clients", json!(["0.0.0.0/0"])),
                ("external", json!(["0.0.0.0/0"])),
                ("oneLeg", json!(true)),
                ("nodeSelector", node),
            ],
        )
    };
    for (bank, refused) in [(10, &l1.key), (0, &l2.key)] {
        let grants = [wide("aaa", "aaa", 0, false), wide("bank", "bank", 0, false), wide("far", "bank", bank, true)];
        let policy = Policy { require_grants: RequireGrants::Yes, grants: Grants::Read(grants.into()), ..Policy::default() };
        let verdicts = super::super::plan(&third, &[l1.clone(), l2.clone()], &policy, &InForce::default()).verdicts;
        let closing: Vec<_> = verdicts
            .iter()
            .filter(|(_, verdict)| {
                matches!(&verdict.acceptance, Acceptance::RefusedHere(refusal) if refusal.reason == NodeRefusalReason::ForwardLoop)
            })
            .map(|(key, _)| key)
            .collect();
        assert_eq!(closing, [refused], "the priority counts on every node, also where the grant does not hold");
    }
}

#[test]
fn a_shifted_range_is_followed_port_by_port() {
    let a = hop("a", &["10.0.0.9", "10.0.0.3"], "10.0.0.1", Some("10.0.0.1"), "10.0.0.2", udp(2));
    let shifted = json!({"name": "a", "protocol": "UDP", "port": 1, "endPort": 10, "targetPort": 11, "targetEndPort": 20});
    let b = hop("b", &["10.0.0.1"], "10.0.0.2", Some("10.0.0.2"), "10.0.0.3", shifted);
    let back = |port: u16| {
        let entry = json!({"name": "a", "protocol": "UDP", "port": port, "targetPort": 2});
        hop("c", &["10.0.0.2"], "10.0.0.3", Some("10.0.0.3"), "10.0.0.1", entry)
    };
    for (port, expected) in [(12, &["c"][..]), (11, &[]), (2, &[])] {
        assert_eq!(looping(&[a.clone(), b.clone(), back(port)]), expected, "{port}");
    }
}

#[test]
fn of_a_wide_shifted_range_only_the_ports_that_a_packet_has_are_followed() {
    let range = |first: u16, last: u16, target: u16| json!({"name": "a", "protocol": "UDP", "port": first, "endPort": last, "targetPort": target, "targetEndPort": target + (last - first)});
    // Ports 7 to 9 leave `a` as 100 to 102, and `b` as 20100 to 20102.
    let a = hop("a", &["10.0.0.9", "10.0.0.3"], "10.0.0.1", Some("10.0.0.1"), "10.0.0.2", range(7, 9, 100));
    let b = hop("b", &["10.0.0.1"], "10.0.0.2", Some("10.0.0.2"), "10.0.0.3", range(1, 40000, 20001));
    let back = |first: u16, last: u16| {
        let entry = range(first, last, 9 - (last - first));
        hop("c", &["10.0.0.2"], "10.0.0.3", Some("10.0.0.3"), "10.0.0.1", entry)
    };
    let circle = &["c"][..];
    let cases =
        [(20100, 20102, circle), (20102, 20104, circle), (20098, 20100, circle), (20103, 20105, &[]), (20097, 20099, &[])];
    for (first, last, expected) in cases {
        assert_eq!(looping(&[a.clone(), b.clone(), back(first, last)]), expected, "{first} to {last}");
    }
}

#[test]
fn reverse_takes_part_in_a_circle() {
    let mut there = hop("a", &["10.0.0.9"], "10.0.0.1", Some("10.0.0.2"), "10.0.0.3", udp(5));
    let forward = there.forward.as_mut().unwrap();
    forward.reverse.clone_from(&forward.ports);
    // What `a` sends to its client 10.0.0.9 comes from 10.0.0.1, and this one sends it to 10.0.0.2 from 10.0.0.3.
    let back = hop("b", &["10.0.0.1"], "10.0.0.9", Some("10.0.0.3"), "10.0.0.2", udp(5));
    assert_eq!(looping(&[there, back]), ["b"]);
}

#[test]
fn a_large_set_is_followed_only_as_far_as_its_namespace_may_cost() {
    // All lead to one address on which all of the others listen, but these do not admit what comes from the first ones.
    let wide = json!({"name": "a", "port": 1, "endPort": 60000});
    let to = hop("to", &["10.0.0.9"], "10.0.0.1", Some("10.0.0.5"), "10.0.0.2", wide.clone());
    let at = hop("at", &["10.0.0.9"], "10.0.0.2", None, "10.0.0.1", wide);
    let template = &to;
    let many = |one: &Candidate, namespace: &str, first: u32| {
        let forward = one.forward.clone().unwrap();
        let namespace = namespace.to_owned();
        (first..first + 2000).map(move |n| {
            let mut forward = forward.clone();
            forward.key = ForwardKey::new(namespace.clone(), format!("f{n}"));
            forward.ports[0].ports = format!("1:{}", 10000 + n).parse().unwrap();
            Candidate { key: forward.key.clone(), forward: Ok(forward), ..template.clone() }
        })
    };
    let set: Vec<Candidate> = many(&to, "evil", 0).chain(many(&at, "evil", 2000)).chain(many(&at, "other", 0).take(1)).collect();
    let refused = find(&set, |_| Some(0));
    assert!(refused.keys().all(|key| key.namespace == "evil"), "another namespace does not pay");
    assert!(refused.values().any(|refusal| refusal.message.contains("is not known")), "{refused:?}");
}

#[test]
fn what_is_looked_at_is_counted_by_namespace_and_the_forward_that_exceeds_the_limit_is_refused() {
    let there = |name, port| hop(name, &["10.0.0.9"], "10.0.0.1", Some("10.0.0.5"), "10.0.0.2", udp(port));
    let back = |name, port| hop(name, &["10.0.0.9"], "10.0.0.2", Some("10.0.0.6"), "10.0.0.1", udp(port));
    let refused = |most_steps, set: &[Candidate]| -> Vec<String> {
        find_within(most_steps, set, |_| Some(0)).into_keys().map(ToString::to_string).collect()
    };
    // Each forward has one entry, and no packet of one has a port of another.
    let apart = [there("evil/a", 1), back("evil/b", 2), there("evil/c", 3), back("other/d", 4)];
    assert_eq!(refused(3, &apart), [""; 0]);
    assert_eq!(refused(2, &apart), ["evil/c"]);
    let client = hop("evil/e", &["10.0.0.2"], "10.0.0.7", None, "10.0.0.8", udp(1));
    assert_eq!(refused(0, &[client, back("evil/b", 2)]), [""; 0], "nothing leads to a client without reverse");
    // The last two look at the entry of the first one, which does not admit their packets.
    let together = [there("evil/a", 1), back("evil/b", 1), back("evil/c", 1)];
    assert_eq!(refused(5, &together), [""; 0]);
    assert_eq!(refused(4, &together), ["evil/c"]);
}

/// The port, the width, the target port and the kind of range of an entry, and whether it is UDP.
type Entry = ((u16, u16, u16, u8), bool);

/// Any forward between six addresses. It may be invalid by itself.
fn any_hop() -> impl Strategy<Value = Value> {
    let address = || (1u8..=6).prop_map(|n| format!("10.0.0.{n}"));
    let clients = prop_oneof![prop::collection::vec(address(), 1..4), Just(vec!["10.0.0.0/29".to_owned()])];
    let ports = (1u16..4, 0u16..3, 1u16..4, 0u8..4);
    let entries = || prop::collection::vec((ports.clone(), any::<bool>()), 0..3);
    (clients, address(), prop::option::of(address()), address(), entries(), entries()).prop_map(
        |(clients, internal, external, upstream, ports, reverse)| {
            let entry = |(n, ((port, width, target, kind), udp)): (usize, &Entry)| {
                let mut entry = json!({"name": format!("p{n}"), "protocol": if *udp { "UDP" } else { "TCP" }, "port": port});
                if *width > 0 {
                    entry["endPort"] = json!(port + width);
                }
                if *kind > 0 {
                    entry["targetPort"] = json!(target);
                }
                if *kind > 0 && *width > 0 {
                    entry["targetEndPort"] = json!(if *kind > 1 { target + width } else { *target });
                }
                entry
            };
            let list = |entries: &[_]| entries.iter().enumerate().map(entry).collect::<Vec<_>>();
            let mut clients = clients;
            clients.sort();
            clients.dedup();
            let mut spec = json!({
                "client": {"addresses": clients}, "internal": {"addresses": [internal]},
                "upstream": {"targets": [{"address": upstream}]}, "ports": list(&ports),
            });
            if let Some(external) = external {
                spec["external"] = json!({"addresses": [external]});
            }
            if !reverse.is_empty() {
                spec["reverse"] = json!({"ports": list(&reverse)});
            }
            spec
        },
    )
}

/// One packet: where it comes from, if that is known, and where it goes.
type Packet = (Protocol, Option<IpAddr>, IpAddr, u16);

/// What `forward` makes of one packet, by each of its entries.
fn pass(forward: &Forward, (protocol, source, destination, port): Packet) -> Vec<Packet> {
    let takes = |entry: &&crate::forward::PortEntry| entry.protocol == protocol && entry.ports.contains(port);
    let mut left = Vec::new();
    let from_client = source.is_none_or(|source| forward.clients.iter().any(|client| client.contains(&source)));
    if destination == forward.internal.address && from_client {
        let ports = forward.ports.iter().filter(takes);
        left.extend(ports.map(|entry| (protocol, forward.external, forward.upstream, entry.target.of(port))));
    }
    if Some(destination) == forward.external && source.is_none_or(|source| source == forward.upstream) {
        let client = forward.clients[0].addr();
        let ports = forward.reverse.iter().filter(takes);
        left.extend(ports.map(|entry| (protocol, Some(forward.internal.address), client, entry.target.of(port))));
    }
    left
}

/// Whether some packet that `forward` takes comes back to it through `others`.
fn comes_back(forward: &Forward, others: &[&Forward]) -> bool {
    let every = |ports: PortRange| ports.first()..=ports.last();
    let towards_upstream = forward
        .ports
        .iter()
        .flat_map(|entry| every(entry.ports).map(move |port| (entry.protocol, None, forward.internal.address, port)));
    let towards_client = forward.external.into_iter().flat_map(|external| {
        let ports = forward.reverse.iter();
        ports.flat_map(move |entry| every(entry.ports).map(move |port| (entry.protocol, None, external, port)))
    });
    let mut waiting: Vec<Packet> = towards_upstream.chain(towards_client).flat_map(|packet| pass(forward, packet)).collect();
    let mut seen = BTreeSet::new();
    while let Some(packet) = waiting.pop() {
        if !pass(forward, packet).is_empty() {
            return true;
        }
        if seen.insert(packet) {
            waiting.extend(others.iter().flat_map(|other| pass(other, packet)));
        }
    }
    false
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn a_forward_is_refused_exactly_if_a_packet_walks_back_to_it(specs in prop::collection::vec(any_hop(), 2..9)) {
        let set: Vec<Candidate> = specs.into_iter().enumerate().map(|(n, spec)| object(&format!("f{n}"), spec)).collect();
        let forwards: Vec<&Forward> = set.iter().filter_map(|candidate| candidate.forward.as_ref().ok()).collect();
        let refused = find(&set, |_| Some(0));
        let mut passing: Vec<&Forward> = Vec::new();
        for forward in forwards {
            let back = comes_back(forward, &passing);
            prop_assert_eq!(refused.contains_key(&forward.key), back, "{:?} with {:?}", forward, passing);
            if !back {
                passing.push(forward);
            }
        }
    }
}
