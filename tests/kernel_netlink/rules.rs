//! The course of a forwarded packet is the one that the kernel gives for it, whatever rules and tables there are.

use std::process::Command;

use ipnet::IpNet;
use portforward_operator::model::{Course, End, Entry, Facts, Forwarded, InterfaceName, RouteKind};
use portforward_operator::node::Observer;

use crate::namespace::{inside, run, run_all};

const NODE: &str = "
    ip link add eth0 type veth peer name peer0
    ip link add eth1 type veth peer name peer1
    ip link set eth0 up
    ip link set peer0 up
    ip link set eth1 up
    ip link set peer1 up
    ip addr add 2.2.2.2/24 dev eth0
    ip addr add 192.168.0.2/24 dev eth1
    ip route add default via 2.2.2.1
    ip route add 1.1.1.0/24 via 192.168.0.1
    sysctl -qw net.ipv4.ip_forward=1
    sysctl -qw net.ipv4.conf.all.rp_filter=0
    sysctl -qw net.ipv4.conf.eth0.rp_filter=0
    sysctl -qw net.ipv4.conf.eth1.rp_filter=0
";

/// Each line is a set of commands, separated by `;`.
const SETS: &str = "
    route add blackhole 3.3.3.0/24 table 100; rule add from 1.1.1.1 lookup 100
    route add unreachable default table 100; rule add from 1.1.1.0/24 lookup 100; rule add to 3.3.3.3 pref 10 lookup main
    rule add iif eth1 prohibit
    rule add iif eth0 blackhole
    rule add iif lo blackhole
    rule add oif eth0 blackhole
    rule add iif eth9 blackhole
    rule add not from 3.3.3.3 unreachable
    rule add not from 9.9.9.9 iif eth1 unreachable
    route add default via 192.168.0.254 table 100; rule add from 1.1.1.1 lookup 100
    route add default via 192.168.0.254 table 100; rule add from 1.1.1.1 lookup 100 suppress_prefixlength 0
    rule add lookup main suppress_prefixlength 0 pref 10; route add default via 192.168.0.254 table 100; rule add lookup 100 pref 20
    rule add lookup main suppress_prefixlength 24 pref 10; rule add pref 20 prohibit
    route add throw 3.3.3.0/24 table 100; route add default via 192.168.0.254 table 100; rule add lookup 100
    route add throw 3.3.3.0/24; rule add pref 40000 from all lookup 100; route add default via 192.168.0.254 table 100
    route add local 3.3.3.0/24 dev lo table 100; rule add iif eth1 lookup 100
    route add default via 192.168.0.254 table 70000; rule add from 1.1.0.0/16 lookup 70000
    rule add from 1.1.1.1 pref 10 goto 30; rule add pref 20 prohibit; rule add pref 30 nop
    rule add from 1.1.1.1 pref 10 goto 31; rule add pref 20 from 3.3.3.3 prohibit
    rule add from 1.1.1.1 lookup 100
    route add default via 192.168.0.254 metric 9 table 100; route add default via 2.2.2.9 metric 5 table 100; rule add lookup 100
    route add blackhole default metric 9 table 100; route add default via 2.2.2.9 metric 5 table 100; rule add lookup 100
    route add 3.3.3.3 via 192.168.0.254 tos 0x10 table 100; rule add lookup 100
    route add 3.3.3.3 via inet6 fe80::1 dev eth0 table 100; rule add lookup 100
    route add 3.3.3.3 via 10.9.9.9 dev eth1 onlink table 100; rule add lookup 100
    nexthop add id 5 via 192.168.0.254 dev eth1; route add 3.3.3.3 nhid 5 table 100; rule add lookup 100
    nexthop add id 6 blackhole; route add 3.3.3.3 nhid 6 table 100; rule add lookup 100
    nexthop add id 6 blackhole; route add 3.3.3.3 nhid 6
    rule add fwmark 0x1 blackhole
    rule add not fwmark 0xca6c pref 10 lookup 100; route add 3.3.3.3 via 192.168.0.254 table 100
    rule del pref 32766
    rule add pref 32766 from 1.1.1.1 lookup main; rule del pref 32766 from all lookup main
    route add default via 2.2.2.7 table default; route del default
    route add default via 2.2.2.7 table default; rule add from 3.3.3.3 lookup 253; route del 1.1.1.0/24
";

const PACKETS: [(&str, &str, &str); 4] = [
    ("1.1.1.1", "3.3.3.3", "eth1"),
    ("3.3.3.3", "1.1.1.1", "eth0"),
    ("1.1.1.1", "8.8.8.8", "eth1"),
    ("1.1.1.9", "3.3.3.3", "eth1"),
];

/// What the kernel answers (`RTM_GETROUTE` with an incoming interface), in the words of `ip route get`.
fn asked((source, destination, enters): (&str, &str, &str)) -> Option<String> {
    let output = Command::new("ip").args(["route", "get", destination, "from", source, "iif", enters]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let first = text.lines().next().unwrap_or_default();
    (output.status.success() && !first.starts_with("local")).then(|| {
        let words: Vec<&str> = first.split_whitespace().collect();
        let after = |word: &str| words.iter().position(|it| *it == word).map(|place| words[place + 1]);
        let via = after("via").map(|via| if via == "inet6" { after("inet6").unwrap() } else { via });
        format!("{} {}", via.unwrap_or("direct"), after("dev").unwrap())
    })
}

fn found(facts: &Facts, (source, destination, enters): (&str, &str, &str)) -> Option<String> {
    let enters: InterfaceName = enters.parse().unwrap();
    let host = |text: &str| IpNet::from(text.parse::<std::net::IpAddr>().unwrap());
    let end = |source, destination, enters| {
        let packet = Forwarded { source: host(source), destination: host(destination), enters: Entry::By(enters) };
        let Course { end, .. } = facts.courses(&packet, None).usual;
        end
    };
    match end(source, destination, &enters) {
        // A source that the node delivers to itself is a martian (`__fib_validate_source`, net/ipv4/fib_frontend.c).
        End::Leaves { interface: Some(leaves), .. } if matches!(end(destination, source, leaves), End::Dropped(route) if route.kind == RouteKind::Local) => {
            None
        }
        End::Leaves { interface, gateway, .. } => {
            let gateway = gateway.map_or_else(|| "direct".to_owned(), |gateway| gateway.to_string());
            Some(format!("{gateway} {}", interface.unwrap()))
        }
        End::Dropped(_) | End::Refused | End::Missing => None,
        End::Unknown => panic!("not known: {source} to {destination}"),
    }
}

#[test]
fn a_packet_takes_the_course_that_the_kernel_gives_for_it() {
    for set in SETS.lines().map(str::trim).filter(|line| !line.is_empty()) {
        inside(|| async move {
            run_all(NODE);
            for command in set.split(';') {
                run(&format!("ip {}", command.trim()));
            }
            let facts = Observer::default().facts().await.unwrap();
            for packet in PACKETS {
                assert_eq!(found(&facts, packet), asked(packet), "{packet:?} after {set}");
            }
        });
    }
}

#[test]
fn a_rule_is_shown_as_ip_shows_it() {
    inside(|| async {
        run_all(
            "ip rule add pref 10 from 1.1.1.0/24 to 3.3.3.3 iif eth1 lookup 100
             ip rule add pref 11 not fwmark 0xca6c lookup 51820
             ip rule add pref 12 fwmark 0x1/0xff prohibit
             ip rule add pref 13 lookup main suppress_prefixlength 0
             ip rule add pref 14 goto 32766
             ip rule add pref 15 nop",
        );
        let rules = Observer::default().facts().await.unwrap().routing.rules;
        let shown: Vec<String> = rules.iter().map(ToString::to_string).collect();
        let listed = run("ip rule show");
        // A rule for an interface that does not exist yet is marked.
        let plain = |line: &str| line.replace(" [detached]", "").replace(":\t", ": ").trim().to_owned();
        assert_eq!(shown, listed.lines().map(plain).collect::<Vec<_>>());
    });
}
