//! The translations of one namespace are limited, and what is refused costs little.

use super::*;
use crate::model::Translation;

/// A forward of `namespace` that was created in this second, with so many clients and ports.
fn sized(namespace: &str, name: &str, second: u32, clients: u32, ports: u16) -> Candidate {
    let clients: Vec<String> = (0..clients).map(|n| format!("10.{}.{}.1", second % 250, 2 * n)).collect();
    let first = u16::try_from(1024 + 64 * (second % 1000)).unwrap();
    let ports: Vec<Value> = (0..ports).map(|n| json!({"name": format!("p{n}"), "port": first + n})).collect();
    let spec = with(&[("/client/addresses", json!(clients)), ("/ports", json!(ports))]);
    aged(namespace, name, second, spec)
}

#[allow(clippy::needless_pass_by_value, reason = "every caller makes the value for this call")]
pub(super) fn aged(namespace: &str, name: &str, second: u32, spec: Value) -> Candidate {
    let created = Some(format!("2026-01-01T{:02}:{:02}:{:02}Z", second / 3600, second / 60 % 60, second % 60));
    let metadata = json!({"namespace": namespace, "name": name, "creationTimestamp": created});
    let document = json!({"apiVersion": "portforward.dev/v1alpha1", "kind": "PortForward", "metadata": metadata, "spec": spec});
    Candidate::of(&api::decode(document).unwrap())
}

fn limited(limit: u32) -> Policy {
    Policy { translations: limit.to_string().parse().unwrap(), ..Policy::default() }
}

fn told(plan: &Plan) -> Vec<(String, usize, Option<NodeRefusalReason>)> {
    let reason = |verdict: &Verdict| match &verdict.acceptance {
        Acceptance::RefusedHere(refusal) => Some(refusal.reason),
        Acceptance::Accepted => verdict.objection.as_ref().map(|objection| objection.reason),
        other => panic!("{other:?}"),
    };
    plan.verdicts.iter().map(|(key, verdict)| (key.name.clone(), verdict.translations.len(), reason(verdict))).collect()
}

fn carried(plan: &Plan) -> Vec<&str> {
    plan.verdicts.iter().filter(|(_, verdict)| verdict.is_carried()).map(|(key, _)| key.name.as_str()).collect()
}

fn message(plan: &Plan, name: &str) -> String {
    let verdict = plan.verdicts.iter().find(|(key, _)| key.name == name).unwrap().1;
    match &verdict.acceptance {
        Acceptance::RefusedHere(refusal) => refusal.message.clone(),
        _ => verdict.objection.as_ref().unwrap().message.clone(),
    }
}

#[test]
fn the_forwards_of_one_namespace_share_a_limit_and_those_of_another_do_not_pay() {
    let set =
        [sized("a", "oldest", 1, 2, 3), sized("a", "large", 2, 2, 3), sized("a", "small", 3, 2, 2), sized("b", "other", 4, 2, 5)];
    let plan = plan(&facts(), &set, &limited(10), &InForce::default());
    let expected = [
        ("large".to_owned(), 0, Some(NodeRefusalReason::TooMany)),
        ("oldest".to_owned(), 6, None),
        ("small".to_owned(), 4, None),
        ("other".to_owned(), 10, None),
    ];
    assert_eq!(told(&plan), expected, "a smaller one may still fit");
    let message = message(&plan, "large");
    for part in ["asks for 6 translations", "namespace a have 6 of the 10", "--max-translations", "agent.maxTranslations"] {
        assert!(message.contains(part), "{message}");
    }
    assert!(plan.desired.routes.iter().all(|route| !route.destination.to_string().starts_with("10.2.")), "it claims nothing");
}

#[test]
fn reverse_and_interfaces_on_one_wire_count() {
    let reverse = json!({"ports": [{"name": "all", "port": 1, "endPort": 65535, "targetPort": 80, "targetEndPort": 80}]});
    let set = [aged("a", "one", 1, with(&[("/reverse", reverse)]))];
    let policy = |limit: &str| Policy { translations: limit.parse().unwrap(), ..policy() };
    let mut vrrp = facts();
    let [device, eth1] = ["vrrp.51", "eth1"].map(|name| name.parse::<crate::model::InterfaceName>().unwrap());
    vrrp.links.insert(device, vrrp.links[&eth1].clone());
    vrrp.virtuals.insert(device, crate::model::Virtual::OnWireOf(eth1));
    for (facts, needed) in [(facts(), 4), (vrrp, 5)] {
        let carried = |limit: usize| plan(&facts, &set, &policy(&limit.to_string()), &InForce::default());
        assert!(told(&carried(needed - 1))[0].2 == Some(NodeRefusalReason::TooMany), "{needed}");
        assert!(told(&carried(needed))[0].1 > 0, "{needed}");
    }
}

#[test]
fn what_is_in_force_stays_where_an_older_forward_grows_or_comes_back() {
    let young = sized("a", "young", 9, 2, 2);
    let before = [sized("a", "old", 1, 2, 3), young.clone()];
    let first = plan(&facts(), &before, &limited(10), &InForce::default());
    assert_eq!(carried(&first), ["old", "young"]);
    let kept = [("old".to_owned(), 6, Some(NodeRefusalReason::TooMany)), ("young".to_owned(), 4, None)];
    let grown = [sized("a", "old", 1, 2, 4), young.clone()];
    let translations: Vec<Translation> = first.desired.translations.iter().cloned().collect();
    let forwards: Vec<Forward> = before.iter().map(|candidate| candidate.forward.clone().unwrap()).collect();
    for in_force in [InForce::of(&first.verdicts), InForce::recorded(&translations, &forwards)] {
        let edited = plan(&facts(), &grown, &limited(10), &in_force);
        assert_eq!(told(&edited), kept, "the part in force stays, and the rest is left out");
        assert!(message(&edited, "old").contains("what was in force of this forward stays"));
        let again = plan(&facts(), &grown, &limited(10), &InForce::of(&edited.verdicts));
        assert_eq!(again, edited, "the next plan is the same");
        let older = [sized("a", "ancient", 0, 2, 2), before[0].clone(), young.clone()];
        assert_eq!(carried(&plan(&facts(), &older, &limited(10), &in_force)), ["old", "young"], "an old object that is new here");
    }
    let shrunk = [sized("a", "old", 1, 1, 4), young];
    let room = plan(&facts(), &shrunk, &limited(10), &InForce::of(&first.verdicts));
    assert_eq!(told(&room), [("old".to_owned(), 4, None), ("young".to_owned(), 4, None)]);
    let [shrunk, young] = shrunk;
    let newcomer = [sized("a", "ancient", 0, 2, 1), shrunk, young];
    let room = plan(&facts(), &newcomer, &limited(10), &InForce::of(&first.verdicts));
    assert_eq!(carried(&room), ["ancient", "old", "young"], "what a forward gave up is not kept for it");
}

/// Whatever becomes of a forward that is in force, it keeps room for nothing that it does not have any more.
#[test]
fn what_is_in_force_and_is_no_longer_carried_leaves_its_room_to_others() {
    let (gone, new) = (sized("a", "gone", 1, 2, 2), sized("a", "new", 9, 2, 2));
    let in_force = InForce::of(&planned(&facts(), std::slice::from_ref(&gone)).verdicts);
    let winner = Candidate { created: None, ..sized("b", "winner", 1, 2, 2) };
    let by_conflict = plan(&facts(), &[winner, gone.clone(), new.clone()], &limited(5), &in_force);
    assert_eq!(carried(&by_conflict), ["new", "winner"]);

    let mut elsewhere = gone.clone();
    let selecting = aged("a", "x", 1, with(&[("/nodeSelector", json!({"matchLabels": {"zone": "b"}}))]));
    elsewhere.forward.as_mut().unwrap().node_selector = selecting.forward.unwrap().node_selector;
    assert_eq!(carried(&plan(&facts(), &[elsewhere, new.clone()], &limited(4), &in_force)), ["new"], "it selects another node");

    let policy = Policy {
        require_grants: RequireGrants::Yes,
        grants: Grants::Read([super::grants::grant("g", &[("namespaces", json!(["a"]))])].into()),
        ..limited(1)
    };
    let on = |name, second, port: u16| {
        aged("a", name, second, with(&[("/ports/0/port", json!(port)), ("/ports/0/targetPort", json!(80))]))
    };
    let (refused, granted) = (on("refused", 1, 90), on("granted", 2, 81));
    let in_force = InForce::of(&planned(&facts(), std::slice::from_ref(&refused)).verdicts);
    assert_eq!(carried(&plan(&facts(), &[refused, granted], &policy, &in_force)), ["granted"]);

    let (third, l1, l2) = super::cycles::circle_of_two();
    let in_force = InForce::of(&planned(&third, std::slice::from_ref(&l2)).verdicts);
    let new = sized("b", "new", 9, 2, 1);
    assert_eq!(carried(&plan(&third, &[l1, l2, new], &limited(2), &in_force)), ["l1", "new"], "it closes a circle");
}

#[test]
fn what_is_in_force_stays_however_much_of_its_namespace_is_refused() {
    let (winner, young) = (Candidate { created: None, ..sized("b", "winner", 1, 2, 2) }, sized("a", "young", 9, 2, 2));
    let loser = |name: &str| Candidate {
        key: ForwardKey::new("a", name),
        forward: sized("a", name, 1, 2, 2).forward,
        ..sized("a", name, 2, 2, 2)
    };
    let in_force = InForce::of(&planned(&facts(), std::slice::from_ref(&young)).verdicts);
    let set = [winner, loser("l1"), loser("l2"), loser("l3"), young];
    let plan = plan(&facts(), &set, &limited(8), &in_force);
    assert_eq!(carried(&plan), ["young", "winner"]);
    assert!(message(&plan, "l3").contains("no more than 8 are looked at"), "{}", message(&plan, "l3"));
}

#[test]
fn disabled_forwards_are_looked_for_in_the_kernel_only_up_to_the_limit() {
    let disabled = |name, second| {
        let mut candidate = sized("a", name, second, 2, 2);
        candidate.forward.as_mut().unwrap().mode = api::Mode::Disabled;
        candidate
    };
    let set = [disabled("d1", 1), disabled("d2", 2)];
    let held: Vec<Translation> = set.iter().flat_map(|it| it.forward.as_ref().unwrap().translations()).collect();
    let mut in_force = InForce::default();
    in_force.find(&held);
    for (limit, served) in [(4, [true, false]), (5, [true, true])] {
        let plan = plan(&facts(), &set, &limited(limit), &in_force);
        assert_eq!(plan.verdicts.values().map(|verdict| verdict.served).collect::<Vec<_>>(), served, "{limit}");
    }
}

#[test]
fn a_lower_limit_withdraws_the_youngest() {
    let set = [sized("a", "young", 3, 2, 3), sized("a", "middle", 2, 2, 3), sized("a", "old", 1, 2, 3)];
    let first = plan(&facts(), &set, &limited(18), &InForce::default());
    assert_eq!(carried(&first), ["middle", "old", "young"]);
    let lower = plan(&facts(), &set, &limited(12), &InForce::of(&first.verdicts));
    assert_eq!(carried(&lower), ["middle", "old"]);
    let again = plan(&facts(), &set, &limited(12), &InForce::of(&lower.verdicts));
    assert_eq!(again, lower);
    let back = plan(&facts(), &set, &limited(18), &InForce::of(&again.verdicts));
    assert_eq!(back.desired, first.desired);
}

#[test]
fn what_is_not_carried_does_not_count() {
    let disabled = Candidate::of(&{
        let mut spec = with(&[("/mode", json!("Disabled"))]);
        spec["ports"] = json!([{"name": "a", "port": 9000}, {"name": "b", "port": 9001}]);
        api::decode(json!({"apiVersion": "portforward.dev/v1alpha1", "kind": "PortForward",
            "metadata": {"namespace": "a", "name": "disabled"}, "spec": spec}))
        .unwrap()
    });
    let elsewhere = aged("a", "elsewhere", 1, with(&[("/internal", json!({"addresses": ["10.99.0.1"]}))]));
    let winner = sized("b", "winner", 2, 2, 2);
    let loser = Candidate { key: ForwardKey::new("a", "loser"), ..sized("a", "loser", 2, 1, 2) };
    let last = sized("a", "last", 4, 2, 2);
    let older = Candidate { created: Some("2025-01-01T00:00:00Z".parse().unwrap()), ..winner };
    let plan = plan(&facts(), &[disabled, elsewhere, older, loser, last], &limited(4), &InForce::default());
    assert_eq!(plan.verdicts.iter().find(|(key, _)| key.name == "last").unwrap().1.translations.len(), 4);
}

/// Objects of 64 clients and 32 ports, most of which are refused, each time for another reason. 500 of them have a million
/// translations, and two of them as many as the limit. What the rest costs is seen by how many of them are looked at completely.
#[test]
fn hundreds_of_large_objects_cost_little() {
    let clients: Vec<String> = (0..64).map(|n| format!("10.9.{}.1", 2 * n)).collect();
    let ports: Vec<Value> = (0..32).map(|n| json!({"name": format!("p{n}"), "port": 1024 + n})).collect();
    let large = with(&[("/client/addresses", json!(clients)), ("/ports", json!(ports))]);
    let parsed = aged("evil", "x", 1, large).forward.unwrap();
    let variants: [fn(&mut Forward, u32); 7] = [
        |_, _| {},
        |forward, n| {
            let other =
                |place: u32| ipnet::Ipv4Net::new(std::net::Ipv4Addr::from(0x1400_0000 + 128 * n + 2 * place), 32).unwrap();
            forward.clients = (0..64).map(|place| other(place).into()).collect();
        },
        |forward, n| forward.upstream = std::net::Ipv4Addr::from(0x0303_0000 + n).into(),
        |forward, n| forward.internal.address = std::net::Ipv4Addr::from(0x0a63_0000 + n).into(),
        |forward, _| forward.mode = api::Mode::Disabled,
        |forward, _| forward.upstream = std::net::Ipv4Addr::new(2, 2, 2, 2).into(),
        |forward, n| forward.external = Some(std::net::Ipv4Addr::from(0x0a63_0000 + n).into()),
    ];
    let victim = aged("victim", "web", 5, spec());
    for vary in variants {
        let evil = (0..500).map(|n| {
            let mut forward = parsed.clone();
            forward.key = ForwardKey::new(forward.key.namespace.as_str(), format!("x{n}"));
            vary(&mut forward, n);
            Candidate { key: forward.key.clone(), forward: Ok(forward), ..victim.clone() }
        });
        let set: Vec<Candidate> = evil.chain([victim.clone()]).collect();
        let policy = limited(2 * 64 * 32);
        let looked_at = |plan: &Plan| {
            let lost = |verdict: &Verdict| match &verdict.acceptance {
                Acceptance::RefusedHere(refusal) => refusal.reason != NodeRefusalReason::TooMany,
                other => matches!(other, Acceptance::Conflict(_)),
            };
            carried(plan).len() + plan.verdicts.values().filter(|verdict| lost(verdict)).count()
        };
        let first = plan(&facts(), &set, &policy, &InForce::default());
        assert!(first.verdicts[&victim.key].is_carried());
        assert!(first.desired.translations.len() <= 2 * 64 * 32 + 1);
        assert!(looked_at(&first) <= 5, "two fit, two lose, and one is the victim's: {}", looked_at(&first));
        let forwards: Vec<Forward> = set.iter().map(|candidate| candidate.forward.clone().unwrap()).collect();
        let translations: Vec<Translation> = first.desired.translations.iter().cloned().collect();
        let mut in_force = InForce::recorded(&translations, &forwards);
        in_force.find(&translations);
        let restarted = plan(&facts(), &set, &policy, &in_force);
        assert_eq!(restarted.desired, first.desired, "after a restart");
        assert!(looked_at(&restarted) <= 5, "after a restart: {}", looked_at(&restarted));
    }
}
