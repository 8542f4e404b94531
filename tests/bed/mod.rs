//! The network of the example in the design, built from network namespaces, with real hosts on every side of the proxy node.
//!
//! ```text
//! client ──── gateway ──┬── eth1 proxy eth0 ──┬── router ──── server
//! 1.1.1.1    192.168.0.1 │ .2         2.2.2.2 │ 2.2.2.1      3.3.3.3
//! 1.1.1.2                ├── neighbour .9     │              3.3.3.4
//!                        └── (more proxies) ──┘
//! ```
//!
//! The proxy has a default route to the router and no route to the client: the operator adds that one. The gateway, the
//! neighbour and the router have routes back to all hosts, so that a packet without translation still arrives and shows its
//! true address. Beds share only the prefix of their names and run in parallel. They need root and the packages of
//! `hack/prepare.sh`.
#![allow(
    dead_code,
    unused_imports,
    unused_macros,
    reason = "every test binary compiles the whole bed and uses only a part of it"
)]

pub(crate) mod agent;
pub(crate) mod client;
pub(crate) mod disk;
pub(crate) mod kernel;
pub(crate) mod netns;
pub(crate) mod observe;
pub(crate) mod passed;
pub(crate) mod server;
pub(crate) mod site;
pub(crate) mod wait;

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use ipnet::Ipv4Net;
use tempfile::TempDir;

use netns::{Netns, must};

/// The client of the example.
pub(crate) const CLIENT: Ipv4Addr = Ipv4Addr::new(1, 1, 1, 1);
/// Another host behind the same gateway.
pub(crate) const SECOND_CLIENT: Ipv4Addr = Ipv4Addr::new(1, 1, 1, 2);
/// The gateway on the leased line, towards the clients.
pub(crate) const GATEWAY: Ipv4Addr = Ipv4Addr::new(192, 168, 0, 1);
/// The proxy's internal address, on `eth1`.
pub(crate) const INTERNAL: Ipv4Addr = Ipv4Addr::new(192, 168, 0, 2);
/// Another host on the leased line.
pub(crate) const NEIGHBOUR: Ipv4Addr = Ipv4Addr::new(192, 168, 0, 9);
/// The proxy's external address, on `eth0`.
pub(crate) const EXTERNAL: Ipv4Addr = Ipv4Addr::new(2, 2, 2, 2);
/// The router between the proxy and the server. In a bed with one leg it is on the leased line, as [`LINE_ROUTER`].
pub(crate) const ROUTER: Ipv4Addr = Ipv4Addr::new(2, 2, 2, 1);
/// The router's address on the leased line in a bed with one leg.
pub(crate) const LINE_ROUTER: Ipv4Addr = Ipv4Addr::new(192, 168, 0, 254);
/// The server of the example.
pub(crate) const SERVER: Ipv4Addr = Ipv4Addr::new(3, 3, 3, 3);
/// Another server in the same network.
pub(crate) const SECOND_SERVER: Ipv4Addr = Ipv4Addr::new(3, 3, 3, 4);

/// The links of the proxies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Legs {
    /// `eth1` on the leased line and `eth0` towards the router.
    #[default]
    Two,
    /// Only `eth1` on the leased line. The router is on the leased line too, and 2.2.2.0/24 does not exist.
    One,
}

/// What a bed has in addition to the hosts of the example.
#[derive(Clone, Debug)]
pub(crate) struct Topology {
    /// The links of the proxies.
    pub(crate) legs: Legs,
    /// The number of proxies. The first one holds the addresses. If there are several, each also has its own addresses (`.21`,
    /// `.22`, ... on both legs).
    pub(crate) proxies: u8,
    /// Networks whose addresses all belong to the client, for example 10.7.0.0/16.
    pub(crate) client_networks: Vec<Ipv4Net>,
    /// The path MTU that the router sets in both directions, in bytes. `None`: 1500.
    pub(crate) path_mtu: Option<u16>,
}

impl Default for Topology {
    fn default() -> Self {
        Self { legs: Legs::Two, proxies: 1, client_networks: Vec::new(), path_mtu: None }
    }
}

/// The hosts, each in a network namespace. The namespaces are removed when this is dropped, also after a panic.
#[derive(Debug)]
pub(crate) struct Bed {
    /// The proxies, at least one. This is the first field, so that it is dropped while the other hosts still route.
    pub(crate) proxies: Vec<Proxy>,
    /// Holds [`CLIENT`], [`SECOND_CLIENT`] and the client networks.
    pub(crate) client: Netns,
    /// Holds [`GATEWAY`] on the bridge `line`.
    pub(crate) gateway: Netns,
    /// Holds [`NEIGHBOUR`].
    pub(crate) neighbour: Netns,
    /// Holds [`ROUTER`] on the bridge `wan`, or [`LINE_ROUTER`].
    pub(crate) router: Netns,
    /// Holds [`SERVER`] and [`SECOND_SERVER`].
    pub(crate) server: Netns,
}

/// One proxy node: its namespace and its files.
#[derive(Debug)]
pub(crate) struct Proxy {
    /// The namespace.
    pub(crate) netns: Netns,
    files: TempDir,
}

impl Bed {
    /// The bed of the example: one proxy with two legs.
    pub(crate) fn new() -> Self {
        Self::with(&Topology::default())
    }

    /// A bed with this topology.
    pub(crate) fn with(topology: &Topology) -> Self {
        static BEDS: AtomicU32 = AtomicU32::new(0);
        assert!(rustix::process::geteuid().is_root(), "network namespaces need root: run the tests as root (make test)");
        assert!((1..=9).contains(&topology.proxies), "a bed has 1 to 9 proxies");
        let bed = BEDS.fetch_add(1, Ordering::Relaxed);
        let host = |name: &str| Netns::create(bed, name);
        let proxies = (0..topology.proxies)
            .map(|index| Proxy {
                netns: host(&format!("px{index}")),
                files: tempfile::Builder::new().prefix("pf-bed-").tempdir().expect("a temporary folder can be made"),
            })
            .collect();
        let bed = Self {
            proxies,
            client: host("cli"),
            gateway: host("gw"),
            neighbour: host("lan"),
            router: host("rt"),
            server: host("srv"),
        };
        bed.set_kernels();
        bed.connect(topology);
        bed.address(topology);
        bed
    }

    /// The first proxy, which holds the addresses at the start.
    pub(crate) fn proxy(&self) -> &Proxy {
        &self.proxies[0]
    }

    /// Moves [`INTERNAL`] and [`EXTERNAL`] between proxies, as keepalived does. The neighbours then learn the new place,
    /// because their entries are flushed.
    pub(crate) fn move_addresses(&self, from: &Proxy, to: &Proxy) {
        from.netns.ip_batch([format!("addr del {INTERNAL}/24 dev eth1"), format!("addr del {EXTERNAL}/24 dev eth0")]);
        to.netns.ip_batch([format!("addr add {INTERNAL}/24 dev eth1"), format!("addr add {EXTERNAL}/24 dev eth0")]);
        for netns in [&self.gateway, &self.neighbour, &self.router] {
            netns.ip("neigh flush all");
        }
    }

    fn hosts(&self) -> impl Iterator<Item = &Netns> {
        let others = [&self.client, &self.gateway, &self.neighbour, &self.router, &self.server];
        self.proxies.iter().map(|proxy| &proxy.netns).chain(others)
    }

    /// Sets the kernel settings before any link exists, so that links inherit the defaults. Nothing depends on the settings of
    /// the machine.
    fn set_kernels(&self) {
        for netns in self.hosts() {
            let routes = ![&self.client, &self.neighbour, &self.server].contains(&netns);
            set_kernel(netns, if routes { "1" } else { "0" });
        }
    }

    fn connect(&self, topology: &Topology) {
        self.gateway.ip("link add line type bridge");
        self.router.ip("link add wan type bridge");
        wire((&self.client, "eth0"), (&self.gateway, "cli"));
        wire((&self.server, "eth0"), (&self.router, "srv"));
        let line = |port: &str| self.gateway.ip(&format!("link set {port} master line"));
        wire((&self.neighbour, "eth0"), (&self.gateway, "lan"));
        line("lan");
        for index in 0..self.proxies.len() {
            self.connect_proxy(index, topology.legs);
        }
        if topology.legs == Legs::One {
            wire((&self.router, "line"), (&self.gateway, "rt"));
            line("rt");
        }
    }

    /// Connects the legs of a proxy.
    fn connect_proxy(&self, index: usize, legs: Legs) {
        let (proxy, port) = (&self.proxies[index].netns, format!("px{index}"));
        wire((proxy, "eth1"), (&self.gateway, &port));
        self.gateway.ip(&format!("link set {port} master line"));
        if legs == Legs::Two {
            wire((proxy, "eth0"), (&self.router, &port));
            self.router.ip(&format!("link set {port} master wan"));
        }
    }

    /// Reboots a proxy with two legs: ends everything in its namespace and creates a new one with only the links and addresses
    /// that it has after a boot. Its files stay.
    pub(crate) fn reboot(&self, index: usize) {
        let proxy = &self.proxies[index].netns;
        proxy.recreate();
        set_kernel(proxy, "1");
        for peer in [&self.gateway, &self.router] {
            peer.unplug(&format!("px{index}"));
        }
        self.connect_proxy(index, Legs::Two);
        let own = 21 + u8::try_from(index).expect("a bed has few proxies");
        proxy.ip_batch(proxy_addresses(Legs::Two, (self.proxies.len() > 1).then_some(own), index == 0));
        for netns in [&self.gateway, &self.neighbour, &self.router] {
            netns.ip("neigh flush all");
        }
    }

    fn address(&self, topology: &Topology) {
        let (client_side, server_side) = ("1.1.1.0/24", "3.3.3.0/24");
        let mtu = topology.path_mtu.map(|mtu| format!("mtu lock {mtu}")).unwrap_or_default();
        let (proxy_outside, router_inside, wan, outside_net) = match topology.legs {
            Legs::Two => (EXTERNAL, ROUTER, "wan", "2.2.2.0/24"),
            Legs::One => (INTERNAL, LINE_ROUTER, "line", "192.168.0.0/24"),
        };
        let networks = topology.client_networks.iter();

        self.client.ip_batch(
            [
                format!("addr add {CLIENT}/24 dev eth0"),
                format!("addr add {SECOND_CLIENT}/24 dev eth0"),
                "route add default via 1.1.1.254".to_owned(),
            ]
            .into_iter()
            .chain(networks.clone().map(|network| format!("route add local {network} dev lo"))),
        );
        self.gateway.ip_batch(
            [
                "addr add 1.1.1.254/24 dev cli".to_owned(),
                format!("addr add {GATEWAY}/24 dev line"),
                "link set line up".to_owned(),
                format!("route add default via {INTERNAL}"),
            ]
            .into_iter()
            .chain(networks.clone().map(|network| format!("route add {network} via {CLIENT}"))),
        );
        self.neighbour.ip_batch([
            format!("addr add {NEIGHBOUR}/24 dev eth0"),
            format!("route add default via {INTERNAL}"),
            format!("route add {client_side} via {GATEWAY}"),
        ]);
        for (proxy, own) in self.proxies.iter().zip(21..) {
            let of_several = topology.proxies > 1;
            proxy.netns.ip_batch(proxy_addresses(topology.legs, of_several.then_some(own), own == 21));
        }
        self.router.ip_batch(
            [
                format!("addr add {router_inside}/24 dev {wan}"),
                format!("link set {wan} up"),
                "addr add 3.3.3.1/24 dev srv".to_owned(),
            ]
            .into_iter()
            .chain(topology.path_mtu.map(|_| format!("route replace {outside_net} dev {wan} {mtu}")))
            .chain(topology.path_mtu.map(|_| format!("route replace {server_side} dev srv {mtu}")))
            .chain([format!("route add {client_side} via {proxy_outside} {mtu}")])
            .chain((topology.legs == Legs::Two).then(|| format!("route add 192.168.0.0/24 via {proxy_outside} {mtu}")))
            .chain(networks.map(|network| format!("route add {network} via {proxy_outside} {mtu}"))),
        );
        self.server.ip_batch([
            format!("addr add {SERVER}/24 dev eth0"),
            format!("addr add {SECOND_SERVER}/24 dev eth0"),
            "route add default via 3.3.3.1".to_owned(),
        ]);
    }
}

impl Proxy {
    /// The folder of this proxy for manifests, state and logs. It is removed together with the bed.
    pub(crate) fn files(&self) -> &Path {
        self.files.path()
    }

    /// The lock of the legacy iptables (`XTABLES_LOCKFILE`, iptables(8)), so that beds do not wait for each other.
    pub(crate) fn lock_file(&self) -> PathBuf {
        self.files().join("xtables.lock")
    }

    /// A command on this proxy, with its iptables lock.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = self.netns.command(program);
        command.env("XTABLES_LOCKFILE", self.lock_file());
        command
    }
}

impl PartialEq for Netns {
    fn eq(&self, other: &Self) -> bool {
        self.name() == other.name()
    }
}

/// Sets the kernel settings of a host, independent of those of the machine.
fn set_kernel(netns: &Netns, ip_forward: &str) {
    netns.run(|| {
        let set = |key: &str, value: &str| {
            std::fs::write(Path::new("/proc/sys/net/ipv4").join(key), value).unwrap_or_else(|e| panic!("{key}: {e}"));
        };
        set("ip_forward", ip_forward);
        set("conf/all/rp_filter", "0");
        set("conf/default/rp_filter", "0");
        // With small buffers, an interrupted download stops soon.
        set("tcp_rmem", "4096 65536 131072");
        set("tcp_wmem", "4096 65536 131072");
    });
}

/// The `ip -batch` lines that give a proxy its addresses and its default route.
fn proxy_addresses(legs: Legs, own: Option<u8>, holds: bool) -> Vec<String> {
    let mut lines = Vec::new();
    let both_legs = [("192.168.0", INTERNAL, "eth1"), ("2.2.2", EXTERNAL, "eth0")];
    let count = match legs {
        Legs::Two => 2,
        Legs::One => 1,
    };
    for (network, address, link) in &both_legs[..count] {
        lines.extend(own.map(|own| format!("addr add {network}.{own}/24 dev {link}")));
        lines.extend(holds.then(|| format!("addr add {address}/24 dev {link}")));
    }
    lines.push(match legs {
        Legs::Two => format!("route add default via {ROUTER} dev eth0"),
        Legs::One => format!("route add default via {LINE_ROUTER} dev eth1"),
    });
    lines
}

/// Connects two hosts by a veth pair and sets both ends up.
pub(crate) fn wire((one, at_one): (&Netns, &str), (other, at_other): (&Netns, &str)) {
    let [one_name, other_name] = [one.name(), other.name()];
    let veth = format!("link add {at_one} netns {one_name} type veth peer name {at_other} netns {other_name}");
    must(Command::new("ip").args(veth.split_whitespace()));
    one.ip(&format!("link set {at_one} up"));
    other.ip(&format!("link set {at_other} up"));
}
