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

/// An object with this number. Every fifth one is in another namespace. Those from 20 on are another object with each change.
fn named(number: usize, generation: i64, spec: Value) -> Candidate {
    let name = format!("f{number:04}");
    let namespace = if number.is_multiple_of(5) { "a" } else { "b" };
    let key = ForwardKey::new(namespace, name.clone());
    let mut candidate = object(&name, spec);
    candidate.generation = generation;
    candidate.key = key.clone();
    candidate.created = (number >= 20).then(|| Timestamp::from_second(generation).unwrap());
    if let Ok(forward) = &mut candidate.forward {
        (forward.key, forward.created) = (key, candidate.created);
    }
    candidate
}

/// The former verdicts of the forwards whose verdict changed.
fn differing(before: &Plan, now: &Plan) -> Former {
    let keys: BTreeSet<&ForwardKey> = before.verdicts.keys().chain(now.verdicts.keys()).collect();
    let verdict = |plan: &Plan, key: &ForwardKey| plan.verdicts.get(key).cloned();
    let keys = keys.into_iter().filter(|key| verdict(before, key) != verdict(now, key));
    keys.map(|key| (key.clone(), verdict(before, key))).collect()
}

/// A node and what is in force on it before the first plan.
struct Node {
    facts: Facts,
    policy: Policy,
    in_force: InForce,
}

impl Node {
    /// The proxy node of the seed, with a second interface on the network of the clients. A namespace may have as many translations as
    /// `limit` says.
    fn limited(limit: &str) -> Self {
        let mut facts = facts();
        let interface: crate::model::InterfaceName = "eth2".parse().unwrap();
        facts.links.insert(interface, Link { index: 4, ..facts.links[&"eth1".parse().unwrap()].clone() });
        let address = "192.168.0.7".parse().unwrap();
        facts.addresses.insert(LocalAddress { address, prefix_len: 24, interface: Some(interface) });
        facts.api_servers.insert(API_SERVER.parse().unwrap());
        let policy = Policy { translations: limit.parse().unwrap(), ..Policy::default() };
        Self { facts, policy, in_force: InForce::default() }
    }

    fn new() -> Self {
        Self::limited("10000")
    }
}

/// The address of an API server, which is no upstream.
const API_SERVER: &str = "3.3.9.9";

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
    fn take(&mut self, plan: Plan, former: Former) -> Result<(), TestCaseError> {
        self.in_force.amend(&former, &plan.verdicts);
        self.owners.amend(&former, &plan.verdicts);
        prop_assert_eq!(&self.owners, &Owners::of(&plan.verdicts));
        (self.plan, self.unsettled) = (plan, former.into_keys().collect());
        Ok(())
    }
}

/// Applies each step to the set, and amends the plan where that is possible. Returns how often it was.
fn amended_all_along(node: &Node, specs: Vec<Value>, steps: Vec<(usize, Option<Value>)>) -> Result<usize, TestCaseError> {
    let Node { facts, policy, in_force } = node;
    let named = |number, generation, spec| {
        let candidate = named(number, generation, spec);
        (candidate.key.clone(), candidate)
    };
    let mut set: BTreeMap<ForwardKey, Candidate> =
        specs.into_iter().enumerate().map(|(number, spec)| named(number, 1, spec)).collect();
    let candidates: Vec<Candidate> = set.values().cloned().collect();
    let first = plan(facts, &candidates, policy, in_force);
    let (in_force, owners) = (InForce::of(&first.verdicts), Owners::of(&first.verdicts));
    let mut kept = Kept { plan: first, in_force, owners, unsettled: BTreeSet::new(), earlier: Vec::new() };
    // A plan is settled only if what was in force for it was what the plan before it asked for.
    let second = plan(facts, &candidates, policy, &kept.in_force);
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
        let whole = plan(facts, &candidates, policy, &InForce::of(&kept.plan.verdicts));
        let keys = [key].into();
        let inputs = Inputs { facts, candidates: &candidates, policy, in_force: &kept.in_force };
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
        amended_all_along(&Node::limited(limit), specs, steps)?;
    }
}

/// The number of steps in which the plan was amended.
#[track_caller]
fn amended(node: &Node, specs: &[Value], steps: &[(usize, Option<Value>)]) -> usize {
    amended_all_along(node, specs.to_vec(), steps.to_vec()).unwrap()
}

/// The specification of the seed on another port, to another server and without a gateway.
fn plain(port: usize, upstream: &str) -> Value {
    let mut spec = with(&[("/ports/0/port", json!(port)), ("/upstream/targets/0/address", json!(upstream))]);
    spec["internal"].as_object_mut().unwrap().remove("gateways");
    spec
}

/// The same from another client.
fn from(client: &str, port: usize, upstream: &str) -> Value {
    let mut spec = plain(port, upstream);
    spec["client"] = json!({"addresses": [client]});
    spec
}

/// The same through a gateway.
fn through(gateway: &str, client: &str, port: usize, upstream: &str) -> Value {
    let mut spec = from(client, port, upstream);
    spec["internal"]["gateways"] = json!([gateway]);
    spec
}

/// The same from another client, and on another listen address.
fn elsewhere(port: usize) -> Value {
    let mut spec = from("10.8.8.8", port, "3.3.3.3");
    spec["internal"]["addresses"] = json!(["192.168.0.9"]);
    spec
}

#[test]
fn a_changed_upstream_among_many_forwards_is_amended() {
    let specs: Vec<Value> = (0..40).map(|number| plain(1000 + number, "3.3.3.3")).collect();
    let steps: Vec<_> = (0..10).map(|number| (number, Some(plain(1000 + number, "3.3.3.4")))).collect();
    assert_eq!(amended(&Node::new(), &specs, &steps), 10);
}

/// Many forwards of one client, and one of another namespace with the same client and a gateway.
#[test]
fn routes_to_a_client_of_many_forwards_do_not_prevent_it() {
    let routed = |port| through("192.168.0.1", "1.1.1.1", port, "3.3.3.3");
    let specs: Vec<Value> = std::iter::once(routed(80)).chain((1..1000).map(|number| plain(1000 + number, "3.3.3.3"))).collect();
    let steps = [
        (1, Some(plain(1001, "3.3.3.4"))),
        (0, Some(routed(81))),
        (3, Some(plain(1003, "3.3.3.5"))),
        (1001, Some(plain(3001, "3.3.3.3"))),
        (1001, None),
    ];
    assert_eq!(amended(&Node::new(), &specs, &steps), 5);
}

/// Nine forwards of one namespace, of which the last one has no room.
#[test]
fn a_limit_that_was_or_is_exceeded_prevents_it_where_it_matters() {
    let specs: Vec<Value> = (0..12).map(|number| plain(1000 + number, "3.3.3.3")).collect();
    let changed = |number: usize| (number, Some(plain(1000 + number, "3.3.3.4")));
    let node = Node::limited("8");
    assert_eq!(amended(&node, &specs, &[changed(1)]), 1, "it stays carried");
    assert_eq!(amended(&node, &specs, &[changed(5)]), 1, "the other namespace has room");
    assert_eq!(amended(&node, &specs, &[changed(11)]), 0, "it has no room");
    assert_eq!(amended(&node, &specs, &[(1, None)]), 0, "it makes room for another one");
}

#[test]
fn a_forward_that_is_carried_in_part_prevents_it() {
    let twelve = |upstream: &str| {
        let mut spec = plain(1001, upstream);
        spec["client"] = json!({"addresses": (0..12).map(|number| format!("1.1.1.{}", 2 * number + 1)).collect::<Vec<_>>()});
        spec
    };
    let specs: Vec<Value> = (0..6).map(|number| plain(1000 + number, "3.3.3.3")).collect();
    let other = |upstream: &str| (5, Some(plain(1005, upstream)));
    let steps = [(1, Some(twelve("3.3.3.3"))), other("3.3.3.4"), other("3.3.3.5"), (1, Some(twelve("3.3.3.4")))];
    assert_eq!(amended(&Node::limited("8"), &specs, &steps), 1, "only the change of the other namespace, once all is settled");
}

/// An object that is replaced by another one of the same name and content comes later in the order.
#[test]
fn a_forward_that_is_created_again_changes_the_order() {
    let routed = |port| through("192.168.0.1", "1.1.1.1", port, "3.3.3.3");
    let others = (0..20).map(|number| from("10.9.9.9", 1000 + number, "3.3.3.3"));
    let specs: Vec<Value> = others.chain([routed(80), plain(81, "3.3.3.3")]).collect();
    amended(&Node::new(), &specs, &[(20, Some(routed(80)))]);
}

#[test]
fn a_circle_that_is_closed_or_opened_prevents_it_and_a_chain_does_not() {
    let listening = |internal: &str, upstream: &str| {
        json!({
            "client": {"addresses": ["10.9.0.0/24"]}, "internal": {"addresses": [internal]},
            "upstream": {"targets": [{"address": upstream}]}, "ports": [{"name": "a", "port": 100}],
        })
    };
    let (there, back) = (listening("192.168.0.8", "192.168.0.9"), listening("192.168.0.9", "192.168.0.8"));
    let node = Node::new();
    assert_eq!(amended(&node, std::slice::from_ref(&there), &[(1, Some(back.clone()))]), 0);
    assert_eq!(amended(&node, &[there.clone(), back], &[(0, None)]), 0);
    assert_eq!(amended(&node, &[listening("192.168.0.9", "3.3.3.3")], &[(1, Some(there))]), 1);
}

/// What a forward in a conflict is told depends on forwards that do not meet it: they change which winner is found first.
#[test]
fn a_lost_conflict_prevents_it() {
    let winners = [from("10.1.1.1", 150, "3.3.3.3"), from("10.0.0.5", 160, "3.3.3.3")];
    let apart = from("11.1.1.1", 100, "3.3.3.3");
    let mut loser = from("10.0.0.0/8", 100, "3.3.3.3");
    loser["ports"] = json!([{"name": "a", "port": 100, "endPort": 200}]);
    let [first, second] = winners;
    let node = Node::new();
    let all = [first.clone(), second.clone(), apart.clone()];
    assert_eq!(amended(&node, &all, &[(3, Some(loser.clone()))]), 0, "it loses");
    let specs = [first, second, loser];
    assert_eq!(amended(&node, &specs, &[(3, Some(apart))]), 0, "it lost before");
    assert_eq!(amended(&node, &specs, &[(3, Some(elsewhere(100)))]), 1, "it listens on another address");
}

/// A forward of another namespace is in the way of a route until it is refused.
#[test]
fn a_forward_that_is_refused_now_prevents_it() {
    let specs = [plain(80, "3.3.3.3"), through("192.168.0.1", "1.1.1.1", 81, "3.3.3.3")];
    assert_eq!(amended(&Node::new(), &specs, &[(0, Some(plain(80, "3.3.3.4")))]), 1);
    assert_eq!(amended(&Node::new(), &specs, &[(0, Some(plain(80, API_SERVER)))]), 0);
}

#[test]
fn an_upstream_that_comes_under_a_route_of_another_forward_takes_part() {
    let specs = [plain(79, "3.3.3.3"), plain(80, "3.3.3.3"), through("192.168.0.1", "10.0.0.0/8", 81, "3.3.3.3")];
    assert_eq!(amended(&Node::new(), &specs, &[(1, Some(plain(80, "10.1.2.3")))]), 1);
}

#[test]
fn a_forward_with_a_note_about_another_one_keeps_it() {
    let outer = |upstream| through("192.168.0.1", "10.0.0.0/8", 80, upstream);
    // Both are in one namespace. In another one, the longer route would be withheld.
    let specs = [plain(79, "3.3.3.3"), outer("3.3.3.3"), through("192.168.0.3", "10.1.0.0/16", 81, "3.3.3.3")];
    assert_eq!(amended(&Node::new(), &specs, &[(1, Some(outer("3.3.3.4")))]), 1);
}

/// A forward that is in a conflict keeps a reserved port only as long as another one has it in force for the same client.
#[test]
fn a_forward_that_went_counts_until_nothing_of_it_is_in_force() {
    let on = |interface: &str, spec: Value| {
        let mut spec = spec;
        spec["internal"]["interface"] = json!(interface);
        spec
    };
    let specs = [
        on("eth1", plain(22, "3.3.3.3")),
        through("192.168.0.1", "1.1.1.1", 80, "3.3.3.3"),
        on("eth2", through("192.168.0.3", "1.1.1.1", 22, "3.3.3.3")),
    ];
    let mut node = Node::new();
    let candidates: Vec<Candidate> = specs.iter().enumerate().map(|(n, spec)| named(n, 1, spec.clone())).collect();
    node.in_force = InForce::of(&plan(&node.facts, &candidates, &node.policy, &InForce::default()).verdicts);
    node.policy.reserved_ports = "22/TCP".parse().unwrap();
    node.facts.node_addresses.insert("192.168.0.2".parse().unwrap());
    // This one meets none of the others, so it does not lead to them.
    assert_eq!(amended(&node, &specs, &[(0, None), (10, Some(elsewhere(90)))]), 1, "the second time");
}
