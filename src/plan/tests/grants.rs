//! Grants: what lies inside one grant is carried, and nothing else, also not what is in force.

use serde_json::{Value, json};

use super::*;
use crate::api::decode_grant;
use crate::grant::Grant;

/// A grant for the namespace `default` that contains the forward of the seed.
pub(super) fn grant(name: &str, changes: &[(&str, Value)]) -> Grant {
    let mut document = json!({
        "apiVersion": "portforward.dev/v1alpha1", "kind": "PortForwardGrant", "metadata": {"name": name},
        "spec": {
            "namespaces": ["default"],
            "listen": [{"cidrs": ["192.168.0.0/24"], "protocol": "TCP", "port": 80, "endPort": 89}],
            "clients": ["1.1.0.0/16"],
            "upstreams": [{"cidrs": ["3.3.3.0/24"], "protocol": "TCP", "port": 80, "endPort": 89}],
            "external": ["2.2.2.0/29"],
            "gateways": [{"address": "192.168.0.1", "routes": ["1.1.1.0/24"]}],
        },
    });
    for (field, value) in changes {
        document["spec"][*field] = value.clone();
    }
    Grant::parse(&decode_grant(document).unwrap()).unwrap()
}

fn requiring(grants: &[Grant]) -> Policy {
    Policy { require_grants: RequireGrants::Yes, grants: Grants::Read(grants.into()), ..Policy::default() }
}

#[allow(clippy::needless_pass_by_value, reason = "every caller makes the value for this call")]
pub(super) fn object_in(namespace: &str, name: &str, spec: Value) -> Candidate {
    let metadata = json!({"namespace": namespace, "name": name, "generation": 3});
    let document = json!({"apiVersion": "portforward.dev/v1alpha1", "kind": "PortForward", "metadata": metadata, "spec": spec});
    Candidate::of(&api::decode(document).unwrap())
}

fn created(candidate: Candidate, at: &str) -> Candidate {
    Candidate { created: Some(at.parse().unwrap()), ..candidate }
}

pub(super) fn with_grants(candidates: &[Candidate], grants: &[Grant]) -> Plan {
    plan(&facts(), candidates, &requiring(grants), &InForce::default())
}

fn only(plan: &Plan) -> &Verdict {
    plan.verdicts.values().next().unwrap()
}

/// The reason and message of a refusal; empty if the forward is accepted.
fn refusal(verdict: &Verdict) -> (&'static str, &str) {
    match &verdict.acceptance {
        Acceptance::RefusedHere(refusal) => (refusal.reason.as_str(), &refusal.message),
        Acceptance::Conflict(conflict) => ("Conflict", &conflict.message),
        Acceptance::Accepted => ("", ""),
        other => panic!("{other:?}"),
    }
}

fn reasons(plan: &Plan) -> Vec<(String, &'static str)> {
    plan.verdicts.iter().map(|(key, verdict)| (key.to_string(), refusal(verdict).0)).collect()
}

#[test]
fn what_lies_outside_of_every_grant_is_named_and_nothing_of_it_is_carried() {
    let reverse = |port: u16| json!({"ports": [{"name": "r", "port": port, "targetPort": 80}]});
    let ranges = json!([{"name": "x", "port": 80}, {"name": "y", "port": 85, "endPort": 95}]);
    let shifted = json!([{"name": "x", "port": 80, "endPort": 81, "targetPort": 180, "targetEndPort": 181}]);
    let cases: [(&[(&str, Value)], &str); 14] = [
        (
            &[("/client/addresses", json!(["1.1.1.1", "1.2.0.0/16"]))],
            "spec.client.addresses 1.2.0.0/16 is not in clients of grant bank-a",
        ),
        (&[("/client/addresses", json!(["1.0.0.0/8"]))], "spec.client.addresses 1.0.0.0/8 is not in clients"),
        (
            &[("/internal/addresses", json!(["192.168.0.2"])), ("/ports", ranges)],
            "spec.ports[1] (y), TCP 90:95 on 192.168.0.2, is not in listen",
        ),
        (&[("/ports", shifted)], "spec.ports[0] (x), target TCP 180:181 of 3.3.3.3, is not in upstreams"),
        (&[("/ports/0/protocol", json!("UDP"))], "spec.ports[0] (http), UDP 80 on 192.168.0.2, is not in listen"),
        (&[("/ports/0/targetPort", json!(443))], "spec.ports[0] (http), target TCP 443 of 3.3.3.3, is not in upstreams"),
        (&[("/upstream/targets/0/address", json!("9.9.9.9"))], "spec.upstream.targets[0].address 9.9.9.9 is not in upstreams"),
        (&[("/external/addresses", json!(["2.2.2.9"]))], "spec.external.addresses[0] 2.2.2.9 is not in external"),
        (&[("/internal/gateways", json!(["192.168.0.9"]))], "spec.internal.gateways[0] 192.168.0.9 is not in gateways"),
        (
            &[("/client/addresses", json!(["1.1.2.1"]))],
            "spec.client.addresses 1.1.2.1, routed through 192.168.0.1, is not in gateways.routes",
        ),
        (&[("/reverse", reverse(8080))], "spec.reverse.ports[0] (r), TCP 8080, is not in reverse"),
        (
            &[("/external/interface", json!("eth1"))],
            "spec.external.interface eth1, which is the internal interface too, is not permitted by oneLeg",
        ),
        (&[("/external", json!({"addresses": ["192.168.0.2"]}))], "spec.external.addresses[0] 192.168.0.2 is not in external"),
        (
            &[("/upstream/targets/0/address", json!("9.9.9.9")), ("/external/addresses", json!(["2.2.2.9"]))],
            "and 1 more of its fields lie outside",
        ),
    ];
    for (changes, said) in cases {
        let plan = with_grants(&[object("one", with(changes))], &[grant("bank-a", &[])]);
        let (reason, message) = refusal(only(&plan));
        assert!(reason == "NotGranted" && message.contains(said), "{message} instead of {said}");
        assert_eq!((&plan.desired, only(&plan).suspended.len()), (&Desired::default(), 0), "{said}");
    }
    assert_eq!(refusal(only(&with_grants(&[object("one", spec())], &[grant("bank-a", &[])]))), ("", ""));
}

#[test]
fn one_leg_and_reverse_are_carried_only_if_the_grant_says_so() {
    let one_leg = with(&[("/external", json!({"addresses": ["192.168.0.2"]}))]);
    let permits = |spec: &Value, changes: &[(&str, Value)]| {
        let plan = with_grants(&[object("one", spec.clone())], &[grant("a", changes)]);
        refusal(only(&plan)).0.is_empty()
    };
    let external = ("external", json!(["192.168.0.2", "2.2.2.0/29"]));
    assert!(!permits(&one_leg, std::slice::from_ref(&external)));
    assert!(permits(&one_leg, &[external, ("oneLeg", json!(true))]));
    let reverse = with(&[(
        "/reverse",
        json!({"ports": [{"name": "r", "port": 8000, "endPort": 8009, "targetPort": 80, "targetEndPort": 80}]}),
    )]);
    let two = json!([{"protocol": "TCP", "port": 8000, "endPort": 8004}, {"port": 8005, "endPort": 8100}]);
    assert!(permits(&reverse, &[("reverse", two)]), "two entries cover the ports together");
    assert!(!permits(&reverse, &[("reverse", json!([{"protocol": "UDP", "port": 1, "endPort": 65535}]))]));
    let any = ("reverse", json!([{"port": 8000}]));
    let entry = |protocol: &str| json!({"ports": [{"name": "r", "protocol": protocol, "port": 8000, "targetPort": 80}]});
    assert!(permits(&with(&[("/reverse", entry("TCP"))]), std::slice::from_ref(&any)));
    assert!(!permits(&with(&[("/reverse", entry("UDP"))]), std::slice::from_ref(&any)), "no UDP with the upstream");
    let alone = with(&[("/ports", json!([])), ("/reverse", entry("TCP"))]);
    assert!(permits(&alone, std::slice::from_ref(&any)));
    let two = json!([{"cidrs": ["3.3.3.3"], "protocol": "UDP"}, {"cidrs": ["9.9.9.9"]}]);
    assert!(!permits(&alone, &[any.clone(), ("upstreams", two)]), "no TCP with this upstream");
    assert!(!permits(&alone, &[any, ("listen", json!([{"cidrs": ["192.168.9.0/24"]}]))]), "its address must be in listen too");
    let masquerade = with(&[("/external", json!({"interface": "eth0"}))]);
    assert!(permits(&masquerade, &[("external", json!([]))]), "masquerade names no address");
}

#[test]
fn several_entries_of_one_list_may_cover_a_network_and_ports_together() {
    let wide =
        with(&[("/client/addresses", json!(["1.1.0.0/22"])), ("/ports", json!([{"name": "x", "port": 80, "endPort": 89}]))]);
    let halves = |ports: [u16; 2]| {
        json!([
            {"cidrs": ["192.168.0.0/24", "3.3.3.3"], "port": 80, "endPort": ports[0]},
            {"cidrs": ["192.168.0.2", "3.3.3.0/24"], "protocol": "TCP", "port": ports[1], "endPort": 89},
        ])
    };
    let networks = json!(["1.1.0.0/24", "1.1.1.0/24", "1.1.2.0/23"]);
    let of = |networks: &Value, ports| {
        let gateways = json!([{"address": "192.168.0.1", "routes": networks}]);
        let changes =
            [("clients", networks.clone()), ("gateways", gateways), ("listen", halves(ports)), ("upstreams", halves(ports))];
        refusal(only(&with_grants(&[object("one", wide.clone())], &[grant("a", &changes)]))).1.to_owned()
    };
    assert_eq!(of(&networks, [84, 85]), "");
    assert!(of(&networks, [83, 85]).contains("TCP 84 on 192.168.0.2"));
    assert!(of(&json!(["1.1.0.0/24", "1.1.2.0/23"]), [84, 85]).contains("1.1.0.0/22 is not in clients"));
}

#[test]
fn a_forward_whose_parts_lie_in_two_grants_lies_in_none() {
    let here = grant("here", &[("upstreams", json!([{"cidrs": ["9.9.9.9"]}]))]);
    let there = grant("there", &[("clients", json!(["8.8.8.8"]))]);
    let plan = with_grants(&[object("one", spec())], &[here, there]);
    let (reason, message) = refusal(only(&plan));
    assert_eq!(reason, "NotGranted");
    assert!(message.starts_with("spec.upstream.targets[0].address 3.3.3.3 is not in upstreams of grant here;"), "{message}");
    let far = grant("far", &[("upstreams", json!([{"cidrs": ["9.9.9.9"]}])), ("clients", json!(["8.8.8.8"]))]);
    let near = grant("near", &[("clients", json!(["8.8.8.8"]))]);
    let plan = with_grants(&[object("one", spec())], &[far, near]);
    assert!(refusal(only(&plan)).1.contains("of grant near;"), "the one that comes closest: {}", refusal(only(&plan)).1);
}

#[test]
fn a_grant_is_for_its_namespaces_and_nodes_only() {
    let plan = with_grants(&[object_in("other", "one", spec())], &[grant("a", &[])]);
    assert!(refusal(only(&plan)).1.starts_with("no grant names the namespace other;"));
    let elsewhere = grant("b", &[("nodeSelector", json!({"matchLabels": {"zone": "b"}}))]);
    let plan = with_grants(&[object("one", spec())], &[elsewhere]);
    assert!(refusal(only(&plan)).1.starts_with("no grant for the namespace default holds on this node"));
    assert_eq!(plan.desired, Desired::default());
}

#[test]
fn a_grant_that_shrinks_or_goes_withdraws_what_is_in_force() {
    let forward = [object("one", spec())];
    let before = with_grants(&forward, &[grant("a", &[])]);
    assert_eq!((before.desired.translations.len(), before.desired.routes.len()), (1, 1));
    let smaller = grant("a", &[("clients", json!(["1.1.1.2"]))]);
    for grants in [&[smaller][..], &[]] {
        let after = plan(&facts(), &forward, &requiring(grants), &InForce::of(&before.verdicts));
        assert_eq!((refusal(only(&after)).0, &after.desired), ("NotGranted", &Desired::default()));
        assert!(only(&after).suspended.is_empty(), "it comes back only as a new claim");
    }
    let routeless = grant("a", &[("gateways", json!([]))]);
    let after = plan(&facts(), &forward, &requiring(&[routeless]), &InForce::of(&before.verdicts));
    assert_eq!((refusal(only(&after)).0, &after.desired), ("NotGranted", &Desired::default()));
}

#[test]
fn what_is_not_granted_claims_nothing() {
    let squatter =
        created(object_in("mallory", "old", with(&[("/client/addresses", json!(["1.0.0.0/8"]))])), "2020-01-01T00:00:00Z");
    let victim = created(object("new", spec()), "2026-01-01T00:00:00Z");
    let plan = with_grants(&[squatter, victim], &[grant("a", &[])]);
    assert_eq!(reasons(&plan), [("default/new".to_owned(), ""), ("mallory/old".to_owned(), "NotGranted")]);
    assert_eq!((plan.desired.translations.len(), plan.desired.routes.len()), (1, 1));
}

#[test]
fn forwards_together_do_not_get_more_than_their_grant() {
    let spec_of = |port: u16, clients: &[&str]| with(&[("/ports/0/port", json!(port)), ("/client/addresses", json!(clients))]);
    let both = json!(["default", "other"]);
    let all = [
        object("a", spec_of(80, &["1.1.1.1", "1.1.1.3"])),
        object_in("other", "b", spec_of(81, &["1.1.1.1", "1.1.1.3"])),
        object_in("other", "c", spec_of(82, &["1.1.1.1"])),
    ];
    let limited = |limits: Value| {
        let plan = with_grants(&all, &[grant("a", &[("namespaces", both.clone()), ("limits", limits)])]);
        let messages: Vec<String> = plan.verdicts.values().map(|verdict| refusal(verdict).1.to_owned()).collect();
        (reasons(&plan).into_iter().map(|(_, reason)| reason).collect::<Vec<_>>(), messages, plan.desired.translations.len())
    };
    let (reasons, messages, translations) = limited(json!({"translations": 3}));
    assert_eq!((reasons, translations), (vec!["", "TooMany", ""], 3), "a smaller one that fits is carried");
    assert!(
        messages[1].starts_with(
            "with this forward there would be 4 translations under grant a on this node, and it permits 3 (limits.translations)"
        ),
        "{}",
        messages[1]
    );
    assert_eq!(limited(json!({"forwards": 2})).0, ["", "", "TooMany"]);
    assert_eq!(limited(json!({"forwards": 0})).2, 0);
    assert_eq!(limited(json!({"routes": 2})).0, ["", "TooMany", "TooMany"]);
    assert_eq!(limited(json!({"routes": 5})).0, ["", "", ""]);
}

#[test]
fn reverse_counts_as_a_translation_and_a_forward_without_gateway_needs_no_route() {
    let reverse = with(&[("/reverse", json!({"ports": [{"name": "r", "port": 8000, "targetPort": 80}]}))]);
    let permitted = ("reverse", json!([{"port": 8000}]));
    let of = |spec: &Value, limits: Value| {
        let grants = [grant("a", &[permitted.clone(), ("limits", limits)])];
        reasons(&with_grants(&[object("one", spec.clone())], &grants))[0].1
    };
    assert_eq!([1, 2].map(|limit| of(&reverse, json!({"translations": limit}))), ["TooMany", ""]);
    let direct = with(&[("/internal/gateways", json!([]))]);
    assert_eq!([&spec(), &direct].map(|spec| of(spec, json!({"routes": 0}))), ["TooMany", ""]);
    // A report counts what it only notes, so what others ask for may exceed the limit.
    let both = [object("a", spec()), object("b", with(&[("/internal/gateways", json!([])), ("/ports/0/port", json!(81))]))];
    let policy =
        Policy { require_grants: RequireGrants::Report, ..requiring(&[grant("a", &[("limits", json!({"routes": 0}))])]) };
    let plan = plan(&facts(), &both, &policy, &InForce::default());
    assert_eq!(plan.verdicts.values().map(|verdict| verdict.notes.len()).collect::<Vec<_>>(), [1, 0]);
}

/// Whether a forward of another node leads on depends on its grants too.
#[test]
fn what_no_node_may_carry_closes_no_circle_and_what_another_node_may_carry_does() {
    let (third, l1, l2) = super::cycles::circle_of_two();
    let udp = |address: &str| json!([{"cidrs": [address], "protocol": "UDP", "port": 7777}]);
    let wide = |name: &str, namespace: &str, more: &[(&str, Value)]| {
        let all = ["192.168.0.100", "192.168.0.3", "192.168.0.2", "2.2.2.2"];
        let mut changes =
            vec![("namespaces", json!([namespace])), ("clients", json!(all)), ("external", json!(all)), ("oneLeg", json!(true))];
        changes.extend([("listen", udp("192.168.0.0/24")), ("upstreams", udp("192.168.0.0/24"))]);
        changes.extend(more.iter().cloned());
        grant(name, &changes)
    };
    let here = wide("b", "b", &[]);
    let elsewhere = wide("a", "a", &[("nodeSelector", json!({"matchLabels": {"zone": "b"}}))]);
    let set = [l1.clone(), l2.clone()];
    let of_l2 = |grants: Grants| {
        let policy = Policy { require_grants: RequireGrants::Yes, grants, ..Policy::default() };
        let plan = plan(&third, &set, &policy, &InForce::default());
        assert!(!plan.verdicts[&l1.key].is_carried());
        refusal(&plan.verdicts[&l2.key]).0
    };
    assert_eq!(of_l2(Grants::Read([here.clone()].into())), "", "no node may carry the other one");
    assert_eq!(of_l2(Grants::Read([here, elsewhere].into())), "ForwardLoop", "another node may");
    let standing = [(l2.key.clone(), Standing::Same)].into();
    assert_eq!(of_l2(Grants::Unread { standing, recorded: None }), "", "the other one is new, and no node carries it");
}

#[test]
fn what_conflicts_uses_nothing_of_its_grant() {
    let all = [object("a", spec()), object("b", spec()), object("c", with(&[("/ports/0/port", json!(81))]))];
    let plan = with_grants(&all, &[grant("a", &[("limits", json!({"forwards": 2}))])]);
    assert_eq!(reasons(&plan).into_iter().map(|(_, reason)| reason).collect::<Vec<_>>(), ["", "Conflict", ""]);
}

#[test]
fn after_a_restore_in_another_order_the_priority_decides_between_namespaces() {
    let grants = [
        grant("bank", &[("namespaces", json!(["zz-bank"])), ("priority", json!(10))]),
        grant("others", &[("namespaces", json!(["aaa"]))]),
    ];
    for (of_bank, of_aaa) in [
        ("2026-01-01T00:00:00Z", "2025-01-01T00:00:00Z"),
        ("2025-01-01T00:00:00Z", "2026-01-01T00:00:00Z"),
        ("2026-01-01T00:00:00Z", "2026-01-01T00:00:00Z"),
    ] {
        let both = [created(object_in("zz-bank", "web", spec()), of_bank), created(object_in("aaa", "web", spec()), of_aaa)];
        assert_eq!(reasons(&with_grants(&both, &grants)), [("aaa/web".to_owned(), "Conflict"), ("zz-bank/web".to_owned(), "")]);
        let ignored =
            plan(&facts(), &both, &Policy { require_grants: RequireGrants::Report, ..requiring(&grants) }, &InForce::default());
        let winner = if of_bank < of_aaa { "zz-bank/web" } else { "aaa/web" };
        assert!(reasons(&ignored).contains(&(winner.to_owned(), "")), "without --require-grants, age decides");
    }
}

#[test]
fn a_grant_without_room_gives_its_priority_to_nobody() {
    let bank = ("namespaces", json!(["bank"]));
    let grants = [
        grant("vip", &[bank.clone(), ("priority", json!(10)), ("limits", json!({"forwards": 1}))]),
        grant("plain", &[bank]),
        grant("others", &[("namespaces", json!(["aaa"])), ("priority", json!(5))]),
    ];
    let on = |namespace, name, port: u16| object_in(namespace, name, with(&[("/ports/0/port", json!(port))]));
    let all = [on("bank", "a", 80), on("bank", "b", 81), on("bank", "c", 82), on("aaa", "x", 80), on("aaa", "y", 81)];
    let expected = [("aaa/x", "Conflict"), ("aaa/y", ""), ("bank/a", ""), ("bank/b", "Conflict"), ("bank/c", "")];
    for turn in 0..grants.len() {
        let mut grants = grants.to_vec();
        grants.rotate_left(turn);
        assert_eq!(reasons(&with_grants(&all, &grants)), expected.map(|(key, reason)| (key.to_owned(), reason)), "{turn}");
    }
}

#[test]
fn grants_that_were_never_read_let_nothing_new_in_and_keep_what_the_record_holds() {
    let all = [object("known", spec()), object("new", with(&[("/ports/0/port", json!(81))]))];
    let unread = |standing: &[(&str, Standing)], recorded: Option<&[Grant]>| {
        let key = |name: &&str| ForwardKey::new("default", *name);
        let standing = standing.iter().map(|(name, standing)| (key(name), *standing)).collect();
        let grants = Grants::Unread { standing, recorded: recorded.map(Into::into) };
        plan(&facts(), &all, &Policy { require_grants: RequireGrants::Yes, grants, ..Policy::default() }, &InForce::default())
    };
    let nothing = unread(&[], None);
    assert_eq!(
        (reasons(&nothing), &nothing.desired),
        (vec![("default/known".to_owned(), "NotGranted"), ("default/new".to_owned(), "NotGranted")], &Desired::default())
    );
    for recorded in [None, Some(&[grant("a", &[])][..])] {
        let plan = unread(&[("known", Standing::Same)], recorded);
        assert_eq!(reasons(&plan), [("default/known".to_owned(), ""), ("default/new".to_owned(), "NotGranted")]);
        assert!(refusal(plan.verdicts.values().last().unwrap()).1.contains("CRD of PortForwardGrant"));
    }
    let changed = unread(&[("known", Standing::Changed { to: 4 })], None);
    let known = only(&changed);
    assert_eq!((known.translations.len(), known.objection.as_ref().unwrap().reason), (1, NodeRefusalReason::NotGranted));
    assert!(known.objection.as_ref().unwrap().message.starts_with("generation 4 of the object is not carried yet"));
    assert_eq!(unread(&[("known", Standing::Same)], Some(&[])).desired, Desired::default(), "the grants of the record hold");
}

#[test]
fn a_report_refuses_nothing_and_says_what_would_be_refused() {
    let spec = with(&[("/upstream/targets/0/address", json!("9.9.9.9"))]);
    let planned = |required, grants: &[Grant]| {
        plan(
            &facts(),
            &[object("one", spec.clone())],
            &Policy { require_grants: required, ..requiring(grants) },
            &InForce::default(),
        )
    };
    let reported = planned(RequireGrants::Report, &[grant("a", &[])]);
    let ignored = planned(RequireGrants::No, &[grant("a", &[])]);
    assert_eq!(reported.desired, ignored.desired);
    let notes = &only(&reported).notes;
    assert!(notes[0].0.contains("refused with --require-grants: spec.upstream.targets[0].address 9.9.9.9"), "{notes:?}");
    assert!(only(&ignored).notes.is_empty());
    let full = grant("a", &[("upstreams", json!([{"cidrs": ["9.9.9.9"]}])), ("limits", json!({"forwards": 0}))]);
    assert!(only(&planned(RequireGrants::Report, &[full])).notes[0].0.contains("limits.forwards"));
}
