//! A forward in force stays in force on the real kernel: after edits, restarts and a lost record, and when a program begins to
//! listen on its port.

use std::fs;
use std::net::{Ipv4Addr, UdpSocket};

use serde_json::json;

use crate::bed::agent::{Agent, state_folder};
use crate::bed::client::{ANSWER, Connection, tcp_ask};
use crate::bed::kernel::Variant;
use crate::bed::server::Server;
use crate::bed::{Bed, CLIENT, EXTERNAL, INTERNAL, NEIGHBOUR, SECOND_CLIENT, SERVER};
use crate::stage::{FILE, Manifest, SEED, Stage, by, on_all_backends, servers, tcp, wait, way};

on_all_backends! {
    no_edit_takes_a_forward_down_because_a_program_has_begun_to_listen,
    a_port_that_an_edit_adds_and_that_is_refused_takes_nothing_down,
    a_restart_takes_nothing_down_with_the_record_and_without,
    another_list_of_reserved_ports_takes_nothing_down,
    a_resolver_on_ports_of_the_moment_refuses_nothing,
    an_address_made_for_forwards_may_have_the_port_of_sshd,
}

/// A node that is reached by the internal address (without a cluster: the source of its default route). A forward is in force
/// before a program begins to listen on its port.
fn stage_with_a_later_program(variant: Variant) -> (Stage, Server) {
    let bed = Bed::new();
    bed.proxy().netns.ip(&format!("route replace default via 2.2.2.1 dev eth0 src {INTERNAL}"));
    let stage = Stage::of(variant, bed, &[(FILE, Manifest::seed())]);
    stage.agent.wait_condition(SEED, "Ready", "True", "Ready");
    let program = Server::tcp(&stage.proxy().netns, Ipv4Addr::UNSPECIFIED, [80]);
    (stage, program)
}

fn session(bed: &Bed) -> Connection {
    let mut session = Connection::open(&bed.client, (CLIENT, 0), (INTERNAL, 80), ANSWER).unwrap();
    session.exchange(ANSWER).unwrap();
    session
}

fn no_edit_takes_a_forward_down_because_a_program_has_begun_to_listen(variant: Variant) {
    let (stage, _program) = stage_with_a_later_program(variant);
    let _servers = servers(&stage.bed);
    let mut session = session(&stage.bed);
    let both = json!([CLIENT.to_string(), SECOND_CLIENT.to_string()]);
    let edits = [
        Manifest::seed().with("/spec/client/addresses", both.clone()),
        Manifest::seed().with("/spec/client/addresses", both.clone()).for_second_server(),
        Manifest::seed().with("/spec/client/addresses", both.clone()).with("/spec/ports/0/targetPort", 80),
        Manifest::seed().with("/spec/client/addresses", both).without("/spec/internal/interface"),
    ];
    for edit in edits {
        stage.edit(&edit);
        session.exchange(ANSWER).unwrap();
    }
    assert_eq!(way(tcp_ask(&stage.bed.client, SECOND_CLIENT, (INTERNAL, 80), ANSWER)), by(SERVER, EXTERNAL));
    let own = tcp_ask(&stage.bed.neighbour, NEIGHBOUR, (INTERNAL, 80), ANSWER).unwrap();
    assert_eq!(own.local.ip(), INTERNAL, "all other clients reach the program on this port");
    assert!(stage.message(SEED, "Ready").contains("TCP 80"), "{}", stage.message(SEED, "Ready"));
}

fn a_port_that_an_edit_adds_and_that_is_refused_takes_nothing_down(variant: Variant) {
    let (stage, _program) = stage_with_a_later_program(variant);
    let _servers = servers(&stage.bed);
    let mut session = session(&stage.bed);
    stage.edit_unready(&Manifest::seed().with("/spec/ports/1", json!({"name": "ssh", "port": 22})));
    for condition in ["Accepted", "Ready"] {
        stage.agent.wait_condition(SEED, condition, "False", "ReservedPort");
    }
    stage.agent.wait_condition(SEED, "Stalled", "True", "ReservedPort");
    let message = stage.message(SEED, "Accepted");
    for word in ["TCP port 22 of 192.168.0.2", "entry ssh", "--reserved-ports", "agent.reservedPorts", "left out"] {
        assert!(message.contains(word), "{message}");
    }
    session.exchange(ANSWER).unwrap();
    assert_eq!(tcp(&stage.bed), by(SERVER, EXTERNAL));
    stage.edit(&Manifest::seed());
    assert_eq!(stage.agent.condition(SEED, "Stalled"), None);
    session.exchange(ANSWER).unwrap();
}

fn a_restart_takes_nothing_down_with_the_record_and_without(variant: Variant) {
    let (stage, _program) = stage_with_a_later_program(variant);
    let _servers = servers(&stage.bed);
    let mut session = session(&stage.bed);
    let Stage { mut agent, manifests, options, bed } = stage;
    for record in ["kept", "lost"] {
        agent.kill();
        if record == "lost" {
            fs::remove_file(state_folder(bed.proxy()).join("record.json")).unwrap();
        }
        agent = Agent::start(bed.proxy(), &manifests, &options);
        agent.wait_condition(SEED, "Ready", "True", "Ready");
        session.exchange(ANSWER).unwrap();
        assert_eq!(tcp(&bed), by(SERVER, EXTERNAL), "with the record {record}");
    }
}

fn another_list_of_reserved_ports_takes_nothing_down(variant: Variant) {
    let (stage, _program) = stage_with_a_later_program(variant);
    let _servers = servers(&stage.bed);
    let Stage { agent, manifests, mut options, bed } = stage;
    assert!(agent.stop().success());
    options.extra.push("--reserved-ports=80/TCP".to_owned());
    let agent = Agent::start(bed.proxy(), &manifests, &options);
    agent.wait_condition(SEED, "Ready", "True", "Ready");
    assert_eq!(tcp(&bed), by(SERVER, EXTERNAL));
}

fn a_resolver_on_ports_of_the_moment_refuses_nothing(variant: Variant) {
    let bed = Bed::new();
    bed.proxy().netns.ip(&format!("route replace default via 2.2.2.1 dev eth0 src {INTERNAL}"));
    let sockets: Vec<UdpSocket> = bed.proxy().netns.run(|| (0..50).map(|_| UdpSocket::bind("0.0.0.0:0").unwrap()).collect());
    let range = json!([{"name": "rtp", "protocol": "UDP", "port": 10000, "endPort": 65000}]);
    let stage = Stage::of(variant, bed, &[(FILE, Manifest::seed().with("/spec/ports", range))]);
    stage.agent.wait_condition(SEED, "Ready", "True", "Ready");
    assert!(!stage.message(SEED, "Ready").contains("UDP"), "{}", stage.message(SEED, "Ready"));
    drop(sockets);
}

fn an_address_made_for_forwards_may_have_the_port_of_sshd(variant: Variant) {
    let sftp = Ipv4Addr::new(192, 168, 0, 22);
    let bed = Bed::new();
    let _server = Server::tcp(&bed.server, SERVER, [22]);
    bed.proxy().netns.ip(&format!("route replace default via 2.2.2.1 dev eth0 src {INTERNAL}"));
    bed.proxy().netns.ip(&format!("addr add {sftp}/24 dev eth1"));
    let sshd = Server::tcp(&bed.proxy().netns, Ipv4Addr::UNSPECIFIED, [22]);
    let manifest = Manifest::seed()
        .with("/spec/internal/addresses/0", sftp.to_string())
        .with("/spec/ports", json!([{"name": "sftp", "port": 22}]));
    let stage = Stage::of(variant, bed, &[(FILE, manifest)]);
    stage.agent.wait_condition(SEED, "Ready", "True", "Ready");
    wait("the message contains the note", || stage.message(SEED, "Ready").contains("on 192.168.0.22: TCP 22"));
    assert_eq!(way(tcp_ask(&stage.bed.client, CLIENT, (sftp, 22), ANSWER)), by(SERVER, EXTERNAL));
    let admin = tcp_ask(&stage.bed.client, CLIENT, (INTERNAL, 22), ANSWER).unwrap();
    assert_eq!(admin.local.ip(), INTERNAL, "the node can be reached as before");
    assert_eq!(sshd.seen().len(), 1);
}
