//! The spec of a `PortForward`, which users write.

#![allow(unreachable_pub, reason = "KubeSchema makes a copy of each type inside a function")]

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Port, PortForwardStatus, rules, schema};

/// What to forward, for which clients, and through which addresses of the proxy node.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "portforward.dev",
    version = "v1alpha1",
    kind = "PortForward",
    plural = "portforwards",
    shortname = "pf",
    namespaced,
    status = "PortForwardStatus",
    derive = "PartialEq",
    doc = "A PortForward lets the servers of a private network talk to a server outside through a proxy node that has a leg in each network. The agent on each proxy node keeps the NAT rules and the host routes that this needs."
)]
#[x_kube(validation = rules::something_to_do(), validation = rules::upstream_not_the_proxy(), validation = rules::client_not_the_proxy(), validation = rules::gateway_not_the_proxy(), validation = rules::gateway_not_captured(), validation = rules::internal_not_captured(), validation = rules::upstream_not_captured(), validation = rules::external_not_captured(), validation = rules::reverse_needs_external(), validation = rules::reverse_needs_one_client(), validation = rules::directions_apart())]
#[serde(rename_all = "camelCase")]
pub struct PortForwardSpec {
    /// A text for people that says what the forward is for, at most 256 characters. It has no effect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub description: Option<String>,

    /// Enabled: the forward is in force. Disabled: every node removes the forward and cuts its connections, but the object
    /// stays. Defaults to Enabled.
    #[serde(default)]
    pub mode: Mode,

    /// The labels of the nodes that may carry the forward. Of these nodes, only those take part that hold internal.addresses or
    /// have a link in its subnet. Absent or empty: every node with an agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::label_selector")]
    pub node_selector: Option<LabelSelector>,

    /// The clients that may use the forward. Packets from other addresses are not changed.
    pub client: Client,

    /// The leg that faces the client.
    pub internal: Internal,

    /// The leg that faces the upstream. Absent: flows get the address of the interface by which they leave as their source
    /// (MASQUERADE), and reverse is not possible.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub external: Option<External>,

    /// The server that the forward leads to.
    pub upstream: Upstream,

    /// The ports of the internal address that are forwarded, at most 64 entries. No two entries of one protocol may share a
    /// port. Absent or empty only with reverse: then only the upstream can open connections.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]), validation = rules::port_list(), validation = rules::port_names())]
    pub ports: Vec<PortEntry>,

    /// Connections that the upstream opens to external.addresses and that are forwarded to the client. Needs external.addresses
    /// and exactly one client that is an address, not a network. Absent: the upstream can answer, but cannot open connections.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reverse: Option<Reverse>,
}

/// Whether the forward is in force.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Mode {
    /// The forward is in force.
    #[default]
    Enabled,
    /// The forward is not in force, but the object stays.
    Disabled,
}

/// The clients that may use the forward.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Client {
    /// 1 to 64 IPv4 addresses (192.0.2.7) or networks (192.0.2.0/24, host bits zero, no /32). Overlapping entries are merged.
    #[schemars(schema_with = "schema::client_addresses")]
    pub addresses: Vec<String>,
}

/// The leg that faces the client.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Internal {
    /// The IPv4 address of the proxy node that the client connects to. Exactly one. The node that holds it is the active node.
    /// The address may move between nodes (keepalived, kube-vip).
    #[schemars(schema_with = "schema::exactly_one_address")]
    pub addresses: Vec<String>,

    /// The interface by which packets of the client must enter, for example eth1. Absent: any interface. The status says so if
    /// no packet of the client can enter there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::interface")]
    pub interface: Option<String>,

    /// The router to the clients. The proxy node gets a host route through it to each entry of client.addresses. At most one
    /// IPv4 address, on a link of the node. Absent: no routes are installed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::at_most_one_address")]
    pub gateways: Vec<String>,
}

/// The leg that faces the upstream.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct External {
    /// The IPv4 address of the proxy node that the upstream sees as the source (SNAT). At most one. Absent: the address of the
    /// interface by which the flow leaves (MASQUERADE). Such flows end when that link goes down, even for a moment.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::at_most_one_address")]
    pub addresses: Vec<String>,

    /// The interface by which flows must leave and by which flows of reverse must enter, for example eth0. Absent: the routes
    /// of the node decide. A flow that leaves by another interface is still translated, and the status says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::interface")]
    pub interface: Option<String>,
}

/// The server that the forward leads to.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Upstream {
    /// The server that connections go to. Exactly one.
    #[schemars(length(min = 1, max = 1))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub targets: Vec<Target>,
}

/// One server.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    /// The IPv4 address of the server. Not an address of the proxy itself.
    #[schemars(schema_with = "schema::address")]
    pub address: String,
}

/// One port, or one range of ports.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[schemars(extend("x-kubernetes-validations" = rules::port_entry()))]
#[serde(rename_all = "camelCase")]
pub struct PortEntry {
    /// The name of this entry, unique in its list: lower-case letters, digits and '-', 63 characters at most. Defaults to
    /// default, so the only entry of a list needs no name.
    #[serde(default = "unnamed")]
    #[schemars(schema_with = "schema::port_name")]
    pub name: String,

    /// TCP or UDP. Defaults to TCP.
    #[serde(default)]
    pub protocol: Protocol,

    /// The port that the proxy listens on, or the first port of a range, 1 to 65535.
    pub port: Port,

    /// The target port, or the first target port of a range, 1 to 65535. Absent: each port keeps its number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_port: Option<Port>,

    /// The last port of a range, inclusive. Not below port. Absent: one port only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end_port: Option<Port>,

    /// The last target port of a range. Required with endPort and targetPort. If there are as many target ports as ports, each
    /// port goes to the target port at the same position. If it equals targetPort, all ports go to this one port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_end_port: Option<Port>,
}

/// The name of an entry without a name.
fn unnamed() -> String {
    "default".to_owned()
}

/// A transport protocol.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum Protocol {
    /// TCP, RFC 9293.
    #[default]
    Tcp,
    /// UDP, RFC 768.
    Udp,
}

/// Connections that the upstream opens.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reverse {
    /// The ports of external.addresses that the upstream can connect to, 1 to 64 entries. They may include ports on which the
    /// proxy node itself listens: packets from the upstream to these ports then go to the client.
    #[schemars(length(min = 1, max = 64))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]), validation = rules::port_list(), validation = rules::port_names())]
    pub ports: Vec<PortEntry>,
}
