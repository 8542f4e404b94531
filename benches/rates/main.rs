//! Measures new connections per second and the throughput of one connection with 10,000 forwards, beside the other programs
//! that do the same job: part of `make bench`, described in `docs/performance.md`.
//!
//! Each program has its own proxy in one network. Each round measures all of them, so that other load on the machine affects
//! all alike. Needs root, and the packages haproxy, nginx-light and libnginx-mod-stream.

#[allow(dead_code, reason = "the benchmark uses only a part of the module")]
#[path = "../../tests/bed/netns.rs"]
mod netns;
#[path = "../layout/network.rs"]
mod network;
mod peers;
#[path = "../shared/mod.rs"]
mod shared;
mod traffic;

use std::process::ExitCode;
use std::time::Duration;

use network::{Network, forget_connections};
use peers::{Peer, Running};
use shared::figures::{Figure, Figures};
use shared::shapes::{Forward, MANY, Shape, Transport};
use shared::{is_quick, number, progress, supervise};

/// How long connections are counted in each round.
const COUNTED: Duration = Duration::from_secs(2);
/// How long one connection is measured in each round.
const BULK: Duration = Duration::from_secs(1);
/// How long a program may take to start.
const START: Duration = Duration::from_mins(5);

/// A program on its proxy, and what was measured.
struct Case {
    peer: Peer,
    forwards: Vec<Forward>,
    connections: Vec<f64>,
    bulk: Vec<f64>,
    _running: Option<Running>,
}

fn main() -> ExitCode {
    supervise::run(|_| measure(), netns::remove_leftovers)
}

fn measure() -> ExitCode {
    let mut figures = Figures::new("rates");
    let rounds = number("BENCH_ROUNDS", if is_quick() { 2 } else { 7 });
    for backend in ["nft", "legacy", "nftables"] {
        measure_backend(&mut figures, backend, rounds);
    }
    ExitCode::SUCCESS
}

fn measure_backend(figures: &mut Figures, backend: &str, rounds: usize) {
    let many = [Peer::Ours, Peer::Linear, Peer::Haproxy, Peer::Nginx, Peer::Routing].map(|peer| (peer, MANY));
    let wanted = [&[(Peer::Ours, 1)], &many[..]].concat();
    let network = Network::new(wanted.len());
    traffic::serve(&network.server);
    let files = tempfile::Builder::new().prefix("pf-rates-").tempdir().expect("a temporary folder can be made");
    let mut cases = Vec::new();
    for (proxy, (peer, count)) in wanted.into_iter().enumerate() {
        progress(&format!("{backend}: starting {} with {count} forwards", peer.name()));
        let netns = &network.proxies[proxy];
        // The agent takes addresses for those of its node if they are on an interface, not if they are only routed to it.
        netns.ip_batch((3..10).map(|last| format!("addr add 192.168.0.{last}/16 dev eth1 noprefixroute")));
        let mut forwards = Shape::OwnPort.forwards(count, Transport::Tcp);
        let running = peer.start(netns, &files.path().join(proxy.to_string()), backend, &forwards);
        if peer == Peer::Routing {
            forwards = forwards.into_iter().map(Forward::untranslated).collect();
        }
        network.through(proxy);
        for forward in [forwards.first(), forwards.last()].into_iter().flatten() {
            assert!(traffic::wait(&network.client, forward, START), "{} does not forward {forward:?}", peer.name());
        }
        cases.push(Case { peer, forwards, connections: Vec::new(), bulk: Vec::new(), _running: running });
    }
    for round in 1..=rounds {
        progress(&format!("{backend}: rates, round {round} of {rounds}"));
        for (proxy, case) in cases.iter_mut().enumerate() {
            network.through(proxy);
            case.connections.push(traffic::connections(&network.client, &case.forwards, COUNTED));
            case.bulk.push(traffic::bulk(&network.client, &case.forwards[case.forwards.len() / 2], BULK));
            forget_connections(&network.proxies[proxy]);
        }
    }
    for case in cases {
        let forwards = u32::try_from(case.forwards.len()).expect("a set is small");
        let rates = [("rate: new connections", "per s", case.connections), ("rate: bulk", "Gbit/s", case.bulk)];
        for (what, unit, values) in rates {
            let (what, unit, of) = (what.to_owned(), unit.to_owned(), case.peer.name().to_owned());
            figures.note(Figure { what, run: backend.to_owned(), of, shape: Shape::OwnPort.to_string(), forwards, unit, values });
        }
    }
}
