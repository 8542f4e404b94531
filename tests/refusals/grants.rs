//! The table of bad and good grants, random grants, and the result of the agent's own types. Also used by `tests/schema.rs`.

use portforward_operator::api;
use portforward_operator::forward::{Refusal, Refusals};
use portforward_operator::grant::Grant;
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::TestRunner;
use serde_json::{Value, json};

use crate::any::{client, port, requirement, without_null};
use crate::table::{Row, with};

/// Every row of `grants.yaml`.
pub(crate) fn rows() -> Vec<Row> {
    serde_saphyr::from_str(include_str!("grants.yaml")).unwrap()
}

/// The grant that every row changes.
pub(crate) fn base() -> Value {
    serde_saphyr::from_str(include_str!("grant.yaml")).unwrap()
}

/// The object of a row.
pub(crate) fn changed(row: &Row) -> Value {
    with(base(), &row.set)
}

/// The result of the agent's own types.
pub(crate) fn own(object: &Value) -> Result<Grant, Refusal> {
    let decoded = api::decode_grant(object.clone()).map_err(Refusals::from);
    decoded.and_then(|object| Grant::parse(&object)).map_err(|refusals| refusals.summary())
}

fn ports() -> impl Strategy<Value = Value> {
    let protocol = prop::option::weighted(0.5, prop_oneof![30 => prop::sample::select(vec!["TCP", "UDP"]), 1 => Just("SCTP")]);
    let range = prop_oneof![
        10 => Just((None, None)),
        10 => port().prop_map(|port| (Some(port), None)),
        10 => (port(), 0..9_i64).prop_map(|(port, more)| (Some(port), Some(port + more))),
        1 => (prop::option::of(port()), prop::option::of(port())),
    ];
    (protocol, range).prop_map(|(protocol, (port, end))| json!({"protocol": protocol, "port": port, "endPort": end}))
}

fn networks() -> impl Strategy<Value = Value> {
    let list =
        prop_oneof![20 => prop::collection::vec(client(), 1), 5 => prop::collection::vec(client(), 1..4), 1 => Just(Vec::new())];
    list.prop_map(Value::from)
}

fn sockets() -> impl Strategy<Value = Value> {
    let entry = (networks(), ports()).prop_map(|(cidrs, mut entry)| {
        entry["cidrs"] = cidrs;
        without_null(entry)
    });
    prop_oneof![20 => prop::collection::vec(entry, 1..3), 1 => Just(Vec::new())].prop_map(Value::from)
}

/// A grant that is often usable and otherwise wrong in some field.
pub(crate) fn object() -> impl Strategy<Value = Value> {
    let namespace = prop_oneof![
        30 => prop::sample::select(vec!["a", "b", "leased-lines"]).prop_map(String::from),
        1 => "[a-zA-Z0-9.*-]{0,5}",
    ];
    let namespaces = prop::collection::vec(namespace, 1..3);
    let gateway = (client(), networks()).prop_map(|(address, routes)| json!({"address": address, "routes": routes}));
    let gateways = prop::option::weighted(0.2, prop::collection::vec(gateway, 0..2));
    let reverse = prop::option::weighted(0.2, prop::collection::vec(ports().prop_map(without_null), 0..2));
    let limit =
        || prop::option::of(prop_oneof![30 => 0..9_i64, 1 => prop::sample::select(vec![-1, i64::from(i32::MAX), 1 << 31])]);
    let limits = prop::option::of((limit(), limit(), limit()));
    let priority = prop::option::of(prop_oneof![30 => -1000..=1000_i64, 1 => prop::sample::select(vec![-1001, 1001])]);
    let selector = prop::option::weighted(0.2, prop::collection::vec(requirement(), 0..2));
    let networks = (networks(), prop::option::of(networks()));
    (namespaces, sockets(), sockets(), networks, gateways, reverse, (limits, priority, selector)).prop_map(
        |(namespaces, listen, upstreams, (clients, external), gateways, reverse, (limits, priority, selector))| {
            let limits = limits.map(|(forwards, translations, routes)| {
                without_null(json!({"forwards": forwards, "translations": translations, "routes": routes}))
            });
            let spec = json!({
                "namespaces": namespaces, "listen": listen, "upstreams": upstreams, "clients": clients, "external": external,
                "gateways": gateways, "reverse": reverse, "limits": limits, "priority": priority,
                "nodeSelector": selector.map(|requirements| json!({"matchExpressions": requirements})),
            });
            json!({
                "apiVersion": "portforward.dev/v1alpha1", "kind": "PortForwardGrant", "metadata": {"name": "any"},
                "spec": without_null(spec),
            })
        },
    )
}

/// The same grants in every run.
pub(crate) fn objects(count: usize) -> Vec<Value> {
    let mut runner = TestRunner::deterministic();
    (0..count).map(|_| object().new_tree(&mut runner).expect("the strategy rejects nothing").current()).collect()
}
