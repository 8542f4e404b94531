//! The spec of a `PortForwardGrant`, which the administrators of the proxy nodes write.

#![allow(unreachable_pub, reason = "KubeSchema makes a copy of each type inside a function")]

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use super::super::schema::label_selector;
use super::super::{Port, Protocol};
use super::{PortForwardGrantStatus, rules, schema};

/// What the forwards of some namespaces may ask for. A forward is granted if everything that it asks for lies inside one grant
/// that names its namespace.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "portforward.dev",
    version = "v1alpha1",
    kind = "PortForwardGrant",
    plural = "portforwardgrants",
    shortname = "pfg",
    status = "PortForwardGrantStatus",
    derive = "PartialEq",
    doc = "A PortForwardGrant says what the PortForwards of some namespaces may ask for. The administrators of the proxy nodes write it. If the agents run with --require-grants, they carry only forwards that lie inside one grant."
)]
#[x_kube(validation = rules::reverse_needs_external())]
#[serde(rename_all = "camelCase")]
pub struct PortForwardGrantSpec {
    /// A text for people that says what the grant is for, at most 256 characters. It has no effect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub description: Option<String>,

    /// The namespaces whose forwards may use the grant, by name, 1 to 64.
    #[schemars(schema_with = "schema::namespaces")]
    pub namespaces: Vec<String>,

    /// The labels of the nodes on which the grant holds. Absent or empty: every node with an agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "label_selector")]
    pub node_selector: Option<LabelSelector>,

    /// The internal addresses and ports on which a forward may listen, 1 to 64 entries.
    #[schemars(length(min = 1, max = 64))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub listen: Vec<Sockets>,

    /// The clients that a forward may name: 1 to 64 IPv4 addresses or networks. The clients of a forward must lie inside them.
    #[schemars(schema_with = "schema::networks")]
    pub clients: Vec<String>,

    /// The upstream addresses and target ports that a forward may lead to, 1 to 64 entries.
    #[schemars(length(min = 1, max = 64))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub upstreams: Vec<Sockets>,

    /// The external addresses that a forward may name: at most 64 IPv4 addresses or networks. Absent or empty: none, so the
    /// forwards use masquerade, which names no address and needs no permission.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::optional_networks")]
    pub external: Vec<String>,

    /// The gateways that a forward may name, and the clients to which it may install routes through each, at most 64 entries.
    /// Absent or empty: the forwards install no routes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["address".into()]))]
    pub gateways: Vec<Gateway>,

    /// The ports of the external address on which a forward may take connections of its upstream (spec.reverse of the
    /// forward), at most 64 entries. Absent or empty: no forward may have reverse. Needs external.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub reverse: Vec<Ports>,

    /// Whether a forward may have one leg: the same address in internal.addresses and external.addresses, or the same interface
    /// in both. Defaults to false.
    #[serde(default)]
    pub one_leg: bool,

    /// How much the forwards that use this grant may ask for together on each node. Absent: no limit by this grant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<Limits>,

    /// Decides conflicts between forwards: the one whose grant has the higher priority wins, and if both are equal, the older
    /// one. -1000 to 1000, defaults to 0.
    #[serde(default)]
    #[schemars(schema_with = "schema::priority")]
    pub priority: i64,
}

/// Addresses with a protocol and ports.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[schemars(extend("x-kubernetes-validations" = rules::ports()))]
#[serde(rename_all = "camelCase")]
pub struct Sockets {
    /// 1 to 64 IPv4 addresses (192.0.2.7) or networks (192.0.2.0/24, host bits zero, no /32). 0.0.0.0/0: every address.
    #[schemars(schema_with = "schema::networks")]
    pub cidrs: Vec<String>,

    /// TCP or UDP. Absent: every protocol.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::protocol")]
    pub protocol: Option<Protocol>,

    /// The only port, or the first port of a range, 1 to 65535. Absent: every port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<Port>,

    /// The last port of a range, inclusive. Not below port. Absent: one port only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end_port: Option<Port>,
}

/// A gateway, and the clients to which routes may lead through it.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gateway {
    /// The IPv4 address of the router, as the forwards write it in internal.gateways.
    #[schemars(schema_with = "super::super::schema::address")]
    pub address: String,

    /// The clients to which routes may lead through this gateway: 1 to 64 IPv4 addresses or networks.
    #[schemars(schema_with = "schema::networks")]
    pub routes: Vec<String>,
}

/// A protocol and ports.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[schemars(extend("x-kubernetes-validations" = rules::ports()))]
#[serde(rename_all = "camelCase")]
pub struct Ports {
    /// TCP or UDP. Absent: every protocol.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::protocol")]
    pub protocol: Option<Protocol>,

    /// The only port, or the first port of a range, 1 to 65535. Absent: every port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<Port>,

    /// The last port of a range, inclusive. Not below port. Absent: one port only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end_port: Option<Port>,
}

/// How much the forwards that use a grant may ask for together on each node.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// The number of forwards. Absent: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::limit")]
    pub forwards: Option<i64>,

    /// The number of translations: client entries times port entries, and the entries of reverse. Absent: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::limit")]
    pub translations: Option<i64>,

    /// The number of host routes: the client entries of forwards with a gateway. Absent: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::limit")]
    pub routes: Option<i64>,
}
