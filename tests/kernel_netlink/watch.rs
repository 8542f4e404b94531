//! Every change that planning or repair depends on wakes the agent.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use portforward_operator::dataplane::Backend;
use portforward_operator::dataplane::iptables::Variant;
use portforward_operator::node::watch;
use portforward_operator::supervise::Tasks;
use serde_json::Value;
use tokio::sync::Notify;
use tokio::time::timeout;

use crate::namespace::{inside, run, run_all};

/// Far more than an event takes. Only a failing test waits this long.
const LIMIT: Duration = Duration::from_mins(2);

/// Consumes the notifications about earlier changes, so that the next one belongs to the next change. Waits until the kernel
/// has reported all earlier changes and the watch has read the reports.
async fn settle(wake: &Notify) {
    let done = async {
        loop {
            // The runtime has only this thread, so the watch reads while this sleeps.
            tokio::time::sleep(Duration::from_millis(1)).await;
            if links_are_settled() && unread() == 0 {
                return;
            }
        }
    };
    timeout(LIMIT, done).await.expect("the kernel reports all changes, and the watch reads them");
    while wake.notified().now_or_never().is_some() {}
}

/// Whether the kernel has reported the carrier of every link. It does so up to a second later.
fn links_are_settled() -> bool {
    let links: Vec<Value> = serde_json::from_str(&run("ip -j link show")).expect("ip prints JSON");
    links.iter().all(|link| {
        let has = |flag: &str| link["flags"].as_array().is_some_and(|flags| flags.iter().any(|each| each == flag));
        let told = link["operstate"] == "UP" || link["operstate"] == "UNKNOWN";
        told == (has("UP") && has("LOWER_UP"))
    })
}

/// The number of unread bytes in the netlink sockets of this namespace.
fn unread() -> u64 {
    let sockets = std::fs::read_to_string("/proc/thread-self/net/netlink").expect("the kernel lists them");
    // sk Eth Pid Groups Rmem ...
    let waiting = |line: &str| line.split_whitespace().nth(4).and_then(|bytes| bytes.parse::<u64>().ok());
    sockets.lines().skip(1).filter_map(waiting).sum()
}

/// Applies `before`, starts to watch, makes the change `change`, and waits for the notification.
fn wakes_on(before: &str, change: &str) {
    inside(|| async {
        run_all(before);
        let wake = Arc::new(Notify::new());
        let mut tasks = Tasks::default();
        watch(&wake, &wake, &mut tasks);
        settle(&wake).await;
        run(change);
        timeout(LIMIT, wake.notified()).await.unwrap_or_else(|_| panic!("no wake on {change}"));
    });
}

const LINK: &str = "
    ip link add eth1 type veth peer name peer1
    ip link set peer1 up
    ip link set eth1 up
    ip addr add 192.168.0.2/24 dev eth1
";

#[test]
fn a_new_link_wakes() {
    wakes_on("", "ip link add eth1 type veth peer name peer1");
}

#[test]
fn an_address_wakes() {
    wakes_on(LINK, "ip addr add 192.168.0.3/24 dev eth1");
}

#[test]
fn a_route_wakes() {
    wakes_on(LINK, "ip route add 1.1.1.1/32 via 192.168.0.1");
}

#[test]
fn a_rule_wakes() {
    wakes_on(LINK, "ip rule add from 1.1.1.1 table 100");
}

#[test]
fn forwarding_wakes() {
    wakes_on("sysctl -qw net.ipv4.ip_forward=0", "sysctl -qw net.ipv4.ip_forward=1");
}

#[test]
fn nf_tables_wakes_whoever_changes_it() {
    wakes_on("", "nft add table ip test");
    wakes_on("", "iptables-nft -t nat -N OTHER");
}

#[test]
fn every_change_of_legacy_xtables_wakes_and_a_packet_does_not() {
    inside(|| async {
        run("iptables-legacy -t nat -N PF-PRE");
        run("iptables-legacy -t mangle -N OTHER");
        let (wake, rules) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let ours = Backend::Iptables(Variant::Legacy);
        let mut tasks = Tasks::default();
        tasks.spawn("watch", ours.watch_unreported(Arc::clone(&wake), Arc::clone(&rules), Arc::default()));
        let next = async |what: &str| {
            tokio::select! {
                () = rules.notified() => "rules",
                () = wake.notified() => "wake",
                () = tokio::time::sleep(LIMIT) => panic!("no wake on {what}"),
            }
        };
        // The tables that were there before.
        let first = [next("a table").await, next("a table").await];
        assert!(first.contains(&"rules") && first.contains(&"wake"));
        let to = "-p udp -d 127.0.0.1 -j";
        for (line, woken) in [
            (format!("iptables-legacy -t nat -A PF-PRE {to} DNAT --to-destination 127.0.0.3"), "rules"),
            // As many rules of the same size.
            (format!("iptables-legacy -t nat -R PF-PRE 1 {to} DNAT --to-destination 127.0.0.4"), "rules"),
            ("iptables-legacy -t mangle -A OTHER -j DROP".to_owned(), "wake"),
            ("iptables-legacy -t mangle -F".to_owned(), "wake"),
            // A further table.
            ("iptables-legacy -t raw -N OTHER".to_owned(), "wake"),
        ] {
            run(&line);
            assert_eq!(next(&line).await, woken, "{line}");
        }
        // Packets change the counters only. What wakes next is the change after them.
        run(&format!("iptables-legacy -t nat -A OUTPUT {to} ACCEPT"));
        assert_eq!(next("a rule that counts").await, "rules");
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.send_to(b"x", "127.0.0.1:9").unwrap();
        assert!(run("iptables-legacy -t nat -vxnL OUTPUT").lines().nth(2).is_some_and(|rule| rule.trim_start().starts_with('1')));
        run("iptables-legacy -t mangle -A OTHER -j DROP");
        assert_eq!(next("a change after packets").await, "wake");
    });
}

#[test]
fn more_changes_than_the_socket_holds_wake_and_the_watch_goes_on() {
    inside(|| async {
        run_all(LINK);
        let wake = Arc::new(Notify::new());
        let mut tasks = Tasks::default();
        watch(&wake, &wake, &mut tasks);
        settle(&wake).await;
        let flood: Vec<_> = (0..20_000).map(|n| format!("route add 10.{}.{}.1/32 dev eth1", n / 250, n % 250)).collect();
        let batch = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(batch.path(), flood.join("\n")).unwrap();
        run(&format!("ip -batch {}", batch.path().display()));
        timeout(LIMIT, wake.notified()).await.expect("a wake on the flood");
        settle(&wake).await;
        run("ip link add eth2 type veth peer name peer2");
        timeout(LIMIT, wake.notified()).await.expect("a wake after the flood");
    });
}
