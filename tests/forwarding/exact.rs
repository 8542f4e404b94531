//! Tests many forwards on one internal address: every flow goes exactly where its own forward says.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;
use std::thread;

use ipnet::Ipv4Net;

use super::bed::client::{ANSWER, Silence, tcp_ask};
use super::bed::kernel::{Variant, on_all_backends};
use super::bed::server::Server;
use super::bed::site::Site;
use super::bed::{Bed, EXTERNAL, GATEWAY, INTERNAL, SERVER, Topology};
use super::{Ask, REFUSED, TCP, UDP, arrival, know_way_back, seen_from};

on_all_backends![
    a_thousand_clients_of_one_port_each_go_on_as_their_own_external_address,
    a_random_set_of_forwards_lands_exactly_where_it_says,
];

/// A bed whose proxy holds more external addresses and has routes to all clients.
fn bed_of_many(externals: impl IntoIterator<Item = Ipv4Addr>) -> Bed {
    let client_networks = vec!["10.7.0.0/16".parse().unwrap()];
    let bed = Bed::with(&Topology { client_networks, ..Topology::default() });
    let added = externals.into_iter().filter(|external| *external != EXTERNAL);
    bed.proxy().netns.ip_batch(added.map(|external| format!("addr add {external}/24 dev eth0")));
    know_way_back(&bed, "10.7.0.0/16");
    know_way_back(&bed, "1.1.1.0/24");
    bed
}

fn a_thousand_clients_of_one_port_each_go_on_as_their_own_external_address(variant: Variant) {
    let externals = [EXTERNAL, Ipv4Addr::new(2, 2, 2, 3)];
    let first = u32::from(Ipv4Addr::new(10, 7, 1, 0));
    let clients: Vec<_> = (first..first + 1000).zip(externals.iter().cycle()).map(|(c, e)| (Ipv4Addr::from(c), *e)).collect();
    let specs = clients.iter().map(|(client, external)| {
        let name = format!("client-{}", client.to_string().replace('.', "-"));
        let spec = format!(
            "client: {{addresses: [{client}]}}, internal: {{addresses: [{INTERNAL}], gateways: [{GATEWAY}]}}, \
             external: {{addresses: [{external}]}}, upstream: {{targets: [{{address: {SERVER}}}]}}, ports: [{{name: web, port: 80}}]"
        );
        (name, spec)
    });
    let site = serve(variant, bed_of_many(externals), specs);
    let bed = &site.bed;
    let server = Server::tcp(&bed.server, SERVER, [80]);
    in_parallel(&clients, |(client, external)| {
        let seen = arrival(tcp_ask(&bed.client, *client, (INTERNAL, 80), ANSWER));
        assert_eq!(seen, seen_from(*external, (SERVER, 80)), "{client}");
    });
    let beside = Ipv4Addr::from(first - 1);
    assert_eq!(tcp_ask(&bed.client, beside, (INTERNAL, 80), ANSWER), Err(Silence::Refused));
    assert_eq!(server.seen().len(), 1000);
}

fn serve(variant: Variant, bed: Bed, forwards: impl Iterator<Item = (String, String)>) -> Site {
    let forwards: Vec<_> = forwards.collect();
    let forwards: Vec<_> = forwards.iter().map(|(name, spec)| (name.as_str(), spec.as_str())).collect();
    Site::serve(variant, bed, &forwards)
}

/// Runs several probes at the same time, because a probe mostly waits.
fn in_parallel<T: Sync>(all: &[T], probe: impl Fn(&T) + Sync) {
    thread::scope(|scope| {
        for share in all.chunks(all.len().div_ceil(8).max(1)) {
            scope.spawn(|| share.iter().for_each(&probe));
        }
    });
}

/// The ports on which the servers of the random set listen, for both protocols.
const TARGETS: RangeInclusive<u16> = 1000..=1031;

/// One forward of the random set: one entry of ports for one client entry.
#[derive(Clone, Debug)]
struct Forward {
    client: Ipv4Net,
    /// Empty, or the named interface as in the spec.
    interface: &'static str,
    external: Option<Ipv4Addr>,
    upstream: Ipv4Addr,
    udp: bool,
    ports: (u16, u16),
    /// The first and the last target port: one port for all, or a range of the same width as `ports`.
    target: Option<(u16, u16)>,
    /// The port of the external address through which the upstream reaches port 1000 of the client. The client is then one host.
    reverse: Option<u16>,
}

impl Forward {
    fn random(random: &mut Random, externals: &[Ipv4Addr], upstreams: &[Ipv4Addr]) -> Self {
        // Few networks and few ports, so that many forwards share a port and neighbouring clients have different forwards.
        let host = Ipv4Addr::new(10, 7, random.byte(2, 3), random.byte(0, 255));
        let client = Ipv4Net::new(host, *random.one_of(&[32, 32, 32, 30, 28, 27])).unwrap().trunc();
        let external = random.one_of(&[None, Some(())]).map(|()| *random.one_of(externals));
        // Single ports that several forwards share, neighbouring ports that may be merged, and ranges that overlap in part.
        let first = *random.one_of(&[1000, 1000, 1004, 1005, 1010, 1012]);
        let last = first + if first < 1010 { 0 } else { *random.one_of(&[0, 1, 7]) };
        let udp = *random.one_of(&[true, false]);
        let calls_back = client.prefix_len() == 32 && external.is_some() && !udp;
        Self {
            client,
            external,
            upstream: *random.one_of(upstreams),
            udp,
            // Never for TCP, whose forwards differ in other fields.
            interface: if udp { *random.one_of(&["", "", ", interface: eth1"]) } else { "" },
            ports: (first, last),
            target: random.one_of(&[None, Some(0), Some(last - first)]).map(|more| {
                let target = (1000 + u16::from(random.byte(0, 31))).min(TARGETS.end() - more);
                (target, target + more)
            }),
            reverse: calls_back.then(|| 2000 + u16::from(random.byte(0, 99))),
        }
    }

    /// Whether a packet exists that would match both forwards.
    fn conflicts(&self, other: &Self) -> bool {
        let clients = self.client.contains(&other.client) || other.client.contains(&self.client);
        let ports = self.ports.0 <= other.ports.1 && other.ports.0 <= self.ports.1;
        let forward = self.udp == other.udp && clients && ports;
        let listens = |forward: &Self| forward.reverse.map(|port| (forward.external, forward.upstream, port));
        forward || (listens(self).is_some() && listens(self) == listens(other))
    }

    fn spec(&self) -> String {
        let Self { client, interface, external, upstream, ports: (first, last), .. } = self;
        let client = if client.prefix_len() == 32 { client.addr().to_string() } else { client.to_string() };
        let external = external.map(|external| format!("external: {{addresses: [{external}]}}, ")).unwrap_or_default();
        let protocol = if self.udp { "UDP" } else { "TCP" };
        let end = if first == last { String::new() } else { format!(", endPort: {last}") };
        let target = match self.target {
            None => String::new(),
            Some((target, _)) if first == last => format!(", targetPort: {target}"),
            Some((target, last)) => format!(", targetPort: {target}, targetEndPort: {last}"),
        };
        let reverse = self.reverse.map(|port| format!(", reverse: {{ports: [{{name: r, port: {port}, targetPort: 1000}}]}}"));
        format!(
            "client: {{addresses: [{client}]}}, internal: {{addresses: [{INTERNAL}]{interface}}}, {external}\
             upstream: {{targets: [{{address: {upstream}}}]}}, \
             ports: [{{name: p, protocol: {protocol}, port: {first}{end}{target}}}]{}",
            reverse.unwrap_or_default()
        )
    }

    /// The port at which a connection to `port` reaches the upstream.
    fn target(&self, port: u16) -> u16 {
        match self.target {
            None => port,
            Some((first, last)) if first == last => first,
            Some((first, _)) => first + (port - self.ports.0),
        }
    }

    fn serves(&self, probe: Probe) -> bool {
        self.udp == probe.udp && self.client.contains(&probe.client) && (self.ports.0..=self.ports.1).contains(&probe.port)
    }
}

/// A request of a client to a port of the internal address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Probe {
    udp: bool,
    client: Ipv4Addr,
    port: u16,
}

/// Probes at the limits of every forward, just inside and just outside, and the same probes with the other protocol.
fn probes(set: &[Forward]) -> Vec<Probe> {
    let mut probes = Vec::new();
    for forward in set {
        let (first, last) = (u32::from(forward.client.network()), u32::from(forward.client.broadcast()));
        for client in [first - 1, first, last, last + 1].map(Ipv4Addr::from) {
            for port in [forward.ports.0 - 1, forward.ports.0, forward.ports.1, forward.ports.1 + 1] {
                probes.push(Probe { udp: forward.udp, client, port });
            }
        }
        probes.push(Probe { udp: !forward.udp, client: forward.client.network(), port: forward.ports.0 });
    }
    probes.sort();
    probes.dedup();
    probes
}

fn a_random_set_of_forwards_lands_exactly_where_it_says(variant: Variant) {
    let externals = [2, 3, 4, 5].map(|last| Ipv4Addr::new(2, 2, 2, last));
    let upstreams = [3, 4, 5, 6].map(|last| Ipv4Addr::new(3, 3, 3, last));
    let mut random = Random(0x5eed);
    let mut set: Vec<Forward> = Vec::new();
    while set.len() < 60 {
        let forward = Forward::random(&mut random, &externals, &upstreams);
        if !set.iter().any(|other| other.conflicts(&forward)) {
            set.push(forward);
        }
    }
    let bed = bed_of_many(externals);
    bed.server.ip_batch(upstreams[2..].iter().map(|upstream| format!("addr add {upstream}/24 dev eth0")));
    // The test needs every ICMP refusal; the kernel limits their rate by default (icmp_ratemask, ip-sysctl.rst).
    bed.proxy().netns.set("ipv4/icmp_ratemask", "0");
    let forwards = set.iter().enumerate().map(|(number, forward)| (format!("f{number}"), forward.spec()));
    let site = serve(variant, bed, forwards);
    let bed = &site.bed;
    let servers: Vec<_> = upstreams
        .iter()
        .flat_map(|at| [Server::tcp(&bed.server, *at, TARGETS), Server::udp(&bed.server, *at, TARGETS)])
        .collect();
    let client = Server::tcp(&bed.client, Ipv4Addr::UNSPECIFIED, [1000]);

    let probes = probes(&set);
    in_parallel(&probes, |probe| {
        let expected = set.iter().find(|forward| forward.serves(*probe)).map_or(REFUSED, |forward| {
            seen_from(forward.external.unwrap_or(EXTERNAL), (forward.upstream, forward.target(probe.port)))
        });
        let ask: Ask = if probe.udp { UDP } else { TCP };
        let seen = arrival(ask(&bed.client, probe.client, (INTERNAL, probe.port), ANSWER));
        assert_eq!(seen, expected, "{probe:?}");
    });
    let served = probes.iter().filter(|&&probe| set.iter().any(|forward| forward.serves(probe))).count();
    assert!(served > 100 && probes.len() - served > 100, "{served} of {} probes are served", probes.len());
    assert_eq!(servers.iter().map(|server| server.seen().len()).sum::<usize>(), served);

    // The connections of the upstreams: each port of each external address, from each upstream, reaches one client or none.
    let calls: BTreeMap<_, _> = set
        .iter()
        .filter_map(|forward| Some(((forward.external?, forward.upstream, forward.reverse?), forward.client.addr())))
        .collect();
    let ports: std::collections::BTreeSet<u16> = calls.keys().map(|(_, _, port)| *port).collect();
    let all: Vec<_> =
        ports.iter().flat_map(|port| externals.iter().flat_map(|e| upstreams.iter().map(|u| (*e, *u, *port)))).collect();
    in_parallel(&all, |call| {
        let expected = calls.get(call).map_or(REFUSED, |client| seen_from(INTERNAL, (*client, 1000)));
        let (external, upstream, port) = *call;
        assert_eq!(arrival(TCP(&bed.server, upstream, (external, port), ANSWER)), expected, "{call:?}");
    });
    assert!(calls.len() >= 5, "{calls:?}");
    assert_eq!(client.seen().len(), calls.len());
}

/// The generator `SplitMix64`: the same set in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn byte(&mut self, first: u8, last: u8) -> u8 {
        let choices = u64::from(last - first) + 1;
        first + u8::try_from(self.next() % choices).expect("below 256")
    }

    fn one_of<'a, T>(&mut self, choices: &'a [T]) -> &'a T {
        let last = u8::try_from(choices.len() - 1).expect("few choices");
        &choices[usize::from(self.byte(0, last))]
    }
}
