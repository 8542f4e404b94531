//! The status of a `PortForward`: what is true of it, as the agents see it.

#![allow(unreachable_pub, reason = "KubeSchema makes a copy of each type inside a function")]

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::schema;

/// What is true of the forward. Written by the agents, never by users.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PortForwardStatus {
    /// The generation of the spec that the active node has dealt with; -1 until an agent has seen the object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::summary_generation")]
    pub observed_generation: Option<i64>,

    /// Accepted: the spec is usable and conflicts with no older forward. Programmed: the kernel of the active
    /// node, read back, holds what the spec asks for. Ready: besides, nothing that the agents know of stops
    /// the traffic. Stalled, only where True: no retry can heal it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::summary_conditions")]
    pub conditions: Vec<Condition>,

    /// The node that holds the internal address. Absent unless exactly one live node does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::node_name")]
    pub active_node: Option<String>,

    /// The ports of spec.ports in short, for kubectl get: protocol, port or range, and how many entries more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub ports: Option<String>,

    /// The ports of spec.reverse.ports in short. Absent without reverse.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub reverse: Option<String>,

    /// What each node says of itself, at most 32 of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["nodeName".into()]))]
    pub nodes: Vec<NodeStatus>,
}

/// What one node says of the forward.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeStatus {
    /// The name of the node.
    #[schemars(schema_with = "schema::node_name")]
    pub node_name: String,

    /// Active: the node holds the internal address. Standby: it holds the rules ready in case the address
    /// moves to it.
    pub role: Role,

    /// The generation of the spec that this node has dealt with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::generation")]
    pub observed_generation: Option<i64>,

    /// The same conditions as in the summary, as they hold on this node.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::conditions")]
    pub conditions: Vec<Condition>,
}

/// What a node is to a forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum Role {
    /// Holds the internal address.
    Active,
    /// Holds the rules ready in case the address moves to it.
    Standby,
}
