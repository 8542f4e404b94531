//! The network of the benchmark: a client, a gateway, any number of parallel proxies, and a server.
//!
//! ```text
//! client ──── gateway ──┬── proxy 0 ──┬── server
//! 10.0.0.0/8  192.168.0.1├── proxy 1 ──┤  3.4.0.0/15
//!                        └── ...     ──┘
//! ```
//!
//! All proxies have the same addresses, so that they differ only in their rules. Only one proxy at a time is on the path.

use std::process::Command;

use crate::netns::{Netns, must};
use crate::shared::shapes;

/// The hosts. They are removed when this is dropped.
#[derive(Debug)]
pub(crate) struct Network {
    /// The proxies. This is the first field, so that they are dropped first.
    pub(crate) proxies: Vec<Netns>,
    /// The client.
    pub(crate) client: Netns,
    /// The gateway.
    gateway: Netns,
    /// The server.
    pub(crate) server: Netns,
}

impl Network {
    /// Creates a network with this number of proxies. None of them is on the path yet.
    pub(crate) fn new(proxies: usize) -> Self {
        let proxies = (0..proxies).map(|index| host(&format!("px{index}"))).collect();
        let network = Self { proxies, client: host("cli"), gateway: host("gw"), server: host("srv") };
        wire((&network.client, "eth0"), (&network.gateway, "cli"));
        network.client.ip_batch([
            "addr add 10.255.255.254/32 dev eth0",
            "route add local 10.0.0.0/8 dev lo",
            "route add 192.168.0.1/32 dev eth0",
            "route add default via 192.168.0.1 dev eth0",
        ]);
        network.gateway.ip_batch([
            "addr add 192.168.0.1/32 dev lo",
            "route add 10.255.255.254/32 dev cli",
            "route add 10.0.0.0/8 via 10.255.255.254 dev cli",
        ]);
        network.server.ip_batch(["addr add 2.2.2.1/32 dev lo", "route add local 3.4.0.0/15 dev lo"]);
        for (index, proxy) in network.proxies.iter().enumerate() {
            wire((proxy, "eth1"), (&network.gateway, &format!("px{index}")));
            wire((proxy, "eth0"), (&network.server, &format!("px{index}")));
            // These addresses are local by routes. As addresses of the link, they would slow down the loading of each rule for
            // a UDP port in proportion to their number.
            let inside = shapes::listen_addresses().map(|address| format!("route add local {address} dev eth1"));
            let own = ["addr add 192.168.0.2/16 dev eth1".to_owned()].into_iter();
            let outside = (2..6).map(|last| format!("addr add 2.2.2.{last}/24 dev eth0"));
            let routes = ["route add 10.0.0.0/8 via 192.168.0.1 dev eth1", "route add 3.4.0.0/15 via 2.2.2.1 dev eth0"];
            proxy.ip_batch(own.chain(inside).chain(outside).chain(routes.map(str::to_owned)));
        }
        network
    }

    /// Routes both directions through this proxy.
    pub(crate) fn through(&self, proxy: usize) {
        let next = format!("dev px{proxy} onlink");
        self.gateway.ip_batch(["192.168.0.0/16", "3.4.0.0/15"].map(|to| format!("route replace {to} via 192.168.0.2 {next}")));
        self.server.ip_batch(["2.2.2.0/24", "10.0.0.0/8"].map(|to| format!("route replace {to} via 2.2.2.2 {next}")));
    }
}

/// Deletes the conntrack entries of a proxy.
pub(crate) fn forget_connections(proxy: &Netns) {
    must(proxy.command("conntrack").arg("-F"));
}

/// Creates a host that routes and accepts any source address. All relevant settings are set here and do not depend on the
/// machine.
pub(crate) fn host(name: &str) -> Netns {
    let netns = Netns::create(0, name);
    for (setting, value) in [("ip_forward", "1"), ("conf/all/rp_filter", "0"), ("conf/default/rp_filter", "0")] {
        netns.set(&format!("ipv4/{setting}"), value);
    }
    netns
}

fn wire((one, at_one): (&Netns, &str), (other, at_other): (&Netns, &str)) {
    let [one_name, other_name] = [one.name(), other.name()];
    let veth = format!("link add {at_one} netns {one_name} type veth peer name {at_other} netns {other_name}");
    must(Command::new("ip").args(veth.split_whitespace()));
    one.ip(&format!("link set {at_one} up"));
    other.ip(&format!("link set {at_other} up"));
}
