//! When a connection is cut, both ends learn it. This includes an end that only waits, and an end to which no other forward
//! needs a route any more.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use crate::bed::agent::{AgentOptions, operator, state_folder};
use crate::bed::kernel::Variant;
use crate::bed::{Bed, CLIENT, INTERNAL, SECOND_CLIENT, SERVER};
use crate::stage::{FILE, Manifest, SEED, SOON, Stage, on_all_backends, wait};

on_all_backends! {
    both_ends_learn_that_the_only_forward_to_a_client_is_gone,
}

/// The two ends of one connection through the forward on port 80. Neither has data to read.
struct Ends {
    client: TcpStream,
    server: TcpStream,
}

impl Ends {
    fn open(bed: &Bed, from: Ipv4Addr) -> Self {
        let [ends] = Self::open_each(bed, [from]);
        ends
    }

    /// One connection from each of these addresses. All of them are accepted by one listener.
    fn open_each<const N: usize>(bed: &Bed, from: [Ipv4Addr; N]) -> [Self; N] {
        let listener = bed.server.run(|| TcpListener::bind((SERVER, 80)).unwrap());
        from.map(|from| Self::accepted(bed, from, &listener))
    }

    fn accepted(bed: &Bed, from: Ipv4Addr, listener: &TcpListener) -> Self {
        let client = bed.client.run(|| {
            use rustix::net::{AddressFamily, SocketType, bind, connect, socket};
            let socket = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
            bind(&socket, &SocketAddr::from((from, 0))).unwrap();
            connect(&socket, &SocketAddr::from((INTERNAL, 80))).unwrap();
            TcpStream::from(socket)
        });
        let (server, _) = listener.accept().unwrap();
        for stream in [&client, &server] {
            stream.set_read_timeout(Some(SOON)).unwrap();
        }
        Self { client, server }
    }

    /// What each end reads.
    fn read(mut self) -> [ErrorKind; 2] {
        let mut byte = [0];
        [&mut self.client, &mut self.server].map(|end| {
            loop {
                match end.read(&mut byte).expect_err("no end has sent data").kind() {
                    ErrorKind::Interrupted => {}
                    kind => return kind,
                }
            }
        })
    }
}

const RESET: [ErrorKind; 2] = [ErrorKind::ConnectionReset; 2];

fn both_ends_learn_that_the_only_forward_to_a_client_is_gone(variant: Variant) {
    let stage = Stage::seed(variant);
    let ends = Ends::open(&stage.bed, CLIENT);
    stage.manifests.remove(FILE);
    assert_eq!(ends.read(), RESET);
    wait("the forward leaves the status, although a route to the client may remain", || stage.agent.forward(SEED).is_none());
}

#[test]
fn both_ends_learn_that_a_forward_is_disabled() {
    let stage = Stage::seed(Variant::Nft);
    let ends = Ends::open(&stage.bed, CLIENT);
    stage.edit(&Manifest::seed().with("/spec/mode", "Disabled"));
    assert_eq!(ends.read(), RESET);
}

#[test]
fn a_client_that_is_taken_off_the_list_learns_it_and_the_others_go_on() {
    let both = Manifest::seed().with("/spec/client/addresses", serde_json::json!([CLIENT, SECOND_CLIENT]));
    let stage = Stage::of(Variant::Nft, Bed::new(), &[(FILE, both)]);
    stage.agent.wait_ready(SEED);
    let [kept, cut] = Ends::open_each(&stage.bed, [CLIENT, SECOND_CLIENT]);
    stage.edit(&Manifest::seed());
    assert_eq!(cut.read(), RESET);
    let Ends { mut client, mut server } = kept;
    client.write_all(b"x").unwrap();
    server.read_exact(&mut [0]).expect("the other client still gets data");
}

#[test]
fn both_ends_learn_it_from_cleanup() {
    let Stage { agent, bed, .. } = Stage::seed(Variant::Nft);
    let ends = Ends::open(&bed, CLIENT);
    assert!(agent.stop().success());
    let state = state_folder(bed.proxy());
    let cleaned = operator(bed.proxy(), ["cleanup", "--node-name", "proxy", "--state-dir", state.to_str().unwrap()]);
    assert!(cleaned.status.success(), "{cleaned:?}");
    assert_eq!(ends.read(), RESET);
    assert_eq!(bed.proxy().routes_to(&CLIENT.to_string()).len(), 0, "the route to the client is removed in any case");
}

#[test]
fn without_raw_sockets_an_end_learns_it_when_it_sends_by_a_route_that_lingers() {
    let mounts = Some("exec setpriv --bounding-set=-net_raw --inh-caps=-net_raw \"$@\"".to_owned());
    let stage = Stage::with(AgentOptions { mounts, ..AgentOptions::new(Variant::Nft) }, Bed::new(), &[(FILE, Manifest::seed())]);
    stage.agent.wait_ready(SEED);
    let Ends { mut client, mut server } = Ends::open(&stage.bed, CLIENT);
    stage.manifests.remove(FILE);
    let routes = || stage.proxy().routes_to(&CLIENT.to_string());
    wait("the lingering route exists", || routes().iter().any(|route| route["metric"] == 155));
    wait("the forward leaves the status in any case", || stage.agent.forward(SEED).is_none());
    for end in [&mut client, &mut server] {
        end.write_all(b"x").unwrap();
        assert_eq!(end.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    }
    // The lingering route does not stop a new forward, and is replaced by its route.
    stage.manifests.put(FILE, &Manifest::seed().text());
    stage.agent.wait_ready(SEED);
    wait("there is only one route again", || {
        let routes = routes();
        routes.len() == 1 && routes[0]["metric"] == 154
    });
    stage.agent.wait_ready(SEED);
}

#[test]
fn data_in_flight_is_no_hindrance() {
    let stage = Stage::seed(Variant::Nft);
    let Ends { mut client, mut server } = Ends::open(&stage.bed, CLIENT);
    // Both ends have sent more than the other one reads, and wait until they can continue.
    let full = |end: &mut TcpStream| {
        end.set_write_timeout(Some(Duration::from_millis(500))).unwrap();
        while end.write(&[0; 8192]).is_ok() {}
    };
    full(&mut client);
    full(&mut server);
    stage.manifests.remove(FILE);
    for end in [&mut client, &mut server] {
        let mut rest = Vec::new();
        assert_eq!(end.read_to_end(&mut rest).unwrap_err().kind(), ErrorKind::ConnectionReset);
    }
}
