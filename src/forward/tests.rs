//! Tests what a [`Forward`] asks for. `tests/refusals` tests what it refuses.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::*;
use crate::api;
use crate::model::{FlowMatch, SourceNat, TargetPorts, Translation};

fn example() -> Value {
    json!({
        "mode": "Enabled",
        "nodeSelector": {},
        "client": {"addresses": ["1.1.1.1"]},
        "internal": {"addresses": ["192.168.0.2"], "interface": "eth1", "gateways": ["192.168.0.1"]},
        "external": {"addresses": ["2.2.2.2"], "interface": "eth0"},
        "upstream": {"targets": [{"address": "3.3.3.3"}]},
        "ports": [{"name": "http", "protocol": "TCP", "port": 80, "targetPort": 80}],
        "reverse": {"ports": [{"name": "all", "protocol": "TCP", "port": 1, "endPort": 65535, "targetPort": 80, "targetEndPort": 80}]},
    })
}

fn forward(change: impl FnOnce(&mut Value)) -> Forward {
    let mut spec = example();
    change(&mut spec);
    let metadata =
        json!({"name": "bank-a-web", "namespace": "leased-lines", "creationTimestamp": "2026-01-02T03:04:05Z", "generation": 7});
    let document = json!({"apiVersion": "portforward.dev/v1alpha1", "kind": "PortForward", "metadata": metadata, "spec": spec});
    Forward::parse(&api::decode(document).unwrap()).unwrap()
}

/// One translation as a line of text.
fn line(translation: &Translation) -> String {
    let Translation { flows, destination, source } = translation;
    let interface = flows.interface.as_ref().map_or(String::new(), |name| format!(" by {name}"));
    let port = match destination.ports {
        TargetPorts::Same => String::new(),
        TargetPorts::One(port) => format!(":{port}"),
        TargetPorts::Shifted(shift) => format!(":{shift}"),
    };
    let source = match source {
        SourceNat::Address(address) => address.to_string(),
        SourceNat::Masquerade => "masquerade".to_owned(),
    };
    let FlowMatch { protocol, destination: listen, ports, source: client, .. } = flows;
    format!("{protocol} {client}{interface} to {listen} {ports} -> {}{port} as {source}", destination.address)
}

fn lines(forward: &Forward) -> Vec<String> {
    forward.translations().iter().map(line).collect()
}

#[test]
fn the_example_becomes_one_translation_in_each_direction() {
    assert_eq!(
        lines(&forward(|_| ())),
        [
            "TCP 1.1.1.1/32 by eth1 to 192.168.0.2 80 -> 3.3.3.3:80 as 2.2.2.2",
            "TCP 3.3.3.3/32 by eth0 to 2.2.2.2 1:65535 -> 1.1.1.1:80 as 192.168.0.2",
        ]
    );
}

#[test]
fn the_example_keeps_its_metadata_and_gateway() {
    let forward = forward(|_| ());
    assert_eq!(forward.key.to_string(), "leased-lines/bank-a-web");
    assert_eq!(forward.generation, 7);
    assert_eq!(forward.created.unwrap().to_string(), "2026-01-02T03:04:05Z");
    assert_eq!(forward.gateway.unwrap().to_string(), "192.168.0.1");
    assert!(forward.is_in_force());
}

#[test]
fn without_an_external_address_flows_are_masqueraded() {
    let forward = forward(|spec| {
        spec["reverse"] = Value::Null;
        spec["external"] = Value::Null;
        spec["internal"]["interface"] = Value::Null;
    });
    assert_eq!(lines(&forward), ["TCP 1.1.1.1/32 to 192.168.0.2 80 -> 3.3.3.3:80 as masquerade"]);
}

#[test]
fn a_single_port_has_an_explicit_target_and_a_range_keeps_each_port_by_default() {
    let forward = forward(|spec| {
        spec["reverse"] = Value::Null;
        spec["ports"] = json!([
            {"name": "same", "port": 80},
            {"name": "other", "port": 81, "targetPort": 8081},
            {"name": "kept", "protocol": "UDP", "port": 100, "endPort": 199},
            {"name": "one", "protocol": "UDP", "port": 200, "endPort": 299, "targetPort": 9, "targetEndPort": 9},
            {"name": "moved", "protocol": "UDP", "port": 400, "endPort": 499, "targetPort": 1400, "targetEndPort": 1499},
            {"name": "unmoved", "protocol": "UDP", "port": 500, "endPort": 599, "targetPort": 500, "targetEndPort": 599},
            {"name": "narrow", "protocol": "UDP", "port": 300, "endPort": 300},
        ]);
    });
    let targets: Vec<_> =
        lines(&forward).iter().map(|line| line.split(' ').skip(6).take(3).collect::<Vec<_>>().join(" ")).collect();
    assert_eq!(
        targets,
        [
            "80 -> 3.3.3.3:80",
            "81 -> 3.3.3.3:8081",
            "100:199 -> 3.3.3.3",
            "200:299 -> 3.3.3.3:9",
            "400:499 -> 3.3.3.3:1400-1499/400",
            "500:599 -> 3.3.3.3",
            "300 -> 3.3.3.3:300",
        ]
    );
}

#[test]
fn a_forward_may_be_reverse_alone() {
    for ports in [Value::Null, json!([])] {
        let forward = forward(|spec| match ports {
            Value::Null => drop(spec.as_object_mut().unwrap().remove("ports")),
            ports => spec["ports"] = ports,
        });
        assert_eq!(lines(&forward), ["TCP 3.3.3.3/32 by eth0 to 2.2.2.2 1:65535 -> 1.1.1.1:80 as 192.168.0.2"]);
        assert_eq!(forward.reversed(), 1);
    }
}

#[test]
fn the_only_entry_needs_no_name() {
    let forward = forward(|spec| spec["ports"] = json!([{"port": 80}]));
    assert_eq!(forward.ports[0].name, "default");
}

/// The reasons and messages with which the example is refused after `change`.
fn refusals(change: impl FnOnce(&mut Value)) -> Vec<String> {
    let mut spec = example();
    change(&mut spec);
    let document =
        json!({"apiVersion": "portforward.dev/v1alpha1", "kind": "PortForward", "metadata": {"name": "a"}, "spec": spec});
    let refusals =
        api::decode(document).map_err(Refusals::from).and_then(|object| Forward::parse(&object)).expect_err("it is wrong");
    refusals.as_slice().iter().map(|refusal| format!("{}: {refusal}", refusal.reason)).collect()
}

/// The only message with which `entry` is refused as a port.
fn refusal(entry: &Value) -> String {
    let [refusal] = &refusals(|spec| spec["ports"] = json!([entry]))[..] else { panic!("not exactly one mistake") };
    refusal.split_once(": ").unwrap().1.to_owned()
}

/// The reasons with their fields.
fn places(refusals: &[String]) -> Vec<String> {
    refusals.iter().map(|refusal| refusal.splitn(3, ": ").take(2).collect::<Vec<_>>().join(" ")).collect()
}

#[test]
fn every_field_that_is_wrong_is_refused_in_one_pass() {
    let all = refusals(|spec| {
        spec["nodeSelector"] = json!({"matchLabels": {"a b": "c"}, "matchExpressions": [{"key": "a", "operator": "In"}]});
        spec["client"]["addresses"] = json!(["1.1.1", "1.1.1.1", "::1", "1.1.1.1"]);
        spec["internal"] = json!({"addresses": [], "interface": "eth 0", "gateways": ["10.0.0.256"]});
        spec["external"] = json!({"addresses": ["127.0.0.1"], "interface": "lo"});
        spec["upstream"]["targets"] = json!([]);
        spec["ports"] =
            json!([{"name": "A", "port": 0, "targetPort": 65536}, {"port": 9, "endPort": 8}, {"port": 80}, {"port": 80}]);
        spec["reverse"]["ports"] = json!([]);
        spec["description"] = json!("x".repeat(257));
    });
    let expected = [
        "InvalidSelector spec.nodeSelector.matchLabels",
        "InvalidSelector spec.nodeSelector.matchExpressions[0]",
        "InvalidAddress spec.client.addresses[0]",
        "UnsupportedFamily spec.client.addresses[2]",
        "DuplicateClient spec.client.addresses[3]",
        "Required spec.internal.addresses",
        "InvalidInterfaceName spec.internal.interface",
        "InvalidAddress spec.internal.gateways[0]",
        "LoopbackAddress spec.external.addresses[0]",
        "InvalidInterfaceName spec.external.interface",
        "Required spec.upstream.targets",
        "InvalidName spec.ports[0].name",
        "InvalidPort spec.ports[0].port",
        "InvalidPort spec.ports[0].targetPort",
        "InvalidPortRange spec.ports[1].endPort",
        "DuplicateName spec.ports[3].name",
        "Required spec.reverse.ports",
        "TooLong spec.description",
    ];
    assert_eq!(places(&all), expected);
}

#[test]
fn mistakes_in_values_are_reported_beside_mistakes_in_the_structure_and_nothing_follows_from_those() {
    let all = refusals(|spec| {
        spec["client"]["addresses"] = json!(["1.1.1.1:80", 5]);
        spec["upstream"] = json!({"target": [{"address": "3.3.3.3"}]});
        spec["internal"]["gateways"] = json!("192.168.0.300");
        spec["external"]["addresses"] = json!(["2.2.2"]);
        spec["ports"] = json!([
            {"name": "a", "port": "http", "endPort": 90},
            {"name": "a", "port": 70000},
            {"name": "c", "port": 80, "protocol": "udp"},
            {"name": "d", "port": 80, "endPort": 79},
            {"name": "e", "port": 90, "endport": 99, "targetPort": 90, "targetEndPort": 99},
            {"port": 80},
            {"port": 80},
        ]);
        spec["reverse"] = json!({"ports": [{}]});
    });
    let expected = [
        "InvalidType spec.client.addresses[1]",
        "InvalidType spec.internal.gateways",
        "InvalidType spec.ports[0].port",
        "UnsupportedValue spec.ports[2].protocol",
        "UnknownField spec.ports[4].endport",
        "Required spec.reverse.ports[0].port",
        "UnknownField spec.upstream.target",
        "InvalidAddress spec.client.addresses[0]",
        "InvalidAddress spec.external.addresses[0]",
        "InvalidPort spec.ports[1].port",
        "InvalidPortRange spec.ports[3].endPort",
    ];
    assert_eq!(places(&all), expected, "{all:#?}");
}

#[test]
fn everything_that_does_not_fit_together_is_refused_in_one_pass() {
    let all = refusals(|spec| {
        spec["client"]["addresses"] = json!(["1.1.1.1", "2.2.2.2"]);
        spec["internal"]["gateways"] = json!(["192.168.0.2"]);
        spec["upstream"]["targets"] = json!([{"address": "2.2.2.2"}]);
    });
    let expected = [
        "ForwardLoop spec.upstream.targets[0].address",
        "ForwardLoop spec.internal.gateways[0]",
        "ForwardLoop spec.client.addresses[1]",
        "ReverseNeedsOneClient spec.reverse",
    ];
    assert_eq!(places(&all), expected);
}

#[test]
fn an_object_of_many_mistakes_has_a_bounded_number_of_refusals() {
    let all = refusals(|spec| spec["client"]["addresses"] = json!(vec!["x"; 64]));
    assert_eq!(all.len(), 21);
    assert_eq!(all[20], "TooMany: 44 more mistakes are not shown; correct those above first");
}

#[test]
fn a_range_whose_target_is_not_clear_is_refused_with_both_forms_in_its_own_numbers() {
    let both = "write targetEndPort: 9010 (8000 goes to 9000, 8010 to 9010), or targetEndPort: 9000 (all of them go to 9000)";
    let open = refusal(&json!({"port": 8000, "endPort": 8010, "targetPort": 9000}));
    assert_eq!(open, format!("spec.ports[0].targetEndPort: is missing: a range with targetPort needs it; {both}"));
    let wide = refusal(&json!({"port": 8000, "endPort": 8010, "targetPort": 9000, "targetEndPort": 9011}));
    assert_eq!(
        wide,
        format!("spec.ports[0].targetEndPort: the target range 9000:9011 has 12 ports, but the range 8000:8010 has 11; {both}")
    );
    let below = refusal(&json!({"port": 8000, "endPort": 8010, "targetPort": 9000, "targetEndPort": 8999}));
    assert_eq!(below, format!("spec.ports[0].targetEndPort: 8999 is below targetPort; {both}"));
    let one = refusal(&json!({"port": 1, "endPort": 65535, "targetPort": 80}));
    assert!(
        one.ends_with("write targetEndPort: 80 (all of them go to 80); a range of equal width would end above 65535"),
        "{one}"
    );
}

#[test]
fn each_port_entry_meets_each_client() {
    let forward = forward(|spec| {
        spec["reverse"] = Value::Null;
        spec["client"]["addresses"] = json!(["10.2.0.0/16", "10.1.0.0/16", "1.1.1.1"]);
        spec["ports"] = json!([{"name": "a", "port": 1}, {"name": "b", "port": 2}]);
    });
    assert_eq!(forward.translations().len(), 6);
}

#[test]
fn client_entries_are_merged_and_sorted() {
    let forward = forward(|spec| {
        spec["reverse"] = Value::Null;
        spec["client"]["addresses"] = json!(["10.0.1.0/24", "9.9.9.9", "10.0.0.0/24", "10.0.0.7"]);
    });
    let clients: Vec<String> = forward.clients.iter().map(ToString::to_string).collect();
    assert_eq!(clients, ["9.9.9.9/32", "10.0.0.0/23"]);
}

#[test]
fn a_disabled_or_deleting_forward_is_not_in_force() {
    assert!(!forward(|spec| spec["mode"] = json!("Disabled")).is_in_force());
    let mut deleting = forward(|_| ());
    deleting.lifecycle = Lifecycle::Deleting;
    assert!(!deleting.is_in_force());
}

#[test]
fn the_selector_chooses_nodes_by_label() {
    let labels =
        |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect::<BTreeMap<_, _>>();
    let everywhere = forward(|spec| spec["nodeSelector"] = Value::Null);
    assert!(everywhere.selects(&BTreeMap::new()));
    let edge = forward(|spec| {
        spec["nodeSelector"] = json!({
            "matchLabels": {"role": "edge"},
            "matchExpressions": [{"key": "zone", "operator": "NotIn", "values": ["b"]}, {"key": "spare", "operator": "DoesNotExist"}],
        });
    });
    assert!(edge.selects(&labels(&[("role", "edge"), ("zone", "a")])));
    assert!(edge.selects(&labels(&[("role", "edge")])));
    assert!(!edge.selects(&labels(&[("role", "edge"), ("zone", "b")])));
    assert!(!edge.selects(&labels(&[("role", "edge"), ("spare", "")])));
    assert!(!edge.selects(&labels(&[("zone", "a")])));
}

#[test]
fn every_reason_is_one_unique_word() {
    let words: std::collections::BTreeSet<_> = RefusalReason::ALL.iter().map(|reason| reason.as_str()).collect();
    assert_eq!(words.len(), RefusalReason::ALL.len());
    assert!(words.iter().all(|word| word.starts_with(char::is_uppercase) && word.chars().all(char::is_alphanumeric)));
}
