//! A plan that is amended is the plan that would be made of the whole set.

use super::*;
use crate::forward::ForwardKey;
use crate::metrics::Owners;

prop_compose! {
    /// A specification that meets few others: it has ports, clients and upstreams of a larger range.
    fn apart()(
        spec in any_spec(), port in 100u16..400, client in 1u8..30, upstream in 1u8..30, own_client in any::<bool>(),
        interface in prop_oneof![Just(None), Just(Some("eth1")), Just(Some("eth2"))],
    ) -> Value {
        let mut spec = spec;
        spec["ports"] = json!([{"name": "a", "port": port, "endPort": port + 2}]);
        spec["upstream"] = json!({"targets": [{"address": format!("3.3.4.{upstream}")}]});
        if let Some(interface) = interface { spec["internal"]["interface"] = json!(interface); }
        if own_client { spec["client"] = json!({"addresses": [format!("10.9.0.{client}")]}); }
        spec
    }
}

/// One side of a circle: each of the two leads to the address on which the other listens.
fn round() -> impl Strategy<Value = Value> {
    prop_oneof![Just(["192.168.0.8", "192.168.0.9"]), Just(["192.168.0.9", "192.168.0.8"])].prop_map(|[internal, upstream]| {
        json!({
            "client": {"addresses": ["10.9.0.0/24"]}, "internal": {"addresses": [internal]},
            "upstream": {"targets": [{"address": upstream}]}, "ports": [{"name": "a", "port": 100}],
        })
    })
}

fn some_spec() -> impl Strategy<Value = Value> {
    prop_oneof![2 => any_spec(), 8 => apart(), 1 => round()]
}

/// What happens to one object.
fn step() -> impl Strategy<Value = (usize, Option<Value>)> {
    (0usize..40, prop::option::weighted(0.8, some_spec()))
}

/// An object with this number. Every fifth one is in another namespace.
fn named(number: usize, generation: i64, spec: Value) -> Candidate {
    let name = format!("f{number:04}");
    let namespace = if number.is_multiple_of(5) { "a" } else { "b" };
    let key = ForwardKey { namespace: namespace.to_owned(), name: name.clone() };
    let mut candidate = object(&name, spec);
    candidate.generation = generation;
    candidate.key = key.clone();
    if let Ok(forward) = &mut candidate.forward {
        forward.key = key;
    }
    candidate
}

/// The former verdicts of the forwards whose verdict changed.
fn differing(before: &Plan, now: &Plan) -> BTreeMap<ForwardKey, Option<Verdict>> {
    let keys: BTreeSet<&ForwardKey> = before.verdicts.keys().chain(now.verdicts.keys()).collect();
    let verdict = |plan: &Plan, key: &ForwardKey| plan.verdicts.get(key).cloned();
    let keys = keys.into_iter().filter(|key| verdict(before, key) != verdict(now, key));
    keys.map(|key| (key.clone(), verdict(before, key))).collect()
}

/// The proxy node of the seed, with a second interface on the network of the clients.
fn on_two_links() -> Facts {
    let mut facts = facts();
    let interface: crate::model::InterfaceName = "eth2".parse().unwrap();
    facts.links.insert(interface.clone(), Link { index: 4, ..facts.links[&"eth1".parse().unwrap()].clone() });
    let address = "192.168.0.7".parse().unwrap();
    facts.addresses.insert(LocalAddress { address, prefix_len: 24, interface: Some(interface) });
    facts
}

/// What an agent keeps from one plan to the next.
struct Kept {
    plan: Plan,
    in_force: InForce,
    owners: Owners,
    unsettled: BTreeSet<ForwardKey>,
    earlier: Vec<Candidate>,
}

impl Kept {
    /// Takes over a new plan. `former` are the verdicts of the last one that differ.
    fn take(&mut self, plan: Plan, former: BTreeMap<ForwardKey, Option<Verdict>>) -> Result<(), TestCaseError> {
        self.in_force.amend(&former, &plan.verdicts);
        self.owners.amend(&former, &plan.verdicts);
        prop_assert_eq!(&self.owners, &Owners::of(&plan.verdicts));
        (self.plan, self.unsettled) = (plan, former.into_keys().collect());
        Ok(())
    }
}

/// Applies each step to the set, and amends the plan where that is possible. Returns how often it was.
fn amended_all_along(limit: &str, specs: Vec<Value>, steps: Vec<(usize, Option<Value>)>) -> Result<usize, TestCaseError> {
    let (facts, policy) = (on_two_links(), Policy { translations: limit.parse().unwrap(), ..Policy::default() });
    let named = |number, generation, spec| {
        let candidate = named(number, generation, spec);
        (candidate.key.clone(), candidate)
    };
    let mut set: BTreeMap<ForwardKey, Candidate> =
        specs.into_iter().enumerate().map(|(number, spec)| named(number, 1, spec)).collect();
    let candidates: Vec<Candidate> = set.values().cloned().collect();
    let first = plan(&facts, &candidates, &policy, &InForce::default());
    let (in_force, owners) = (InForce::of(&first.verdicts), Owners::of(&first.verdicts));
    let mut kept = Kept { plan: first, in_force, owners, unsettled: BTreeSet::new(), earlier: Vec::new() };
    // A plan is settled only if what was in force for it was what the plan before it asked for.
    let second = plan(&facts, &candidates, &policy, &kept.in_force);
    let former = differing(&kept.plan, &second);
    kept.take(second, former)?;
    let mut count = 0;
    for (generation, (number, spec)) in (2..).zip(steps) {
        let key = named(number, 1, super::spec()).0;
        let former = match spec {
            Some(spec) => set.insert(key.clone(), named(number, generation, spec).1),
            None => set.remove(&key),
        };
        let former: Vec<Candidate> = former.into_iter().collect();
        let candidates: Vec<Candidate> = set.values().cloned().collect();
        let whole = plan(&facts, &candidates, &policy, &InForce::of(&kept.plan.verdicts));
        let keys = [key].into();
        let inputs = Inputs { facts: &facts, candidates: &candidates, policy: &policy, in_force: &kept.in_force };
        let mut amended = kept.plan.clone();
        if let Ok(former) =
            amended.amend(inputs, Changed { keys: &keys, unsettled: &kept.unsettled, former: &former, earlier: &kept.earlier })
        {
            prop_assert_eq!(&amended, &whole);
            prop_assert_eq!(&former, &differing(&kept.plan, &whole));
            count += 1;
        } else {
            prop_assert_eq!(&amended, &kept.plan);
        }
        kept.earlier = former;
        let verdicts = differing(&kept.plan, &whole);
        kept.take(whole, verdicts)?;
    }
    Ok(count)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn an_amended_plan_is_the_plan_of_the_whole_set(
        specs in prop::collection::vec(some_spec(), 0..30), steps in prop::collection::vec(step(), 1..12),
        limit in prop_oneof![Just("10000"), Just("8")],
    ) {
        amended_all_along(limit, specs, steps)?;
    }
}

#[test]
fn a_changed_upstream_among_many_forwards_is_amended() {
    let spec = |port: u16, upstream: &str| {
        let mut spec = with(&[("/ports/0/port", json!(port)), ("/upstream/targets/0/address", json!(upstream))]);
        spec["internal"].as_object_mut().unwrap().remove("gateways");
        spec
    };
    let specs = (0..40).map(|number| spec(1000 + number, "3.3.3.3")).collect();
    let steps = (0..10).map(|number| (number, Some(spec(1000 + u16::try_from(number).unwrap(), "3.3.3.4")))).collect();
    assert_eq!(amended_all_along("10000", specs, steps).unwrap(), 10);
}

/// Many forwards of one client, and one of another namespace with the same client and a gateway.
#[test]
fn routes_to_a_client_of_many_forwards_do_not_prevent_it() {
    let without = |port: u16, upstream: &str| {
        let mut spec = with(&[("/ports/0/port", json!(port)), ("/upstream/targets/0/address", json!(upstream))]);
        spec["internal"].as_object_mut().unwrap().remove("gateways");
        spec
    };
    let routed = |port: u16| with(&[("/ports/0/port", json!(port))]);
    let specs = std::iter::once(routed(80)).chain((1..1000).map(|number| without(1000 + number, "3.3.3.3"))).collect();
    let steps = [
        (1, Some(without(1001, "3.3.3.4"))),
        (0, Some(routed(81))),
        (3, Some(without(1003, "3.3.3.5"))),
        (1001, Some(without(3001, "3.3.3.3"))),
        (1001, None),
    ];
    assert_eq!(amended_all_along("10000", specs, steps.to_vec()).unwrap(), 5);
}

/// A namespace at its limit, with forwards that have no room.
#[test]
fn a_limit_that_is_exceeded_prevents_it_where_it_matters() {
    let spec = |port: u16, upstream: &str| {
        let mut spec = with(&[("/ports/0/port", json!(port)), ("/upstream/targets/0/address", json!(upstream))]);
        spec["internal"].as_object_mut().unwrap().remove("gateways");
        spec
    };
    let specs = (0..100).map(|number| spec(1000 + number, "3.3.3.3")).collect();
    let changed = |number: usize| (number, Some(spec(1000 + u16::try_from(number).unwrap(), "3.3.3.4")));
    let steps = vec![changed(1), changed(99), (3, None)];
    assert_eq!(amended_all_along("50", specs, steps).unwrap(), 1, "one has no room, and one makes room for another");
}
