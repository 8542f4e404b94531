//! The effect on existing flows when a forward is edited, disabled or deleted.

use std::net::Ipv4Addr;

use crate::bed::client::{ANSWER, Connection, UdpFlow, udp_ask};
use crate::bed::kernel::Variant;
use crate::bed::netns::must;
use crate::bed::{Bed, CLIENT, EXTERNAL, INTERNAL, SECOND_CLIENT, SECOND_SERVER, SERVER};
use crate::stage::{FILE, LOG, Manifest, SEED, Stage, by, flow, on_all_backends, servers, tcp, way};

on_all_backends! {
    another_upstream_keeps_tcp_and_moves_udp_with_the_next_datagram,
    another_external_address_keeps_tcp_and_moves_udp,
    a_client_that_is_removed_is_cut_and_the_others_go_on,
    disabling_cuts_both_and_enabling_serves_again,
    deleting_cuts_both_and_leaves_nothing,
    udp_that_began_without_a_rule_is_repaired,
    connections_of_others_stay_through_every_edit,
    the_loser_of_a_conflict_names_the_winner_and_takes_over,
}

/// An established TCP connection of a client.
fn session(bed: &Bed, client: Ipv4Addr) -> Connection {
    let mut session = Connection::open(&bed.client, (client, 0), (INTERNAL, 80), ANSWER).unwrap();
    session.exchange(ANSWER).unwrap();
    session
}

fn another_upstream_keeps_tcp_and_moves_udp_with_the_next_datagram(variant: Variant) {
    let stage = Stage::seed(variant);
    let _servers = servers(&stage.bed);
    let (mut session, mut flow) = (session(&stage.bed, CLIENT), flow(&stage.bed));
    stage.edit(&Manifest::seed().for_second_server());

    assert_eq!(way(flow.ask(ANSWER)), by(SECOND_SERVER, EXTERNAL));
    assert_eq!(tcp(&stage.bed), by(SECOND_SERVER, EXTERNAL));
    session.exchange(ANSWER).expect("it keeps its first upstream until it ends");
    session.download(1_000_000, ANSWER).unwrap();
}

fn another_external_address_keeps_tcp_and_moves_udp(variant: Variant) {
    let bed = Bed::new();
    let other = Ipv4Addr::new(2, 2, 2, 3);
    bed.proxy().netns.ip(&format!("addr add {other}/24 dev eth0"));
    let stage = Stage::of(variant, bed, &[(FILE, Manifest::seed())]);
    stage.agent.wait_ready(SEED);
    let _servers = servers(&stage.bed);
    let (mut session, mut flow) = (session(&stage.bed, CLIENT), flow(&stage.bed));
    stage.edit(&Manifest::seed().with("/spec/external/addresses/0", other.to_string()));

    assert_eq!(way(flow.ask(ANSWER)), by(SERVER, other));
    assert_eq!(tcp(&stage.bed), by(SERVER, other));
    session.exchange(ANSWER).expect("the server knows this connection by the old address");
}

fn a_client_that_is_removed_is_cut_and_the_others_go_on(variant: Variant) {
    let both = Manifest::seed().with("/spec/client/addresses", vec![CLIENT.to_string(), SECOND_CLIENT.to_string()]);
    let stage = Stage::of(variant, Bed::new(), &[(FILE, both)]);
    stage.agent.wait_ready(SEED);
    let servers = servers(&stage.bed);
    let (mut stays, mut goes) = (session(&stage.bed, CLIENT), session(&stage.bed, SECOND_CLIENT));
    let mut goes_too = UdpFlow::open(&stage.bed.client, (SECOND_CLIENT, 0), (INTERNAL, LOG)).unwrap();
    goes_too.ask(ANSWER).unwrap();
    let mut stays_too = flow(&stage.bed);
    stage.edit(&Manifest::seed());

    assert!(goes.is_cut(&stage.bed) && goes_too.is_cut(&stage.bed, &servers));
    stays.exchange(ANSWER).unwrap();
    stays_too.ask(ANSWER).unwrap();
    assert_eq!(stage.proxy().conntrack(&format!("--orig-src {SECOND_CLIENT} --dst-nat")), [""; 0]);
    assert_eq!(stage.proxy().routes_to(&SECOND_CLIENT.to_string()), [] as [serde_json::Value; 0]);
}

fn disabling_cuts_both_and_enabling_serves_again(variant: Variant) {
    let stage = Stage::seed(variant);
    let servers = servers(&stage.bed);
    let (mut session, mut flow) = (session(&stage.bed, CLIENT), flow(&stage.bed));
    stage.edit(&Manifest::seed().with("/spec/mode", "Disabled"));

    for condition in ["Accepted", "Programmed", "Ready"] {
        stage.agent.wait_condition(SEED, condition, "True", "Disabled");
    }
    assert!(session.is_cut(&stage.bed) && flow.is_cut(&stage.bed, &servers));
    assert_eq!(stage.proxy().our_rules(variant), [""; 0]);
    assert_eq!(stage.proxy().routes_to(&CLIENT.to_string()), [] as [serde_json::Value; 0]);

    stage.edit(&Manifest::seed());
    assert_eq!(tcp(&stage.bed), by(SERVER, EXTERNAL));
    assert_eq!(way(flow.ask(ANSWER)), by(SERVER, EXTERNAL));
}

fn deleting_cuts_both_and_leaves_nothing(variant: Variant) {
    let stage = Stage::seed(variant);
    let servers = servers(&stage.bed);
    let (mut session, mut flow) = (session(&stage.bed, CLIENT), flow(&stage.bed));
    stage.manifests.remove(FILE);
    stage.agent.wait_report("the forward is deleted", |report| report["items"] == serde_json::json!([]));

    assert!(session.is_cut(&stage.bed) && flow.is_cut(&stage.bed, &servers));
    assert_eq!(stage.proxy().our_rules(variant), [""; 0]);
    assert_eq!(stage.proxy().routes_to(&CLIENT.to_string()), [] as [serde_json::Value; 0]);
    assert_eq!(stage.proxy().conntrack("--dst-nat"), [""; 0]);
}

/// The sender never pauses long enough for its entry, which was made without translation, to expire.
fn udp_that_began_without_a_rule_is_repaired(variant: Variant) {
    let stage = Stage::of(variant, Bed::new(), &[]);
    let servers = servers(&stage.bed);
    stage.agent.wait_report("the empty folder is read", |report| report["items"] == serde_json::json!([]));
    // This activates connection tracking, as any firewall does. Without it, nothing is tracked yet.
    stage.proxy().iptables(variant, "-A INPUT -m conntrack --ctstate INVALID -j DROP");
    let mut flow = UdpFlow::open(&stage.bed.client, (CLIENT, 0), (INTERNAL, LOG)).unwrap();
    assert!(flow.is_cut(&stage.bed, &servers));
    let tracked = stage.proxy().conntrack(&format!("-p udp --orig-src {CLIENT} --dport {LOG}"));
    assert!(tracked.len() == 1 && tracked[0].contains(&format!("src={INTERNAL}")), "{tracked:?}");

    stage.manifests.put(FILE, &Manifest::seed().text());
    stage.agent.wait_ready(SEED);
    assert_eq!(way(flow.ask(ANSWER)), by(SERVER, EXTERNAL));
}

fn connections_of_others_stay_through_every_edit(variant: Variant) {
    let stage = Stage::seed(variant);
    let proxy = stage.proxy();
    let _servers = servers(&stage.bed);
    let insert = |entry: &str| must(proxy.command("conntrack").arg("-I").args(entry.split_whitespace()));
    // Another port of the listen address, a translation of another program, routed traffic, the listen port from another
    // client, and the node's own traffic to the server.
    insert("-p udp -s 1.1.1.1 -d 192.168.0.2 --sport 700 --dport 5353 -t 600 -u SEEN_REPLY");
    insert("-p tcp -s 7.7.7.7 -d 192.168.0.2 --sport 700 --dport 81 --dst-nat 3.3.3.3:80 -t 600 --state ESTABLISHED");
    insert("-p udp -s 7.7.7.7 -d 8.8.8.8 --sport 700 --dport 514 -t 600 -u SEEN_REPLY");
    insert("-p tcp -s 192.168.0.9 -d 192.168.0.2 --sport 700 --dport 80 -t 600 --state ESTABLISHED");
    insert("-p udp -s 2.2.2.2 -d 3.3.3.3 --sport 700 --dport 514 -t 600 -u SEEN_REPLY");
    let foreign = || {
        let listed = proxy.conntrack("").into_iter().filter(|line| line.contains("sport=700"));
        // The third word is the remaining time.
        let without_time = listed.map(|line| {
            line.split_whitespace().enumerate().filter(|(at, _)| *at != 2).map(|(_, word)| word.to_owned()).collect()
        });
        let mut found: Vec<Vec<String>> = without_time.collect();
        found.sort();
        found
    };
    let before = foreign();
    assert_eq!(before.len(), 5);
    stage.edit(&Manifest::seed().for_second_server());
    stage.edit(&Manifest::seed().with("/spec/client/addresses/0", SECOND_CLIENT.to_string()));
    stage.edit(&Manifest::seed().with("/spec/mode", "Disabled"));
    stage.edit(&Manifest::seed());
    stage.manifests.remove(FILE);
    stage.agent.wait_report("the forward is deleted", |report| report["items"] == serde_json::json!([]));
    assert_eq!(foreign(), before);
}

fn the_loser_of_a_conflict_names_the_winner_and_takes_over(variant: Variant) {
    let stage = Stage::seed(variant);
    let _servers = servers(&stage.bed);
    // In a folder the name decides: `rival` comes before `seed`.
    stage.manifests.put("rival.yaml", &Manifest::seed().for_second_server().named("rival").text());
    stage.agent.wait_condition(SEED, "Accepted", "False", "Conflict");
    stage.agent.wait_ready("lines/rival");
    assert!(stage.message(SEED, "Accepted").contains("lines/rival"), "{}", stage.message(SEED, "Accepted"));
    assert_eq!(tcp(&stage.bed), by(SECOND_SERVER, EXTERNAL));
    assert_eq!(way(udp_ask(&stage.bed.client, CLIENT, (INTERNAL, LOG), ANSWER)), by(SECOND_SERVER, EXTERNAL));

    stage.manifests.remove("rival.yaml");
    stage.agent.wait_condition(SEED, "Accepted", "True", "Accepted");
    stage.agent.wait_ready(SEED);
    assert_eq!(tcp(&stage.bed), by(SERVER, EXTERNAL));
}
