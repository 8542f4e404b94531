//! The hosts and the API server of one measurement.
//!
//! ```text
//!                          ┌── px0: the agent ────────────┐
//! client ───── gateway ────┼── px1: kube-proxy, nftables ─┼── router ──── server
//! 10.0.0.0/8               └── px2: kube-proxy, iptables ─┘               3.4.0.0/15, 3.5.0.0/16
//! ```

use std::path::PathBuf;

use serde_json::json;

use crate::api::{Api, Kind, NAMESPACE};
use crate::bed::agent::{Agent, AgentOptions};
use crate::bed::kernel::Variant;
use crate::bed::{Bed, GATEWAY, INTERNAL, SERVER, Topology};
use crate::objects;
use crate::plane::access::{ADMIN, Kubeconfig};
use crate::plane::http::Request;
use crate::plane::{Plane, proxy_address};
use crate::shared::progress;
use crate::shared::shapes::{Forward, Shape, listen_addresses};
use crate::sink::Sink;

/// The node with the agent.
pub(crate) const AGENT_NODE: usize = 0;
/// The number of nodes.
const NODES: u8 = 3;

/// The hosts, the API server, and the server that receives the connections.
pub(crate) struct Field {
    /// The server of all upstreams.
    pub(crate) sink: Sink,
    agent: Kubeconfig,
    /// The API server.
    pub(crate) plane: Plane,
    /// The hosts.
    pub(crate) bed: Bed,
}

impl Field {
    /// A field whose agent node has the listen addresses of this shape.
    pub(crate) fn new(shape: Shape) -> Self {
        let bed = Bed::with(&Topology {
            proxies: NODES,
            client_networks: vec!["10.0.0.0/8".parse().expect("it is a network")],
            ..Topology::default()
        });
        address(&bed, shape);
        let plane = Plane::with(Some(&bed), &[&format!("--service-cluster-ip-range={}", objects::SERVICE_NETWORK)]);
        plane.install();
        plane.add_namespace(NAMESPACE);
        for index in 0..usize::from(NODES) {
            let name = node(index);
            plane.add_node(&name, &json!({"kubernetes.io/hostname": name}));
            let addresses = json!([{"type": "InternalIP", "address": proxy_address(index)}]);
            plane.must(&Request::merge(format!("/api/v1/nodes/{name}/status"), json!({"status": {"addresses": addresses}})));
        }
        let agent = plane.agent_kubeconfig(&node(AGENT_NODE));
        Self { sink: Sink::new(&bed.server), agent, plane, bed }
    }

    /// A client of the API server for the thread that calls this, which must run in the namespace of the API server.
    pub(crate) fn api(&self) -> Api {
        Api::new(&self.admin())
    }

    /// Runs `task` in the namespace of the API server.
    pub(crate) fn beside_api<T: Send>(&self, task: impl FnOnce(&Api) -> T + Send) -> T {
        self.plane.netns().run(|| task(&self.api()))
    }

    /// Creates the forwards.
    pub(crate) fn create_forwards(api: &Api, forwards: &[Forward]) {
        progress(&format!("creating {} forwards", forwards.len()));
        api.create(Kind::Forward, forwards.iter().enumerate().map(|(index, each)| objects::forward(index, each)).collect());
    }

    /// Creates a Service for each forward.
    pub(crate) fn create_services(api: &Api, forwards: &[Forward]) {
        progress(&format!("creating {} Services", forwards.len()));
        api.create(Kind::Service, (0..forwards.len()).map(objects::service).collect());
        api.create(Kind::Slice, forwards.iter().enumerate().map(|(index, each)| objects::slice(index, each)).collect());
    }

    /// Starts the agent.
    pub(crate) fn start_agent(&self, variant: Variant) -> Agent {
        // One more forward than the default limit for a namespace is changed under load.
        let mut extra = vec!["--max-translations=20000".to_owned()];
        if variant == Variant::Nftables {
            // So that its rules can be removed.
            extra.push("--nftables-table=open".to_owned());
        }
        let options = AgentOptions { node_name: node(AGENT_NODE), extra, ..AgentOptions::new(variant) };
        Agent::join(&self.bed.proxies[AGENT_NODE], &self.agent.path, &options)
    }

    /// Leads the packets to Services through this node.
    pub(crate) fn lead_services_through(&self, index: usize) {
        let through = if index == AGENT_NODE { INTERNAL } else { own_address(index) };
        self.bed.gateway.ip(&format!("route replace {} via {through} dev line", objects::SERVICE_NETWORK));
    }

    fn admin(&self) -> PathBuf {
        self.plane.kubeconfig("bench", ADMIN).path
    }
}

/// The name of a node.
pub(crate) fn node(index: usize) -> String {
    format!("px{index}")
}

/// The address that only this node has on the leased line.
fn own_address(index: usize) -> std::net::Ipv4Addr {
    std::net::Ipv4Addr::new(192, 168, 0, 21 + u8::try_from(index).expect("there are few nodes"))
}

fn address(bed: &Bed, shape: Shape) {
    // It has one of the listen addresses.
    bed.neighbour.ip("addr flush dev eth0");
    for proxy in &bed.proxies {
        proxy.netns.ip_batch(["1.1.1.0/24", "10.0.0.0/8"].map(|to| format!("route add {to} via {GATEWAY} dev eth1")));
    }
    for proxy in &bed.proxies {
        // A port of the prober is used again after 50 s. Then nothing may be left of its last connection.
        for state in ["syn_sent", "close"] {
            proxy.netns.set(&format!("netfilter/nf_conntrack_tcp_timeout_{state}"), "5");
        }
    }
    // The load of a rule for UDP takes time in proportion to the number of addresses of the node, so they are added only if
    // they are needed.
    let count = if shape == Shape::Scattered { usize::MAX } else { 7 };
    let listen = listen_addresses().take(count).map(|address| format!("addr add {address}/16 dev eth1 noprefixroute"));
    let external = (3..6).map(|last| format!("addr add 2.2.2.{last}/24 dev eth0"));
    bed.proxies[AGENT_NODE].netns.ip_batch(listen.chain(external));
    bed.gateway.ip(&format!("route add 192.168.0.0/16 via {INTERNAL} dev line"));
    bed.router.ip_batch(["3.4.0.0/15", "3.5.0.0/16"].map(|network| format!("route add {network} via {SERVER} dev srv")));
    bed.server.ip_batch(["3.4.0.0/15", "3.5.0.0/16"].map(|network| format!("route add local {network} dev lo")));
}
