//! What a forward is told about forwards of another namespace: their names, and nothing of what they ask for.

use super::grants::{grant, with_grants};
use super::share::aged;
use super::*;

/// The clients to which both gateways of these tests may have routes.
fn routes() -> Value {
    let gateway = |address: &str| json!({"address": address, "routes": ["1.1.0.0/16"]});
    json!([gateway("192.168.0.1"), gateway("192.168.0.66")])
}

/// Everything that a verdict tells.
fn told(verdict: &Verdict) -> String {
    let accepted = match &verdict.acceptance {
        Acceptance::Accepted | Acceptance::Disabled => "",
        Acceptance::Refused(refusal) => &refusal.message,
        Acceptance::RefusedHere(refusal) => &refusal.message,
        Acceptance::Conflict(conflict) => &conflict.message,
    };
    let objection = verdict.objection.as_ref().map(|objection| &objection.message);
    let obstacles = verdict.obstacles.iter().map(|obstacle| &obstacle.message);
    let notes = verdict.notes.iter().map(|note| &note.0);
    [accepted]
        .into_iter()
        .chain(objection.into_iter().chain(obstacles).chain(notes).map(String::as_str))
        .collect::<Vec<_>>()
        .join("\n")
}

/// The addresses and numbers in a text.
fn numbers(text: &str) -> BTreeSet<&str> {
    let words = text.split(|c: char| !c.is_ascii_digit() && c != '.');
    words.map(|word| word.trim_matches('.')).filter(|word| !word.is_empty()).collect()
}

#[test]
fn a_lost_conflict_names_the_winner_of_another_namespace_and_only_what_the_loser_asked_for() {
    let wide =
        with(&[("/client/addresses", json!(["1.1.0.0/16"])), ("/ports/0", json!({"name": "a", "port": 70, "endPort": 90}))]);
    let set = [aged("a", "winner", 1, wide.clone()), aged("b", "loser", 2, spec())];
    let plan = planned(&facts(), &set);
    let said = told(&plan.verdicts[&set[1].key]);
    assert!(
        said.starts_with("a/winner, which is older") && said.contains("a part of TCP 80 from 1.1.1.1/32 on 192.168.0.2"),
        "{said}"
    );
    let own = [aged("b", "winner", 1, wide), set[1].clone()];
    let said = told(&planned(&facts(), &own).verdicts[&set[1].key]);
    assert!(said.contains("TCP 70:90 from 1.1.0.0/16 on 192.168.0.2"), "{said}");
    let other = with(&[("/internal/gateways", json!(["192.168.0.66"])), ("/ports/0/port", json!(81))]);
    let set = [aged("a", "winner", 1, other), aged("b", "loser", 2, spec())];
    let said = told(&planned(&facts(), &set).verdicts[&set[1].key]);
    assert!(said.contains("routes 1.1.1.1/32 through another gateway already, and this forward asks for 192.168.0.1"), "{said}");
}

/// The younger one of two conflicting forwards wins if the grant of its namespace has the higher priority.
#[test]
fn a_conflict_that_the_priority_of_a_grant_decided_says_so_and_does_not_call_the_winner_older() {
    let grants = |bank: i32| {
        let of = |name, namespace: &str, priority: i32| {
            grant(name, &[("namespaces", json!([namespace])), ("priority", json!(priority)), ("gateways", routes())])
        };
        [of("secret-grant", "bank", bank), of("others", "aaa", 0)]
    };
    let gateway = |address: &str| [("/internal/gateways", json!([address])), ("/ports/0/port", json!(81))];
    for (bank, other) in [(spec(), spec()), (with(&gateway("192.168.0.66")), spec())] {
        let set = [aged("bank", "younger", 9, bank.clone()), aged("aaa", "older", 1, other.clone())];
        let plan = with_grants(&set, &grants(10));
        assert!(plan.verdicts[&set[0].key].is_carried());
        let said = told(&plan.verdicts[&set[1].key]);
        assert!(said.starts_with("bank/younger, whose grant has a higher priority, "), "{said}");
        assert!(!said.contains("older") && !said.contains("secret-grant"), "{said}");
        // Age decides between equal priorities, and if grants are not required.
        for plan in [with_grants(&set, &grants(0)), planned(&facts(), &set)] {
            let said = told(&plan.verdicts[&set[0].key]);
            assert!(said.starts_with("aaa/older, which is older or comes first by namespace and name, "), "{said}");
        }
    }
}

#[test]
fn a_route_that_would_cover_what_another_namespace_needs_does_not_say_what() {
    let secret = with(&[("/upstream/targets/0/address", json!("5.5.5.5"))]);
    let wide = with(&[("/client/addresses", json!(["5.0.0.0/8"])), ("/ports/0/port", json!(81))]);
    for (namespace, is_told) in [("a", false), ("b", true)] {
        let set = [aged(namespace, "older", 1, secret.clone()), aged("b", "wide", 2, wide.clone())];
        let said = told(&planned(&facts(), &set).verdicts[&set[1].key]);
        assert_eq!(said.contains("5.5.5.5"), is_told, "{said}");
        assert!(is_told || said.contains("an address that a/older needs, which is older or has the higher priority;"), "{said}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn nothing_that_only_a_forward_of_another_namespace_asks_for_is_told(older in any_spec(), younger in any_spec()) {
        let set = [aged("a", "older", 1, older.clone()), aged("b", "younger", 2, younger.clone())];
        let plan = planned(&facts(), &set);
        let node = format!("{:?}", facts());
        for (own, own_spec, other_spec) in [(&set[1], &younger, &older), (&set[0], &older, &younger)] {
            let said = told(&plan.verdicts[&own.key]);
            let (own_spec, other_spec) = (own_spec.to_string(), other_spec.to_string());
            let known: BTreeSet<&str> = numbers(&own_spec).union(&numbers(&node)).copied().collect();
            let secret: BTreeSet<&str> = numbers(&other_spec).difference(&known).copied().collect();
            let leaked: Vec<&str> = numbers(&said).intersection(&secret).copied().collect();
            prop_assert!(leaked.is_empty(), "{:?} in {}", leaked, said);
        }
    }
}
