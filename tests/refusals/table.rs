//! The table of bad and good input, and the result of the agent's own types for an object. Also used by `tests/schema.rs`.

use std::collections::BTreeMap;

use portforward_operator::api;
use portforward_operator::forward::{Forward, Refusal, Refusals};
use serde::Deserialize;
use serde_json::Value;

/// One row.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Row {
    /// What the row tries.
    pub(crate) claim: String,
    /// The changes of the base, by JSON pointer.
    #[serde(default)]
    pub(crate) set: BTreeMap<String, Value>,
    /// The reason with which the agent's own types refuse it; `None` if they accept it.
    pub(crate) reason: Option<String>,
    /// The part that refuses it at `kubectl apply`; `None` if it is accepted.
    pub(crate) by: Option<By>,
}

/// The part that refuses an object at `kubectl apply`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum By {
    /// The schema, with a message of the API server.
    Schema,
    /// A rule, with a message of ours.
    Rule,
    /// Neither: the API server does not check it, or the object alone does not show it.
    Nobody,
}

/// Every row of `table.yaml`.
pub(crate) fn rows() -> Vec<Row> {
    serde_saphyr::from_str(include_str!("table.yaml")).unwrap()
}

/// The object that every row changes.
pub(crate) fn base() -> Value {
    serde_saphyr::from_str(include_str!("base.yaml")).unwrap()
}

/// The base with these changes.
pub(crate) fn changed(set: &BTreeMap<String, Value>) -> Value {
    with(base(), set)
}

/// `object` with these changes.
pub(crate) fn with(mut object: Value, set: &BTreeMap<String, Value>) -> Value {
    for (pointer, value) in set {
        let (parent, last) = pointer.rsplit_once('/').unwrap();
        match object.pointer_mut(parent).unwrap_or_else(|| panic!("{pointer} leads nowhere")) {
            Value::Object(fields) if value.is_null() => drop(fields.remove(last)),
            Value::Object(fields) => drop(fields.insert(last.to_owned(), value.clone())),
            Value::Array(items) if last == "-" => items.push(value.clone()),
            Value::Array(items) => items[last.parse::<usize>().unwrap()] = value.clone(),
            other => panic!("{pointer}: {other} has no parts"),
        }
    }
    object
}

/// The result of the agent's own types.
pub(crate) fn own(object: &Value) -> Result<Forward, Refusal> {
    let decoded = api::decode(object.clone()).map_err(Refusals::from);
    decoded.and_then(|object| Forward::parse(&object)).map_err(|refusals| refusals.summary())
}
