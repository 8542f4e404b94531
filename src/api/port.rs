//! A transport port in the objects of the API.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// A transport port. The type can hold any integer, so that a refusal can name the wrong value and its field. Only 1 to 65535
/// are valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Port(pub i64);

/// The format is not `uint16`, because the API server warns about a format that it does not know.
impl JsonSchema for Port {
    fn schema_name() -> Cow<'static, str> {
        "Port".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "integer", "format": "int32", "minimum": 1, "maximum": 65535})
    }
}

impl From<u16> for Port {
    fn from(port: u16) -> Self {
        Self(port.into())
    }
}
