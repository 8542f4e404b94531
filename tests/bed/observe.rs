//! One set of probes for every kind of proxy setup. It records what each side sees, for comparison between beds.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::thread;

use super::client::{ANSWER, Silence, tcp_ask, udp_ask};
use super::netns::Netns;
use super::server::{Seen, Server};
use super::{Bed, CLIENT, EXTERNAL, GATEWAY, INTERNAL, NEIGHBOUR, ROUTER, SECOND_CLIENT, SECOND_SERVER, SERVER};

/// The observations, by the name of the probe.
pub(crate) type Observations = BTreeMap<&'static str, Observation>;

/// The result of one probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Observation {
    /// A server answered.
    Answered {
        /// The address and port at which it was reached.
        at: (IpAddr, u16),
        /// The address that it saw as its peer.
        saw: IpAddr,
    },
    /// No server answered.
    Silent(Silence),
}

/// A port on which the proxy itself listens, on its external address.
pub(crate) const OWN_SERVICE: u16 = 9000;

/// The transport of a probe.
#[derive(Clone, Copy)]
enum Over {
    Tcp,
    Udp,
}

/// A name, and the request: the namespace and address of the sender, and the address and port of the destination.
type Probe<'a> = (&'static str, Over, &'a Netns, Ipv4Addr, (Ipv4Addr, u16));

/// Runs every probe on the first proxy of a bed with two legs.
///
/// Meanwhile the proxy also has a route to the second client, so that packets without translation can be seen there.
pub(crate) fn observe(bed: &Bed) -> Observations {
    use Over::{Tcp, Udp};
    let _servers = [
        Server::tcp(&bed.server, SERVER, [80, 8080]),
        Server::tcp(&bed.server, SECOND_SERVER, [80]),
        Server::udp(&bed.server, SERVER, [53, 80]),
        Server::tcp(&bed.client, CLIENT, [80, 8443]),
        Server::udp(&bed.client, CLIENT, [80]),
        Server::tcp(&bed.neighbour, NEIGHBOUR, [80]),
        Server::tcp(&bed.proxy().netns, EXTERNAL, [OWN_SERVICE]),
    ];
    let proxy = &bed.proxy().netns;
    proxy.ip(&format!("route replace {SECOND_CLIENT} via {GATEWAY} dev eth1"));
    let (client, server, neighbour, router) = (&bed.client, &bed.server, &bed.neighbour, &bed.router);
    let probes: [Probe<'_>; 19] = [
        ("client to internal:80", Tcp, client, CLIENT, (INTERNAL, 80)),
        ("client to internal:81", Tcp, client, CLIENT, (INTERNAL, 81)),
        ("client to internal:80/udp", Udp, client, CLIENT, (INTERNAL, 80)),
        ("client to external:80", Tcp, client, CLIENT, (EXTERNAL, 80)),
        ("second client to internal:80", Tcp, client, SECOND_CLIENT, (INTERNAL, 80)),
        ("neighbour to internal:80", Tcp, neighbour, NEIGHBOUR, (INTERNAL, 80)),
        ("client past the forward to server:80", Tcp, client, CLIENT, (SERVER, 80)),
        ("client past the forward to server:8080", Tcp, client, CLIENT, (SERVER, 8080)),
        ("client past the forward to server:53/udp", Udp, client, CLIENT, (SERVER, 53)),
        ("neighbour past the forward to server:80", Tcp, neighbour, NEIGHBOUR, (SERVER, 80)),
        ("server to external:80", Tcp, server, SERVER, (EXTERNAL, 80)),
        ("server to external:8443", Tcp, server, SERVER, (EXTERNAL, 8443)),
        ("server to external:80/udp", Udp, server, SERVER, (EXTERNAL, 80)),
        ("second server to external:80", Tcp, server, SECOND_SERVER, (EXTERNAL, 80)),
        ("server past the forward to client:8443", Tcp, server, SERVER, (CLIENT, 8443)),
        ("server past the forward to neighbour:80", Tcp, server, SERVER, (NEIGHBOUR, 80)),
        ("server to the proxy's own service", Tcp, server, SERVER, (EXTERNAL, OWN_SERVICE)),
        ("router to the proxy's own service", Tcp, router, ROUTER, (EXTERNAL, OWN_SERVICE)),
        ("proxy to server:80", Tcp, proxy, EXTERNAL, (SERVER, 80)),
    ];
    // The probes run in parallel: they do not influence each other, and those without an answer time out together.
    let observations = thread::scope(|scope| {
        let running = probes.map(|(name, over, netns, from, to)| {
            let probe = move || match over {
                Tcp => tcp_ask(netns, from, to, ANSWER),
                Udp => udp_ask(netns, from, to, ANSWER),
            };
            (name, scope.spawn(probe))
        });
        running.into_iter().map(|(name, probe)| (name, probe.join().expect("a probe does not panic").into())).collect()
    });
    proxy.ip(&format!("route delete {SECOND_CLIENT}"));
    observations
}

/// An answer as an observation.
pub(crate) fn answered(at: (Ipv4Addr, u16), saw: Ipv4Addr) -> Observation {
    Observation::Answered { at: (at.0.into(), at.1), saw: saw.into() }
}

impl From<Result<Seen, Silence>> for Observation {
    fn from(answer: Result<Seen, Silence>) -> Self {
        match answer {
            Ok(Seen { peer, local }) => Self::Answered { at: (local.ip(), local.port()), saw: peer.ip() },
            Err(silence) => Self::Silent(silence),
        }
    }
}

impl fmt::Display for Observation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Answered { at: (address, port), saw } => write!(f, "{address}:{port} answers and saw {saw}"),
            Self::Silent(silence) => write!(f, "{silence}"),
        }
    }
}
