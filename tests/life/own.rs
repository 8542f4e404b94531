//! The node's own connections are never taken for flows of a forward, even after conntrack has lost their entries.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};

use serde_json::json;

use crate::bed::client::{ANSWER, Connection};
use crate::bed::kernel::Variant;
use crate::bed::netns::must;
use crate::bed::{Bed, CLIENT, EXTERNAL, INTERNAL, SERVER};
use crate::stage::{FILE, Manifest, SEED, SOON, Stage, on_all_backends, servers};

on_all_backends! {
    a_connection_of_the_node_to_the_upstream_survives_reverse_on_every_port,
    a_connection_of_a_forward_goes_on_after_the_conntrack_table_was_flushed,
}

/// A connection of the proxy itself to a host, and the end of this host.
fn own(bed: &Bed, host: &crate::bed::netns::Netns, address: std::net::Ipv4Addr) -> [TcpStream; 2] {
    let listener = host.run(|| TcpListener::bind((address, 9000)).unwrap());
    let own = bed.proxy().netns.run(|| TcpStream::connect(SocketAddr::from((address, 9000))).unwrap());
    let (other, _) = listener.accept().unwrap();
    [own, other].map(|end| {
        end.set_read_timeout(Some(SOON)).unwrap();
        end
    })
}

fn speaks_both_ways([own, other]: &mut [TcpStream; 2]) {
    for _ in 0..2 {
        other.write_all(b"x").unwrap();
        own.read_exact(&mut [0]).expect("data of the other host arrives");
        own.write_all(b"y").unwrap();
        other.read_exact(&mut [0]).expect("the answer arrives");
    }
}

fn a_connection_of_the_node_to_the_upstream_survives_reverse_on_every_port(variant: Variant) {
    let bed = Bed::new();
    let mut to_server = own(&bed, &bed.server, SERVER);
    assert_eq!(to_server[0].local_addr().unwrap().ip(), EXTERNAL, "the connection comes from the listen address of reverse");
    let reverse = json!({"ports": [{"name": "all", "port": 1, "endPort": 65535, "targetPort": 80, "targetEndPort": 80}]});
    let stage = Stage::of(variant, bed, &[(FILE, Manifest::seed().with("/spec/reverse", reverse))]);
    stage.agent.wait_ready(SEED);
    speaks_both_ways(&mut to_server);
    // The same after conntrack has lost all entries.
    must(stage.proxy().command("conntrack").arg("-F"));
    speaks_both_ways(&mut to_server);
}

fn a_connection_of_a_forward_goes_on_after_the_conntrack_table_was_flushed(variant: Variant) {
    let stage = Stage::seed(variant);
    let _servers = servers(&stage.bed);
    let mut session = Connection::open(&stage.bed.client, (CLIENT, 0), (INTERNAL, 80), ANSWER).unwrap();
    must(stage.proxy().command("conntrack").arg("-F"));
    session.exchange(ANSWER).unwrap();
}
