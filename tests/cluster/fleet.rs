//! A bed whose proxies are nodes of a cluster: an API server, an agent on each node with the access rules and the policy of
//! `deploy/base`, and the servers that receive the traffic.

use std::net::Ipv4Addr;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::json;

use crate::bed::agent::{Agent, AgentOptions};
use crate::bed::client::{ANSWER, Silence, tcp_ask};
use crate::bed::kernel::Variant;
use crate::bed::observe::{Observation, answered};
use crate::bed::server::Server;
use crate::bed::wait::eventually;
use crate::bed::{Bed, CLIENT, EXTERNAL, INTERNAL, Proxy, SECOND_SERVER, SERVER, Topology};
use crate::plane::access::{AGENT_USER, Kubeconfig};
use crate::plane::audit::AuditEvent;
use crate::plane::objects::PATIENCE;
use crate::plane::{Plane, Resource};

/// The namespace of most forwards.
pub(crate) const LINES: &str = "lines";
/// The seed's forward.
pub(crate) const WEB: &str = "lines/web";
/// The answer of a port without a listener.
pub(crate) const REFUSED: Observation = Observation::Silent(Silence::Refused);

/// A running cluster. Its agents end before the hosts.
pub(crate) struct Fleet {
    agents: Vec<Option<Agent>>,
    /// One for each node.
    pub(crate) kubeconfigs: Vec<Kubeconfig>,
    pub(crate) plane: Plane,
    _servers: [Server; 2],
    pub(crate) bed: Bed,
}

impl Fleet {
    /// This number of nodes `px0`, `px1`, ... with an agent each. The first node holds the addresses.
    pub(crate) fn new(nodes: u8) -> Self {
        let mut fleet = Self::without_agents(nodes);
        (0..nodes.into()).for_each(|node| fleet.start(node));
        fleet
    }

    /// The same without running agents.
    pub(crate) fn without_agents(nodes: u8) -> Self {
        let bed = bed(nodes);
        let plane = Plane::new(&bed);
        Self::on(bed, plane)
    }

    /// A fleet on an existing bed and API server, which has the service account of the agents.
    pub(crate) fn on(bed: Bed, plane: Plane) -> Self {
        // The route to the client, so that a proxy without a forward refuses it at once.
        let ports = [80, 81, 82];
        let servers = [Server::tcp(&bed.server, SERVER, ports), Server::tcp(&bed.server, SECOND_SERVER, ports)];
        plane.add_namespace(LINES);
        for node in 0..bed.proxies.len() {
            plane.add_node(&name(node), &json!({"kubernetes.io/hostname": name(node)}));
        }
        let agents = bed.proxies.iter().map(|_| None).collect();
        let kubeconfigs = (0..bed.proxies.len()).map(|node| plane.agent_kubeconfig(&name(node))).collect();
        Self { agents, kubeconfigs, plane, _servers: servers, bed }
    }

    /// Starts the agent of a node.
    pub(crate) fn start(&mut self, node: usize) {
        self.start_with(node, &[]);
    }

    /// The same with additional options.
    pub(crate) fn start_with(&mut self, node: usize, extra: &[&str]) {
        let extra = extra.iter().map(|&option| option.to_owned()).collect();
        let options = AgentOptions { node_name: name(node), extra, ..AgentOptions::new(Variant::Nft) };
        let before = self.agents[node].replace(Agent::join(&self.bed.proxies[node], &self.kubeconfigs[node].path, &options));
        assert!(before.is_none(), "{} had an agent", name(node));
    }

    /// Kills the agent of a node with SIGKILL.
    pub(crate) fn kill(&mut self, node: usize) {
        self.agents[node].take().expect("the agent runs").kill();
    }

    /// The agent of a node.
    pub(crate) fn agent(&self, node: usize) -> &Agent {
        self.agents[node].as_ref().expect("the agent runs")
    }

    /// A node.
    pub(crate) fn proxy(&self, node: usize) -> &Proxy {
        &self.bed.proxies[node]
    }

    /// Applies a forward, `namespace/name`, with the content of its spec in YAML flow style.
    pub(crate) fn apply(&self, key: &str, spec: &str) {
        self.plane.apply(&manifest(key, spec));
    }

    /// The same for a forward that must be younger than all existing ones. Creation times have whole seconds (metav1), so it is
    /// created in the next second.
    pub(crate) fn apply_younger(&self, key: &str, spec: &str) {
        let second = || SystemTime::now().duration_since(UNIX_EPOCH).expect("it is after 1970").as_secs();
        let now = second();
        assert!(eventually(PATIENCE, || second() > now), "the clock stands still");
        let created = |forward: &serde_json::Value| forward["metadata"]["creationTimestamp"].as_str().map(str::to_owned);
        let newest = self.plane.list(Resource::Forwards).iter().filter_map(created).max();
        self.apply(key, spec);
        let own = self.plane.forward(key).as_ref().and_then(created);
        assert!(own > newest, "{key} is of {own:?}, and another forward of {newest:?}");
    }

    /// The result of a request of the client to a port of the internal address.
    pub(crate) fn ask(&self, port: u16) -> Observation {
        tcp_ask(&self.bed.client, CLIENT, (INTERNAL, port), ANSWER).into()
    }

    /// Asserts that the client reaches a server through a port, and that the server sees the external address.
    #[track_caller]
    pub(crate) fn reaches(&self, port: u16, server: Ipv4Addr, server_port: u16) {
        assert_eq!(self.ask(port), answered((server, server_port), EXTERNAL));
    }

    /// Waits until the client gets this result at a port. Panics with the last result otherwise.
    #[track_caller]
    pub(crate) fn wait_ask(&self, port: u16, wanted: Observation) {
        let mut met = None;
        let came = eventually(PATIENCE, || met.insert(self.ask(port)) == &wanted);
        assert!(came, "port {port}: {met:?} instead of {wanted:?}");
    }

    /// Waits until the client reaches a server through a port.
    #[track_caller]
    pub(crate) fn wait_reaches(&self, port: u16, server: Ipv4Addr, server_port: u16) {
        self.wait_ask(port, answered((server, server_port), EXTERNAL));
    }

    /// Removes everything of ours from the kernel of a node, as another program or a reboot does. A running agent may already
    /// have restored it.
    pub(crate) fn flush(&self, node: usize) {
        let proxy = self.proxy(node);
        proxy.iptables(Variant::Nft, "-t nat -F");
        proxy.iptables(Variant::Nft, "-t filter -F");
    }

    /// The same on a node with a running agent. Waits until the agent has restored everything.
    #[track_caller]
    pub(crate) fn flush_and_wait_repaired(&self, node: usize) {
        // In the middle of its own writing it does not tell the damage from what it has not written yet.
        let writes = || ["repaired", "kernel state updated"].map(|words| self.agent(node).log().matches(words).count());
        let before = writes();
        self.flush(node);
        assert!(eventually(PATIENCE, || writes() != before), "nothing was written on {}", name(node));
        self.wait_holds(node, "DNAT", true);
    }

    /// Whether one of our rules in a node's kernel contains this text.
    pub(crate) fn holds(&self, node: usize, text: &str) -> bool {
        self.proxy(node).our_rules(Variant::Nft).iter().any(|rule| rule.contains(text))
    }

    /// Waits until a rule contains this text, or no longer does.
    #[track_caller]
    pub(crate) fn wait_holds(&self, node: usize, text: &str, wanted: bool) {
        let came = eventually(PATIENCE, || self.holds(node, text) == wanted);
        assert!(came, "{text} in {:#?}", self.proxy(node).our_rules(Variant::Nft));
    }

    /// Waits for the conditions of the summary and for its active node.
    #[track_caller]
    pub(crate) fn wait_active(&self, key: &str, node: Option<usize>) {
        let wanted = node.map(name);
        self.plane.wait(Resource::Forwards, key, &format!("never was active on {wanted:?}"), |forward| {
            forward["status"]["activeNode"].as_str() == wanted.as_deref()
        });
    }

    /// Every entry of a forward's status: the node, its role and the reason of `Ready`.
    pub(crate) fn entries(&self, key: &str) -> Vec<String> {
        let forward = self.plane.forward(key).unwrap_or_default();
        let entry = |entry: &serde_json::Value| {
            let ready = entry["conditions"].as_array().into_iter().flatten().find(|one| one["type"] == "Ready").cloned();
            let text = |value: &serde_json::Value| value.as_str().unwrap_or("?").to_owned();
            format!("{} {} {}", text(&entry["nodeName"]), text(&entry["role"]), text(&ready.unwrap_or_default()["reason"]))
        };
        let mut entries: Vec<String> = forward["status"]["nodes"].as_array().into_iter().flatten().map(entry).collect();
        entries.sort();
        entries
    }

    /// Waits for exactly these entries.
    #[track_caller]
    pub(crate) fn wait_entries(&self, key: &str, wanted: &[&str]) {
        let came = eventually(PATIENCE, || self.entries(key) == wanted);
        assert!(came, "{key}: {:?} instead of {wanted:?}", self.entries(key));
    }

    /// The calls of all agents after the first `from` calls.
    pub(crate) fn calls(&self, from: usize) -> Vec<AuditEvent> {
        self.plane.audit_of(AGENT_USER, from)
    }

    /// The events about a forward: the reason, the count, and the note.
    pub(crate) fn events(&self, key: &str) -> Vec<(String, u64, String)> {
        let about = |event: &&serde_json::Value| {
            let part = |field: &str| event["regarding"][field].as_str().unwrap_or_default();
            format!("{}/{}", part("namespace"), part("name")) == key
        };
        let events = self.plane.list(Resource::Events);
        let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
        let told = events
            .iter()
            .filter(about)
            .map(|event| (text(&event["reason"]), event["series"]["count"].as_u64().unwrap_or(1), text(&event["note"])));
        told.collect()
    }
}

impl Fleet {
    /// Waits for this number of events about a forward. An agent writes events after the status that they are about.
    #[track_caller]
    pub(crate) fn wait_events(&self, key: &str, count: usize) {
        let came = eventually(PATIENCE, || self.events(key).len() == count);
        assert!(came, "{key}: {:#?} instead of {count} events", self.events(key));
    }
}

/// The hosts of a fleet with this number of nodes. Each node has a route to the client through the gateway, also without a
/// forward, so that it refuses at once what it does not forward.
pub(crate) fn bed(nodes: u8) -> Bed {
    let bed = Bed::with(&Topology { proxies: nodes, ..Topology::default() });
    for proxy in &bed.proxies {
        proxy.netns.ip(&format!("route add 1.1.1.0/24 via {} dev eth1", crate::bed::GATEWAY));
    }
    bed
}

/// The name of a node by its index.
pub(crate) fn name(node: usize) -> String {
    format!("px{node}")
}

/// The manifest of a forward, `namespace/name`, with the content of its spec in YAML flow style.
pub(crate) fn manifest(key: &str, spec: &str) -> String {
    let (namespace, name) = key.split_once('/').expect("a key is namespace/name");
    format!(
        "---\napiVersion: portforward.dev/v1alpha1\nkind: PortForward\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec: {{{spec}}}\n"
    )
}

/// The seed's forward on another port, to another server.
pub(crate) fn spec(port: u16, server: Ipv4Addr, server_port: u16) -> String {
    format!(
        "client: {{addresses: [{CLIENT}]}}, internal: {{addresses: [{INTERNAL}], interface: eth1, gateways: [192.168.0.1]}}, \
         external: {{addresses: [{EXTERNAL}], interface: eth0}}, upstream: {{targets: [{{address: {server}}}]}}, \
         ports: [{{name: web, port: {port}, targetPort: {server_port}}}]"
    )
}

/// The seed's forward.
pub(crate) fn web() -> String {
    spec(80, SERVER, 80)
}
