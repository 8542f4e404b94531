//! Legs on virtual interfaces, and the allowed names of interfaces.

use super::ways::install;
use super::*;
use crate::model::{InterfaceName, Virtual};

fn name(text: &str) -> InterfaceName {
    text.parse().unwrap()
}

/// The node of the seed, with the address `moved` on `device` only, and another address of its subnet in its old place.
fn on_device(moved: &str, device: &str, kind: Virtual, links: &[u32]) -> Facts {
    let mut facts = facts();
    let address = moved.parse().unwrap();
    let held = facts.addresses.iter().find(|local| local.address == address).unwrap().clone();
    let own = match held.interface.as_ref().unwrap().as_str() {
        "eth1" => "192.168.0.3",
        _ => "2.2.2.3",
    };
    facts.addresses.remove(&held);
    facts.addresses.insert(LocalAddress { address: own.parse().unwrap(), ..held });
    facts.addresses.insert(LocalAddress { address, prefix_len: 32, interface: Some(name(device)) });
    for index in links {
        let link = Link { index: *index, ..facts.links[&name("eth1")].clone() };
        facts.links.insert(name(device), link);
    }
    facts.virtuals.insert(name(device), kind);
    facts
}

fn vrrp(moved: &str, device: &str, lower: &str) -> Facts {
    on_device(moved, device, Virtual::OnWireOf(name(lower)), &[9])
}

#[test]
fn a_vrrp_device_that_holds_the_address_alone_is_an_internal_leg_and_the_route_goes_by_the_link_below() {
    let facts = vrrp("192.168.0.2", "vrrp.51", "eth1");
    let spec = with(&[("/internal/interface", json!("vrrp.51"))]);
    let verdict = verdict(&facts, spec.clone());
    assert_eq!(verdict.obstacles, []);
    assert_eq!(install(&verdict), ["1.1.1.1/32 via 192.168.0.1 dev eth1"]);
    let enters: Vec<_> = verdict.translations.iter().map(|it| it.flows.interface).collect();
    assert_eq!(enters, [Some(name("vrrp.51")), Some(name("eth1"))], "by whichever the network has learnt");
    let mut strict = facts;
    strict.links.get_mut(&name("vrrp.51")).unwrap().rp_filter = RpFilter::Strict;
    assert_eq!(worst(&strict, spec), Some(ObstacleReason::AsymmetricRoute));
}

#[test]
fn the_link_below_a_vrrp_device_may_be_named_as_well() {
    let facts = vrrp("192.168.0.2", "vrrp.51", "eth1");
    let verdict = verdict(&facts, spec());
    assert_eq!(verdict.obstacles, []);
    assert_eq!(verdict.translations.len(), 2);
    let other = with(&[("/internal/interface", json!("vrrp.51"))]);
    let both = planned(&facts, &[object("one", spec()), object("two", other)]);
    assert_eq!(both.verdicts.values().filter(|verdict| verdict.is_carried()).count(), 1, "one wire is one place");
    let unnamed = with(&[("/internal", json!({"addresses": ["192.168.0.2"], "gateways": ["192.168.0.1"]}))]);
    assert_eq!(worst(&vrrp("192.168.0.2", "vrrp.51", "eth1"), unnamed), None);
}

#[test]
fn an_external_leg_on_a_vrrp_device_leaves_by_the_link_below_it() {
    let facts = vrrp("2.2.2.2", "vrrp.61", "eth0");
    for named in ["vrrp.61", "eth0"] {
        assert_eq!(worst(&facts, with(&[("/external/interface", json!(named))])), None, "{named}");
    }
    let reverse = |named: &str| with(&[("/external/interface", json!(named)), ("/reverse", json!({"ports": [{"port": 9443}]}))]);
    for named in ["vrrp.61", "eth0"] {
        let called = verdict(&facts, reverse(named));
        assert_eq!(called.obstacles, []);
        let reversed: Vec<_> =
            called.directed().filter(|(direction, _)| *direction == crate::forward::Direction::Reverse).collect();
        assert_eq!((reversed.len(), called.reversed), (2, 2), "calls enter by either");
    }
    assert_eq!(worst(&facts, with(&[("/external/interface", json!("eth1"))])), Some(ObstacleReason::AddressNotOnInterface));
    let mut vlan = facts;
    vlan.virtuals.clear();
    assert_eq!(
        worst(&vlan, with(&[("/external/interface", json!("vrrp.61"))])),
        Some(ObstacleReason::UpstreamNotOnInterface),
        "a VLAN is a wire of its own"
    );
}

#[test]
fn an_address_on_the_loopback_or_a_dummy_enters_wherever_the_network_brings_it() {
    let dummy = on_device("192.168.0.2", "dummy0", Virtual::Dummy, &[9]);
    assert_eq!(worst(&dummy, spec()), None);
    let mut loopback = facts();
    loopback.addresses = loopback
        .addresses
        .into_iter()
        .map(|local| {
            if local.prefix_len == 24 && local.address.to_string() == "192.168.0.2" {
                LocalAddress { prefix_len: 32, interface: None, ..local }
            } else {
                local
            }
        })
        .collect();
    assert_eq!(worst(&loopback, spec()), None);
    assert_eq!(install(&verdict(&loopback, spec())), ["1.1.1.1/32 via 192.168.0.1 dev eth1"]);
}

#[test]
fn a_gateway_is_looked_for_where_the_kernel_reaches_it_whatever_interface_is_named() {
    let mut two = facts();
    two.links.insert(name("eth2"), Link { index: 7, ..two.links[&name("eth1")].clone() });
    two.addresses.insert(LocalAddress { address: "10.9.9.1".parse().unwrap(), prefix_len: 24, interface: Some(name("eth2")) });
    let verdict = verdict(&two, with(&[("/internal/gateways", json!(["10.9.9.254"]))]));
    assert_eq!(install(&verdict), ["1.1.1.1/32 via 10.9.9.254 dev eth2"]);
}

#[test]
fn only_the_interfaces_that_container_networks_make_are_theirs() {
    let with_leg = |interface: &str| {
        let mut facts = facts();
        facts.links.insert(name(interface), Link { index: 9, ..facts.links[&name("eth1")].clone() });
        facts.addresses =
            facts.addresses.into_iter().map(|local| LocalAddress { interface: Some(name(interface)), ..local }).collect();
        let unnamed = with(&[("/internal", json!({"addresses": ["192.168.0.2"]}))]);
        match verdict(&facts, unnamed).acceptance {
            Acceptance::RefusedHere(refusal) => Some(refusal.reason),
            _ => None,
        }
    };
    for leg in [
        "br-lan",
        "br-ex",
        "br-0123456789a",
        "br-0123456789ax",
        "br0",
        "docker-lan",
        "cni-uplink",
        "cali",
        "kube-lan",
        "lxcbr0",
        "virbr1",
        "vrrp.51",
        "flannel-wan",
        "cilium-lan",
        "_uplink",
    ] {
        assert_eq!(with_leg(leg), None, "{leg}");
    }
    for container in [
        "docker0",
        "br-0123456789ab",
        "cni0",
        "cali0123456789a",
        "flannel.1",
        "cilium_host",
        "kube-ipvs0",
        "podman1",
        "vxlan.calico",
    ] {
        assert_eq!(with_leg(container), Some(NodeRefusalReason::ForbiddenInterface), "{container}");
    }
}
