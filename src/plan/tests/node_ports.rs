//! The ports that a node protects, and the addresses on which it does.

use super::*;

/// A node that is reached by the address of its internal leg, with programs that listen on `listeners`.
pub(super) fn reached(address: &str, listeners: &[Listener]) -> Facts {
    Facts { node_addresses: [address.parse().unwrap()].into(), listeners: listeners.iter().cloned().collect(), ..facts() }
}

pub(super) fn listener(protocol: Protocol, address: &str, port: u16) -> Listener {
    Listener { protocol, address: address.parse().unwrap(), port, device: None }
}

fn port(port: u16, protocol: &str) -> (&'static str, Value) {
    ("/ports/0", json!({"name": "x", "port": port, "protocol": protocol}))
}

fn range(first: u16, last: u16, protocol: &str) -> (&'static str, Value) {
    ("/ports/0", json!({"name": "x", "port": first, "endPort": last, "protocol": protocol}))
}

fn one_leg() -> (&'static str, Value) {
    ("/external", json!({"addresses": ["192.168.0.2"]}))
}

fn message(facts: &Facts, spec: Value) -> String {
    match &plan(facts, &[object("one", spec)], &policy(), &InForce::default()).verdicts.values().next().unwrap().acceptance {
        Acceptance::RefusedHere(refusal) => refusal.message.clone(),
        acceptance => panic!("{acceptance:?}"),
    }
}

#[test]
fn a_reserved_port_is_refused_on_the_nodes_own_address_alone_and_by_protocol() {
    let own = reached("192.168.0.2", &[]);
    for changes in [vec![port(22, "TCP")], vec![range(20, 30, "TCP")], vec![port(30000, "UDP")], vec![port(22, "TCP"), one_leg()]]
    {
        assert_eq!(refused(&own, with(&changes)), Some(NodeRefusalReason::ReservedPort), "{changes:?}");
        for elsewhere in [facts(), reached("2.2.2.2", &[])] {
            assert_eq!(refused(&elsewhere, with(&changes)), None, "an address that is for forwards: {changes:?}");
        }
    }
    for changes in [port(22, "UDP"), range(20, 30, "UDP"), range(23, 29999, "TCP"), port(53, "UDP")] {
        assert_eq!(refused(&own, with(std::slice::from_ref(&changes))), None, "{changes:?}");
    }
}

#[test]
fn the_message_names_the_one_port_and_both_settings() {
    let said = message(&reached("192.168.0.2", &[]), with(&[range(20, 40000, "TCP")]));
    for word in ["TCP port 22 of 192.168.0.2", "--reserved-ports", "agent.reservedPorts", "entry x"] {
        assert!(said.contains(word), "{said}");
    }
}

#[test]
fn a_port_on_which_a_program_listens_is_refused_on_the_nodes_own_address_with_one_leg_as_with_two() {
    for listener in [listener(Protocol::Tcp, "0.0.0.0", 80), listener(Protocol::Tcp, "192.168.0.2", 80)] {
        let busy = reached("192.168.0.2", std::slice::from_ref(&listener));
        for changes in [vec![], vec![one_leg()], vec![range(70, 90, "TCP")]] {
            assert_eq!(refused(&busy, with(&changes)), Some(NodeRefusalReason::ShadowsLocalListener), "{changes:?}");
        }
        assert_eq!(refused(&busy, with(&[port(80, "UDP")])), None);
        assert_eq!(refused(&busy, with(&[port(81, "TCP")])), None);
        // On an address for forwards, the forward gets the port, and there is a note about the shadowed program.
        let verdict = verdict(&reached("2.2.2.2", &[listener]), spec());
        assert!(verdict.is_carried());
        assert!(verdict.notes[0].0.contains("on 192.168.0.2: TCP 80"), "{:?}", verdict.notes);
    }
    let other = reached("192.168.0.2", &[listener(Protocol::Tcp, "2.2.2.2", 80)]);
    assert_eq!(refused(&other, spec()), None, "bound to another address");
}

#[test]
fn a_program_that_hears_another_interface_alone_is_no_listener() {
    let bound = |device: &str| {
        let device = Some(device.parse().unwrap());
        reached("192.168.0.2", &[Listener { device, ..listener(Protocol::Tcp, "0.0.0.0", 80) }])
    };
    assert_eq!(refused(&bound("eth0"), spec()), None);
    assert_eq!(refused(&bound("eth1"), spec()), Some(NodeRefusalReason::ShadowsLocalListener));
    let unnamed = with(&[("/internal", json!({"addresses": ["192.168.0.2"], "gateways": ["192.168.0.1"]}))]);
    assert_eq!(refused(&bound("eth1"), unnamed), Some(NodeRefusalReason::ShadowsLocalListener), "the address is there");
}

#[test]
fn reverse_leaves_out_reserved_ports_on_the_nodes_own_address_and_says_so() {
    let reverse = |entry: Value| with(&[("/reverse", json!({"ports": [entry]}))]);
    let all = || reverse(json!({"name": "all", "port": 1, "endPort": 65535, "targetPort": 80, "targetEndPort": 80}));
    let planned = |facts: &Facts, spec| plan(facts, &[object("one", spec)], &policy(), &InForce::default());
    let ports = |plan: &Plan| {
        let reversed = plan.verdicts.values().next().unwrap().directed();
        let reversed = reversed.filter(|(direction, _)| *direction == crate::forward::Direction::Reverse);
        reversed.map(|(_, translation)| translation.flows.ports.to_string()).collect::<Vec<_>>()
    };
    let listens = [listener(Protocol::Tcp, "0.0.0.0", 9000)];
    let own = planned(&reached("2.2.2.2", &listens), all());
    assert_eq!(ports(&own), ["1:21", "23:29999", "32768:65535"]);
    let verdict = own.verdicts.values().next().unwrap();
    assert!(verdict.is_carried() && verdict.objection.is_none());
    let notes = verdict.notes.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
    for word in ["TCP of 2.2.2.2", "22, 30000:32767", "agent.reservedPorts", "TCP 9000"] {
        assert!(notes.contains(word), "{word}: {notes}");
    }
    let targets: BTreeSet<String> = own.desired.translations.iter().map(|it| it.destination.address.to_string()).collect();
    assert_eq!(targets.len(), 2, "both directions");
    assert_eq!(ports(&planned(&facts(), all())), ["1:65535"], "an address that is for forwards");
    let single = reverse(json!({"name": "ssh", "port": 22}));
    assert_eq!(refused(&reached("2.2.2.2", &[]), single.clone()), Some(NodeRefusalReason::ReservedPort));
    assert_eq!(refused(&facts(), single), None);
    let within = reverse(json!({"name": "np", "port": 31000, "endPort": 32000}));
    assert_eq!(refused(&reached("2.2.2.2", &[]), within), Some(NodeRefusalReason::ReservedPort), "nothing would be left");
}

#[test]
fn while_it_is_not_known_by_which_address_the_node_is_reached_each_may_be_it_for_reserved_ports() {
    let listener = Listener { protocol: Protocol::Tcp, address: "0.0.0.0".parse().unwrap(), port: 80, device: None };
    let unknown =
        Facts { maybe_node_addresses: ["192.168.0.2".parse().unwrap()].into(), listeners: [listener].into(), ..facts() };
    let judged = |in_force: &InForce| {
        let spec = with(&[("/ports/0/port", json!(22))]);
        plan(&unknown, &[object("one", spec)], &policy(), in_force).verdicts.into_values().next().unwrap().acceptance
    };
    let Acceptance::RefusedHere(refusal) = judged(&InForce::default()) else { panic!("a new claim") };
    assert_eq!(refusal.reason, NodeRefusalReason::ReservedPort);
    assert!(refusal.message.contains("has had no default route") && refusal.message.contains("add the default route"));
    let earlier = plan(&facts(), &[object("one", with(&[("/ports/0/port", json!(22))]))], &policy(), &InForce::default());
    assert_eq!(judged(&InForce::of(&earlier.verdicts)), Acceptance::Accepted, "what is in force stays");
    let on_80 = plan(&unknown, &[object("one", spec())], &policy(), &InForce::default());
    assert_eq!(on_80.verdicts.into_values().next().unwrap().acceptance, Acceptance::Accepted, "a listener is a note");
}
