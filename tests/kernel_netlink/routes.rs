//! The main table holds exactly the operator's routes, and foreign routes stay unchanged.

use std::collections::BTreeSet;
use std::time::Instant;

use portforward_operator::dataplane::routes::{self, RouteState, RoutesReport};
use portforward_operator::model::HostRoute;

use crate::namespace::{inside, run, run_all};

const NODE: &str = "
    ip link add eth1 type veth peer name peer1
    ip link set peer1 up
    ip link set eth1 up
    ip addr add 192.168.0.2/24 dev eth1
";

fn route(destination: &str, gateway: &str) -> HostRoute {
    HostRoute { destination: destination.parse().unwrap(), gateway: gateway.parse().unwrap(), interface: "eth1".parse().unwrap() }
}

async fn apply(wanted: &[HostRoute]) -> RoutesReport {
    routes::apply(&wanted.iter().cloned().collect()).await.unwrap()
}

fn ours() -> Vec<String> {
    run("ip route show proto 154").lines().map(|line| line.trim().to_owned()).collect()
}

/// Every route except the operator's, with all its attributes.
fn foreign() -> Vec<String> {
    run("ip -4 -d -o route show table all").lines().filter(|line| !line.contains("proto 154")).map(str::to_owned).collect()
}

#[test]
fn routes_come_and_go_and_a_second_apply_writes_nothing() {
    inside(|| async {
        run_all(NODE);
        let (a, b) = (route("1.1.1.1/32", "192.168.0.1"), route("10.1.0.0/16", "192.168.0.9"));
        let before = foreign();
        let report = apply(&[a.clone(), b.clone()]).await;
        assert_eq!((report.added, report.removed), (2, 0));
        assert!(report.states.values().all(|state| *state == RouteState::Installed), "{report:?}");
        assert_eq!(ours(), ["1.1.1.1 via 192.168.0.1 dev eth1 metric 154", "10.1.0.0/16 via 192.168.0.9 dev eth1 metric 154"]);
        assert_eq!(run("ip route show proto 154 scope global").lines().count(), 2);

        let report = apply(&[a.clone(), b]).await;
        assert_eq!((report.added, report.removed), (0, 0));
        assert_eq!(report.states[&a], RouteState::Installed);

        let moved = route("1.1.1.1/32", "192.168.0.7");
        let report = apply(std::slice::from_ref(&moved)).await;
        assert_eq!((report.added, report.removed), (1, 2));
        assert_eq!(report.states[&moved], RouteState::Installed);
        assert_eq!(ours(), ["1.1.1.1 via 192.168.0.7 dev eth1 metric 154"]);

        assert_eq!(routes::remove_all().await.unwrap().removed, 1);
        assert_eq!(routes::remove_all().await.unwrap().removed, 0, "a second removal is no error");
        assert_eq!((ours(), foreign()), (vec![], before));
    });
}

#[test]
fn a_look_tells_what_is_missing_and_too_many_and_writes_nothing() {
    inside(|| async {
        run_all(NODE);
        let (a, b) = (route("1.1.1.1/32", "192.168.0.1"), route("10.1.0.0/16", "192.168.0.9"));
        apply(std::slice::from_ref(&a)).await;
        let before = (ours(), foreign());
        let report = routes::inspect(&[a.clone()].into()).await.unwrap();
        assert_eq!((&report.states[&a], report.surplus.len()), (&RouteState::Installed, 0));
        let report = routes::inspect(&[b.clone()].into()).await.unwrap();
        assert_eq!((report.added, report.removed, &report.states[&b]), (0, 0, &RouteState::Missing));
        assert_eq!(report.surplus, ["1.1.1.1/32 via 192.168.0.1 dev eth1 proto 154 metric 154"]);
        assert_eq!((ours(), foreign()), before);
    });
}

#[test]
fn a_namespace_without_any_route_is_no_error() {
    inside(|| async {
        assert_eq!(apply(&[]).await, RoutesReport::default());
    });
}

#[test]
fn whatever_carries_our_number_and_is_not_wanted_goes() {
    inside(|| async {
        run_all(NODE);
        let wanted = route("1.1.1.1/32", "192.168.0.1");
        let before = foreign();
        apply(std::slice::from_ref(&wanted)).await;
        run_all(
            "ip route add 1.1.1.1/32 via 192.168.0.1 proto 154 metric 7
             ip route append 1.1.1.1/32 via 192.168.0.8 proto 154 metric 154
             ip route add 5.5.5.5/32 via 192.168.0.1 proto 154
             ip route add 5.5.5.6/32 dev eth1 proto 154
             ip route add 5.5.5.7/32 via 10.99.99.99 dev eth1 onlink proto 154 metric 154
             ip route add 5.5.5.8/32 proto 154 nexthop via 192.168.0.1 nexthop via 192.168.0.3
             ip route add blackhole 5.5.5.9/32 proto 154
             ip nexthop add id 5 via 192.168.0.1 dev eth1
             ip route add 5.5.5.10/32 nhid 5 proto 154",
        );
        let report = apply(std::slice::from_ref(&wanted)).await;
        assert_eq!((report.added, report.removed), (0, 8), "{report:?}");
        assert_eq!(report.stuck, [""; 0]);
        assert_eq!(report.states[&wanted], RouteState::Installed);
        assert_eq!(ours(), ["1.1.1.1 via 192.168.0.1 dev eth1 metric 154"]);
        assert_eq!(foreign(), before);
    });
}

#[test]
fn a_foreign_route_that_says_the_same_satisfies() {
    inside(|| async {
        run_all(NODE);
        run_all(
            "ip route add 1.1.1.1/32 via 192.168.0.1
             ip route add 1.1.1.2/32 via 192.168.0.1 metric 154
             ip route add 1.1.1.3/32 via 192.168.0.1 proto static metric 153",
        );
        let before = foreign();
        let wanted = ["1.1.1.1/32", "1.1.1.2/32", "1.1.1.3/32"].map(|client| route(client, "192.168.0.1"));
        for _ in 0..2 {
            let report = apply(&wanted).await;
            assert!(report.states.values().all(|state| *state == RouteState::Satisfied), "{report:?}");
        }
        assert_eq!(ours().len(), 2, "the operator's route exists beside the foreign one if its metric differs");
        assert_eq!(foreign(), before);
        run("ip route del 1.1.1.1/32 metric 0");
        assert_eq!(
            apply(&wanted).await.states[&wanted[0]],
            RouteState::Installed,
            "the operator's route stays when the foreign one is removed"
        );
    });
}

#[test]
fn a_foreign_route_that_says_otherwise_is_reported_and_never_replaced() {
    inside(|| async {
        run_all(NODE);
        let wanted = ["1.1.1.1/32", "1.1.1.2/32", "1.1.1.3/32", "192.168.0.0/24"].map(|client| route(client, "192.168.0.1"));
        assert_eq!(apply(&wanted[..3]).await.added, 3);
        run_all(
            "ip route add 1.1.1.1/32 via 192.168.0.254 proto static metric 10
             ip route replace 1.1.1.2/32 via 192.168.0.254 metric 154
             ip route add blackhole 1.1.1.3/32",
        );
        let before = foreign();
        let report = apply(&wanted).await;
        let contested = |text: &str| RouteState::Contested { foreign: text.to_owned() };
        let expected = [
            contested("1.1.1.1/32 via 192.168.0.254 dev eth1 proto static metric 10"),
            contested("1.1.1.2/32 via 192.168.0.254 dev eth1 proto boot metric 154"),
            contested("blackhole 1.1.1.3/32 proto boot"),
            contested("192.168.0.0/24 dev eth1 proto kernel"),
        ];
        assert_eq!(wanted.map(|wanted| report.states[&wanted].clone()), expected);
        assert_eq!(
            (report.removed, ours()),
            (2, vec![]),
            "the operator's routes are removed; one was replaced by the other program"
        );
        assert_eq!(foreign(), before);
    });
}

#[test]
fn a_foreign_route_that_the_kernel_does_not_prefer_is_nobodys_business() {
    inside(|| async {
        run_all(NODE);
        let wanted = ["1.1.1.1/32", "1.1.1.2/32", "1.1.1.3/32", "10.0.0.0/8"].map(|client| route(client, "192.168.0.1"));
        assert_eq!(apply(&wanted).await.added, 4);
        run_all(
            "ip route add 1.1.1.1/32 via 192.168.0.254 metric 500
             ip route add blackhole 1.1.1.2/32 metric 155
             ip route add 1.1.1.3/32 via 192.168.0.254 tos 0x10
             ip route add 10.5.0.0/16 via 192.168.0.254",
        );
        let before = foreign();
        for _ in 0..2 {
            let report = apply(&wanted).await;
            assert_eq!((report.added, report.removed), (0, 0), "{report:?}");
            assert!(report.states.values().all(|state| *state == RouteState::Installed), "{report:?}");
        }
        assert!(run("ip route get 1.1.1.1").contains("via 192.168.0.1 "), "the kernel agrees");
        // The foreign route may also exist before the operator's.
        assert_eq!(routes::remove_all().await.unwrap().removed, 4);
        assert_eq!(apply(&wanted).await.added, 4);
        assert_eq!(foreign(), before);
    });
}

#[test]
fn one_refused_route_stops_no_other() {
    inside(|| async {
        run_all(NODE);
        let good = route("1.1.1.1/32", "192.168.0.1");
        let off_link = route("1.1.1.2/32", "172.16.0.1");
        let gone = HostRoute { interface: "eth9".parse().unwrap(), ..route("1.1.1.3/32", "192.168.0.1") };
        let report = apply(&[off_link.clone(), good.clone(), gone.clone()]).await;
        assert_eq!(report.states[&good], RouteState::Installed);
        let RouteState::Refused { error } = &report.states[&off_link] else { panic!("{report:?}") };
        assert!(error.contains("invalid gateway"), "the kernel's own words: {error}");
        let RouteState::Refused { error } = &report.states[&gone] else { panic!("{report:?}") };
        assert!(error.contains("eth9"), "{error}");
        assert_eq!(ours().len(), 1);
    });
}

#[test]
fn after_a_link_flap_the_next_apply_brings_the_routes_back() {
    inside(|| async {
        run_all(NODE);
        let wanted = route("1.1.1.1/32", "192.168.0.1");
        apply(std::slice::from_ref(&wanted)).await;
        run("ip link set eth1 down");
        assert_eq!(ours(), [""; 0]);
        let report = apply(std::slice::from_ref(&wanted)).await;
        assert!(matches!(report.states[&wanted], RouteState::Refused { .. }), "{report:?}");
        run("ip link set eth1 up");
        let report = apply(std::slice::from_ref(&wanted)).await;
        assert_eq!((report.added, &report.states[&wanted]), (1, &RouteState::Installed));
    });
}

#[test]
fn ten_thousand_routes_come_stay_and_go() {
    inside(|| async {
        run_all(NODE);
        let wanted: BTreeSet<_> =
            (0..10_000).map(|n| route(&format!("10.{}.{}.1/32", n / 250, n % 250), "192.168.0.1")).collect();
        let timed = |what: &str, start: Instant| println!("{what}: {:?}", start.elapsed());
        let start = Instant::now();
        assert_eq!(routes::apply(&wanted).await.unwrap().added, 10_000);
        timed("add", start);
        let start = Instant::now();
        let report = routes::apply(&wanted).await.unwrap();
        timed("no change", start);
        assert_eq!((report.added, report.removed), (0, 0));
        assert!(report.states.values().all(|state| *state == RouteState::Installed));
        let start = Instant::now();
        assert_eq!(routes::remove_all().await.unwrap().removed, 10_000);
        timed("remove", start);
    });
}
