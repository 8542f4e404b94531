//! The route of a younger forward takes nothing from an older one.

use super::share::aged;
use super::ways::{install, noted, route, with_routes};
use super::*;

/// A forward with these clients, the older ones with lower numbers. No two of them listen on one port.
fn line(name: &str, second: u16, clients: &[&str], gateway: Option<&str>) -> Candidate {
    let (namespace, name) = name.split_once('/').unwrap();
    let gateways: Vec<&str> = gateway.into_iter().collect();
    let changes =
        [("/client/addresses", json!(clients)), ("/internal/gateways", json!(gateways)), ("/ports/0/port", json!(1000 + second))];
    aged(namespace, name, second.into(), with(&changes))
}

const OURS: Option<&str> = Some("192.168.0.1");
const OTHER: Option<&str> = Some("192.168.0.66");

/// The obstacles and the routes of the forwards, by name.
fn outcome(facts: &Facts, set: &[Candidate]) -> Vec<(String, Vec<ObstacleReason>, Vec<String>)> {
    let plan = planned(facts, set);
    let told = |(key, verdict): (&ForwardKey, &Verdict)| {
        assert!(verdict.is_carried(), "{:?}", verdict.acceptance);
        let obstacles = verdict.obstacles.iter().map(|obstacle| obstacle.reason).collect();
        (key.name.clone(), obstacles, install(verdict))
    };
    plan.verdicts.iter().map(|(key, verdict)| told((key, verdict))).collect()
}

/// The reasons of the second forward, after checking that the first one has no obstacle.
fn second(facts: &Facts, set: &[Candidate; 2]) -> Vec<ObstacleReason> {
    let outcome = outcome(facts, set);
    let of = |place: usize| outcome.iter().find(|(name, _, _)| *name == set[place].key.name).unwrap();
    assert_eq!(of(0).1, [], "the older one goes on: {outcome:?}");
    of(1).1.clone()
}

const TAKEN: [ObstacleReason; 1] = [ObstacleReason::RouteCapturesClient];

/// alice has no gateway because the node has a route; mallory, later, names the same client and another gateway.
#[test]
fn a_younger_route_takes_no_client_of_an_older_forward_without_a_gateway() {
    let facts = with_routes([route("10.50.0.0/16", OURS, "eth1")]);
    let alice = line("a/alice", 1, &["10.50.1.1"], None);
    for mallory in ["10.50.1.1", "10.50.1.0/24", "10.50.0.0/16"] {
        let set = [alice.clone(), line("b/mallory", 2, &[mallory], OTHER)];
        assert_eq!(second(&facts, &set), TAKEN, "{mallory}");
        let plan = planned(&facts, &set);
        assert!(plan.desired.routes.is_empty());
        let said = &plan.verdicts[&set[1].key].obstacles[0].message;
        assert!(said.contains(mallory) && said.contains("a/alice"), "{said}");
        let own = [alice.clone(), line("a/again", 2, &[mallory], OTHER)];
        assert_eq!(second(&facts, &own), TAKEN, "also in one namespace: nothing tells that the first one means it: {mallory}");
    }
    let wider = [alice.clone(), line("b/mallory", 2, &["10.0.0.0/8"], OTHER)];
    assert_eq!(second(&facts, &wider), [], "the node's own route is longer and goes on to win");
    assert_eq!(second(&super::facts(), &wider), TAKEN, "the default route is not");
    let same = [alice.clone(), line("b/other", 2, &["10.50.1.1"], OURS)];
    assert_eq!(second(&facts, &same), [], "the same way");
    let first = [line("b/mallory", 1, &["10.50.1.1"], OTHER), line("a/alice", 2, &["10.50.1.1"], None)];
    assert_eq!(second(&facts, &first), [], "the older one decides");
}

#[test]
fn no_route_covers_an_api_server_or_the_gateway_of_an_older_forward() {
    let own = Facts { api_servers: ["10.0.0.1".parse().unwrap()].into(), ..facts() };
    assert_eq!(outcome(&own, &[line("a/line", 1, &["10.0.0.0/8"], OURS)])[0].1, [ObstacleReason::RouteCapturesNode]);
    let older = line("a/older", 1, &["1.1.1.1"], OURS);
    let set = [older, line("b/younger", 2, &["192.168.0.1"], OTHER)];
    assert_eq!(second(&facts(), &set), [ObstacleReason::RouteCapturesNode]);
    let said = &planned(&facts(), &set).verdicts[&set[1].key].obstacles[0].message;
    assert!(said.contains("an address that a/older needs, which is older"), "{said}");
}

/// Of the forwards with one entry, not all are remembered.
#[test]
fn many_forwards_of_one_namespace_with_one_entry_do_not_hide_that_of_another_one() {
    for gateway in [None, OURS] {
        let wide = |name: &str, second| line(name, second, &["10.0.0.0/8"], gateway);
        let inner = line("a/inner", 9, &["10.5.0.7"], OTHER);
        let last = |older: &[Candidate]| {
            let set: Vec<Candidate> = older.iter().chain([&inner]).cloned().collect();
            outcome(&facts(), &set).into_iter().find(|(name, _, _)| name == "inner").unwrap().1
        };
        assert_eq!(last(&[wide("a/1", 1), wide("a/2", 2)]), [], "its own namespace: {gateway:?}");
        assert_eq!(last(&[wide("a/1", 1), wide("a/2", 2), wide("b/3", 3)]), TAKEN, "{gateway:?}");
    }
}

#[test]
fn a_longer_prefix_may_name_the_way_that_the_node_has_for_it_already() {
    let facts = with_routes([route("10.5.0.0/16", OURS, "eth1")]);
    for (gateway, expected) in [(OURS, &[][..]), (OTHER, &TAKEN)] {
        let set = [line("a/wide", 1, &["10.0.0.0/8"], None), line("b/inner", 2, &["10.5.0.7"], gateway)];
        assert_eq!(second(&facts, &set), expected, "{gateway:?}");
    }
}

#[test]
fn a_default_route_through_the_interface_of_a_container_network_is_no_network_of_pods() {
    let mut facts = facts();
    facts.routes = facts
        .routes
        .iter()
        .map(|it| match it.destination.prefix_len() {
            0 => Route { interface: Some("flannel.1".parse().unwrap()), ..it.clone() },
            _ => it.clone(),
        })
        .collect();
    let (_, obstacles, routes) = outcome(&facts, &[line("a/line", 1, &["10.9.9.9"], OURS)]).remove(0);
    assert!(!obstacles.contains(&ObstacleReason::RouteCapturesNode), "{obstacles:?}");
    assert_eq!(routes.len(), 1);
}

#[test]
fn no_route_takes_packets_for_pods() {
    let way = |interface: &str| with_routes([route("10.244.1.0/24", Some("10.244.1.0"), interface)]);
    let line = |client: &str| [line("a/line", 1, &[client], OURS)];
    for (interface, client, expected) in [
        ("flannel.1", "10.244.1.7", &[ObstacleReason::RouteCapturesNode][..]),
        ("cni0", "10.244.1.0/25", &[ObstacleReason::RouteCapturesNode]),
        ("flannel.1", "10.244.0.0/16", &[]),
        ("docker0", "10.244.1.7", &[]),
        ("eth1", "10.244.1.7", &[]),
    ] {
        assert_eq!(outcome(&way(interface), &line(client))[0].1, expected, "{client} on {interface}");
    }
}

#[test]
fn a_client_on_a_link_of_the_node_stays_on_the_link() {
    let set = [line("a/direct", 1, &["192.168.0.77"], None), line("b/younger", 2, &["192.168.0.77"], OURS)];
    assert_eq!(second(&facts(), &set), TAKEN);
}

#[test]
fn a_longer_prefix_takes_nothing_from_an_older_forward_of_another_namespace() {
    let nested = |older: Option<&str>, younger: &str, gateway: Option<&str>| {
        [line("a/wide", 1, &["10.0.0.0/8"], older), line(younger, 2, &["10.5.0.7"], gateway)]
    };
    assert_eq!(second(&facts(), &nested(OURS, "b/inner", OTHER)), TAKEN);
    assert_eq!(second(&facts(), &nested(None, "b/inner", OTHER)), TAKEN);
    assert_eq!(second(&facts(), &nested(OURS, "b/inner", OURS)), [], "one way");
    assert_eq!(second(&facts(), &nested(OURS, "a/inner", OTHER)), [], "in one namespace the longest prefix wins");
    assert_eq!(second(&facts(), &nested(None, "a/inner", OTHER)), [], "in one namespace the longest prefix wins");
    let plan = planned(&facts(), &nested(OURS, "b/inner", OTHER));
    assert!(plan.verdicts.values().all(|verdict| noted(verdict).is_empty()), "a route that is withheld wins nowhere");
    // The wider route of a younger forward leaves the older one its own.
    let outer = [line("a/inner", 1, &["10.5.0.7"], OURS), line("b/outer", 2, &["10.0.0.0/8"], OTHER)];
    assert_eq!(second(&facts(), &outer), []);
    let plan = planned(&facts(), &outer);
    assert_eq!(plan.desired.routes.len(), 2);
    let said: Vec<String> = plan.verdicts.values().map(|verdict| noted(verdict)).collect();
    assert!(
        said[0].contains("b/outer asks for another way") && !said[0].contains("10.0.0.0") && !said[0].contains(".66"),
        "{said:?}"
    );
    assert!(
        said[1].contains("a/inner asks for another way") && !said[1].contains("10.5.0.7") && !said[1].contains("0.1"),
        "{said:?}"
    );
}

#[test]
fn a_forward_that_is_not_carried_protects_no_client() {
    let mut disabled = line("a/alice", 1, &["10.50.1.1"], None);
    disabled.forward.as_mut().unwrap().mode = api::Mode::Disabled;
    let mallory = line("b/mallory", 2, &["10.50.1.1"], OTHER);
    let routes = |set: &[Candidate]| planned(&facts(), set).desired.routes.len();
    assert_eq!(routes(&[disabled, mallory.clone()]), 1);
    assert_eq!(routes(&[line("a/alice", 1, &["10.50.1.1"], None), mallory]), 0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    /// With a kernel's routing table of longest prefixes: whatever a younger forward of another namespace asks for, each client
    /// of an older forward keeps its next hop, or has the one that the older forward names.
    #[test]
    fn no_younger_forward_of_another_namespace_changes_the_way_of_an_older_ones_client(
        older in prop::collection::vec((0usize..6, 0u8..3), 1..4), younger in prop::collection::vec((0usize..6, 1u8..3), 1..4),
        foreign in prop::collection::vec((0usize..6, 0u8..3), 0..3),
    ) {
        const NETWORKS: [&str; 6] = ["10.0.0.0/8", "10.5.0.0/16", "10.5.0.0/24", "10.5.0.7", "10.6.0.0/16", "10.6.0.9"];
        let gateway = |n: u8| [None, OURS, OTHER][usize::from(n)];
        let cidr = |n: usize| if NETWORKS[n].contains('/') { NETWORKS[n].to_owned() } else { format!("{}/32", NETWORKS[n]) };
        let facts = with_routes(foreign.iter().map(|(n, via)| Route { metric: 0, ..route(&cidr(*n), gateway(*via).or(Some("2.2.2.9")), "eth1") }));
        let lines = |namespace: &str, from: u16, list: &[(usize, u8)]| -> Vec<Candidate> {
            let line = |(n, (network, via)): (u16, &(usize, u8))| line(&format!("{namespace}/f{n}"), from + n, &[NETWORKS[*network]], gateway(*via));
            (0..).zip(list).map(line).collect()
        };
        let alone = lines("a", 1, &older);
        let both: Vec<Candidate> = alone.iter().cloned().chain(lines("b", 100, &younger)).collect();
        let (before, after) = (planned(&facts, &alone), planned(&facts, &both));
        let way = |plan: &Plan, address: std::net::IpAddr| {
            let ours = plan.desired.routes.iter().filter(|it| it.destination.contains(&address)).map(|it| (it.destination.prefix_len(), Some(it.gateway)));
            let others = facts.routes.iter().filter(|it| it.destination.contains(&address)).map(|it| (it.destination.prefix_len(), it.gateway));
            // Of two routes to one network, the one of the other program has the better metric.
            ours.chain(others).max_by_key(|(length, _)| *length).unwrap().1
        };
        for (key, verdict) in &before.verdicts {
            let forward = alone.iter().find(|it| it.key == *key).unwrap().forward.as_ref().unwrap();
            if !verdict.is_carried() || !verdict.routes.iter().all(|plan| plan.installed().is_some()) {
                continue;
            }
            for probe in ["10.5.0.7", "10.5.0.8", "10.5.1.1", "10.6.0.9", "10.6.0.1", "10.9.9.9"].map(|it| it.parse().unwrap()) {
                if forward.clients[0].contains(&probe) {
                    let (now, then) = (way(&after, probe), way(&before, probe));
                    // A route of another program may have led it past the gateway that the older forward names.
                    prop_assert!(now == then || now.is_some() && now == forward.gateway, "{} of {}: {:?}, {:?}", probe, key, then, now);
                }
            }
        }
    }
}
