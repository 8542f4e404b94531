//! The effect of other settings and programs of the node on the flows of a forward.

use serde_json::{Value, json};

use super::super::tests::{facts, spec, verdict, with, worst};
use super::walk::tests::chain;
use crate::model::{
    Action, BaseChain, Condition, FilterRule, Firewall, Hook, NamePattern, NewAddress, Polarity, Policy, Purpose, TableFamily,
    Tool, Virtual, Way,
};
use crate::model::{Facts, InterfaceName, Link, LocalAddress, Route, RpFilter};
use crate::plan::ObstacleReason;

fn name(text: &str) -> InterfaceName {
    text.parse().unwrap()
}

/// The seed without a named interface.
fn unnamed() -> Value {
    let mut spec = spec();
    for leg in ["internal", "external"] {
        spec[leg].as_object_mut().unwrap().remove("interface");
    }
    spec
}

fn facts_where(change: impl FnOnce(&mut Facts)) -> Facts {
    let mut facts = facts();
    change(&mut facts);
    facts
}

fn message(facts: &Facts, spec: Value) -> String {
    verdict(facts, spec).obstacles.first().map(|obstacle| obstacle.message.clone()).unwrap_or_default()
}

fn notes(facts: &Facts, spec: Value) -> String {
    verdict(facts, spec).notes.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

#[test]
fn forwarding_is_asked_of_the_interface_that_packets_enter_by_on_both_legs() {
    for leg in ["eth0", "eth1"] {
        for spec in [spec(), unnamed()] {
            let off = facts_where(|facts| facts.links.get_mut(&name(leg)).unwrap().forwarding = false);
            assert_eq!(worst(&off, spec.clone()), Some(ObstacleReason::ForwardingDisabled));
            let message = message(&off, spec);
            for part in [&format!("sysctl -w net.ipv4.conf.{leg}.forwarding=1"), "--set-ip-forward", "agent.setIpForward"] {
                assert!(message.contains(part), "{message}");
            }
        }
    }
}

#[test]
fn forwarding_of_an_interface_that_no_flow_uses_is_nobodys_business() {
    let other = Link { index: 9, up: true, rp_filter: RpFilter::Off, forwarding: false, master: None };
    let off = facts_where(|facts| facts.links.extend([(name("eth9"), other)]));
    assert_eq!(worst(&off, spec()), None);
}

#[test]
fn interfaces_that_route_need_no_global_switch() {
    let off = facts_where(|facts| facts.ip_forward = false);
    assert_eq!(worst(&off, spec()), None, "the kernel asks the interface alone");
    let both = facts_where(|facts| {
        facts.ip_forward = false;
        facts.links.values_mut().for_each(|link| link.forwarding = false);
    });
    assert!(message(&both, spec()).contains("sysctl -w net.ipv4.ip_forward=1"));
}

#[test]
fn a_name_with_a_dot_is_written_as_sysctl_reads_it() {
    let vlan = facts_where(|facts| {
        let link = Link { forwarding: false, ..facts.links[&name("eth1")].clone() };
        facts.links.insert(name("eth1.7"), link);
        let address = |local: LocalAddress| {
            if local.interface == Some(name("eth1")) { LocalAddress { interface: Some(name("eth1.7")), ..local } } else { local }
        };
        facts.addresses = facts.addresses.iter().cloned().map(address).collect();
    });
    let message = message(&vlan, unnamed());
    assert!(message.contains("sysctl -w net/ipv4/conf/eth1.7/forwarding=1"), "{message}");
}

/// A second uplink eth2 with 4.4.4.2; the default route stays on eth0.
fn two_uplinks(rp_filter: RpFilter) -> Facts {
    facts_where(|facts| {
        facts.links.insert(name("eth2"), Link { index: 4, up: true, rp_filter, forwarding: true, master: None });
        let address = "4.4.4.2".parse().unwrap();
        facts.addresses.insert(LocalAddress { address, prefix_len: 24, interface: Some(name("eth2")) });
    })
}

fn from_second_uplink() -> Value {
    let mut spec = unnamed();
    spec["external"]["addresses"] = json!(["4.4.4.2"]);
    spec
}

#[test]
fn a_source_of_another_link_than_the_way_to_the_upstream_is_noted() {
    let found = verdict(&two_uplinks(RpFilter::Off), from_second_uplink());
    assert_eq!(found.obstacles, []);
    let notes = notes(&two_uplinks(RpFilter::Off), from_second_uplink());
    assert!(notes.contains("leave by eth0, but their source 4.4.4.2 belongs to eth2"), "{notes}");
    assert_eq!(self::notes(&two_uplinks(RpFilter::Off), unnamed()), "", "the first uplink is the way");
}

#[test]
fn an_external_address_alone_in_its_subnet_belongs_to_no_link() {
    let alone = facts_where(|facts| {
        let address = "4.4.4.2".parse().unwrap();
        facts.addresses.insert(LocalAddress { address, prefix_len: 32, interface: Some(name("eth1")) });
    });
    assert_eq!(notes(&alone, from_second_uplink()), "");
}

#[test]
fn strict_source_validation_of_the_external_leg_is_an_obstacle() {
    assert_eq!(worst(&two_uplinks(RpFilter::Strict), from_second_uplink()), Some(ObstacleReason::AsymmetricRoute));
    let message = message(&two_uplinks(RpFilter::Strict), from_second_uplink());
    assert!(message.contains("eth2, where its answers to 4.4.4.2 enter"), "{message}");
    assert!(message.contains("sysctl -w net.ipv4.conf.eth2.rp_filter=2"), "{message}");
    assert_eq!(worst(&two_uplinks(RpFilter::Loose), from_second_uplink()), None);
    let strict = facts_where(|facts| facts.links.values_mut().for_each(|link| link.rp_filter = RpFilter::Strict));
    assert_eq!(worst(&strict, spec()), None, "both ways are symmetric");
}

#[test]
fn a_gateway_on_another_link_than_the_internal_address_is_asymmetric_too() {
    let other = facts_where(|facts| {
        facts.links.values_mut().for_each(|link| link.rp_filter = RpFilter::Strict);
        let route = |text: &str| Route {
            kind: crate::model::RouteKind::Unicast,
            destination: text.parse().unwrap(),
            gateway: None,
            interface: Some(name("eth0")),
            hops: Vec::new(),
            metric: 0,
            ours: false,
        };
        facts.routes = facts.routes.iter().cloned().chain([route("192.168.5.0/24")]).collect();
        let address = "192.168.5.2".parse().unwrap();
        facts.addresses.insert(LocalAddress { address, prefix_len: 24, interface: Some(name("eth0")) });
    });
    let mut spec = with(&[("/internal/gateways", json!(["192.168.5.1"]))]);
    spec["internal"].as_object_mut().unwrap().remove("interface");
    assert_eq!(worst(&other, spec), Some(ObstacleReason::AsymmetricRoute));
}

/// A forward chain with policy drop that accepts packets that enter by `interface`, and all replies.
fn guarded(interface: &str, change: impl FnOnce(&mut Facts)) -> Facts {
    let enters = |name: &str| {
        let names = vec![NamePattern::Exact(name.to_owned())];
        let condition = Condition::Interface { way: Way::In, names, polarity: Polarity::Is };
        FilterRule { conditions: vec![condition], action: Action::Accept }
    };
    let chain = chain(Policy::Drop, vec![enters(interface), enters("eth0")], &[]);
    facts_where(|facts| {
        facts.firewall = std::sync::Arc::new(Firewall { chains: vec![chain], ..Firewall::default() });
        change(facts);
    })
}

#[test]
fn a_chain_that_accepts_by_another_interface_drops_what_surely_enters_elsewhere() {
    assert_eq!(worst(&guarded("eth1", |_| {}), spec()), None);
    assert_eq!(worst(&guarded("eth7", |_| {}), spec()), Some(ObstacleReason::DroppedByFirewall));
    assert_eq!(worst(&guarded("eth7", |_| {}), unnamed()), Some(ObstacleReason::DroppedByFirewall));
}

#[test]
fn where_packets_may_enter_elsewhere_a_chain_by_interface_is_a_note() {
    let vrrp = |facts: &mut Facts| facts.virtuals.extend([(name("eth1"), Virtual::OnWireOf(name("eth7")))]);
    let parent = |facts: &mut Facts| facts.virtuals.extend([(name("vrrp.51"), Virtual::OnWireOf(name("eth1")))]);
    let dummy = |facts: &mut Facts| facts.virtuals.extend([(name("eth1"), Virtual::Dummy)]);
    let slave = |facts: &mut Facts| facts.links.get_mut(&name("eth1")).unwrap().master = Some(9);
    let found = [guarded("eth7", vrrp), guarded("eth7", parent), guarded("eth7", dummy), guarded("eth7", slave)];
    for facts in found {
        assert_eq!(worst(&facts, unnamed()), None, "{facts:?}");
        assert!(notes(&facts, unnamed()).contains("MayBeDropped: the chain inet guard forward"), "{facts:?}");
    }
    // The route back uses another interface than the one with the address.
    let elsewhere = guarded("eth7", |facts| {
        facts.routes = facts.routes.iter().filter(|route| route.destination.prefix_len() == 0).cloned().collect();
    });
    let mut spec = unnamed();
    spec["internal"]["gateways"] = json!([]);
    assert_eq!(worst(&elsewhere, spec.clone()), None);
    assert!(notes(&elsewhere, spec).contains("MayBeDropped"));
}

#[test]
fn an_upstream_in_a_network_of_services_is_an_obstacle_and_no_refusal() {
    let cluster = facts_where(|facts| facts.services = ["3.3.0.0/16".parse().unwrap(), "fd00:10::/108".parse().unwrap()].into());
    assert_eq!(worst(&cluster, spec()), Some(ObstacleReason::UpstreamIsService));
    let message = message(&cluster, spec());
    assert!(message.contains("3.3.3.3 lies in 3.3.0.0/16"), "{message}");
    let beside = facts_where(|facts| facts.services = ["3.3.4.0/24".parse().unwrap()].into());
    assert_eq!(worst(&beside, spec()), None);
}

/// One chain of another program with these rules and policy accept.
fn other(purpose: Purpose, hook: Hook, priority: i32, rules: Vec<FilterRule>) -> Facts {
    let (tool, table, name) = (Tool::Nft(TableFamily::Ip), "first".to_owned(), "named".to_owned());
    let chain = BaseChain { tool, table, name, purpose, hook, priority, ..chain(Policy::Accept, rules, &[]) };
    facts_where(|facts| facts.firewall = std::sync::Arc::new(Firewall { chains: vec![chain], ..Firewall::default() }))
}

fn always(action: Action) -> Vec<FilterRule> {
    vec![FilterRule { conditions: vec![], action }]
}

#[test]
fn a_translation_that_surely_comes_first_and_gives_another_address_is_an_obstacle() {
    let nat = |hook, priority, new| other(Purpose::Nat, hook, priority, always(Action::Translate(new)));
    let number = |address: [u8; 4]| NewAddress::Fixed(u64::from(u32::from_be_bytes(address)));
    let first = Some(ObstacleReason::TranslatedFirst);
    assert_eq!(worst(&nat(Hook::Prerouting, -101, number([3, 3, 3, 4])), spec()), first);
    assert_eq!(worst(&nat(Hook::Prerouting, -101, NewAddress::Own), spec()), first);
    assert_eq!(worst(&nat(Hook::Postrouting, 99, number([2, 2, 2, 9])), spec()), first);
    for (hook, priority, new) in [
        (Hook::Prerouting, -100, number([3, 3, 3, 4])),
        (Hook::Prerouting, -101, NewAddress::Unknown),
        (Hook::Postrouting, 100, number([2, 2, 2, 9])),
    ] {
        let facts = nat(hook, priority, new);
        assert_eq!(worst(&facts, spec()), None);
        assert!(notes(&facts, spec()).contains("MayBeTranslatedFirst: the chain ip first named"), "{facts:?}");
    }
    for (hook, priority, new) in [
        (Hook::Prerouting, -99, number([3, 3, 3, 4])),
        (Hook::Postrouting, 99, number([2, 2, 2, 2])),
        // The only address of eth0.
        (Hook::Postrouting, 99, NewAddress::Own),
    ] {
        let facts = nat(hook, priority, new);
        assert_eq!((worst(&facts, spec()), notes(&facts, spec())), (None, String::new()));
    }
}

#[test]
fn a_nat_chain_that_comes_first_can_drop_too() {
    let nat = |priority| other(Purpose::Nat, Hook::Prerouting, priority, always(Action::Drop));
    assert_eq!(worst(&nat(-101), spec()), Some(ObstacleReason::DroppedByFirewall));
    assert!(notes(&nat(-100), spec()).contains("MayBeDropped"));
    assert_eq!((worst(&nat(-99), spec()), notes(&nat(-99), spec())), (None, String::new()));
}

#[test]
fn replies_must_be_in_the_zone_of_their_flow() {
    let zone = |interface: Option<&str>, zone| {
        let names = interface.map(|name| vec![NamePattern::Exact(name.to_owned())]);
        let conditions = names.map(|names| Condition::Interface { way: Way::In, names, polarity: Polarity::Is });
        let rule = FilterRule { conditions: conditions.into_iter().collect(), action: Action::Zone(zone) };
        other(Purpose::Filter, Hook::Prerouting, -300, vec![rule])
    };
    for interface in ["eth0", "eth1"] {
        let facts = zone(Some(interface), Some(5));
        assert_eq!(worst(&facts, spec()), Some(ObstacleReason::DroppedByFirewall));
        assert!(message(&facts, spec()).contains("to zone 5 of connection tracking"));
    }
    for facts in [zone(None, Some(5)), zone(Some("eth1"), Some(0)), zone(Some("eth7"), Some(5))] {
        assert_eq!((worst(&facts, spec()), notes(&facts, spec())), (None, String::new()));
    }
    assert!(notes(&zone(None, None), spec()).contains("MayBeUntracked"));
}
