//! Compares rules, routes and verdicts with readable text files: one folder of `tests/golden` for each case, with its objects.
//!
//! After an intended change: run `UPDATE_GOLDEN=1 cargo test --test golden`, then read the difference.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use portforward_operator::dataplane::iptables::{Ruleset, Variant, whole};
use portforward_operator::model::Connmark;
use portforward_operator::plan::{Acceptance, Candidate, InForce, Plan, Policy, RoutePlan, assumed_facts, plan};
use portforward_operator::source::folder;

const CHECK: folder::Check = folder::Check {
    forward: |decoded| decoded.map_err(|errors| vec![errors.to_string()]),
    grant: |decoded| decoded.map_err(|errors| vec![errors.to_string()]),
};

/// The output for a case, on a node that holds every address in it.
fn rendered(manifests: &str) -> String {
    let objects = folder::objects(manifests.as_bytes(), CHECK).expect("the manifests of a case parse");
    let candidates: Vec<Candidate> = objects.forwards.iter().map(|object| Candidate::of(object)).collect();
    let mut facts = assumed_facts([("zone".to_owned(), "a".to_owned())].into(), &candidates);
    facts.node_addresses.insert("192.168.0.2".parse().expect("an address"));
    let policy = Policy { reserved_ports: "22/TCP".parse().expect("a port"), ..Policy::default() };
    let plan = plan(&facts, &candidates, &policy, &InForce::default());
    let rules = |variant| whole(variant, &Ruleset::of(&plan.desired.translations, Connmark::default()));
    let mut text = verdicts(&plan);
    text += &rules(Variant::Nft);
    if rules(Variant::Nft) != rules(Variant::Legacy) {
        text = format!("{text}\n# legacy\n{}", rules(Variant::Legacy));
    }
    text
}

fn verdicts(plan: &Plan) -> String {
    let mut text = String::new();
    for (key, verdict) in &plan.verdicts {
        let acceptance = match &verdict.acceptance {
            Acceptance::Accepted => {
                format!("accepted, {}", verdict.role.map_or("no candidate".to_owned(), |role| format!("{role:?}")))
            }
            Acceptance::Disabled => "disabled".to_owned(),
            Acceptance::Refused(refusal) => format!("refused, {}: {}", refusal.reason, refusal.message),
            Acceptance::RefusedHere(refusal) => format!("refused here, {}: {}", refusal.reason.as_str(), refusal.message),
            Acceptance::Conflict(conflict) => format!("conflict: {}", conflict.message),
        };
        let _ = writeln!(text, "# {key}: {acceptance}");
        for route in &verdict.routes {
            let _ = match route {
                RoutePlan::Install(route) => {
                    writeln!(text, "#   route {} via {} dev {}", route.destination, route.gateway, route.interface)
                }
                RoutePlan::Withheld(obstacle) => {
                    writeln!(text, "#   route withheld, {}: {}", obstacle.reason.as_str(), obstacle.message)
                }
            };
        }
    }
    text
}

#[test]
fn every_case_becomes_what_its_folder_says() {
    let update = std::env::var_os("UPDATE_GOLDEN").is_some();
    let cases = fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")).expect("the folder of cases");
    let mut count = 0;
    for case in cases {
        let case = case.expect("a case").path();
        let got = rendered(&fs::read_to_string(case.join("objects.yaml")).expect("the objects of the case"));
        let expected = case.join("expected.txt");
        if update {
            fs::write(&expected, &got).expect("the expected text can be written");
        }
        let wanted = fs::read_to_string(&expected).unwrap_or_default();
        assert!(got == wanted, "{}: differs; see the header of this file\n{got}", case.display());
        count += 1;
    }
    assert!(count >= 8, "cases are missing: {count}");
}
