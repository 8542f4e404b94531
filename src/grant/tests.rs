use serde_json::{Value, json};

use super::*;
use crate::api::decode_grant;
use crate::forward::Refusals;

fn document() -> Value {
    json!({
        "apiVersion": "portforward.dev/v1alpha1", "kind": "PortForwardGrant", "metadata": {"name": "bank-a", "generation": 3},
        "spec": {
            "namespaces": ["leased-lines"],
            "listen": [{"cidrs": ["192.168.0.0/24"], "protocol": "TCP", "port": 1024, "endPort": 29999}],
            "clients": ["1.1.1.0/24", "1.1.0.0/24", "1.1.0.7"],
            "upstreams": [{"cidrs": ["3.3.3.3"], "port": 443}],
        },
    })
}

fn grant(change: impl FnOnce(&mut Value)) -> Grant {
    let mut document = document();
    change(&mut document["spec"]);
    Grant::parse(&decode_grant(document).unwrap()).unwrap()
}

#[test]
fn what_is_absent_permits_nothing_more_and_limits_nothing() {
    let grant = grant(|_| ());
    assert_eq!((grant.name.as_str(), grant.generation, grant.priority), ("bank-a", 3, 0));
    assert!(grant.external.is_empty() && grant.gateways.is_empty() && grant.reverse.is_empty() && !grant.one_leg);
    assert_eq!(grant.limits, Limits::default());
    assert!(grant.selects(&BTreeMap::new()));
}

#[test]
fn networks_are_merged_and_an_address_is_a_network_of_one() {
    let grant = grant(|_| ());
    assert_eq!(grant.clients.iter().map(ToString::to_string).collect::<Vec<_>>(), ["1.1.0.0/23"]);
    assert_eq!(grant.upstreams[0].cidrs.iter().map(ToString::to_string).collect::<Vec<_>>(), ["3.3.3.3/32"]);
}

#[test]
fn without_protocol_or_port_every_one_is_permitted() {
    let grant = grant(|spec| {
        spec["external"] = json!(["0.0.0.0/0"]);
        spec["reverse"] = json!([{}, {"protocol": "UDP", "port": 53}]);
    });
    let shown: Vec<_> = grant.reverse.iter().map(|entry| (entry.protocol, entry.ports.to_string())).collect();
    assert_eq!(shown, [(None, "1:65535".to_owned()), (Some(Protocol::Udp), "53".to_owned())]);
    assert_eq!((grant.listen[0].protocol, grant.listen[0].ports.to_string()), (Some(Protocol::Tcp), "1024:29999".to_owned()));
    assert_eq!((grant.upstreams[0].protocol, grant.upstreams[0].ports.to_string()), (None, "443".to_owned()));
}

#[test]
fn gateways_are_in_the_order_of_their_addresses() {
    let grant = grant(|spec| {
        spec["gateways"] =
            json!([{"address": "192.168.0.9", "routes": ["1.1.0.0/16"]}, {"address": "192.168.0.1", "routes": ["1.2.0.0/16"]}]);
    });
    assert_eq!(
        grant.gateways.iter().map(|gateway| gateway.address.to_string()).collect::<Vec<_>>(),
        ["192.168.0.1", "192.168.0.9"]
    );
}

#[test]
fn all_mistakes_are_named() {
    let mut document = document();
    document["spec"]["namespaces"] = json!(["leased-*"]);
    document["spec"]["listen"][0]["cidrs"] = json!(["192.168.0.1/24"]);
    document["spec"]["upstreams"] = json!([{"cidrs": [], "endPort": 80}]);
    document["spec"]["limits"] = json!({"routes": -1});
    document["spec"]["priority"] = json!(1001);
    let refusals = Grant::parse(&decode_grant(document).unwrap()).unwrap_err();
    let paths: Vec<&str> = refusals.as_slice().iter().map(|refusal| refusal.message.split(": ").next().unwrap()).collect();
    let all = [
        "spec.namespaces[0]",
        "spec.listen[0].cidrs[0]",
        "spec.upstreams[0].cidrs",
        "spec.upstreams[0].port",
        "spec.limits.routes",
        "spec.priority",
    ];
    assert_eq!(paths, all);
}

#[test]
fn a_misspelt_field_is_told_where_it_belongs() {
    let mut document = document();
    document["spec"]["upstream"] = document["spec"]["upstreams"].take();
    document["spec"]["clients"] = json!(["1.1.1.1/24"]);
    let refusals = Refusals::from(decode_grant(document).unwrap_err());
    let messages: Vec<&str> = refusals.as_slice().iter().map(|refusal| refusal.message.as_str()).collect();
    assert_eq!(
        messages,
        [
            "spec.upstream: there is no such field; did you mean upstreams?",
            "spec.clients[0]: \"1.1.1.1/24\" has host bits that are not zero; write 1.1.1.0/24 or 1.1.1.1"
        ]
    );
}

#[test]
fn a_forward_is_not_read_as_a_grant() {
    let said = decode_grant(json!({"apiVersion": "portforward.dev/v1alpha1", "kind": "PortForward"})).unwrap_err().to_string();
    assert!(said.ends_with("and kind: PortForwardGrant"), "{said}");
}
