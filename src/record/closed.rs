//! Compares a record with a newer state: which of its objects must not be restored from it any more. Pure.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::sync::Arc;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::api::PortForward;
use crate::forward::{Forward, ForwardKey};
use crate::source::{Difference, GrantSet, Sourced};

use super::Record;

/// The number of objects that are listed one by one. More count as all, so that the note on the disk has a limited size.
const MOST: usize = 12_000;

/// The objects of a record that a newer state does not contain, or not with the same content. To restore them would open
/// again what was closed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Closed {
    /// These, by the hash of their identity.
    These(BTreeSet<String>),
    /// All of them.
    All,
}

impl Closed {
    /// The objects of `record` that `newer` does not ask for in the same way.
    ///
    /// A larger generation alone is no difference: the description may have changed. An object also counts if one of its
    /// addresses is protected in `newer` but not in `record`, because it was accepted without this. If other grants are
    /// required, all objects count.
    #[must_use]
    pub fn between(record: &Record, newer: &Record) -> Self {
        // Which of the forwards a grant contained is not decided here.
        let same_grants = record.grants_required && GrantSet::are_the_same(record.grants.as_ref(), newer.grants.as_ref());
        if newer.grants_required && !same_grants {
            return Self::All;
        }
        let protected = newly_protected(record, newer);
        let others = if record.labels == newer.labels && protected.is_empty() {
            not_in(newer, record)
        } else {
            record.forwards.iter().collect()
        };
        let stays = |old: &&Sourced| {
            let Some(new) = newer.forwards.get(&ForwardKey::of(&old.object)) else { return false };
            // What cannot be parsed is not restored anyway.
            let Ok(before) = Forward::parse(&old.object) else { return true };
            let Ok(after) = Forward::parse(&new.object) else { return false };
            before.selects(&record.labels) == after.selects(&newer.labels)
                && !touches(&before, &protected)
                && Forward { generation: 0, ..before } == Forward { generation: 0, ..after }
        };
        let closed: BTreeSet<String> = others.into_iter().filter(|old| !stays(old)).map(|old| fingerprint(&old.object)).collect();
        if closed.len() > MOST { Self::All } else { Self::These(closed) }
    }

    /// The objects of both.
    #[must_use]
    pub fn and(self, other: &Self) -> Self {
        match (self, other) {
            (Self::These(mut these), Self::These(others)) => {
                these.extend(others.iter().cloned());
                if these.len() > MOST { Self::All } else { Self::These(these) }
            }
            (Self::All, _) | (_, Self::All) => Self::All,
        }
    }

    /// Whether it contains nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        match self {
            Self::These(these) => these.is_empty(),
            Self::All => false,
        }
    }

    /// Whether it contains this object.
    #[must_use]
    pub fn contains(&self, object: &PortForward) -> bool {
        match self {
            Self::These(these) => !these.is_empty() && these.contains(&fingerprint(object)),
            Self::All => true,
        }
    }
}

/// The objects of `record` that are not the same ones in `newer`.
fn not_in<'a>(newer: &'a Record, record: &'a Record) -> Vec<&'a Sourced> {
    let is_other = |old: &Sourced, new: Option<&Sourced>| new.is_none_or(|new| !Arc::ptr_eq(&new.object, &old.object));
    let differences = record.forwards.differences(&newer.forwards);
    differences.filter_map(|Difference { before, now, .. }| before.filter(|before| is_other(before, now))).collect()
}

/// What no forward may reach or cover according to `newer`, but not yet according to `record`.
fn newly_protected(record: &Record, newer: &Record) -> Vec<IpNet> {
    let addresses = (newer.api_servers.difference(&record.api_servers))
        .chain(newer.node_addresses.difference(&record.node_addresses))
        .chain(newer.nodes.addresses.difference(&record.nodes.addresses));
    let networks = newer.services.difference(&record.services).chain(newer.nodes.pods.difference(&record.nodes.pods));
    addresses.map(|address| IpNet::from(*address)).chain(networks.copied()).collect()
}

/// Whether an address or a client of `forward` is in one of `networks`, or the other way round.
fn touches(forward: &Forward, networks: &[IpNet]) -> bool {
    let Forward { internal, external, gateway, upstream, .. } = forward;
    let single = [Some(internal.address), *external, *gateway, Some(*upstream)].into_iter().flatten().map(IpNet::from);
    let mut own = single.chain(forward.clients.iter().copied());
    own.any(|own| networks.iter().any(|network| own.contains(network) || network.contains(&own)))
}

/// The namespace and the name.
fn name(object: &PortForward) -> (Option<&str>, Option<&str>) {
    (object.metadata.namespace.as_deref(), object.metadata.name.as_deref())
}

/// A short hash of the identity and the generation of an object.
fn fingerprint(object: &PortForward) -> String {
    let (namespace, name) = name(object);
    let (namespace, name) = (namespace.unwrap_or_default(), name.unwrap_or_default());
    let (uid, generation) = (object.metadata.uid.as_deref().unwrap_or_default(), object.metadata.generation.unwrap_or(0));
    let digest = Sha256::digest(format!("{namespace}/{name} {uid} {generation}"));
    digest.iter().take(8).fold(String::new(), |mut text, byte| {
        // Writing to a `String` never fails.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Nodes;

    fn sourced(name: &str, change: impl FnOnce(&mut PortForward)) -> Sourced {
        let object = serde_json::json!({
            "apiVersion": "portforward.dev/v1alpha1", "kind": "PortForward",
            "metadata": {"name": name, "namespace": "a", "uid": name, "generation": 1},
            "spec": {
                "client": {"addresses": ["1.1.1.1"]}, "internal": {"addresses": ["192.168.0.2"]},
                "upstream": {"targets": [{"address": "3.3.3.3"}]}, "ports": [{"name": "http", "port": 80}],
                "nodeSelector": {"matchLabels": {"line": "a"}},
            },
        });
        let mut object = crate::api::decode(object).unwrap();
        change(&mut object);
        Sourced::of(Arc::new(object), None)
    }

    fn record(forwards: &[&Sourced]) -> Record {
        Record {
            labels: [("line".to_owned(), "a".to_owned())].into(),
            api_servers: ["10.0.0.1".parse().unwrap()].into(),
            forwards: forwards.iter().copied().cloned().collect(),
            ..Record::default()
        }
    }

    /// The names of the objects that count as closed, if the object `x` has this new content.
    fn closed(x: Option<&Sourced>) -> Vec<String> {
        let (before, other) = (sourced("x", |_| {}), sourced("y", |_| {}));
        let old = record(&[&before, &other]);
        let new = record(&x.into_iter().chain([&other]).collect::<Vec<_>>());
        names(&old, &Closed::between(&old, &new))
    }

    fn names(old: &Record, closed: &Closed) -> Vec<String> {
        let closed = old.forwards.iter().filter(|sourced| closed.contains(&sourced.object));
        closed.filter_map(|sourced| sourced.object.metadata.name.clone()).collect()
    }

    #[test]
    fn an_object_that_is_gone_or_has_another_content_is_closed_and_no_other() {
        assert_eq!(closed(None), ["x"]);
        assert_eq!(closed(Some(&sourced("x", |x| x.spec.mode = crate::api::Mode::Disabled))), ["x"]);
        assert_eq!(closed(Some(&sourced("x", |x| x.spec.client.addresses.push("1.1.1.2".to_owned())))), ["x"]);
        assert_eq!(closed(Some(&sourced("x", |x| x.spec.upstream.targets[0].address = "nowhere".to_owned()))), ["x"]);
        assert_eq!(closed(Some(&sourced("x", |x| x.metadata.uid = Some("another".to_owned())))), ["x"]);
        assert_eq!(closed(Some(&sourced("x", |x| x.metadata.generation = Some(7)))), [""; 0], "only the description changed");
        assert_eq!(closed(Some(&sourced("x", |_| {}))), [""; 0]);
    }

    #[test]
    fn a_node_that_is_no_longer_selected_closes_what_it_carried() {
        let object = sourced("x", |_| {});
        let old = record(&[&object]);
        let moved = Record { labels: [].into(), ..old.clone() };
        assert_eq!(names(&old, &Closed::between(&old, &moved)), ["x"]);
        let other =
            Record { labels: [("line".to_owned(), "a".to_owned()), ("more".to_owned(), "b".to_owned())].into(), ..old.clone() };
        assert!(Closed::between(&old, &other).is_empty());
    }

    #[test]
    fn a_newly_protected_address_closes_the_forwards_that_it_is_about_and_no_other() {
        let (object, other) =
            (sourced("x", |x| x.spec.upstream.targets[0].address = "10.7.0.9".to_owned()), sourced("y", |_| {}));
        let old = record(&[&object, &other]);
        let address = |address: &str| [address.parse().unwrap()].into();
        let nodes = |nodes: Nodes| Record { nodes: Arc::new(nodes), ..old.clone() };
        for newer in [
            Record { api_servers: address("10.7.0.9"), ..old.clone() },
            Record { node_addresses: address("10.7.0.9"), ..old.clone() },
            Record { services: ["10.7.0.0/16".parse().unwrap()].into(), ..old.clone() },
            nodes(Nodes { addresses: address("10.7.0.9"), ..Nodes::default() }),
            nodes(Nodes { pods: ["10.7.0.0/24".parse().unwrap()].into(), ..Nodes::default() }),
        ] {
            assert_eq!(names(&old, &Closed::between(&old, &newer)), ["x"]);
            assert!(Closed::between(&newer, &old).is_empty());
        }
        let elsewhere = nodes(Nodes { addresses: address("10.9.0.9"), ..Nodes::default() });
        assert!(Closed::between(&old, &elsewhere).is_empty(), "a node that no forward is about");
    }

    #[test]
    fn every_address_of_a_forward_may_be_the_protected_one() {
        let forward = sourced("x", |x| {
            x.spec.client.addresses = vec!["1.1.0.0/16".to_owned()];
            x.spec.internal.gateways = vec!["192.168.0.1".to_owned()];
        });
        let old = record(&[&forward]);
        let newer = |services: &str| Record { services: [services.parse().unwrap()].into(), ..old.clone() };
        for network in ["192.168.0.2/32", "192.168.0.1/32", "3.3.3.3/32", "3.0.0.0/8", "1.1.0.0/16", "1.1.9.9/32", "1.0.0.0/8"] {
            assert_eq!(names(&old, &Closed::between(&old, &newer(network))), ["x"], "{network}");
        }
        for network in ["192.168.0.3/32", "1.2.0.0/16", "3.3.3.4/32"] {
            assert!(Closed::between(&old, &newer(network)).is_empty(), "{network}");
        }
    }

    #[test]
    fn another_object_of_the_same_name_or_another_generation_of_it_is_not_the_closed_one() {
        let (object, other) = (sourced("x", |_| {}), sourced("y", |_| {}));
        let closed = Closed::between(&record(&[&object, &other]), &record(&[&other]));
        assert!(closed.contains(&object.object));
        assert!(!closed.contains(&sourced("x", |x| x.metadata.uid = Some("another".to_owned())).object));
        assert!(!closed.contains(&sourced("x", |x| x.metadata.generation = Some(2)).object));
    }

    #[test]
    fn other_grants_close_everything_if_grants_are_required() {
        let object = sourced("x", |_| {});
        let without = record(&[&object]);
        let with = |name: &str| {
            let grant = serde_json::json!({
                "apiVersion": "portforward.dev/v1alpha1", "kind": "PortForwardGrant", "metadata": {"name": name},
                "spec": {
                    "namespaces": ["a"], "clients": ["1.1.0.0/16"],
                    "listen": [{"cidrs": ["192.168.0.0/24"], "protocol": "TCP", "port": 1, "endPort": 65535}],
                    "upstreams": [{"cidrs": ["3.3.3.0/24"], "protocol": "TCP", "port": 1, "endPort": 65535}],
                },
            });
            let object = Arc::new(crate::api::decode_grant(grant).unwrap());
            let grants = vec![crate::source::SourcedGrant { object, origin: None, trouble: None }];
            let grants = Some(Arc::new(GrantSet { grants, undecoded: Vec::new() }));
            Record { grants, grants_required: true, ..without.clone() }
        };
        assert!(Closed::between(&with("g"), &with("g")).is_empty());
        assert_eq!(Closed::between(&with("g"), &with("h")), Closed::All);
        assert_eq!(Closed::between(&without, &with("g")), Closed::All, "grants are required now");
        let ignored = Record { grants_required: false, ..with("g") };
        assert_eq!(Closed::between(&ignored, &with("g")), Closed::All, "the same grants, which were not required");
        assert!(Closed::between(&with("g"), &without).is_empty(), "grants are no longer required");
    }

    #[test]
    fn very_many_closed_objects_count_as_all() {
        let forwards: Vec<Sourced> = (0..=MOST).map(|number| sourced(&format!("x{number}"), |_| {})).collect();
        let old = record(&forwards.iter().collect::<Vec<_>>());
        assert_eq!(Closed::between(&old, &record(&[])), Closed::All);
    }
}
