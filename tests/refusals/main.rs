//! Tests bad input: the agent's own types refuse every row of `table.yaml` with the named reason, and so does `kubectl apply`,
//! if the object alone shows the mistake. The two never disagree.

mod any;
mod grants;
mod random;
mod schema;
mod table;

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::LazyLock;

use kube::core::cel::{CompiledSchema, ErrorKind, Validator, apply_defaults, compile_schema};
use portforward_operator::api::Kind;
use portforward_operator::forward::Refusal;
use serde_json::Value;
use table::{By, Row, changed, own, rows};

/// What the API server checks an object of one kind with.
struct Checks {
    schema: Value,
    rules: CompiledSchema,
}

impl Checks {
    fn of(kind: Kind) -> Self {
        let definition: Value = serde_saphyr::from_str(&kind.crd_yaml()).unwrap();
        let mut schema = definition.pointer("/spec/versions/0/schema/openAPIV3Schema").unwrap().clone();
        api_server_fields(&mut schema);
        Self { rules: compile_schema(&schema), schema }
    }
}

static FORWARDS: LazyLock<Checks> = LazyLock::new(|| Checks::of(Kind::PortForward));
static GRANTS: LazyLock<Checks> = LazyLock::new(|| Checks::of(Kind::PortForwardGrant));

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
    let Checks { schema, rules } = if object["kind"] == "PortForwardGrant" { &*GRANTS } else { &*FORWARDS };
    let object = &apply_defaults(schema, object);
    let complaints = schema::complaints(schema, object, "");
    if !complaints.is_empty() {
        return Err((By::Schema, complaints));
    }
    Validator::new().validate_compiled(rules, object, None).map_err(|errors| {
        for error in errors.as_slice() {
            assert_eq!(error.kind, ErrorKind::ValidationFailure, "a rule failed to run: {error}");
        }
        (By::Rule, errors.into_vec().iter().map(ToString::to_string).collect())
    })
}

/// What differs from the rows: the result of the types, and the result at apply.
fn wrong<T: Debug>(rows: Vec<(Value, Row)>, own: impl Fn(&Value) -> Result<T, Refusal>) -> Vec<String> {
    let mut wrong = Vec::new();
    for (object, row) in rows {
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
    wrong
}

#[test]
fn every_row_is_refused_by_the_types_and_at_apply() {
    let rows = rows().into_iter().map(|row| (changed(&row.set), row)).collect();
    let wrong = wrong(rows, own);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_row_of_the_grants_is_refused_by_the_types_and_at_apply() {
    let rows = grants::rows().into_iter().map(|row| (grants::changed(&row), row)).collect();
    let wrong = wrong(rows, grants::own);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_message_names_the_place_and_stays_short() {
    let forwards = rows().into_iter().map(|row| (own(&changed(&row.set)).err(), row));
    let grants = grants::rows().into_iter().map(|row| (grants::own(&grants::changed(&row)).err(), row));
    for (refusal, row) in forwards.chain(grants) {
        if let Some(refusal) = refusal {
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
fn more_entries_than_a_list_of_a_grant_takes_are_refused() {
    let networks = |count: usize| (1..=count).map(|n| format!("10.0.{n}.1")).collect::<Vec<_>>();
    let sockets = |count: usize| (1..=count).map(|n| serde_json::json!({"cidrs": ["10.0.0.1"], "port": n})).collect::<Vec<_>>();
    let names = |count: usize| (1..=count).map(|n| format!("n{n}")).collect::<Vec<_>>();
    let gateways = |count: usize| {
        networks(count)
            .into_iter()
            .map(|address| serde_json::json!({"address": address, "routes": ["1.1.1.1"]}))
            .collect::<Vec<_>>()
    };
    let ports = |count: usize| (1..=count).map(|n| serde_json::json!({"port": n})).collect::<Vec<_>>();
    for (count, taken) in [(64, true), (65, false)] {
        for (pointer, list) in [
            ("/spec/namespaces", Value::from(names(count))),
            ("/spec/listen", sockets(count).into()),
            ("/spec/listen/0/cidrs", networks(count).into()),
            ("/spec/clients", networks(count).into()),
            ("/spec/upstreams", sockets(count).into()),
            ("/spec/upstreams/0/cidrs", networks(count).into()),
            ("/spec/external", networks(count).into()),
            ("/spec/gateways", gateways(count).into()),
            ("/spec/gateways/0/routes", networks(count).into()),
            ("/spec/reverse", ports(count).into()),
        ] {
            let object = table::with(grants::base(), &BTreeMap::from([(pointer.to_owned(), list)]));
            let reason = grants::own(&object).map_err(|refusal| refusal.reason.as_str()).err();
            assert_eq!(reason, (!taken).then_some("TooMany"), "{pointer}");
            assert_eq!(apply(&object).is_ok(), taken, "{pointer}");
        }
    }
}

#[test]
fn a_megabyte_of_text_is_refused_in_a_short_message() {
    for pointer in ["/spec/internal/interface", "/spec/client/addresses/0", "/spec/ports/0/name", "/metadata/name"] {
        let set = BTreeMap::from([(pointer.to_owned(), Value::from("x".repeat(1 << 20)))]);
        assert!(own(&changed(&set)).unwrap_err().message.len() < 400, "{pointer}");
    }
    for pointer in ["/spec/namespaces/0", "/spec/clients/0", "/spec/gateways/0/address", "/spec/description", "/metadata/name"] {
        let set = BTreeMap::from([(pointer.to_owned(), Value::from("x".repeat(1 << 20)))]);
        assert!(grants::own(&table::with(grants::base(), &set)).unwrap_err().message.len() < 400, "{pointer}");
    }
}
