//! Tests the other forms of the bed, and the guarantees of the bed that the tests of the agent rely on.

mod bed;

use std::net::Ipv4Addr;
use std::os::unix::process::ExitStatusExt as _;
use std::panic::catch_unwind;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Mutex;

use bed::client::{ANSWER, Connection, Silence, UdpFlow, tcp_ask, udp_ask};
use bed::kernel::Variant;
use bed::netns::{must, remove_leftovers};
use bed::server::Server;
use bed::{Bed, CLIENT, EXTERNAL, GATEWAY, INTERNAL, Legs, SERVER, Topology};

/// Translates both directions of one client, as exactly as the probes here need.
fn translate(bed: &Bed, external: Ipv4Addr, clients: &str) {
    for proxy in &bed.proxies {
        for rule in [
            format!("-t nat -A PREROUTING -d {INTERNAL} -s {clients} -j DNAT --to-destination {SERVER}"),
            format!("-t nat -A POSTROUTING -d {SERVER} -s {clients} -j SNAT --to-source {external}"),
        ] {
            proxy.iptables(Variant::Nft, &rule);
        }
        proxy.netns.ip(&format!("route replace {clients} via {GATEWAY} dev eth1"));
    }
}

#[test]
fn a_path_mtu_of_1280_is_imposed_both_ways_and_large_transfers_pass() {
    let bed = Bed::with(&Topology { path_mtu: Some(1280), ..Topology::default() });
    translate(&bed, EXTERNAL, "1.1.1.1");
    let _server = Server::tcp(&bed.server, SERVER, [80]);
    let mut connection = Connection::open(&bed.client, (CLIENT, 0), (INTERNAL, 80), ANSWER).unwrap();
    connection.upload(2_000_000, ANSWER).unwrap();
    connection.download(2_000_000, ANSWER).unwrap();
    for (netns, destination) in [(&bed.client, INTERNAL), (&bed.server, EXTERNAL)] {
        let route = netns.ip(&format!("route get {destination}"));
        assert!(route.contains("mtu 1280"), "{route}");
    }
}

#[test]
fn without_translated_icmp_errors_a_small_path_mtu_stops_a_large_transfer() {
    let bed = Bed::with(&Topology { path_mtu: Some(1280), ..Topology::default() });
    translate(&bed, EXTERNAL, "1.1.1.1");
    bed.proxy().iptables(Variant::Nft, "-A FORWARD -p icmp -j DROP");
    let _server = Server::tcp(&bed.server, SERVER, [80]);
    let mut connection = Connection::open(&bed.client, (CLIENT, 0), (INTERNAL, 80), ANSWER).unwrap();
    connection.upload(2_000_000, ANSWER).unwrap_err();
}

#[test]
fn one_leg_reaches_the_server_over_the_line() {
    let bed = Bed::with(&Topology { legs: Legs::One, ..Topology::default() });
    translate(&bed, INTERNAL, "1.1.1.1");
    let _server = Server::tcp(&bed.server, SERVER, [80]);
    let seen = tcp_ask(&bed.client, CLIENT, (INTERNAL, 80), ANSWER).unwrap();
    assert_eq!(seen.peer.ip(), INTERNAL);
}

#[test]
fn every_address_of_a_client_network_is_a_client_and_every_port_of_a_range_a_server() {
    let bed = Bed::with(&Topology { client_networks: vec!["10.7.0.0/16".parse().unwrap()], ..Topology::default() });
    translate(&bed, EXTERNAL, "10.7.0.0/16");
    let servers = (Server::tcp(&bed.server, SERVER, 20_000..=20_999), Server::udp(&bed.server, SERVER, 20_000..=20_999));
    for (client, port) in [([10, 7, 0, 1], 20_000), ([10, 7, 255, 254], 20_999)] {
        let client = Ipv4Addr::from(client);
        for ask in [tcp_ask, udp_ask] {
            let seen = ask(&bed.client, client, (INTERNAL, port), ANSWER).unwrap();
            assert_eq!((seen.peer.ip(), seen.local), (EXTERNAL.into(), (SERVER, port).into()));
        }
    }
    assert_eq!((servers.0.seen().len(), servers.1.seen().len()), (2, 2));
}

#[test]
fn addresses_that_move_take_the_traffic_with_them() {
    let bed = Bed::with(&Topology { proxies: 2, ..Topology::default() });
    translate(&bed, EXTERNAL, "1.1.1.1");
    let _server = Server::tcp(&bed.server, SERVER, [80]);
    let tracked = |index: usize| bed.proxies[index].conntrack("-p tcp --dport 80").len();
    tcp_ask(&bed.client, CLIENT, (INTERNAL, 80), ANSWER).unwrap();
    assert_eq!((tracked(0), tracked(1)), (1, 0));
    bed.move_addresses(&bed.proxies[0], &bed.proxies[1]);
    tcp_ask(&bed.client, CLIENT, (INTERNAL, 80), ANSWER).unwrap();
    assert_eq!((tracked(0), tracked(1)), (1, 1));
}

#[test]
fn a_udp_flow_keeps_its_port_and_hears_a_refusal() {
    let bed = Bed::new();
    let server = Server::udp(&bed.server, SERVER, [53]);
    bed.proxy().netns.ip(&format!("route add {CLIENT} via {GATEWAY} dev eth1"));
    let mut flow = UdpFlow::open(&bed.client, (CLIENT, 0), (SERVER, 53)).unwrap();
    assert_eq!(flow.ask(ANSWER).unwrap().peer, flow.local());
    assert_eq!(flow.ask(ANSWER).unwrap().peer, flow.local());
    drop(server);
    assert_eq!(flow.ask(ANSWER), Err(Silence::Refused));
}

#[test]
fn a_session_counts_on_and_ends_with_its_server() {
    let bed = Bed::new();
    let server = Server::tcp(&bed.server, SERVER, [80]);
    bed.proxy().netns.ip(&format!("route add {CLIENT} via {GATEWAY} dev eth1"));
    let mut session = Connection::open(&bed.client, (CLIENT, 0), (SERVER, 80), ANSWER).unwrap();
    assert_eq!(session.seen.peer, session.local());
    session.exchange(ANSWER).unwrap();
    session.exchange(ANSWER).unwrap();
    drop(server);
    assert_eq!(session.exchange(ANSWER), Err(Silence::Broken));
}

/// Relies on order: neither side waits for an answer that does not come.
#[test]
fn what_is_cut_is_told_from_what_goes_on() {
    let bed = Bed::new();
    translate(&bed, EXTERNAL, "1.1.1.1");
    let servers = [Server::tcp(&bed.server, SERVER, [80]), Server::udp(&bed.server, SERVER, [514])];
    let mut session = Connection::open(&bed.client, (CLIENT, 0), (INTERNAL, 80), ANSWER).unwrap();
    let mut flow = UdpFlow::open(&bed.client, (CLIENT, 0), (INTERNAL, 514)).unwrap();
    flow.ask(ANSWER).unwrap();
    for _ in 0..20 {
        assert!(!session.is_cut(&bed) && !flow.is_cut(&bed, &servers));
    }
    bed.proxy().iptables(Variant::Nft, "-t nat -F");
    bed.proxy().conntrack_delete("--dst-nat");
    assert!(session.is_cut(&bed) && flow.is_cut(&bed, &servers));
    assert!(session.is_cut(&bed) && flow.is_cut(&bed, &servers), "also once the client knows it");
    translate(&bed, EXTERNAL, "1.1.1.1");
    flow.ask(ANSWER).expect("what was heard of the cut is behind it");
}

#[test]
fn what_is_ours_and_what_is_foreign_is_told_apart_in_both_variants() {
    for variant in Variant::ALL {
        let bed = Bed::new();
        let proxy = bed.proxy();
        assert!(proxy.foreign_rules(variant).is_empty());
        proxy.iptables(variant, "-t nat -A PREROUTING -s 9.9.9.9 -j ACCEPT");
        let before = proxy.foreign_rules(variant);
        proxy.iptables_restore(variant, "*nat\n:PF-PRE -\n-A PF-PRE -j RETURN\n-I PREROUTING -j PF-PRE\nCOMMIT\n");
        assert_eq!(proxy.foreign_rules(variant), before);
        assert_eq!(proxy.our_rules(variant), ["nat :PF-PRE -", "nat -A PREROUTING -j PF-PRE", "nat -A PF-PRE -j RETURN"]);
        proxy.iptables(variant, "-P FORWARD DROP");
        assert!(proxy.foreign_rules(variant).contains(&":FORWARD DROP".to_owned()));
    }
}

#[test]
fn nothing_of_a_bed_outlives_it_after_a_panic_either() {
    let left = Mutex::new((Vec::new(), None));
    let panic = catch_unwind(|| {
        let bed = Bed::new();
        let running = bed.proxy().command("cat").stdin(Stdio::piped()).spawn().unwrap();
        let paths = [bed.client.path(), bed.proxy().netns.path(), bed.proxy().files().to_owned()];
        *left.lock().unwrap() = (paths.to_vec(), Some(running));
        panic!("on purpose");
    });
    assert_eq!(panic.unwrap_err().downcast_ref::<&str>(), Some(&"on purpose"));
    let (paths, running) = left.into_inner().unwrap();
    assert!(paths.len() == 3 && paths.iter().all(|path| !path.exists()), "{paths:?}");
    let mut running = running.unwrap();
    // The input stays open, so only a signal can have ended the process.
    let _input = running.stdin.take();
    assert_eq!(running.wait().unwrap().signal(), Some(9));
}

#[test]
fn what_a_killed_run_left_is_removed_and_nothing_else() {
    let mut gone = Command::new("true").spawn().unwrap();
    gone.wait().unwrap();
    let [left, living] = [format!("pf-{}-0-left", gone.id()), format!("pf-{}-9999-living", std::process::id())];
    for name in [&left, &living] {
        must(Command::new("ip").args(["netns", "add", name]));
    }
    remove_leftovers();
    let exists = |name: &str| Path::new("/run/netns").join(name).exists();
    let found = (exists(&left), exists(&living));
    must(Command::new("ip").args(["netns", "delete", &living]));
    assert_eq!(found, (false, true));
}
