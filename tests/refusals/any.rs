//! Generates random specs, on which the API server and the agent's own types must agree. Also used by `tests/schema.rs`.

use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::TestRunner;
use serde_json::{Value, json};

/// Addresses and networks near every limit, few enough to match each other often.
fn address() -> impl Strategy<Value = String> {
    prop_oneof![
        60 => prop::sample::select(vec!["1.1.1.1", "1.1.1.2", "2.2.2.2", "3.3.3.3", "4.4.4.4", "5.5.5.5", "192.168.0.1", "192.168.0.2"]).prop_map(String::from),
        1 => prop::sample::select(vec![
            "", "0.0.0.0", "0.255.255.255", "1.0.0.0", "126.255.255.255", "127.0.0.1", "128.0.0.0", "169.253.255.255",
            "169.254.0.0", "169.255.0.0", "223.255.255.255", "224.0.0.0", "239.255.255.255", "240.0.0.0",
            "255.255.255.255", "::1", "fd00::1", "::ffff:1.1.1.1", "01.1.1.1", "1.1.1", "1.1.1.1 ", "1.1.1.1.1", "1.1.1.256",
        ]).prop_map(String::from),
        1 => "[0-9./:]{1,18}",
        1 => any::<[u8; 4]>().prop_map(|octets| std::net::Ipv4Addr::from(octets).to_string()),
    ]
}

pub(crate) fn client() -> impl Strategy<Value = String> {
    prop_oneof![
        40 => address(),
        1 => (address(), 0..=33_u8).prop_map(|(address, length)| format!("{address}/{length}")),
        20 => (any::<u32>(), 0..=32_u8).prop_map(|(bits, length)| {
            format!("{}", ipnet::Ipv4Net::new(bits.into(), length).unwrap().trunc())
        }),
        10 => prop::sample::select(vec![
            "1.1.0.0/16", "192.168.0.0/31", "192.168.0.2/31", "2.0.0.0/7", "3.0.0.0/8", "0.0.0.0/0", "128.0.0.0/2", "1.1.1.1/08", "10.0.0.0/", "10.0.0.0/08", "010.0.0.0/8",
        ]).prop_map(String::from),
    ]
}

fn interface() -> impl Strategy<Value = String> {
    prop_oneof![
        20 => prop::sample::select(vec!["eth0", "eth1"]).prop_map(String::from),
        1 => prop::sample::select(vec!["", "lo", "all", "default", "+", "eth0:1", "eth0\n", "abcdefghijklmno", "abcdefghijklmnop"]).prop_map(String::from),
        1 => "[a-zA-Z0-9_.+-]{0,17}",
    ]
}

pub(crate) fn port() -> impl Strategy<Value = i64> {
    prop_oneof![30 => 1..12_i64, 1 => prop::sample::select(vec![-1, 0, 65535, 65536, 1 << 40])]
}

fn ports() -> impl Strategy<Value = Value> {
    let name = prop_oneof![30 => "[a-h]", 1 => prop::sample::select(vec!["A", "-", ""]).prop_map(String::from)];
    let protocol = prop::option::weighted(0.5, prop_oneof![30 => prop::sample::select(vec!["TCP", "UDP"]), 1 => Just("tcp")]);
    let name = prop::option::weighted(0.9, name);
    // Often what a person would write: a target range only with a range of ports, and of equal width.
    let target =
        || (prop::option::of(port()), prop::sample::select(vec!["none", "none", "one", "equal", "equal", "any"]), port());
    let entry = move || (name.clone(), protocol.clone(), port(), prop::option::weighted(0.2, port()), target());
    prop_oneof![20 => prop::collection::vec(entry(), 1..4), 1 => Just(Vec::new())].prop_map(|entries| {
        entries
            .into_iter()
            .map(|(name, protocol, port, end, (target, kind, other))| {
                let fitting = target.zip(end).map(|(target, end)| if kind == "one" { target } else { target + end - port });
                let target_end = match kind {
                    "none" => None,
                    "any" => Some(other),
                    _ => fitting,
                };
                without_null(json!({
                    "name": name, "protocol": protocol, "port": port, "endPort": end, "targetPort": target, "targetEndPort": target_end,
                }))
            })
            .collect()
    })
}

pub(crate) fn requirement() -> impl Strategy<Value = Value> {
    let operator = prop::sample::select(vec!["In", "NotIn", "Exists", "DoesNotExist", "Is"]);
    let value = prop::sample::select(vec!["", "a", "b.c", "-"]);
    (operator, prop::option::of(prop::collection::vec(value, 0..3)))
        .prop_map(|(operator, values)| without_null(json!({"key": "k", "operator": operator, "values": values})))
}

/// `value` without the fields that are null. Null stands for an absent field here.
pub(crate) fn without_null(value: Value) -> Value {
    match value {
        Value::Object(fields) => {
            fields.into_iter().filter(|(_, value)| !value.is_null()).map(|(name, value)| (name, without_null(value))).collect()
        }
        other => other,
    }
}

/// A spec that is often usable and otherwise wrong in some field.
pub(crate) fn object() -> impl Strategy<Value = Value> {
    let list = |most| prop::collection::vec(address(), 0..=most);
    let few = || prop_oneof![30 => prop::collection::vec(address(), 1), 1 => prop::collection::vec(address(), 0..3)];
    let internal = (few(), prop::option::of(interface()), prop::option::of(list(1)));
    let external = prop::option::of((prop::option::weighted(0.8, list(1)), prop::option::of(interface())));
    let reverse = prop::option::weighted(0.3, ports());
    let clients =
        prop_oneof![10 => prop::collection::vec(client(), 1), 10 => prop::collection::vec(client(), 1..4), 1 => Just(Vec::new())];
    let selector = prop::option::weighted(0.2, prop::collection::vec(requirement(), 0..2));
    (clients, internal, external, few(), ports(), reverse, selector).prop_map(
        |(clients, internal, external, upstream, ports, reverse, selector)| {
            let targets: Vec<Value> = upstream.iter().map(|address| json!({"address": address})).collect();
            let spec = json!({
                "nodeSelector": selector.map(|requirements| json!({"matchExpressions": requirements})),
                "client": {"addresses": clients},
                "internal": {"addresses": internal.0, "interface": internal.1, "gateways": internal.2},
                "external": external.map(|(addresses, interface)| json!({"addresses": addresses, "interface": interface})),
                "upstream": {"targets": targets},
                "ports": ports.as_array().filter(|list| !list.is_empty() || reverse.is_none()),
                "reverse": reverse.map(|ports| json!({"ports": ports})),
            });
            without_null(json!({
                "apiVersion": "portforward.dev/v1alpha1", "kind": "PortForward", "metadata": {"name": "any"}, "spec": spec,
            }))
        },
    )
}

/// The same objects in every run.
pub(crate) fn objects(count: usize) -> Vec<Value> {
    let mut runner = TestRunner::deterministic();
    (0..count).map(|_| object().new_tree(&mut runner).expect("the strategy rejects nothing").current()).collect()
}
