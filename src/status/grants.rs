//! The status of a grant: which forwards of its namespaces lie inside it, and which lie inside no grant.
//!
//! A function of the grants and forwards alone, so that every agent computes the same. Node selectors and limits of grants
//! depend on the node and do not count here.

use std::collections::BTreeMap;

use k8s_openapi::jiff::Timestamp;

use super::condition::{Circumstance, Judged, Reason, State, Type};
use super::judgement::upgrade;
use crate::api::PortForwardGrantStatus;
use crate::api::grant::RefusedForward;
use crate::forward::{Forward, Refusal};
use crate::grant::Grant;
use crate::plan::Scopes;

/// The maximum number of forwards that a status names.
const NAMED: usize = 16;
/// The maximum length of a message, in characters.
const MESSAGE_CHARS: usize = 1024;

/// The forwards of the namespaces of one grant.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Census {
    /// How many lie inside the grant.
    inside: usize,
    /// How many lie inside no grant.
    refused: usize,
    /// The first of these.
    named: Vec<RefusedForward>,
}

/// What the agents know about one grant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Usable {
    /// It permits what it says. The forwards are counted if all are known.
    Yes(Option<Census>),
    /// Its newest content cannot be decoded, for this reason. What it said before stays in force.
    Outdated(Option<Census>, String),
    /// No content could be decoded, for this reason. It permits nothing.
    Unknown(String),
    /// It has a mistake. It permits nothing.
    Refused(Refusal),
}

/// Counts the `forwards`, ordered by namespace and name, for each of the `grants`, by name.
#[must_use]
pub fn census(grants: &[Grant], forwards: &[Forward]) -> BTreeMap<String, Census> {
    let scopes = Scopes::of(grants, |_| true);
    let mut all: BTreeMap<String, Census> = grants.iter().map(|grant| (grant.name.clone(), Census::default())).collect();
    for forward in forwards {
        match scopes.containing(forward) {
            Ok(containing) => {
                for grant in containing {
                    all.entry(grant.name.clone()).or_default().inside += 1;
                }
            }
            Err(message) => {
                let message: String = message.chars().take(MESSAGE_CHARS).collect();
                let (namespace, name) = (&forward.key.namespace, &forward.key.name);
                for grant in grants.iter().filter(|grant| grant.namespaces.contains(namespace)) {
                    let census = all.entry(grant.name.clone()).or_default();
                    census.refused += 1;
                    if census.named.len() < NAMED {
                        let (namespace, name, message) = (namespace.clone(), name.clone(), message.clone());
                        census.named.push(RefusedForward { namespace, name, message });
                    }
                }
            }
        }
    }
    all
}

/// The status of a grant of this `generation`. A condition keeps its transition time from `previous` while its status stays.
#[must_use]
pub fn grant_status(
    usable: &Usable,
    generation: i64,
    previous: &PortForwardGrantStatus,
    now: Timestamp,
) -> PortForwardGrantStatus {
    let refused = |reason: Reason, message: String| Judged::new(Type::Accepted, State::False, reason, message);
    let unknown = |message| refused(Circumstance::UnsupportedSchema.into(), message);
    let (accepted, census) = match usable {
        Usable::Yes(census) => {
            (Judged::new(Type::Accepted, State::True, Circumstance::Accepted, "the grant is usable"), census.as_ref())
        }
        Usable::Outdated(census, error) => (
            unknown(format!("{}; its last good content, of generation {generation}, stays in force", upgrade(error))),
            census.as_ref(),
        ),
        Usable::Unknown(error) => (unknown(format!("{}; until then it permits nothing", upgrade(error))), None),
        Usable::Refused(refusal) => {
            (refused(Reason::Refused(refusal.reason), format!("it permits nothing: {}", refusal.message)), None)
        }
    };
    let number = |count: usize| i64::try_from(count).unwrap_or(i64::MAX).min(i32::MAX.into());
    PortForwardGrantStatus {
        observed_generation: Some(generation),
        conditions: vec![accepted.condition(generation, &previous.conditions, now)],
        forwards: census.map(|census| number(census.inside)),
        refused: census.map(|census| number(census.refused)),
        refusals: census.map(|census| census.named.clone()).unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::api::{decode, decode_grant};

    fn forward(namespace: &str, name: &str, client: &str) -> Forward {
        let document = json!({
            "apiVersion": "portforward.dev/v1alpha1", "kind": "PortForward",
            "metadata": {"namespace": namespace, "name": name},
            "spec": {
                "client": {"addresses": [client]}, "internal": {"addresses": ["192.168.0.2"]},
                "upstream": {"targets": [{"address": "3.3.3.3"}]}, "ports": [{"port": 80}],
            },
        });
        Forward::parse(&decode(document).unwrap()).unwrap()
    }

    fn grant(name: &str, namespaces: &[&str], client: &str) -> Grant {
        let document = json!({
            "apiVersion": "portforward.dev/v1alpha1", "kind": "PortForwardGrant", "metadata": {"name": name},
            "spec": {
                "namespaces": namespaces, "clients": [client], "nodeSelector": {"matchLabels": {"zone": "nowhere"}},
                "listen": [{"cidrs": ["192.168.0.0/24"]}], "upstreams": [{"cidrs": ["3.3.3.3"]}], "limits": {"forwards": 0},
            },
        });
        Grant::parse(&decode_grant(document).unwrap()).unwrap()
    }

    #[test]
    fn a_grant_counts_what_lies_inside_it_and_names_what_lies_inside_none() {
        let grants = [grant("a", &["x", "y"], "1.1.1.0/24"), grant("b", &["x"], "1.1.0.0/16")];
        let mut forwards = vec![
            forward("x", "both", "1.1.1.1"),
            forward("x", "one", "1.1.2.1"),
            forward("x", "out", "9.9.9.9"),
            forward("z", "nobody", "1.1.1.1"),
        ];
        forwards.extend((10..30).map(|number| forward("y", &format!("f{number}"), "1.1.2.1")));
        let all = census(&grants, &forwards);
        let counts = |name: &str| (all[name].inside, all[name].refused, all[name].named.len());
        assert_eq!((counts("a"), counts("b")), ((1, 21, 16), (2, 1, 1)));
        assert_eq!((all["b"].named[0].namespace.as_str(), all["b"].named[0].name.as_str()), ("x", "out"));
        assert!(all["b"].named[0].message.starts_with("spec.client.addresses 9.9.9.9 is not in clients of grant"));
        assert!(all["a"].named[1].message.contains("of grant a;"), "{}", all["a"].named[1].message);
    }

    #[test]
    fn equal_content_gives_an_equal_status_and_a_grant_that_permits_nothing_says_so() {
        let early = Timestamp::UNIX_EPOCH;
        let usable = Usable::Yes(Some(Census { inside: 3, ..Census::default() }));
        let first = grant_status(&usable, 2, &PortForwardGrantStatus::default(), early);
        let again = grant_status(&usable, 2, &first, Timestamp::MAX);
        assert_eq!((&first, first.forwards, first.refused), (&again, Some(3), Some(0)));
        let unknown = grant_status(&Usable::Unknown("spec.x".to_owned()), 3, &first, early);
        let condition = &unknown.conditions[0];
        assert_eq!(
            (condition.status.as_str(), condition.reason.as_str(), unknown.forwards),
            ("False", "UnsupportedSchema", None)
        );
    }
}
