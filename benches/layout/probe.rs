//! Measures the cost of one packet on the whole path from the client to the server, and checks that it arrives correctly.

use std::fs::{self, File};
use std::net::{SocketAddrV4, UdpSocket};
use std::os::unix::fs::FileExt as _;
use std::time::{Duration, Instant};

use rustix::net::sockopt::set_socket_recv_buffer_size;

use crate::network::{Network, forget_connections};
use crate::packet::{Packet, Receiver, Sender};
use crate::shared::shapes::Forward;

/// The number of packets that are timed together. They take about a millisecond, so that most batches run without an
/// interruption.
const BATCH: u32 = 100;
/// The number of flows that take turns when packets of established flows are measured.
const ESTABLISHED: u32 = 250;
/// The step through a set of thousands of forwards, so that consecutive packets do not use consecutive forwards.
const STRIDE: u32 = 7_919;

/// Sends and counts packets in one network.
#[derive(Debug)]
pub(crate) struct Probe<'a> {
    network: &'a Network,
    sender: Sender,
    arrivals: Arrivals,
}

impl<'a> Probe<'a> {
    /// A probe of this network.
    pub(crate) fn new(network: &'a Network) -> Self {
        Self { network, sender: Sender::new(&network.client), arrivals: Arrivals::new(network) }
    }

    /// Sends one packet for each forward through a proxy, and its answer back. Panics unless all arrive with the expected
    /// addresses.
    pub(crate) fn verify(&self, proxy: usize, forwards: &[Forward]) {
        self.network.through(proxy);
        let flows: Vec<_> = forwards.iter().map(|forward| (*forward, 2_000)).collect();
        self.converse(&flows);
        let netns = &self.network.proxies[proxy];
        let tracked: usize = netns.setting("netfilter/nf_conntrack_count").parse().expect("a count is a number");
        assert!(tracked >= flows.len(), "{} tracks {tracked} of {} flows", netns.name(), flows.len());
        forget_connections(netns);
    }

    /// The cost of one packet if each is the first of a new flow: the lower quartile of this number of batches.
    pub(crate) fn new_flows(&self, proxy: usize, forwards: &[Forward], batches: u32) -> Duration {
        self.network.through(proxy);
        forget_connections(&self.network.proxies[proxy]);
        let count = u32::try_from(forwards.len()).expect("a set is small");
        let mut numbers = 0..;
        let packets = || {
            let flow = |number: u32| (pick(forwards, number), 3_000 + number / count);
            numbers.by_ref().take(BATCH as usize).map(|number| packet(flow(number))).collect::<Vec<_>>()
        };
        let cost = self.quartile(batches, packets);
        forget_connections(&self.network.proxies[proxy]);
        cost
    }

    /// The cost of one packet of flows that were answered: the lower quartile of this number of batches.
    pub(crate) fn established(&self, proxy: usize, forwards: &[Forward], batches: u32) -> Duration {
        self.network.through(proxy);
        forget_connections(&self.network.proxies[proxy]);
        let flows: Vec<_> = (0..ESTABLISHED).map(|number| (pick(forwards, number), 2_000 + number)).collect();
        self.converse(&flows);
        let packets: Vec<Packet> = flows.iter().cycle().take(BATCH as usize).map(|flow| packet(*flow)).collect();
        self.quartile(batches, || packets.clone())
    }

    /// The lower quartile of the costs, so that batches during which another program used the CPU do not count. The first
    /// batch fills caches and neighbour tables and does not count either.
    fn quartile(&self, batches: u32, mut packets: impl FnMut() -> Vec<Packet>) -> Duration {
        let mut costs: Vec<Duration> = (0..=batches).map(|_| self.time(&packets())).skip(1).collect();
        costs.sort_unstable();
        costs[costs.len() / 4]
    }

    fn time(&self, packets: &[Packet]) -> Duration {
        let expected = self.arrivals.count() + packets.len() as u64;
        let started = Instant::now();
        for packet in packets {
            self.sender.send(packet);
        }
        while self.arrivals.count() < expected {
            assert!(started.elapsed() < Duration::from_secs(5), "packets are lost on the way");
        }
        started.elapsed() / BATCH
    }

    /// Sends the first packet of each flow, and an answer to it. Panics unless both arrive with the addresses of the forward.
    fn converse(&self, flows: &[(Forward, u32)]) {
        let (at_server, at_client) = (Receiver::new(&self.network.server), Receiver::new(&self.network.client));
        let answers = Sender::new(&self.network.server);
        for (forward, port) in flows {
            let from = SocketAddrV4::new(forward.client, source_port(*port));
            self.sender.send(&Packet::new(from, forward.listen));
            let (seen, reached) = at_server.next().unwrap_or_else(|| panic!("{forward:?}: no packet arrived"));
            assert_eq!((*seen.ip(), reached), (forward.external, forward.upstream), "{forward:?}");
            answers.send(&Packet::new(reached, seen));
            assert_eq!(at_client.next(), Some((forward.listen, from)), "{forward:?}: the answer is wrong or missing");
        }
    }
}

/// Counts the packets that reached the server's program. Its receive buffer is full, so each packet counts as dropped.
#[derive(Debug)]
struct Arrivals {
    statistics: File,
    _program: UdpSocket,
}

impl Arrivals {
    fn new(network: &Network) -> Self {
        let (statistics, program) =
            network.server.run(|| (fs::File::open("/proc/thread-self/net/snmp"), UdpSocket::bind(("0.0.0.0", 80))));
        let (statistics, program) = (statistics.expect("/proc is mounted"), program.expect("port 80 is free"));
        set_socket_recv_buffer_size(&program, 0).expect("a buffer may be small");
        Self { statistics, _program: program }
    }

    /// `RcvbufErrors` in the server's namespace (RFC 4113 and an extension of Linux, in /proc/net/snmp).
    fn count(&self) -> u64 {
        let mut text = [0; 8_192];
        let length = self.statistics.read_at(&mut text, 0).expect("statistics can be read");
        let text = String::from_utf8_lossy(&text[..length]);
        let mut lines = text.lines().filter_map(|line| line.strip_prefix("Udp: "));
        let (names, values) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
        let counted = names.split(' ').zip(values.split(' ')).find(|(name, _)| *name == "RcvbufErrors");
        counted.and_then(|(_, value)| value.parse().ok()).expect("the kernel counts dropped UDP packets")
    }
}

fn pick(forwards: &[Forward], number: u32) -> Forward {
    forwards[number.wrapping_mul(STRIDE) as usize % forwards.len()]
}

fn packet((forward, port): (Forward, u32)) -> Packet {
    Packet::new(SocketAddrV4::new(forward.client, source_port(port)), forward.listen)
}

fn source_port(number: u32) -> u16 {
    u16::try_from(number).expect("a probe has fewer than 60,000 flows of one client")
}
