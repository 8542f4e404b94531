//! Every change that planning or repair depends on wakes the agent.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
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
