//! The status of a `PortForward`, which the agents write.

#![allow(unreachable_pub, reason = "KubeSchema makes a copy of each type inside a function")]

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::schema;

/// The state of the forward. Written by the agents, never by users.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PortForwardStatus {
    /// The generation of the spec that the active node has processed; -1 until an agent has seen the object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::summary_generation")]
    pub observed_generation: Option<i64>,

    /// Accepted: the spec is usable and does not conflict with an older forward. Programmed: the kernel of the active node
    /// holds what the spec asks for, as read back by the agent. Ready: in addition, the agents know of nothing that stops the
    /// traffic. Stalled, present only if True: no retry can solve the problem.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::summary_conditions")]
    pub conditions: Vec<Condition>,

    /// The node that holds the internal address. Absent unless exactly one live node holds it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::node_name")]
    pub active_node: Option<String>,

    /// A short form of spec.ports for kubectl get: protocol, port or range, and the number of further entries.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub ports: Option<String>,

    /// A short form of spec.reverse.ports. Absent without reverse.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub reverse: Option<String>,

    /// The state on each node, at most 32 entries.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["nodeName".into()]))]
    pub nodes: Vec<NodeStatus>,
}

/// The state of the forward on one node.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeStatus {
    /// The name of the node.
    #[schemars(schema_with = "schema::node_name")]
    pub node_name: String,

    /// Active: the node holds the internal address. Standby: the node has the rules ready in case the address moves to it.
    pub role: Role,

    /// The generation of the spec that this node has processed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::generation")]
    pub observed_generation: Option<i64>,

    /// The same conditions as in the summary, for this node.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::conditions")]
    pub conditions: Vec<Condition>,
}

/// The role of a node for a forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum Role {
    /// The node holds the internal address.
    Active,
    /// The node has the rules ready in case the address moves to it.
    Standby,
}
