//! The parts of the schema that the Rust types cannot express: lengths, list types and formats.
//!
//! Every string has a maximum length and every list a maximum size, so that the API server can limit the cost of the rules.

use schemars::{Schema, SchemaGenerator, json_schema};
use serde_json::json;

use super::rules;

/// The maximum length of an IPv4 or IPv6 address as text (RFC 4291 section 2.2, with an embedded IPv4 address).
const ADDRESS_MAX: u32 = 45;

/// The maximum length of an IPv6 network in CIDR notation.
pub(super) const NETWORK_MAX: u32 = 49;

pub(super) fn address(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "minLength": 1, "maxLength": ADDRESS_MAX, "x-kubernetes-validations": rules::address()})
}

pub(super) fn client_addresses(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "minItems": 1,
        "maxItems": 64,
        "x-kubernetes-list-type": "set",
        "items": {"type": "string", "minLength": 1, "maxLength": NETWORK_MAX, "x-kubernetes-validations": rules::client()},
    })
}

pub(super) fn exactly_one_address(generator: &mut SchemaGenerator) -> Schema {
    let mut schema = at_most_one_address(generator);
    schema.insert("minItems".into(), json!(1));
    schema
}

pub(super) fn at_most_one_address(generator: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "array", "maxItems": 1, "x-kubernetes-list-type": "set", "items": address(generator)})
}

pub(super) fn interface(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "minLength": 1, "maxLength": 15, "x-kubernetes-validations": rules::interface()})
}

/// The name of a port: an RFC 1123 label.
pub(super) fn port_name(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "string", "minLength": 1, "maxLength": 63, "pattern": "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", "default": "default",
    })
}

/// The name of a node: an RFC 1123 subdomain.
pub(super) fn node_name(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "minLength": 1, "maxLength": 253})
}

pub(super) fn generation(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "integer", "format": "int64", "minimum": 0})
}

pub(super) fn summary_generation(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "integer", "format": "int64", "minimum": -1, "default": -1})
}

/// The types of conditions that the agents write. An agent that writes a further type needs the newer CRD first.
const CONDITION_TYPES: [&str; 4] = ["Accepted", "Programmed", "Ready", "Stalled"];

/// A list of `metav1.Condition`, with narrower limits than its documentation states: only the types that an agent writes, and
/// texts of at most 1,024 characters. A free list would have room for types that no agent removes, and for megabytes.
pub(super) fn conditions(generator: &mut SchemaGenerator) -> Schema {
    let mut generation = generation(generator);
    generation.insert("description".into(), "The generation of the spec that this condition is about.".into());
    json_schema!({
        "type": "array",
        "maxItems": CONDITION_TYPES.len(),
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["type"],
        "items": {
            "description": "One statement about the forward that is true, false or unknown.",
            "type": "object",
            "required": ["lastTransitionTime", "message", "reason", "status", "type"],
            "properties": {
                "type": {"description": "The type of the condition.", "type": "string", "enum": CONDITION_TYPES},
                "status": {"description": "True, False or Unknown.", "type": "string", "enum": ["True", "False", "Unknown"]},
                "reason": {
                    "description": "The reason, as one word from a closed list.",
                    "type": "string", "minLength": 1, "maxLength": 64, "pattern": "^[A-Z][A-Za-z]*$",
                },
                "message": {"description": "The reason as a text for people, and what to do next.", "type": "string", "maxLength": 1024},
                // RFC 3339 allows any number of digits in a fraction of a second.
                "lastTransitionTime": {
                    "description": "The time of the last change of status.", "type": "string", "format": "date-time", "maxLength": 35,
                },
                "observedGeneration": generation,
            },
        },
    })
}

/// The conditions of the summary: `Unknown` until an agent has seen the object, so that it does not count as healthy.
pub(super) fn summary_conditions(generator: &mut SchemaGenerator) -> Schema {
    let unseen = |kind| {
        json!({
            "type": kind, "status": "Unknown", "reason": "Pending",
            "message": "No agent has looked at this object yet.", "lastTransitionTime": "1970-01-01T00:00:00Z",
        })
    };
    let mut schema = conditions(generator);
    schema.insert("default".into(), json!([unseen("Accepted"), unseen("Programmed"), unseen("Ready")]));
    schema
}

/// `metav1.LabelSelector`, with limits.
pub(super) fn label_selector(_: &mut SchemaGenerator) -> Schema {
    let value = json!({"type": "string", "maxLength": 63, "pattern": "^(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?$"});
    json_schema!({
        "type": "object",
        "x-kubernetes-map-type": "atomic",
        "properties": {
            "matchLabels": {
                "description": "The node must carry each of these labels with this value.",
                "type": "object", "maxProperties": 32, "additionalProperties": value,
                "x-kubernetes-validations": rules::label_keys(),
            },
            "matchExpressions": {
                "description": "The node must satisfy each of these requirements.",
                "type": "array", "maxItems": 32, "x-kubernetes-list-type": "atomic",
                "items": {
                    "type": "object",
                    "required": ["key", "operator"],
                    "x-kubernetes-validations": rules::requirement(),
                    "properties": {
                        "key": {
                            "description": "The label.", "type": "string", "minLength": 1, "maxLength": 317,
                            "pattern": r"^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]$",
                        },
                        "operator": {
                            "description": "How the label is compared: In and NotIn need values, Exists and DoesNotExist have none.",
                            "type": "string", "enum": ["In", "NotIn", "Exists", "DoesNotExist"],
                        },
                        "values": {
                            "description": "The values that the label is compared with: 1 to 32 for In and NotIn, none for Exists and DoesNotExist.",
                            "type": "array", "maxItems": 32, "x-kubernetes-list-type": "atomic", "items": value,
                        },
                    },
                },
            },
        },
    })
}
