//! The counters of each forward, as scraped from a running agent, compared with the actions of the hosts and the counters of
//! other tools.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;

use regex::Regex;
use serde_json::json;

use crate::bed::agent::{Agent, AgentOptions};
use crate::bed::client::{ANSWER, Connection, tcp_ask};
use crate::bed::kernel::Variant;
use crate::bed::netns::must;
use crate::bed::server::Server;
use crate::bed::wait::eventually;
use crate::bed::{Bed, CLIENT, EXTERNAL, INTERNAL, Proxy, SERVER};
use crate::exposition::{Sample, parse};
use crate::metrics::page;
use crate::stage::{FILE, Manifest, SEED, SOON, Stage, flow, on_all_backends, servers, tcp, wait};

on_all_backends! {
    connections_count_once_each_whatever_becomes_of_the_rules,
}

/// The port on which the upstream reaches the client, by `reverse`.
const BACK: u16 = 9000;

/// What the kernel holds of new destinations, one line each.
fn destinations(proxy: &Proxy, variant: Variant) -> Vec<String> {
    let word = match variant {
        Variant::Nft | Variant::Legacy => "-j DNAT",
        Variant::Nftables => " : 3.3.3.",
    };
    proxy.our_rules(variant).into_iter().filter(|line| line.contains(word)).collect()
}

fn both_ways() -> Manifest {
    Manifest::seed().with("/spec/reverse", json!({"ports": [{"name": "back", "port": BACK, "targetPort": 80}]}))
}

/// The traffic samples of the example forward, by their labels: `connections TCP forward`.
fn carried(proxy: &Proxy) -> BTreeMap<String, f64> {
    let mut found = BTreeMap::new();
    for Sample { name, labels, value } in parse(&page(proxy, "/metrics").text).into_iter().flat_map(|family| family.samples) {
        if labels.contains(&("name".to_owned(), "seed".to_owned())) && name != "portforward_forward_ready" {
            let what = name.trim_start_matches("portforward_forward_").trim_end_matches("_total");
            let labels: Vec<&str> = labels[2..].iter().map(|(_, value)| value.as_str()).collect();
            found.insert(format!("{what} {}", labels.join(" ")), value);
        }
    }
    found
}

/// The values of these counters as integers in text form.
fn shown(carried: &BTreeMap<String, f64>, keys: &[&str]) -> Vec<String> {
    keys.iter().map(|key| carried.get(*key).map_or("-".to_owned(), |value| format!("{value:.0}"))).collect()
}

const CONNECTIONS: [&str; 3] = ["connections TCP forward", "connections UDP forward", "connections TCP reverse"];

/// Waits until the numbers of connections are exactly `wanted`. Until then, they must be between `least` and `wanted`.
fn wait_connections(proxy: &Proxy, least: [u64; 3], wanted: [u64; 3]) {
    let number = |text: &String| text.parse::<u64>().unwrap_or_default();
    let counted = eventually(3 * SOON, || {
        let found: Vec<u64> = shown(&carried(proxy), &CONNECTIONS).iter().map(number).collect();
        let between = found.iter().zip(least).zip(wanted).all(|((found, least), wanted)| least <= *found && *found <= wanted);
        assert!(between, "{found:?} is not between {least:?} and {wanted:?}");
        found == wanted
    });
    assert!(counted, "{wanted:?} connections: {:?}", carried(proxy));
}

fn connections_count_once_each_whatever_becomes_of_the_rules(variant: Variant) {
    let bed = Bed::new();
    let _servers = (servers(&bed), Server::tcp(&bed.client, CLIENT, [80]));
    let Stage { agent, manifests, options, bed } = Stage::of(variant, bed, &[(FILE, both_ways())]);
    let proxy = bed.proxy();
    agent.wait_ready(SEED);
    let open = |count: usize| {
        for _ in 0..count {
            tcp(&bed).expect("served");
        }
    };
    wait_connections(proxy, [0; 3], [0; 3]);

    open(3);
    let mut datagrams = [flow(&bed), flow(&bed)];
    for flow in &mut datagrams {
        flow.ask(ANSWER).expect("a second datagram starts no new flow");
    }
    tcp_ask(&bed.server, SERVER, (EXTERNAL, BACK), ANSWER).expect("reverse works");
    wait_connections(proxy, [0; 3], [3, 2, 1]);

    // The rule is rewritten with another upstream.
    manifests.put(FILE, &both_ways().for_second_server().text());
    wait("the new upstream is served", || destinations(proxy, variant).iter().any(|rule| rule.contains("3.3.3.4")));
    open(2);
    wait_connections(proxy, [3, 2, 1], [5, 2, 1]);
    // The rules move to other chains, because their number grows.
    let ports: Vec<_> = (0..40).map(|n| json!({"name": format!("p{n}"), "port": 80 + n, "targetPort": 80})).collect();
    manifests.put(FILE, &both_ways().with("/spec/ports", ports).text());
    wait("a chain was split", || destinations(proxy, variant).len() >= 40);
    open(2);
    wait_connections(proxy, [5, 2, 1], [7, 2, 1]);
    // Another program deletes the operator's rules, and the agent restores them.
    match variant {
        Variant::Nft | Variant::Legacy => drop(proxy.iptables(variant, "-t nat -F PF-PRE")),
        Variant::Nftables => drop(must(proxy.command("nft").arg("delete table ip portforward"))),
    }
    let repaired = || match variant {
        Variant::Nft | Variant::Legacy => proxy.our_rules(variant).iter().any(|line| line.starts_with("nat -A PF-PRE")),
        Variant::Nftables => !destinations(proxy, variant).is_empty(),
    };
    assert!(eventually(3 * SOON, repaired), "{:?}", proxy.our_rules(variant));
    open(1);
    wait_connections(proxy, [7, 2, 1], [8, 2, 1]);

    assert!(agent.stop().success());
    open(4);
    let agent = Agent::start(proxy, &manifests, &options);
    agent.wait_ready(SEED);
    open(2);
    wait_connections(proxy, [0; 3], [2, 0, 0]);

    manifests.remove(FILE);
    wait("a deleted forward has no series", || carried(proxy).is_empty());
}

#[test]
fn nothing_is_said_of_single_forwards_where_that_is_not_wanted() {
    for (extra, wanted) in [
        (vec!["--forward-metrics=none".to_owned()], &[][..]),
        (vec!["--forward-metrics-limit=0".to_owned()], &[]),
        (vec![], &["connections TCP forward", "connections UDP forward"]),
    ] {
        let options = AgentOptions { extra, ..AgentOptions::new(Variant::Nft) };
        let stage = Stage::with(options.clone(), Bed::new(), &[(FILE, Manifest::seed())]);
        stage.agent.wait_ready(SEED);
        assert_eq!(carried(stage.proxy()).keys().collect::<Vec<_>>(), wanted, "{options:?}");
    }
}

/// The counters of `conntrack` for the flows to one port: packets and bytes, as sums by direction.
type Sums = [u64; 4];

/// The packets and bytes of the original direction and of the replies, from a line of conntrack(8).
fn counts(line: &str) -> Option<Sums> {
    let counter = Regex::new(r"packets=(\d+) bytes=(\d+)").unwrap();
    let numbers: Vec<u64> =
        counter.captures_iter(line).flat_map(|found| [found[1].parse(), found[2].parse()]).flatten().collect();
    numbers.try_into().ok()
}

fn plus(sums: &mut Sums, more: Sums) {
    sums.iter_mut().zip(more).for_each(|(sum, more)| *sum += more);
}

/// `conntrack -E -e DESTROY`, started before the first flow.
struct Ends {
    process: Child,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Ends {
    fn listen(proxy: &Proxy) -> Self {
        let mut command = proxy.command("conntrack");
        command.args(["-E", "-e", "DESTROY"]).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut process = command.spawn().expect("conntrack is installed");
        let lines = Arc::new(Mutex::new(Vec::new()));
        let (output, heard) = (process.stdout.take().expect("piped"), Arc::clone(&lines));
        thread::spawn(move || {
            BufReader::new(output).lines().map_while(Result::ok).for_each(|line| heard.lock().unwrap().push(line));
        });
        Self { process, lines }
    }
}

impl Drop for Ends {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn set(proxy: &Proxy, setting: &str, value: &str) {
    proxy
        .netns
        .run(|| fs::write(format!("/proc/sys/net/netfilter/{setting}"), value))
        .unwrap_or_else(|e| panic!("{setting}: {e}"));
}

const BYTES: [&str; 4] =
    ["packets TCP forward upstream", "bytes TCP forward upstream", "packets TCP forward client", "bytes TCP forward client"];

#[test]
fn packets_and_bytes_are_what_conntrack_says_of_flows_that_live_and_of_those_that_ended() {
    let bed = Bed::new();
    let _servers = servers(&bed);
    set(bed.proxy(), "nf_conntrack_acct", "1");
    for state in ["time_wait", "close", "close_wait", "last_ack", "fin_wait"] {
        set(bed.proxy(), &format!("nf_conntrack_tcp_timeout_{state}"), "1");
    }
    let options = AgentOptions { extra: vec!["--forward-metrics=traffic".to_owned()], ..AgentOptions::new(Variant::Nft) };
    let stage = Stage::with(options, bed, &[(FILE, both_ways())]);
    let (bed, proxy) = (&stage.bed, stage.proxy());
    stage.agent.wait_ready(SEED);
    let ends = Ends::listen(proxy);
    wait("counted", || shown(&carried(proxy), &BYTES) == ["0"; 4]);

    let mut long = Connection::open(&bed.client, (CLIENT, 0), (INTERNAL, 80), ANSWER).unwrap();
    long.download(200_000, ANSWER).unwrap();
    for _ in 0..20 {
        let mut short = Connection::open(&bed.client, (CLIENT, 0), (INTERNAL, 80), ANSWER).unwrap();
        short.upload(3_000, ANSWER).unwrap();
    }
    let mut datagrams = flow(bed);
    datagrams.ask(ANSWER).unwrap();
    let told = || {
        let (mut sums, mut live) = (Sums::default(), 0);
        let mut ended = ends.lines.lock().unwrap().clone();
        ended.retain(|line| line.contains("tcp") && line.contains("dst=192.168.0.2 ") && line.contains("dport=80 "));
        for line in ended.iter().chain(&proxy.conntrack("-p tcp --orig-dst 192.168.0.2 --orig-port-dst 80")) {
            live += u32::from(line.contains("ESTABLISHED"));
            plus(&mut sums, counts(line).unwrap_or_else(|| panic!("no counts: {line}")));
        }
        (live, ended.len(), sums)
    };
    let ours = || shown(&carried(proxy), &BYTES);
    let text = |sums: Sums| sums.map(|sum| sum.to_string()).to_vec();
    assert!(eventually(3 * SOON, || (told().0, told().1) == (1, 20)), "one flow exists and twenty have ended: {:?}", told());
    assert!(eventually(2 * SOON, || ours() == text(told().2)), "{:?} is not {:?}", ours(), told());
    assert!(told().2[3] > 200_000 && told().2[1] > 60_000, "{:?}", told());
    let udp = carried(proxy)["packets UDP forward upstream"];
    assert!((udp - 2.0).abs() < f64::EPSILON, "{udp}");

    long.download(50_000, ANSWER).unwrap();
    assert!(eventually(2 * SOON, || ours() == text(told().2)), "{:?} is not {:?}", ours(), told());
    let before = ours();
    drop(long);
    assert!(eventually(3 * SOON, || told().0 == 0 && ours() == text(told().2)), "{:?} is not {:?}", ours(), told());
    assert_ne!(before, ours(), "the last packets are counted too");

    let last = ours();
    set(proxy, "nf_conntrack_acct", "0");
    assert!(eventually(2 * SOON, || ours() == ["-"; 4]), "absent, not 0: {:?}", ours());
    set(proxy, "nf_conntrack_acct", "1");
    assert!(eventually(2 * SOON, || ours() == last), "the counters continue: {:?}", ours());
}

#[test]
fn what_a_connection_carried_before_the_agent_began_is_not_counted() {
    let bed = Bed::new();
    let _servers = servers(&bed);
    set(bed.proxy(), "nf_conntrack_acct", "1");
    let options = AgentOptions { extra: vec!["--forward-metrics=traffic".to_owned()], ..AgentOptions::new(Variant::Nft) };
    let Stage { agent, manifests, options, bed } = Stage::with(options, bed, &[(FILE, Manifest::seed())]);
    agent.wait_ready(SEED);
    let proxy = bed.proxy();
    let mut long = Connection::open(&bed.client, (CLIENT, 0), (INTERNAL, 80), ANSWER).unwrap();
    long.download(200_000, ANSWER).unwrap();
    assert!(agent.stop().success());
    let agent = Agent::start(proxy, &manifests, &options);
    agent.wait_ready(SEED);
    let bytes = || carried(proxy).get("bytes TCP forward client").copied();
    wait("counted", || bytes().is_some());
    assert!(eventually(SOON, || bytes() == Some(0.0)), "{:?}", bytes());
    let mut downloaded = 0.0;
    let counted = eventually(2 * SOON, || {
        long.download(1_000, ANSWER).unwrap();
        downloaded += 1_000.0;
        bytes() > Some(0.0)
    });
    // The counter includes headers and acknowledgements, but not the traffic before the start.
    assert!(counted && bytes() < Some(downloaded * 1.3 + 10_000.0), "{:?} of {downloaded}", bytes());
}
