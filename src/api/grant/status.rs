//! The status of a `PortForwardGrant`, which the agents write.

#![allow(unreachable_pub, reason = "KubeSchema makes a copy of each type inside a function")]

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use super::schema;

/// What the grant does. Written by the agents, never by users.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PortForwardGrantStatus {
    /// The generation of the spec that an agent has processed. Absent until an agent has seen the object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "super::super::schema::generation")]
    pub observed_generation: Option<i64>,

    /// Accepted: the agents can use the grant. If it is False, the message says what to correct, and what the grant permits until
    /// then.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::conditions")]
    pub conditions: Vec<Condition>,

    /// The number of forwards in the namespaces of the grant that lie inside this grant, on whatever node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::limit")]
    pub forwards: Option<i64>,

    /// The number of forwards in the namespaces of the grant that lie inside no grant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::limit")]
    pub refused: Option<i64>,

    /// Forwards in the namespaces of the grant that lie inside no grant: the first 16, by namespace and name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub refusals: Vec<RefusedForward>,
}

/// A forward that lies inside no grant.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RefusedForward {
    /// The namespace of the forward.
    #[schemars(length(min = 1, max = 63))]
    pub namespace: String,

    /// The name of the forward.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,

    /// The field of the forward that lies outside, and what to do.
    #[schemars(length(max = 1024))]
    pub message: String,
}
