//! Tests bad input: the agent's own types refuse every row of `table.yaml` with the named reason, and so does `kubectl apply`,
//! if the object alone shows the mistake. The two never disagree.

mod any;
mod random;
mod schema;
mod table;

use std::collections::BTreeMap;
use std::sync::LazyLock;

use kube::core::cel::{CompiledSchema, ErrorKind, Validator, apply_defaults, compile_schema};
use portforward_operator::api;
use serde_json::Value;
use table::{By, changed, own, rows};

static SCHEMA: LazyLock<Value> = LazyLock::new(|| {
    let definition: Value = serde_saphyr::from_str(&api::crd_yaml()).unwrap();
    let mut schema = definition.pointer("/spec/versions/0/schema/openAPIV3Schema").unwrap().clone();
    api_server_fields(&mut schema);
    schema
});
static RULES: LazyLock<CompiledSchema> = LazyLock::new(|| compile_schema(&SCHEMA));

/// The fields that the API server adds to every schema.
fn api_server_fields(schema: &mut Value) {
    for field in ["apiVersion", "kind"] {
        schema["properties"][field] = serde_json::json!({"type": "string"});
    }
    schema["properties"]["metadata"] = serde_json::json!({
        "type": "object", "properties": {"annotations": {"type": "object", "additionalProperties": {"type": "string"}}},
        "additionalProperties": {"type": "string"},
    });
}

/// The answer of the API server: the errors of the schema, otherwise the messages of the rules.
fn apply(object: &Value) -> Result<(), (By, Vec<String>)> {
    let object = &apply_defaults(&SCHEMA, object);
    let complaints = schema::complaints(&SCHEMA, object, "");
    if !complaints.is_empty() {
        return Err((By::Schema, complaints));
    }
    Validator::new().validate_compiled(&RULES, object, None).map_err(|errors| {
        for error in errors.as_slice() {
            assert_eq!(error.kind, ErrorKind::ValidationFailure, "a rule failed to run: {error}");
        }
        (By::Rule, errors.into_vec().iter().map(ToString::to_string).collect())
    })
}

#[test]
fn every_row_is_refused_by_the_types_and_at_apply() {
    let mut wrong = Vec::new();
    for row in rows() {
        let object = changed(&row.set);
        let own = own(&object);
        let reason = own.as_ref().err().map(|refusal| refusal.reason.to_string());
        if reason != row.reason {
            wrong.push(format!("{}: the types say {own:?}", row.claim));
        }
        let applied = apply(&object);
        let by = applied.as_ref().err().map(|(by, _)| *by);
        let expected = row.by.filter(|by| *by != By::Nobody);
        if by != expected {
            wrong.push(format!("{}: at apply {applied:?}", row.claim));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_message_names_the_place_and_stays_short() {
    for row in rows() {
        if let Err(refusal) = own(&changed(&row.set)) {
            let message = &refusal.message;
            assert!(message.contains(": ") && message.len() < 400, "{}: {message}", row.claim);
            assert!(!message.contains(char::is_control), "{}: {message:?}", row.claim);
        }
    }
}

#[test]
fn more_entries_than_a_list_takes_are_refused() {
    let clients: Vec<String> = (1..=65).map(|n| format!("10.0.{n}.1")).collect();
    let ports: Vec<Value> = (1..=65).map(|n| serde_json::json!({"name": format!("p{n}"), "port": n})).collect();
    for (pointer, list) in [("/spec/client/addresses", Value::from(clients)), ("/spec/ports", Value::from(ports))] {
        let full = Value::from(list.as_array().unwrap()[..64].to_vec());
        for (list, taken) in [(list, false), (full, true)] {
            let set = [(pointer.to_owned(), list), ("/spec/reverse".to_owned(), Value::Null)];
            let object = changed(&BTreeMap::from(set));
            assert_eq!(own(&object).map_err(|refusal| refusal.reason.as_str()).err(), (!taken).then_some("TooMany"));
            assert_eq!(apply(&object).is_ok(), taken);
        }
    }
}

#[test]
fn a_megabyte_of_text_is_refused_in_a_short_message() {
    for pointer in ["/spec/internal/interface", "/spec/client/addresses/0", "/spec/ports/0/name", "/metadata/name"] {
        let set = BTreeMap::from([(pointer.to_owned(), Value::from("x".repeat(1 << 20)))]);
        assert!(own(&changed(&set)).unwrap_err().message.len() < 400, "{pointer}");
    }
}
