//! A forward in force stays in force, also where the node would not accept it as new.

use super::node_ports::{listener, reached};
use super::*;
use crate::model::{Translation, Translations};

/// The seed on a node where later a program listens on its port and its ports are reserved.
fn later() -> (Facts, Policy) {
    let facts = reached("192.168.0.2", &[listener(Protocol::Tcp, "0.0.0.0", 80), listener(Protocol::Tcp, "0.0.0.0", 81)]);
    (facts, Policy { reserved_ports: "80,22/TCP".parse().unwrap(), ..Policy::default() })
}

/// The plan for `specs` on a node without any objection.
fn put(specs: &[Value]) -> Plan {
    let objects: Vec<Candidate> = specs.iter().enumerate().map(|(n, spec)| object(&format!("f{n}"), spec.clone())).collect();
    let plan = planned(&facts(), &objects);
    assert!(plan.verdicts.values().all(|verdict| verdict.is_carried()));
    plan
}

fn found(translations: &Translations) -> InForce {
    let mut in_force = InForce::default();
    in_force.find(&translations.iter().cloned().collect::<Vec<_>>());
    in_force
}

/// The verdict for `spec`, under the name of the first one put in force, given `in_force`.
fn then(in_force: &InForce, spec: Value) -> (Verdict, Vec<String>) {
    let (facts, policy) = later();
    let plan = plan(&facts, &[object("f0", spec)], &policy, in_force);
    let ports = plan.desired.translations.iter().map(|it| format!("{} {}", it.flows.protocol, it.flows.ports)).collect();
    (*plan.verdicts.into_values().next().unwrap(), ports)
}

fn stays(in_force: &InForce, changes: &[(&str, Value)]) {
    let (verdict, _) = then(in_force, with(changes));
    assert!(verdict.is_carried() && verdict.objection.is_none(), "{changes:?}: {:?} {:?}", verdict.acceptance, verdict.objection);
}

#[test]
fn no_edit_of_anything_but_ports_takes_a_forward_out_of_force() {
    let plan = put(&[spec()]);
    let unnamed = json!({"addresses": ["192.168.0.2"], "gateways": ["192.168.0.1"]});
    let edits: Vec<Vec<(&str, Value)>> = vec![
        vec![],
        vec![("/upstream/targets/0/address", json!("3.3.3.4"))],
        vec![("/ports/0/targetPort", json!(8080))],
        vec![("/external/addresses", json!(["2.2.2.9"]))],
        vec![("/external", json!({}))],
        vec![("/client/addresses", json!(["1.1.1.1", "5.5.5.5"]))],
        vec![("/client/addresses", json!(["1.1.0.0/16"]))],
        vec![("/client/addresses", json!(["5.5.5.5"]))],
        vec![("/internal", unnamed)],
        vec![("/internal/interface", json!("eth2"))],
        vec![("/internal/gateways", json!(["192.168.0.254"]))],
        vec![("/ports/0/name", json!("renamed"))],
        vec![("/external/addresses", json!(["192.168.0.2"])), ("/external/interface", json!("eth1"))],
    ];
    for changes in &edits {
        stays(&InForce::of(&plan.verdicts), changes);
    }
    // The record is lost: the kernel shows the flows, but not their forwards. It is then not known that another client
    // belongs to the same forward.
    let other_client = |changes: &&Vec<(&str, Value)>| !changes.contains(&("/client/addresses", json!(["5.5.5.5"])));
    for changes in edits.iter().filter(other_client) {
        stays(&found(&plan.desired.translations), changes);
    }
    let forwards: Vec<Forward> = vec![object("f0", spec()).forward.unwrap()];
    let translations: Vec<Translation> = plan.desired.translations.iter().cloned().collect();
    for changes in &edits {
        stays(&InForce::recorded(&translations, &forwards), changes);
    }
}

#[test]
fn ranges_may_be_split_merged_and_shortened() {
    let range = |first: u16, last: u16| json!({"name": format!("r{first}"), "port": first, "endPort": last});
    let one = InForce::of(&put(&[with(&[("/ports", json!([range(70, 90)]))])]).verdicts);
    stays(&one, &[("/ports", json!([range(70, 80), range(81, 90)]))]);
    stays(&one, &[("/ports", json!([range(79, 82)]))]);
    stays(&one, &[("/ports", json!([{"name": "x", "port": 80}]))]);
    let two = InForce::of(&put(&[with(&[("/ports", json!([range(70, 80), range(81, 90)]))])]).verdicts);
    stays(&two, &[("/ports", json!([range(70, 90)]))]);
}

#[test]
fn a_port_that_an_edit_adds_and_that_is_refused_is_left_out_and_the_rest_goes_on() {
    let in_force = InForce::of(&put(&[spec()]).verdicts);
    let added = |port: u16| with(&[("/ports", json!([{"name": "http", "port": 80}, {"name": "more", "port": port}]))]);
    for (port, reason) in [(22, NodeRefusalReason::ReservedPort), (81, NodeRefusalReason::ShadowsLocalListener)] {
        let (verdict, ports) = then(&in_force, added(port));
        assert_eq!((verdict.is_carried(), ports), (true, vec!["TCP 80".to_owned()]));
        let objection = verdict.objection.unwrap();
        assert_eq!(objection.reason, reason);
        assert!(
            objection.message.contains(&format!("TCP port {port}")) && objection.message.contains("entry more"),
            "{}",
            objection.message
        );
        assert!(objection.message.contains("left out"), "{}", objection.message);
    }
    let (verdict, ports) = then(&in_force, added(82));
    assert_eq!(
        (verdict.objection, ports),
        (None, vec!["TCP 80".to_owned(), "TCP 82".to_owned()]),
        "what nobody refuses comes in"
    );
    // An entry that grows keeps the ports it had.
    let (verdict, ports) = then(&in_force, with(&[("/ports", json!([{"name": "http", "port": 79, "endPort": 81}]))]));
    assert_eq!((verdict.objection.unwrap().reason, ports), (NodeRefusalReason::ShadowsLocalListener, vec!["TCP 80".to_owned()]));
}

#[test]
fn a_new_claim_is_refused_whole() {
    let in_force = InForce::of(&put(&[spec()]).verdicts);
    let (facts, policy) = later();
    let refused = |name: &str, changes: &[(&str, Value)]| {
        let plan = plan(&facts, &[object(name, with(changes))], &policy, &in_force);
        matches!(plan.verdicts.values().next().unwrap().acceptance, Acceptance::RefusedHere(_))
            && plan.desired.translations.is_empty()
    };
    assert!(refused("f0", &[("/ports/0/port", json!(81))]), "an edit that moves to a port of a program");
    assert!(
        refused("f0", &[("/internal/addresses", json!(["192.168.0.2"])), ("/ports/0/protocol", json!("UDP"))]),
        "80 is reserved for UDP too"
    );
    assert!(refused("other", &[("/client/addresses", json!(["5.5.5.5"]))]), "another forward has not what the first one has");
    assert!(!refused("other", &[]), "deleted and made anew by another name, it is what was in force");
    assert!(
        refused("f0", &[("/ports", json!([{"name": "a", "port": 22}, {"name": "b", "port": 82}]))]),
        "nothing of it is in force"
    );
}

#[test]
fn loops_and_api_servers_are_refused_also_in_force() {
    let in_force = InForce::of(&put(&[spec()]).verdicts);
    let refusal = |facts: Facts| match plan(&facts, &[object("f0", spec())], &Policy::default(), &in_force)
        .verdicts
        .into_values()
        .next()
        .unwrap()
        .acceptance
    {
        Acceptance::RefusedHere(refusal) => Some(refusal.reason),
        _ => None,
    };
    assert_eq!(
        refusal(Facts { api_servers: ["3.3.3.3".parse().unwrap()].into(), ..facts() }),
        Some(NodeRefusalReason::ForbiddenUpstream)
    );
    let mut own = facts();
    own.addresses.insert(LocalAddress { address: "3.3.3.3".parse().unwrap(), prefix_len: 32, interface: None });
    assert_eq!(refusal(own), Some(NodeRefusalReason::ForwardLoop));
}

#[test]
fn a_subnet_that_comes_later_takes_no_forward_out_of_force_but_is_told() {
    let in_force = InForce::of(&put(&[spec()]).verdicts);
    let mut changed = facts();
    changed.addresses.insert(LocalAddress {
        address: "3.3.3.1".parse().unwrap(),
        prefix_len: 30,
        interface: Some("eth2".parse().unwrap()),
    });
    let planned = |in_force: &InForce| {
        plan(&changed, &[object("f0", spec())], &Policy::default(), in_force).verdicts.into_values().next().unwrap()
    };
    let verdict = planned(&in_force);
    assert!(verdict.is_carried());
    assert_eq!(verdict.objection.unwrap().reason, NodeRefusalReason::BroadcastAddress);
    assert!(!planned(&InForce::default()).is_carried());
}

#[test]
fn reverse_keeps_the_ports_that_it_has() {
    let all = with(&[(
        "/reverse",
        json!({"ports": [{"name": "all", "port": 1, "endPort": 65535, "targetPort": 80, "targetEndPort": 80}]}),
    )]);
    let before = put(std::slice::from_ref(&all));
    let facts = reached("2.2.2.2", &[]);
    for in_force in [InForce::of(&before.verdicts), found(&before.desired.translations)] {
        let plan = plan(&facts, &[object("f0", all.clone())], &policy(), &in_force);
        assert_eq!(plan.desired, before.desired, "the flag was changed since");
    }
    let fresh = plan(&facts, &[object("f0", all)], &policy(), &InForce::default());
    assert_ne!(fresh.desired, before.desired);
}

#[test]
fn the_older_forward_still_displaces_a_younger_one_in_force() {
    let seed = |name: &str, created: &str| Candidate { created: Some(created.parse().unwrap()), ..object(name, spec()) };
    let in_force = InForce::of(&planned(&facts(), &[seed("b", "2026-01-02T00:00:00Z")]).verdicts);
    let both = [seed("a", "2026-01-01T00:00:00Z"), seed("b", "2026-01-02T00:00:00Z")];
    let plan = plan(&facts(), &both, &Policy::default(), &in_force);
    assert!(matches!(plan.verdicts.values().nth(1).unwrap().acceptance, Acceptance::Conflict(_)));
}

#[test]
fn what_the_node_could_not_carry_for_a_while_is_no_new_claim() {
    let first = put(&[spec()]);
    let (later, policy) = later();
    let seed = [object("f0", spec())];
    let forward = [seed[0].forward.clone().unwrap()];
    let mut away = later.clone();
    away.addresses.retain(|local| local.address.to_string() != "192.168.0.2");
    let mut looped = later.clone();
    looped.addresses.insert(LocalAddress { address: "3.3.3.3".parse().unwrap(), prefix_len: 32, interface: None });
    for facts in [away, looped] {
        let between = plan(&facts, &seed, &policy, &InForce::of(&first.verdicts));
        assert_eq!(between.desired.translations, Translations::new());
        let again = plan(&facts, &seed, &policy, &InForce::of(&between.verdicts));
        let recorded: Vec<Translation> = again.suspended().cloned().collect();
        for in_force in [InForce::of(&again.verdicts), InForce::recorded(&recorded, &forward)] {
            assert_eq!(plan(&later, &seed, &policy, &in_force).desired, first.desired);
        }
    }
}

#[test]
fn a_forward_that_another_displaced_comes_back_with_the_ports_it_had() {
    let gateway = |name: &str, gateway: &str, port: u16| {
        let internal = json!({"addresses": ["192.168.0.2"], "gateways": [gateway]});
        object(name, with(&[("/internal", internal), ("/ports/0/port", json!(port))]))
    };
    let first = planned(&facts(), &[gateway("b", "192.168.0.1", 80)]);
    let (later, policy) = later();
    let both = [gateway("a", "192.168.0.9", 443), gateway("b", "192.168.0.1", 80)];
    let between = plan(&later, &both, &policy, &InForce::of(&first.verdicts));
    assert!(matches!(between.verdicts.values().nth(1).unwrap().acceptance, Acceptance::Conflict(_)));
    let after = plan(&later, &both[1..], &policy, &InForce::of(&between.verdicts));
    assert_eq!(after.desired, first.desired);
}

#[test]
fn what_the_object_itself_gave_up_is_a_new_claim() {
    let first = put(&[spec()]);
    let (later, policy) = later();
    let elsewhere = ("/nodeSelector", json!({"matchLabels": {"zone": "b"}}));
    for change in [("/mode", json!("Disabled")), elsewhere, ("/ports/0/port", json!(8080))] {
        let between = plan(&later, &[object("f0", with(&[change]))], &policy, &InForce::of(&first.verdicts));
        let after = plan(&later, &[object("f0", spec())], &policy, &InForce::of(&between.verdicts));
        assert_eq!(after.desired.translations, Translations::new());
    }
}

#[test]
fn a_client_whose_address_the_node_gets_takes_the_forward_from_no_other_client() {
    let two = with(&[("/client/addresses", json!(["1.1.1.1", "5.5.5.5"]))]);
    let in_force = InForce::of(&put(std::slice::from_ref(&two)).verdicts);
    let mut own = facts();
    own.addresses.insert(LocalAddress { address: "5.5.5.5".parse().unwrap(), prefix_len: 32, interface: None });
    let verdict = |in_force: &InForce| {
        plan(&own, &[object("f0", two.clone())], &Policy::default(), in_force).verdicts.into_values().next().unwrap()
    };
    let (kept, new) = (verdict(&in_force), verdict(&InForce::default()));
    assert!(kept.is_carried() && !new.is_carried());
    assert_eq!(kept.objection.unwrap().reason, NodeRefusalReason::ForwardLoop);
    assert_eq!(super::ways::install(&verdict(&in_force)), ["1.1.1.1/32 via 192.168.0.1 dev eth1"]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Listeners or reserved ports that come later do not change the plan for the same set.
    #[test]
    fn nothing_of_the_node_takes_what_is_in_force_out_of_force(
        specs in prop::collection::vec(any_spec(), 1..12), ports in prop::collection::vec(1u16..200, 0..8), kernel in any::<bool>(),
    ) {
        let candidates: Vec<Candidate> = specs.into_iter().enumerate().map(|(n, spec)| object(&format!("f{n}"), spec)).collect();
        let before = planned(&facts(), &candidates);
        let listeners: Vec<Listener> = ports.iter().map(|port| listener(Protocol::Tcp, "0.0.0.0", *port)).collect();
        let mut later = reached("192.168.0.2", &listeners);
        later.node_addresses.insert("2.2.2.2".parse().unwrap());
        let policy = Policy { reserved_ports: "22,70-90".parse().unwrap(), ..Policy::default() };
        let in_force = if kernel { found(&before.desired.translations) } else { InForce::of(&before.verdicts) };
        prop_assert_eq!(plan(&later, &candidates, &policy, &in_force).desired, before.desired);
    }
}
