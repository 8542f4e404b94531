//! The kernel resolves next hops on request, without a packet for them, and the answers are known.

use std::collections::BTreeSet;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use portforward_operator::model::{Answer, NextHop};
use portforward_operator::node::{NextHops, Observer, Patience};
use portforward_operator::supervise::Tasks;
use tokio::sync::Notify;
use tokio::time::timeout;

use crate::namespace::{inside, run, run_all};

/// Far more than the duration of one turn with two requests of the kernel.
const LIMIT: Duration = Duration::from_mins(2);

/// The host at the other end of `eth1`. It has 192.168.0.1 and answers for it.
struct Gateway(String);

impl Gateway {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("pfk-gw-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        run(&format!("ip netns add {name}"));
        let gateway = Self(name);
        run(&format!("ip link add eth1 type veth peer name line netns {}", gateway.0));
        gateway.ip("link set line up");
        gateway.ip("addr add 192.168.0.1/24 dev line");
        run_all(
            "ip link set eth1 up
             ip addr add 192.168.0.2/24 dev eth1
             sysctl -qw net.ipv4.neigh.eth1.retrans_time_ms=50",
        );
        gateway
    }

    fn ip(&self, arguments: &str) {
        run(&format!("ip -n {} {arguments}", self.0));
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.0]).status();
    }
}

fn hop(address: &str, interface: &str) -> NextHop {
    NextHop { address: address.parse().unwrap(), interface: interface.parse().unwrap() }
}

fn gateway() -> NextHop {
    hop("192.168.0.1", "eth1")
}

/// Requests answers of `next_hops`, as the agent does.
async fn ask(patience: Patience, next_hops: &[NextHop]) -> (NextHops, Arc<Notify>, Tasks) {
    let (wake, mut tasks) = (Arc::new(Notify::new()), Tasks::default());
    let asked = NextHops::ask(patience, &wake, &mut tasks);
    assert!(asked.want(&next_hops.iter().cloned().collect()).await, "the next hops are new");
    assert!(!asked.want(&next_hops.iter().cloned().collect()).await, "the next hops are already requested");
    (asked, wake, tasks)
}

/// Waits until the gateway has this answer.
async fn becomes(answer: Answer, asked: &NextHops, wake: &Notify) {
    let begun = Instant::now();
    while asked.answers().of(&gateway()) != answer {
        let left = LIMIT.saturating_sub(begun.elapsed());
        timeout(left, wake.notified()).await.unwrap_or_else(|_| panic!("never {answer:?}: {}", entries()));
    }
}

/// An address that nobody has, but for a part of [`nothing_changes_for_a_turn`]. Its answers prove that a turn has passed.
fn sentinel() -> NextHop {
    hop("192.168.0.9", "eth1")
}

/// Waits until every next hop was requested again and answered or not, and checks that the answers for `others` stay the same
/// all the time. The sentinel must be among the requested ones.
async fn nothing_changes_for_a_turn(host: &Gateway, asked: &NextHops, wake: &Notify, others: &[NextHop]) {
    let answers = || others.iter().map(|other| asked.answers().of(other)).collect::<Vec<_>>();
    let before = answers();
    for (change, answer) in [("add", Answer::Seen), ("del", Answer::Silent)] {
        host.ip(&format!("addr {change} 192.168.0.9/24 dev line"));
        let begun = Instant::now();
        while asked.answers().of(&sentinel()) != answer {
            let left = LIMIT.saturating_sub(begun.elapsed());
            timeout(left, wake.notified()).await.unwrap_or_else(|_| panic!("the turn never came: {}", entries()));
            assert_eq!(answers(), before, "{}", entries());
        }
        assert_eq!(answers(), before, "{}", entries());
    }
}

/// The kernel's table, without the sentinel.
fn entries() -> String {
    let all = run("ip -4 neigh show nud all");
    all.lines().filter(|line| !line.starts_with("192.168.0.9 ")).map(|line| format!("{line}\n")).collect()
}

#[test]
fn a_gateway_that_answers_is_seen_although_no_packet_goes_to_it() {
    inside(|| async {
        let _gateway = Gateway::new();
        let (asked, _wake, _tasks) = ask(Patience::Exhaustive, &[gateway()]).await;
        assert_eq!(asked.answers().of(&gateway()), Answer::Seen);
        assert!(entries().contains("REACHABLE"), "{}", entries());
    });
}

#[test]
fn an_address_that_nobody_has_is_awaited_and_then_silent() {
    inside(|| async {
        let _gateway = Gateway::new();
        run("sysctl -qw net.ipv4.neigh.eth1.retrans_time_ms=1000");
        let nobody = hop("192.168.0.77", "eth1");
        let (brief, _wake, _tasks) = ask(Patience::Brief, std::slice::from_ref(&nobody)).await;
        assert_eq!(brief.answers().of(&nobody), Answer::Awaited);
        let (exhaustive, _wake, _more_tasks) = ask(Patience::Exhaustive, std::slice::from_ref(&nobody)).await;
        assert_eq!(exhaustive.answers().of(&nobody), Answer::Silent);
    });
}

#[test]
fn a_gateway_that_dies_is_silent_until_it_is_back_whatever_the_kernel_forgets() {
    inside(|| async {
        let host = Gateway::new();
        let (asked, wake, _tasks) = ask(Patience::Exhaustive, &[gateway(), sentinel()]).await;
        host.ip("addr del 192.168.0.1/24 dev line");
        becomes(Answer::Silent, &asked, &wake).await;
        run("ip neigh flush dev eth1");
        nothing_changes_for_a_turn(&host, &asked, &wake, &[gateway()]).await;
        assert_eq!(asked.answers().of(&gateway()), Answer::Silent);
        host.ip("addr add 192.168.0.1/24 dev line");
        becomes(Answer::Seen, &asked, &wake).await;
    });
}

#[test]
fn a_gateway_that_answers_stays_seen_when_the_kernel_forgets_it() {
    inside(|| async {
        let host = Gateway::new();
        let (asked, wake, _tasks) = ask(Patience::Exhaustive, &[gateway(), sentinel()]).await;
        for _ in 0..20 {
            run("ip neigh flush dev eth1");
        }
        nothing_changes_for_a_turn(&host, &asked, &wake, &[gateway()]).await;
        assert_eq!(asked.answers().of(&gateway()), Answer::Seen);
        assert!(entries().contains("192.168.0.1"), "the kernel asks again");
    });
}

#[test]
fn a_router_that_takes_the_address_over_with_another_hardware_address_changes_nothing() {
    inside(|| async {
        let host = Gateway::new();
        let (asked, wake, _tasks) = ask(Patience::Exhaustive, &[gateway(), sentinel()]).await;
        host.ip("link set line address 02:00:00:00:00:77");
        nothing_changes_for_a_turn(&host, &asked, &wake, &[gateway()]).await;
        assert!(entries().contains("02:00:00:00:00:77"), "{}", entries());
    });
}

#[test]
fn a_line_without_carrier_is_silent_and_seen_soon_after_it_is_back() {
    inside(|| async {
        let host = Gateway::new();
        let (asked, wake, _tasks) = ask(Patience::Exhaustive, &[gateway()]).await;
        host.ip("link set line down");
        becomes(Answer::Silent, &asked, &wake).await;
        host.ip("link set line up");
        becomes(Answer::Seen, &asked, &wake).await;
    });
}

#[test]
fn an_interface_without_address_resolution_needs_no_answer() {
    inside(|| async {
        let _gateway = Gateway::new();
        run("ip link set eth1 arp off");
        let (asked, _wake, _tasks) = ask(Patience::Brief, &[gateway(), hop("192.168.0.77", "eth1")]).await;
        for next_hop in [gateway(), hop("192.168.0.77", "eth1")] {
            assert_eq!(asked.answers().of(&next_hop), Answer::Seen);
        }
        assert_eq!(entries(), "", "the kernel sends no request");
    });
}

#[test]
fn what_others_wrote_into_the_table_is_believed_and_stays() {
    inside(|| async {
        let host = Gateway::new();
        run_all(
            "ip neigh add 192.168.0.3 dev eth1 lladdr 02:00:00:00:00:03 nud permanent
             ip neigh add 192.168.0.4 dev eth1 lladdr 02:00:00:00:00:04 nud stale extern_learn
             ip neigh add 192.168.0.5 dev eth1 lladdr 02:00:00:00:00:05 nud noarp",
        );
        let written = entries();
        let others = ["192.168.0.3", "192.168.0.4", "192.168.0.5"].map(|address| hop(address, "eth1"));
        let requested: Vec<NextHop> = others.iter().cloned().chain([sentinel()]).collect();
        let (asked, wake, _tasks) = ask(Patience::Exhaustive, &requested).await;
        nothing_changes_for_a_turn(&host, &asked, &wake, &others).await;
        assert!(others.iter().all(|next_hop| asked.answers().of(next_hop) == Answer::Seen));
        assert_eq!(entries(), written);
    });
}

#[test]
fn the_same_address_on_two_interfaces_is_two_neighbours() {
    inside(|| async {
        let _gateway = Gateway::new();
        run_all(
            "ip link add eth2 type veth peer name peer2
             ip link set peer2 up
             ip link set eth2 up
             sysctl -qw net.ipv4.conf.peer2.arp_ignore=8
             sysctl -qw net.ipv4.neigh.eth2.retrans_time_ms=50
             ip addr add 192.168.0.12/24 dev eth2",
        );
        let other = hop("192.168.0.1", "eth2");
        let (asked, _wake, _tasks) = ask(Patience::Exhaustive, &[gateway(), other.clone()]).await;
        assert_eq!((asked.answers().of(&gateway()), asked.answers().of(&other)), (Answer::Seen, Answer::Silent));
    });
}

#[test]
fn after_a_restart_a_gateway_counts_at_once_although_it_dies_meanwhile() {
    inside(|| async {
        let host = Gateway::new();
        let first = ask(Patience::Exhaustive, &[gateway()]).await;
        drop(first);
        // The gateway counts as answering before it is asked again, because the kernel received an answer a moment ago.
        host.ip("addr del 192.168.0.1/24 dev line");
        let (wake, mut tasks) = (Arc::new(Notify::new()), Tasks::default());
        let asked = NextHops::ask(Patience::Brief, &wake, &mut tasks);
        asked.want(&BTreeSet::from([gateway()])).await;
        assert_eq!(asked.answers().of(&gateway()), Answer::Seen);
        becomes(Answer::Silent, &asked, &wake).await;
    });
}

#[test]
fn a_link_that_comes_later_is_asked_by_and_one_that_is_made_anew_is_another() {
    inside(|| async {
        let (wake, mut tasks) = (Arc::new(Notify::new()), Tasks::default());
        let asked = NextHops::ask(Patience::Brief, &wake, &mut tasks);
        asked.want(&BTreeSet::from([gateway()])).await;
        assert_eq!(asked.answers().of(&gateway()), Answer::Awaited);
        let host = Gateway::new();
        becomes(Answer::Seen, &asked, &wake).await;
        run("ip link del eth1");
        becomes(Answer::Awaited, &asked, &wake).await;
        drop(host);
        let _host = Gateway::new();
        becomes(Answer::Seen, &asked, &wake).await;
    });
}

/// RFC 8950: an IPv4 route with an IPv6 next hop (`via inet6`).
#[test]
fn a_next_hop_with_an_ipv6_address_is_asked_by_neighbour_discovery() {
    inside(|| async {
        let other = Gateway::new();
        other.ip("addr add fe80::51/64 dev line nodad");
        run("ip addr add fe80::52/64 dev eth1 nodad");
        run("ip route add 3.3.3.3 via inet6 fe80::51 dev eth1");
        let (there, absent) = (hop("fe80::51", "eth1"), hop("fe80::99", "eth1"));
        let (asked, wake, _tasks) = ask(Patience::Exhaustive, &[there.clone(), absent.clone()]).await;
        let begun = Instant::now();
        while asked.answers().of(&there) != Answer::Seen || asked.answers().of(&absent) != Answer::Silent {
            let left = LIMIT.saturating_sub(begun.elapsed());
            timeout(left, wake.notified()).await.unwrap_or_else(|_| panic!("{:?}: {}", asked.answers(), run("ip neigh")));
        }
        let facts = Observer::default().facts().await.unwrap();
        assert_eq!(facts.route_to("3.3.3.3".parse().unwrap()).unwrap().gateway, Some("fe80::51".parse().unwrap()));
    });
}
