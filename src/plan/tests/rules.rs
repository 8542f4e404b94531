//! Routing rules (ip-rule(8)) that lead the packets of a forward to other tables.

use super::*;
use crate::model::Incoming;

fn to(table: u32) -> RuleAction {
    RuleAction::Table { table, suppressed: None }
}

fn route(destination: &str, kind: RouteKind, gateway: &str, interface: &str) -> Route {
    Route {
        kind,
        destination: destination.parse().unwrap(),
        gateway: Some(gateway.parse().unwrap()),
        interface: Some(interface.parse().unwrap()),
        hops: Vec::new(),
        metric: 0,
        ours: false,
    }
}

/// The proxy node of the seed with `rule` at priority 100 and these routes in table 100.
fn ruled(rule: RoutingRule, routes: &[Route]) -> Facts {
    let rules = [(0, 255, None), (100, 0, Some(rule)), (32766, 254, None), (32767, 253, None)];
    let rules = rules.map(|(priority, table, rule)| {
        let rule = rule.unwrap_or(RoutingRule { action: to(table), ..RoutingRule::default() });
        RoutingRule { priority, ..rule }
    });
    let tables = [(100, routes.iter().cloned().collect()), (253, crate::model::RouteTable::default())];
    Facts { routing: RoutingPolicy { rules: rules.into(), tables: tables.into() }, ..facts() }
}

fn from(source: &str) -> RoutingRule {
    RoutingRule { source: Some(source.parse().unwrap()), action: to(100), ..RoutingRule::default() }
}

fn first(facts: &Facts) -> Option<(ObstacleReason, String)> {
    let verdict = verdict(facts, spec());
    verdict.obstacles.into_iter().next().map(|obstacle| (obstacle.reason, obstacle.message))
}

#[test]
fn a_rule_that_stops_packets_is_named_with_the_command_that_removes_it() {
    let blackhole = [route("3.3.3.0/24", RouteKind::Nowhere, "2.2.2.1", "eth0")];
    let (reason, message) = first(&ruled(from("1.1.1.0/24"), &blackhole)).unwrap();
    assert_eq!(reason, ObstacleReason::NoRouteToUpstream);
    for part in ["\"100: from 1.1.1.0/24 lookup 100\"", "ip route del 3.3.3.0/24 table 100", "ip rule del pref 100"] {
        assert!(message.contains(part), "{message}");
    }
    let prohibit = RoutingRule { action: RuleAction::Drop("prohibit"), ..from("3.3.3.3/32") };
    let (reason, message) = first(&ruled(prohibit, &[])).unwrap();
    assert_eq!(reason, ObstacleReason::NoRouteToClient);
    assert!(message.contains("\"100: from 3.3.3.3 prohibit\"") && message.contains("ip rule del pref 100"), "{message}");
    assert_eq!(first(&ruled(from("1.1.1.1/32"), &[])), None, "an empty table leads to the next rule");
    assert_eq!(first(&ruled(from("9.9.9.9/32"), &blackhole)), None, "a rule for others");
    let throw = [route("0.0.0.0/0", RouteKind::Throw, "2.2.2.1", "eth0")];
    assert_eq!(first(&ruled(from("1.1.1.1/32"), &throw)), None, "throw leads to the next rule");
}

#[test]
fn the_incoming_interface_decides_as_the_packet_has_it() {
    let enters = |name: &str| RoutingRule {
        enters: Incoming::Named(name.parse().unwrap()),
        action: RuleAction::Drop("blackhole"),
        ..RoutingRule::default()
    };
    assert_eq!(first(&ruled(enters("eth1"), &[])).unwrap().0, ObstacleReason::NoRouteToUpstream);
    assert_eq!(first(&ruled(enters("eth0"), &[])).unwrap().0, ObstacleReason::NoRouteToClient);
    assert_eq!(first(&ruled(enters("eth7"), &[])), None);
}

#[test]
fn a_rule_to_another_way_is_told() {
    let elsewhere = [route("0.0.0.0/0", RouteKind::Unicast, "192.168.0.254", "eth1")];
    let (reason, message) = first(&ruled(from("1.1.1.1/32"), &elsewhere)).unwrap();
    assert_eq!(reason, ObstacleReason::UpstreamNotOnInterface);
    assert!(message.contains("leave by eth1 (routing rule \"100: from 1.1.1.1 lookup 100\")"), "{message}");
    let (reason, message) = first(&ruled(from("3.3.3.3/32"), &elsewhere)).unwrap();
    assert_eq!(reason, ObstacleReason::RouteContested);
    assert!(message.contains("ip route add 1.1.1.1/32 via 192.168.0.1 dev eth1 table 100"), "{message}");
    let planned = [route("1.1.1.1/32", RouteKind::Unicast, "192.168.0.1", "eth1")];
    assert_eq!(first(&ruled(from("3.3.3.3/32"), &planned)), None, "the same way in another table");
}

#[test]
fn the_next_hop_of_the_table_that_decides_must_answer() {
    let uplink = [route("0.0.0.0/0", RouteKind::Unicast, "2.2.2.9", "eth0")];
    let verdict = verdict(&ruled(from("1.1.1.1/32"), &uplink), spec());
    let next_hops: Vec<_> = verdict.next_hops.iter().map(|next_hop| next_hop.address.to_string()).collect();
    assert_eq!(next_hops, ["2.2.2.9", "192.168.0.1"]);
}

#[test]
fn what_depends_on_a_mark_is_a_note() {
    let marked = |routes: &[Route]| {
        let rule = RoutingRule { unknown: vec!["fwmark 0x1".to_owned()], action: to(100), ..RoutingRule::default() };
        verdict(&ruled(rule, routes), spec())
    };
    let blackhole = marked(&[route("0.0.0.0/0", RouteKind::Nowhere, "2.2.2.1", "eth0")]);
    assert_eq!(blackhole.obstacles, []);
    let note = blackhole.notes[0].to_string();
    assert!(note.contains("\"100: from all fwmark 0x1 lookup 100\"") && note.contains("drops them"), "{note}");
    let same = marked(&[route("3.3.3.0/24", RouteKind::Unicast, "2.2.2.1", "eth0")]);
    assert_eq!((same.obstacles, same.notes), (vec![], vec![]), "the same way in any case");
    let others = RoutingRule {
        inverted: true,
        unknown: vec!["fwmark 0x1".to_owned()],
        action: RuleAction::Drop("blackhole"),
        ..RoutingRule::default()
    };
    let unmarked = verdict(&ruled(others, &[]), spec());
    let note = unmarked.notes[0].to_string();
    assert!(note.contains("\"100: not from all fwmark 0x1 blackhole\"") && note.contains("if it does, it drops them"), "{note}");
    assert_eq!(unmarked.obstacles, []);
    let proxy = marked(&[route("0.0.0.0/0", RouteKind::Local, "2.2.2.1", "eth0")]);
    assert_eq!((proxy.obstacles, proxy.notes), (vec![], vec![]), "a rule for a transparent proxy");
}

#[test]
fn prefixes_that_do_not_count_and_inverted_rules_are_evaluated_as_the_kernel_does() {
    let blackhole = [route("0.0.0.0/0", RouteKind::Nowhere, "2.2.2.1", "eth0")];
    let others = RoutingRule { inverted: true, ..from("1.1.1.0/24") };
    assert_eq!(first(&ruled(others, &blackhole)).unwrap().0, ObstacleReason::NoRouteToClient, "only answers match");
    let default = [route("0.0.0.0/0", RouteKind::Unicast, "192.168.0.254", "eth1")];
    let action = RuleAction::Table { table: 100, suppressed: Some(0) };
    assert_eq!(first(&ruled(RoutingRule { action, ..from("1.1.1.1/32") }, &default)), None);
}
