//! The facts of a namespace match what the test has set up in it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};

use portforward_operator::model::{Facts, Listener, LocalAddress, Protocol, RpFilter, Virtual};
use portforward_operator::node::Observer;
use rustix::net::{AddressFamily, SocketType, bind, listen, sockopt};

use crate::namespace::{inside, run, run_all};

const NODE: &str = "
    ip link add eth0 type veth peer name peer0
    ip link add eth1 type veth peer name peer1
    ip link set eth0 up
    ip link set peer0 up
    ip link set eth1 up
    ip addr add 2.2.2.2/24 dev eth0
    ip addr add 192.168.0.2/24 dev eth1
    ip addr add 10.9.9.9/32 dev lo
    ip -6 addr add fd00::1/64 dev eth0 nodad
";

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

async fn facts() -> Facts {
    Observer::default().facts().await.unwrap()
}

#[test]
fn links_are_read_with_state_master_and_source_validation() {
    inside(|| async {
        run_all(NODE);
        run_all(
            "ip link add br0 type bridge
             ip link set eth1 master br0
             ip link add odd+name type veth peer name odd+peer
             sysctl -qw net.ipv4.conf.all.rp_filter=0
             sysctl -qw net.ipv4.conf.eth0.rp_filter=1
             sysctl -qw net.ipv4.conf.eth1.rp_filter=0",
        );
        let facts = facts().await;
        let names: Vec<_> = facts.links.keys().map(ToString::to_string).collect();
        assert_eq!(names, ["br0", "eth0", "eth1", "peer0", "peer1"], "without lo and without names that no object can contain");
        let link = |name: &str| &facts.links[&name.parse().unwrap()];
        assert!(link("eth0").up);
        assert!(!link("eth1").up, "no carrier, because the other end is down");
        assert_eq!(link("eth1").master, Some(link("br0").index));
        assert_eq!(link("eth0").master, None);
        assert_eq!((link("eth0").rp_filter, link("eth1").rp_filter), (RpFilter::Strict, RpFilter::Off));
        run("sysctl -qw net.ipv4.conf.all.rp_filter=2");
        let facts = self::facts().await;
        assert!(facts.links.values().all(|link| link.rp_filter == RpFilter::Loose), "the larger value of the two decides");
    });
}

#[test]
fn devices_that_share_a_wire_with_another_are_known() {
    inside(|| async {
        run_all(
            "ip link add base type veth peer name peer
             ip link add vrrp.51 link base type macvlan mode private",
        );
        let name = |text: &str| text.parse().unwrap();
        let expected = [(name("vrrp.51"), Virtual::OnWireOf(name("base")))];
        assert_eq!(
            facts().await.virtuals,
            expected.into(),
            "an end of a veth pair is a link of its own, although it refers to another one"
        );
    });
}

#[test]
fn forwarding_is_read_of_each_interface() {
    inside(|| async {
        run_all(NODE);
        run("sysctl -qw net.ipv4.ip_forward=1");
        run("sysctl -qw net.ipv4.conf.eth1.forwarding=0");
        let facts = facts().await;
        let link = |name: &str| &facts.links[&name.parse().unwrap()];
        assert!(facts.ip_forward && link("eth0").forwarding && !link("eth1").forwarding);
    });
}

#[test]
fn addresses_are_read_with_their_interface_and_the_loopback_range_is_left_out() {
    inside(|| async {
        run_all(NODE);
        let local = |text: &str, prefix_len, interface: Option<&str>| LocalAddress {
            address: address(text),
            prefix_len,
            interface: interface.map(|name| name.parse().unwrap()),
        };
        let facts = facts().await;
        let expected = [local("2.2.2.2", 24, Some("eth0")), local("10.9.9.9", 32, None), local("192.168.0.2", 24, Some("eth1"))];
        assert_eq!(facts.addresses, BTreeSet::from(expected));
        assert!(facts.holds(address("10.9.9.9")), "the node holds an address of the loopback interface");
        assert_eq!(facts.interface_of(address("10.9.9.9")), None);
        assert_eq!(facts.connected(address("192.168.0.77")).unwrap().address, address("192.168.0.2"));
    });
}

#[test]
fn routes_are_those_of_the_main_table() {
    inside(|| async {
        assert!(facts().await.routes.is_empty(), "a new namespace has no routes");
        run_all(NODE);
        run_all(
            "ip route add default via 2.2.2.1
             ip route add 1.1.1.1/32 via 192.168.0.1 proto 154 metric 154
             ip route add blackhole 9.9.9.9/32
             ip route add 8.8.8.8/32 via 2.2.2.1 table 100
             ip route add 1.1.1.1/32 via 192.168.0.9 tos 0x10
             ip route add 7.7.7.0/24 nexthop via 2.2.2.1 nexthop via 192.168.0.1",
        );
        let facts = facts().await;
        let show = |route: &portforward_operator::model::Route| {
            let gateway = route.gateway.map(|gateway| gateway.to_string()).unwrap_or_default();
            let interface = route.interface.as_ref().map(ToString::to_string).unwrap_or_default();
            let owner = if route.ours { "ours" } else { "foreign" };
            format!("{} {gateway} {interface} {} {owner} {:?}", route.destination, route.metric, route.kind)
        };
        let mut routes: Vec<_> = facts.routes.iter().map(show).collect();
        routes.sort();
        assert_eq!(
            routes,
            [
                "0.0.0.0/0 2.2.2.1 eth0 0 foreign Unicast",
                "1.1.1.1/32 192.168.0.1 eth1 154 ours Unicast",
                "192.168.0.0/24  eth1 0 foreign Unicast",
                "2.2.2.0/24  eth0 0 foreign Unicast",
                "7.7.7.0/24   0 foreign Unicast",
                "9.9.9.9/32   0 foreign Nowhere",
            ],
            "without routes of other tables and routes for a type of service"
        );
        assert_eq!(facts.route_to(address("9.9.9.9")), None);
    });
}

/// As `--dst-type LOCAL` matches (iptables-extensions(8)).
#[test]
fn held_is_what_the_kernel_delivers_locally() {
    inside(|| async {
        run_all(NODE);
        run_all(
            "ip route add local 10.200.0.9/32 dev eth1
             ip route add local 10.201.0.0/24 dev lo
             ip route add 10.202.0.0/24 dev eth1
             ip route add local 10.203.0.9/32 dev eth1 table 100",
        );
        let facts = facts().await;
        let held = |text: &str| facts.holds(address(text));
        for text in ["2.2.2.2", "10.9.9.9", "10.200.0.9", "10.201.0.0", "10.201.0.77"] {
            assert!(held(text), "{text}");
            assert!(run(&format!("ip route get {text}")).starts_with("local"), "the kernel agrees about {text}");
        }
        for text in ["2.2.2.255", "192.168.0.3", "10.202.0.1", "10.203.0.9", "8.8.8.8"] {
            assert!(!held(text), "{text}");
        }
        assert_eq!(facts.interface_of(address("10.200.0.9")).unwrap().as_str(), "eth1");
        assert_eq!(facts.interface_of(address("10.201.0.77")), None);
        run("ip route del local 10.200.0.9/32 dev eth1");
        assert!(!self::facts().await.holds(address("10.200.0.9")));
        run("ip link set eth0 down");
        assert!(self::facts().await.holds(address("2.2.2.2")));
        assert!(run("ip route get 2.2.2.2").starts_with("local"), "the kernel delivers it also while its link is down");
        run("ip route del local 2.2.2.2 dev eth0 table local");
        let deaf = self::facts().await;
        assert!(deaf.addresses.iter().any(|local| local.address == address("2.2.2.2")), "the interface keeps its address");
        assert!(!deaf.holds(address("2.2.2.2")), "the kernel delivers nothing for it");
    });
}

#[test]
fn forwarding_and_policy_routing_are_seen() {
    inside(|| async {
        run("sysctl -qw net.ipv4.ip_forward=0");
        let before = facts().await;
        assert!(!before.ip_forward && before.routing.is_default());
        run("sysctl -qw net.ipv4.ip_forward=1");
        run("ip rule add from 1.1.1.1 table 100");
        let after = facts().await;
        assert!(after.ip_forward && !after.routing.is_default());
        run("ip rule del from 1.1.1.1 table 100");
        run("ip rule add from 1.1.1.1 table main pref 32766");
        assert!(!facts().await.routing.is_default(), "a rule can have the priority of a default rule");
    });
}

#[test]
fn listeners_of_this_namespace_are_seen_and_what_is_none_is_not() {
    inside(|| async {
        run_all(NODE);
        let tcp = TcpListener::bind("192.168.0.2:80").unwrap();
        let every = TcpListener::bind("[::]:8080").unwrap();
        let bound = UdpSocket::bind("0.0.0.0:53").unwrap();
        let connected = UdpSocket::bind("192.168.0.2:54").unwrap();
        connected.connect("2.2.2.2:1").unwrap();
        let _client = std::net::TcpStream::connect("192.168.0.2:80").unwrap();
        let only_v6 = rustix::net::socket(AddressFamily::INET6, SocketType::STREAM, None).unwrap();
        sockopt::set_ipv6_v6only(&only_v6, true).unwrap();
        bind(&only_v6, &"[::]:8081".parse::<SocketAddr>().unwrap()).unwrap();
        listen(&only_v6, 1).unwrap();
        let of_eth1 = tokio::net::TcpSocket::new_v4().unwrap();
        of_eth1.bind_device(Some(b"eth1")).unwrap();
        of_eth1.bind("0.0.0.0:8082".parse().unwrap()).unwrap();
        let of_eth1 = of_eth1.listen(1).unwrap();
        let any: Vec<UdpSocket> = (0..16).map(|_| UdpSocket::bind("0.0.0.0:0").unwrap()).collect();
        // A port that the kernel never assigns by itself, so a program must have asked for it.
        run("sysctl -qw net.ipv4.ip_local_reserved_ports=51820");
        let tunnel = UdpSocket::bind("0.0.0.0:51820").unwrap();
        let listener = |protocol, text: &str, port| Listener { protocol, address: address(text), port, device: None };
        let expected = [
            listener(Protocol::Tcp, "192.168.0.2", 80),
            listener(Protocol::Tcp, "0.0.0.0", 8080),
            Listener { device: Some("eth1".parse().unwrap()), ..listener(Protocol::Tcp, "0.0.0.0", 8082) },
            listener(Protocol::Udp, "0.0.0.0", 53),
            listener(Protocol::Udp, "0.0.0.0", 51820),
        ];
        assert_eq!(facts().await.listeners, BTreeSet::from(expected));
        drop((tcp, every, bound, any, tunnel, of_eth1));
    });
}

#[test]
fn without_a_cluster_the_node_is_reached_by_the_sources_of_its_default_routes() {
    inside(|| async {
        run_all(NODE);
        let sources = |facts: &Facts| facts.node_addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
        let unknown = facts().await;
        assert_eq!(sources(&unknown), "");
        let every: Vec<String> = unknown.maybe_node_addresses.iter().map(ToString::to_string).collect();
        assert_eq!(every, ["2.2.2.2", "10.9.9.9", "192.168.0.2"], "any address may be the one");
        run_all(
            "ip addr add 172.16.0.2/24 dev eth0
             ip addr add 2.2.2.50/24 dev eth0
             ip route add default via 2.2.2.1",
        );
        let known = facts().await;
        assert_eq!((sources(&known).as_str(), known.maybe_node_addresses.len()), ("2.2.2.2", 0));
        assert!(run("ip route get 9.9.9.9").contains("src 2.2.2.2 "), "the kernel agrees");
        run("ip route replace default via 172.16.0.1");
        assert_eq!(sources(&facts().await), "172.16.0.2");
        assert!(run("ip route get 9.9.9.9").contains("src 172.16.0.2 "));
        run("ip route replace default via 2.2.2.1 src 192.168.0.2");
        assert_eq!(sources(&facts().await), "192.168.0.2");
        run("ip route add default via 192.168.0.1 metric 100");
        run("ip route add 8.0.0.0/8 via 2.2.2.1 src 2.2.2.50");
        assert_eq!(sources(&facts().await), "192.168.0.2");
        run("ip route replace default via 2.2.2.1");
        assert_eq!(sources(&facts().await), "2.2.2.2 192.168.0.2", "each source if there are several default routes");
        run("ip route del default metric 100");
        run("ip route replace default nexthop via 2.2.2.1 nexthop via 192.168.0.1");
        assert_eq!(sources(&facts().await), "2.2.2.2 192.168.0.2", "each next hop of one route");
        let observer = Observer::default();
        let lately = sources(&observer.facts().await.unwrap());
        run("ip route del default");
        assert_eq!(sources(&observer.facts().await.unwrap()), lately, "a default route that is missing for a moment");
    });
}

#[test]
fn api_servers_are_those_given_and_labels_are_for_others_to_say() {
    inside(|| async {
        let servers = BTreeSet::from([address("10.0.0.1")]);
        let facts = Observer::new(servers.clone()).facts().await.unwrap();
        assert_eq!((facts.labels, facts.api_servers), (BTreeMap::new(), servers));
    });
}
