//! Tests the takeover of a node that was set up by hand: the agent starts beside the rules, the rules are removed, and no
//! connection is affected.

mod bed;

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use bed::agent::{Agent, AgentOptions, Manifests};
use bed::client::{ANSWER, Connection, Download, UdpFlow, tcp_ask, udp_ask};
use bed::kernel::{Variant, on_all_backends};
use bed::server::{Seen, Server};
use bed::{Bed, CLIENT, EXTERNAL, GATEWAY, INTERNAL, SERVER};

on_all_backends![
    a_hand_made_node_is_taken_over_with_no_connection_lost,
    connections_made_by_hand_made_rules_outlive_a_removal_of_all_of_them_at_once,
];

/// The five rules of section 1 of the design, each without the verb, then the same for the node's UDP service, as an
/// administrator adds it.
const RULES: [&str; 7] = [
    "PREROUTING -i eth1 -d 192.168.0.2 -p tcp --dport 80 -j DNAT --to-destination 3.3.3.3:80",
    "POSTROUTING -s 1.1.1.1 -p tcp -j SNAT --to-source 2.2.2.2",
    "PREROUTING -i eth0 -s 3.3.3.3 -p tcp -j DNAT --to-destination 1.1.1.1:80",
    "POSTROUTING -s 3.3.3.3 -p tcp -j SNAT --to-source 192.168.0.2",
    "POSTROUTING -o eth0 -s 2.2.2.2 -j MASQUERADE",
    "PREROUTING -i eth1 -d 192.168.0.2 -p udp --dport 514 -j DNAT --to-destination 3.3.3.3:514",
    "POSTROUTING -s 1.1.1.1 -d 3.3.3.3 -p udp --dport 514 -j SNAT --to-source 2.2.2.2",
];

/// A manifest for everything that these rules do.
const MANIFEST: &str = "
apiVersion: portforward.dev/v1alpha1
kind: PortForward
metadata: {name: bank-a, namespace: lines}
spec:
  client: {addresses: [1.1.1.1]}
  internal: {addresses: [192.168.0.2], interface: eth1, gateways: [192.168.0.1]}
  external: {addresses: [2.2.2.2], interface: eth0}
  upstream: {targets: [{address: 3.3.3.3}]}
  ports:
  - {name: http, port: 80}
  - {name: syslog, protocol: UDP, port: 514}
  reverse: {ports: [{name: all, port: 1, endPort: 65535, targetPort: 80, targetEndPort: 80}]}
";

const FORWARD: &str = "lines/bank-a";

/// A node that was set up by hand and is in use.
struct Node {
    live: Live,
    _servers: [Server; 3],
    bed: Bed,
    variant: Variant,
}

/// The connections that run all the time.
struct Live {
    download: Download,
    forward: Connection,
    reverse: Connection,
    udp: (UdpFlow, Seen),
    /// A flow through the node that belongs to no forward.
    beside: (UdpFlow, Seen),
}

impl Node {
    fn made_by_hand(variant: Variant) -> Self {
        let bed = Bed::new();
        for rule in RULES {
            bed.proxy().iptables(variant, &format!("-t nat -A {rule}"));
        }
        bed.proxy().netns.ip(&format!("route add {CLIENT}/32 via {GATEWAY} dev eth1"));
        let servers = [
            Server::tcp(&bed.server, SERVER, [80]),
            Server::udp(&bed.server, SERVER, [514, 5353]),
            Server::tcp(&bed.client, CLIENT, [80]),
        ];
        let udp = |to: (Ipv4Addr, u16)| {
            let mut flow = UdpFlow::open(&bed.client, (CLIENT, 0), to).unwrap();
            let seen = flow.ask(ANSWER).unwrap();
            (flow, seen)
        };
        let live = Live {
            download: open(&bed).stream().unwrap(),
            forward: open(&bed),
            reverse: Connection::open(&bed.server, (SERVER, 0), (EXTERNAL, 8443), ANSWER).unwrap(),
            udp: udp((INTERNAL, 514)),
            beside: udp((SERVER, 5353)),
        };
        let mut node = Self { live, _servers: servers, bed, variant };
        node.expect_service("by hand alone");
        node
    }

    fn take_over(&self) -> (Agent, Manifests) {
        let manifests = Manifests::new(self.bed.proxy());
        manifests.put("bank-a.yaml", MANIFEST);
        let agent = Agent::start(self.bed.proxy(), &manifests, &AgentOptions::new(self.variant));
        agent.wait_ready(FORWARD);
        (agent, manifests)
    }

    /// Every live connection continues, and new ones of each kind are translated as the seed wants.
    fn expect_service(&mut self, step: &str) {
        let Self { live, bed, .. } = self;
        assert!(live.download.goes_on(ANSWER), "{step}: the download stands still");
        live.forward.exchange(ANSWER).unwrap_or_else(|silence| panic!("{step}: the client's session: {silence}"));
        live.reverse.exchange(ANSWER).unwrap_or_else(|silence| panic!("{step}: the server's session: {silence}"));
        for (flow, first) in [&mut live.udp, &mut live.beside] {
            assert_eq!(flow.ask(ANSWER), Ok(*first), "{step}: a UDP flow");
        }
        let new = [
            tcp_ask(&bed.client, CLIENT, (INTERNAL, 80), ANSWER),
            udp_ask(&bed.client, CLIENT, (INTERNAL, 514), ANSWER),
            tcp_ask(&bed.server, SERVER, (EXTERNAL, 9000), ANSWER),
        ];
        let seen = new.map(|answer| answer.map(|seen| (seen.peer.ip().to_string(), seen.local.to_string())));
        let wanted = [("2.2.2.2", "3.3.3.3:80"), ("2.2.2.2", "3.3.3.3:514"), ("192.168.0.2", "1.1.1.1:80")];
        assert_eq!(seen, wanted.map(|(peer, local)| Ok((peer.to_owned(), local.to_owned()))), "{step}: new connections");
    }

    /// The conntrack entries of a session or a UDP flow, by their id in the kernel.
    fn tracked(&self) -> BTreeSet<String> {
        let entries = self.bed.proxy().conntrack("-o id");
        let carrying = entries.iter().filter(|entry| entry.contains("ESTABLISHED") || entry.starts_with("udp"));
        carrying.filter_map(|entry| entry.rsplit_once("id=").map(|(_, id)| id.trim().to_owned())).collect()
    }

    fn remove_rule(&self, rule: &str) {
        self.bed.proxy().iptables(self.variant, &format!("-t nat -D {rule}"));
    }

    /// Removes the route of the administrator. Our route already exists beside it, so there is always a route.
    fn remove_route(&self) {
        let proxy = self.bed.proxy();
        assert_eq!(proxy.routes_to("1.1.1.1").len(), 2);
        proxy.netns.ip(&format!("route delete {CLIENT}/32 via {GATEWAY} dev eth1 proto boot"));
    }

    fn expect_only_ours(&self, agent: &Agent) {
        let proxy = self.bed.proxy();
        let routes = proxy.routes_to("1.1.1.1");
        assert!(matches!(&routes[..], [route] if route["protocol"] != "boot"), "{routes:?}");
        assert_eq!(proxy.foreign_rules(self.variant), Vec::<String>::new());
        assert!(!proxy.our_rules(self.variant).is_empty());
        agent.wait_condition(FORWARD, "Ready", "True", "Ready");
    }

    fn end(self) {
        self.live.download.finish().expect("the download ends in good order");
    }
}

fn open(bed: &Bed) -> Connection {
    Connection::open(&bed.client, (CLIENT, 0), (INTERNAL, 80), ANSWER).unwrap()
}

fn a_hand_made_node_is_taken_over_with_no_connection_lost(variant: Variant) {
    let mut node = Node::made_by_hand(variant);
    let (foreign, tracked) = (node.bed.proxy().foreign_rules(variant), node.tracked());
    let (agent, _manifests) = node.take_over();
    assert!(tracked.len() >= 5 && node.tracked().is_superset(&tracked), "{tracked:?} {:?}", node.tracked());
    node.expect_service("agent beside the rules");
    assert_eq!(node.bed.proxy().foreign_rules(variant), foreign, "the agent leaves them alone");
    for rule in RULES {
        node.remove_rule(rule);
        node.expect_service(&format!("without {rule}"));
    }
    node.remove_route();
    node.expect_service("without the route");
    node.expect_only_ours(&agent);
    node.expect_service("ours alone");
    node.end();
}

/// The same without a check between the steps, and the route first.
fn connections_made_by_hand_made_rules_outlive_a_removal_of_all_of_them_at_once(variant: Variant) {
    let mut node = Node::made_by_hand(variant);
    let (agent, _manifests) = node.take_over();
    node.remove_route();
    for rule in RULES {
        node.remove_rule(rule);
    }
    node.expect_service("without rules and route");
    node.expect_only_ours(&agent);
    node.expect_service("ours alone");
    node.end();
}
