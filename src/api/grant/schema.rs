//! The parts of the schema of a grant that the Rust types cannot express: lengths, list types and numbers.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde_json::json;

use super::super::Protocol;
use super::super::schema::{self, NETWORK_MAX};
use super::rules;

/// A list of at least one address or network.
pub(super) fn networks(generator: &mut SchemaGenerator) -> Schema {
    let mut schema = optional_networks(generator);
    schema.insert("minItems".into(), json!(1));
    schema
}

/// A list of addresses and networks that may be empty.
pub(super) fn optional_networks(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "maxItems": 64,
        "x-kubernetes-list-type": "set",
        "items": {"type": "string", "minLength": 1, "maxLength": NETWORK_MAX, "x-kubernetes-validations": rules::bound()},
    })
}

pub(super) fn namespaces(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "minItems": 1,
        "maxItems": 64,
        "x-kubernetes-list-type": "set",
        "items": {"type": "string", "minLength": 1, "maxLength": 63, "x-kubernetes-validations": rules::namespace()},
    })
}

/// A protocol that may be absent.
pub(super) fn protocol(generator: &mut SchemaGenerator) -> Schema {
    Protocol::json_schema(generator)
}

/// A number of objects.
pub(super) fn limit(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "integer", "format": "int32", "minimum": 0, "maximum": i32::MAX})
}

pub(super) fn priority(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "integer", "format": "int32", "minimum": -1000, "maximum": 1000, "default": 0})
}

/// The conditions: only `Accepted`.
pub(super) fn conditions(generator: &mut SchemaGenerator) -> Schema {
    let mut list = schema::conditions(generator);
    list.insert("maxItems".into(), json!(1));
    if let Some(of) = list.get_mut("items").and_then(|items| items.pointer_mut("/properties/type")) {
        *of = json!({"description": "The type of the condition.", "type": "string", "enum": ["Accepted"]});
    }
    if let Some(items) = list.get_mut("items") {
        items["description"] = json!("One statement about the grant that is true, false or unknown.");
        items["properties"]["message"]["maxLength"] = json!(1024);
    }
    list
}
