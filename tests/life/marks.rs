//! The bit of the connection mark by which FORWARD and POSTROUTING know the flows of forwards: flows from before it, programs that
//! change marks, another bit, and changes under traffic. Everything happens under a FORWARD policy of DROP.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use serde_json::json;

use crate::bed::agent::{Agent, AgentOptions};
use crate::bed::client::{ANSWER, Connection};
use crate::bed::kernel::Variant;
use crate::bed::netns::must;
use crate::bed::{Bed, CLIENT, EXTERNAL, INTERNAL, Proxy, SECOND_SERVER, SERVER};
use crate::stage::{FILE, Manifest, SEED, Stage, by, flow, on_all_backends, servers, tcp, wait, way};

on_all_backends! {
    flows_of_hand_made_rules_outlive_them,
    flows_of_hand_made_rules_outlive_them_if_the_forward_comes_later,
    a_mark_that_another_program_removes_is_set_again_and_its_own_bits_stay,
    another_bit_after_a_restart_interrupts_no_flow,
    flows_that_begin_while_the_forward_changes_are_all_answered,
}

/// The rules that an administrator would write for the example forward, with the chain of each.
const BY_HAND: [&str; 5] = [
    "-t nat -A PREROUTING -d 192.168.0.2 -p tcp --dport 80 -j DNAT --to-destination 3.3.3.3:80",
    "-t nat -A PREROUTING -d 192.168.0.2 -p udp --dport 514 -j DNAT --to-destination 3.3.3.3:514",
    "-t nat -A POSTROUTING -s 1.1.1.1 -d 3.3.3.3 -j SNAT --to-source 2.2.2.2",
    "-A FORWARD -s 1.1.1.1 -d 3.3.3.3 -j ACCEPT",
    "-A FORWARD -s 3.3.3.3 -j ACCEPT",
];

fn dropping(variant: Variant) -> Bed {
    let bed = Bed::new();
    bed.proxy().iptables(variant, "-P FORWARD DROP");
    bed
}

/// The marks of all TCP flows to the listen address, by value.
fn marks(proxy: &Proxy) -> Vec<u32> {
    let listed = proxy.conntrack("-p tcp -d 192.168.0.2 --dport 80");
    let mark = |line: String| line.split("mark=").nth(1)?.split_whitespace().next()?.parse().ok();
    listed.into_iter().filter_map(mark).collect()
}

fn flows_of_hand_made_rules_outlive_them(variant: Variant) {
    taken_over(variant, |bed| Stage::of(variant, bed, &[(FILE, Manifest::seed())]));
}

/// The agent has read the kernel before and then reads only what may have changed.
fn flows_of_hand_made_rules_outlive_them_if_the_forward_comes_later(variant: Variant) {
    taken_over(variant, |bed| {
        let other = Manifest::seed().named("other").with("/spec/ports", json!([{"name": "other", "port": 81}]));
        let stage = Stage::of(variant, bed, &[("other.yaml", other)]);
        stage.agent.wait_ready("lines/other");
        stage.manifests.put(FILE, &Manifest::seed().text());
        stage
    });
}

/// A node that was set up by hand and is in use, until the rules of the agent that `starts` are the only ones.
fn taken_over(variant: Variant, starts: impl FnOnce(Bed) -> Stage) {
    let bed = dropping(variant);
    for rule in BY_HAND {
        bed.proxy().iptables(variant, rule);
    }
    bed.proxy().netns.ip("route add 1.1.1.1/32 via 192.168.0.1 dev eth1");
    let _servers = servers(&bed);
    let mut session = Connection::open(&bed.client, (CLIENT, 0), (INTERNAL, 80), ANSWER).unwrap();
    let mut datagrams = flow(&bed);
    let from = datagrams.ask(ANSWER).unwrap().peer;
    assert_eq!(marks(bed.proxy()), [0]);

    let stage = starts(bed);
    stage.agent.wait_ready(SEED);
    assert_eq!(marks(stage.proxy()), [0x1000], "before the hand-made rules go");
    for rule in BY_HAND {
        stage.proxy().iptables(variant, &rule.replace("-A ", "-D "));
    }
    session.exchange(ANSWER).unwrap();
    assert_eq!(datagrams.ask(ANSWER).unwrap().peer, from, "the same flow");
}

fn a_mark_that_another_program_removes_is_set_again_and_its_own_bits_stay(variant: Variant) {
    let stage = Stage::of(variant, dropping(variant), &[(FILE, Manifest::seed())]);
    stage.agent.wait_ready(SEED);
    let _servers = servers(&stage.bed);
    let mut session = Connection::open(&stage.bed.client, (CLIENT, 0), (INTERNAL, 80), ANSWER).unwrap();
    assert_eq!(marks(stage.proxy()), [0x1000]);
    must(stage.proxy().command("conntrack").args(["-U", "-p", "tcp", "-d", "192.168.0.2", "--mark", "0x4001"]));
    wait("the bit is set again", || marks(stage.proxy()) == [0x5001]);
    session.exchange(ANSWER).unwrap();
}

fn another_bit_after_a_restart_interrupts_no_flow(variant: Variant) {
    let stage = Stage::of(variant, dropping(variant), &[(FILE, Manifest::seed())]);
    stage.agent.wait_ready(SEED);
    let _servers = servers(&stage.bed);
    let download = Connection::open(&stage.bed.client, (CLIENT, 0), (INTERNAL, 80), ANSWER).unwrap().stream().unwrap();
    let mut datagrams = flow(&stage.bed);
    let Stage { agent, manifests, options, bed } = stage;
    assert!(agent.stop().success());
    let options = AgentOptions { extra: vec!["--connmark=0x20".to_owned()], ..options };
    let agent = Agent::start(bed.proxy(), &manifests, &options);
    agent.wait_ready(SEED);
    assert!(download.goes_on(ANSWER));
    assert_eq!(way(datagrams.ask(ANSWER)), by(SERVER, EXTERNAL));
    assert_eq!(tcp(&bed), by(SERVER, EXTERNAL));
    let rules = bed.proxy().our_rules(variant).join("\n");
    assert!(rules.contains("0x20/0x20") && !rules.contains("0x1000"), "{rules}");
    download.finish().unwrap();
}

/// Beside the example forward, whose upstream changes, another one comes and goes that has no external address. So the rules of
/// POSTROUTING change each time from one for all flows to one for each source, and back.
fn flows_that_begin_while_the_forward_changes_are_all_answered(variant: Variant) {
    let stage = Stage::of(variant, dropping(variant), &[(FILE, Manifest::seed())]);
    stage.agent.wait_ready(SEED);
    let _servers = servers(&stage.bed);
    let other = Manifest::seed()
        .named("other")
        .without("/spec/external/addresses")
        .with("/spec/ports", json!([{"name": "other", "port": 81}]));
    let (done, asked, bed) = (&AtomicBool::new(false), &AtomicUsize::new(0), &stage.bed);
    std::thread::scope(|scope| {
        let asking = scope.spawn(move || {
            let mut ways = Vec::new();
            while !done.load(Ordering::Relaxed) {
                ways.push(tcp(bed));
                asked.fetch_add(1, Ordering::Relaxed);
            }
            ways
        });
        for _ in 0..5 {
            let begun = asked.load(Ordering::Relaxed);
            stage.manifests.put("other.yaml", &other.text());
            stage.agent.wait_ready("lines/other");
            stage.edit(&Manifest::seed().for_second_server());
            stage.manifests.remove("other.yaml");
            wait("the other forward leaves the status", || stage.agent.forward("lines/other").is_none());
            stage.edit(&Manifest::seed());
            wait("flows begin", || asked.load(Ordering::Relaxed) > begun + 1);
        }
        done.store(true, Ordering::Relaxed);
        let ways = asking.join().unwrap();
        let right = |way: &&_| [&by(SERVER, EXTERNAL), &by(SECOND_SERVER, EXTERNAL)].contains(way);
        let wrong: Vec<_> = ways.iter().filter(|way| !right(way)).collect();
        assert!(wrong.is_empty(), "{wrong:?}");
    });
}
