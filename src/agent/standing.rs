//! What stays in force while the agent requires grants and was never able to read them: what the record holds. Nothing new is
//! carried, and nothing new gets into the record.

use std::sync::Arc;

use super::parsed::Parsed;
use crate::forward::ForwardKey;
use crate::grant::Grant;
use crate::plan::{Candidate, Grants, InForce, RequireGrants, Standing};
use crate::record::Record;
use crate::source::{GrantSet, Snapshot, Sourced};

/// A forward of a set that was read without grants.
#[derive(Clone, Debug)]
pub(super) struct Held {
    /// The object to plan with.
    pub(super) sourced: Sourced,
    kept: Kept,
}

/// What happens to a forward while the grants were never read.
#[derive(Clone, Copy, Debug)]
enum Kept {
    /// It stays in force with the content of the record.
    Stays(Standing),
    /// It asks for nothing any more, or it is not in force. A grant is not needed for that.
    Closes,
    /// The record does not hold it.
    New,
}

/// The grants for the plan, and the objects to plan with. Takes over what `parsed` has of them.
pub(super) fn grants(
    required: RequireGrants,
    record: &Record,
    in_force: &InForce,
    snapshot: &Snapshot,
    parsed: Parsed,
) -> (Grants, Parsed) {
    match (required, &snapshot.grants) {
        (RequireGrants::No, _) | (RequireGrants::Report, None) => (Grants::default(), parsed.renewed(&snapshot.forwards)),
        (RequireGrants::Report | RequireGrants::Yes, Some(set)) => {
            (Grants::Read(usable(set)), parsed.renewed(&snapshot.forwards))
        }
        (RequireGrants::Yes, None) => {
            let held = held(record, in_force, snapshot);
            let candidates = parsed.renewed(&held.iter().map(|held| held.sourced.clone()).collect());
            let standing = held.iter().filter_map(|held| match held.kept {
                Kept::Stays(standing) => Some((ForwardKey::of(&held.sourced.object), standing)),
                Kept::Closes | Kept::New => None,
            });
            let recorded = record.grants.as_deref().map(usable);
            (Grants::Unread { standing: standing.collect(), recorded }, candidates)
        }
    }
}

/// The part of `snapshot` that may get into the record: all of it, or what stays while the grants were never read, with the
/// grants of the record.
pub(super) fn lasting(required: RequireGrants, record: &Record, in_force: &InForce, snapshot: &Arc<Snapshot>) -> Arc<Snapshot> {
    match (required, &snapshot.grants) {
        (RequireGrants::No | RequireGrants::Report, _) | (RequireGrants::Yes, Some(_)) => Arc::clone(snapshot),
        (RequireGrants::Yes, None) => {
            let known = held(record, in_force, snapshot).into_iter().filter(|held| !matches!(held.kept, Kept::New));
            let forwards = known.map(|held| held.sourced).collect();
            Arc::new(Snapshot { forwards, grants: record.grants.clone(), ..Snapshot::clone(snapshot) })
        }
    }
}

/// The grants that can be used. A grant with a mistake permits nothing.
fn usable(set: &GrantSet) -> Arc<[Grant]> {
    set.grants.iter().filter_map(|sourced| Grant::parse(&sourced.object).ok()).collect()
}

fn held(record: &Record, in_force: &InForce, snapshot: &Snapshot) -> Vec<Held> {
    let recorded = |key: &ForwardKey, sourced: &Sourced| {
        let uid = &sourced.object.metadata.uid;
        record.forwards.get(key).filter(|recorded| recorded.object.metadata.uid == *uid)
    };
    let held = |sourced: &Sourced| {
        let key = ForwardKey::of(&sourced.object);
        let wanted = Candidate::of(&sourced.object).forward.is_ok_and(|forward| forward.is_in_force());
        match recorded(&key, sourced) {
            None => Held { sourced: sourced.clone(), kept: Kept::New },
            Some(_) if !wanted => Held { sourced: sourced.clone(), kept: Kept::Closes },
            Some(recorded) if !in_force.has(&key) => Held { sourced: recorded.clone(), kept: Kept::Closes },
            Some(recorded) if recorded.object.spec == sourced.object.spec => {
                Held { sourced: sourced.clone(), kept: Kept::Stays(Standing::Same) }
            }
            Some(recorded) => {
                let to = sourced.object.metadata.generation.unwrap_or_default();
                Held { sourced: recorded.clone(), kept: Kept::Stays(Standing::Changed { to }) }
            }
        }
    };
    snapshot.forwards.iter().map(held).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::agent::Memory;
    use crate::api;
    use crate::forward::Forward;
    use crate::model::Desired;

    fn sourced(name: &str, generation: i64, uid: &str, upstream: &str, mode: &str) -> Sourced {
        let document = json!({
            "apiVersion": "portforward.dev/v1alpha1", "kind": "PortForward",
            "metadata": {"namespace": "lines", "name": name, "generation": generation, "uid": uid},
            "spec": {
                "mode": mode, "client": {"addresses": ["1.1.1.1"]}, "internal": {"addresses": ["192.168.0.2"]},
                "upstream": {"targets": [{"address": upstream}]}, "ports": [{"port": 80 + generation}],
            },
        });
        Sourced::of(Arc::new(api::decode(document).unwrap()), None)
    }

    /// A memory of these forwards, all of them in force.
    fn memory(forwards: &[Sourced], grants: Option<Arc<GrantSet>>) -> Memory {
        let translations = forwards.iter().flat_map(|it| Forward::parse(&it.object).unwrap().translations());
        let in_force = translations.collect();
        let record =
            Record { node: "a".to_owned(), forwards: forwards.iter().cloned().collect(), in_force, grants, ..Record::default() };
        Memory::new("a", Some(record))
    }

    fn set(forwards: Vec<Sourced>) -> Arc<Snapshot> {
        Arc::new(Snapshot { forwards: forwards.into_iter().collect(), ..Snapshot::default() })
    }

    #[test]
    fn without_grants_the_content_of_the_record_is_planned_and_recorded_and_nothing_new() {
        let before = ["changed", "closed", "gone", "other", "same"].map(|name| sourced(name, 1, name, "3.3.3.3", "Enabled"));
        let mut memory = memory(&before, Some(Arc::default()));
        let now = set(vec![
            sourced("changed", 2, "changed", "9.9.9.9", "Enabled"),
            sourced("closed", 2, "closed", "3.3.3.3", "Disabled"),
            sourced("new", 1, "new", "3.3.3.3", "Enabled"),
            sourced("other", 1, "another object", "9.9.9.9", "Enabled"),
            before[4].clone(),
        ]);
        let (grants, candidates) = memory.grants(RequireGrants::Yes, &now, Parsed::default());
        let Grants::Unread { standing, recorded } = grants else { panic!("they were not read") };
        let standing: Vec<_> = standing.into_iter().map(|(key, standing)| (key.name.clone(), standing)).collect();
        assert_eq!(standing, [("changed".to_owned(), Standing::Changed { to: 2 }), ("same".to_owned(), Standing::Same)]);
        assert_eq!(recorded.map(|grants| grants.len()), Some(0), "the grants of the record");
        let planned: Vec<_> = candidates.iter().map(|it| (it.key.name.as_str(), it.generation)).collect();
        assert_eq!(planned, [("changed", 1), ("closed", 2), ("new", 1), ("other", 1), ("same", 1)]);

        let lasting = memory.lasting(RequireGrants::Yes, &now);
        memory.advance(&lasting, &Desired::default());
        let restarted = memory.snapshot().unwrap();
        let recorded: Vec<_> = restarted.forwards.iter().map(|it| it.object.spec.upstream.targets[0].address.as_str()).collect();
        assert_eq!(recorded, ["3.3.3.3"; 3], "changed, closed and same: no content that no grant was asked about");
        assert_eq!((memory.required_grants(), restarted.grants.is_some()), (RequireGrants::Yes, true));
    }

    /// The record holds its content, but nothing of it is in the kernel: it was refused, for example.
    #[test]
    fn without_grants_a_recorded_forward_that_is_not_in_force_is_not_carried_and_keeps_its_recorded_content() {
        // The generation decides the port.
        let before = [("carried", 1), ("changed", 3), ("same", 5)]
            .map(|(name, generation)| sourced(name, generation, name, "3.3.3.3", "Enabled"));
        let in_force = Forward::parse(&before[0].object).unwrap().translations().into_iter().collect();
        let (node, grants) = ("a".to_owned(), Some(Arc::default()));
        let record = Record { node, forwards: before.iter().cloned().collect(), in_force, grants, ..Record::default() };
        let mut memory = Memory::new("a", Some(record));
        let now = set(vec![before[0].clone(), sourced("changed", 4, "changed", "9.9.9.9", "Enabled"), before[2].clone()]);
        let (grants, candidates) = memory.grants(RequireGrants::Yes, &now, Parsed::default());
        let Grants::Unread { standing, .. } = grants else { panic!("they were not read") };
        let standing: Vec<_> = standing.keys().map(|key| key.name.as_str()).collect();
        assert_eq!(standing, ["carried"]);
        assert_eq!(candidates[1].generation, 3, "no content that no grant was asked about");
        let lasting = memory.lasting(RequireGrants::Yes, &now);
        let recorded: Vec<_> = lasting.forwards.iter().map(|it| it.object.metadata.generation).collect();
        assert_eq!(recorded, [Some(1), Some(3), Some(5)], "it stays in the record");
    }

    #[test]
    fn once_the_grants_are_read_or_not_needed_the_newest_content_counts() {
        let memory = memory(&[sourced("a", 1, "a", "3.3.3.3", "Enabled")], None);
        let read =
            Snapshot { grants: Some(Arc::default()), ..Snapshot::clone(&set(vec![sourced("a", 2, "a", "9.9.9.9", "Enabled")])) };
        for (required, read_grants) in [(RequireGrants::Yes, true), (RequireGrants::Report, true), (RequireGrants::No, false)] {
            let (grants, candidates) = memory.grants(required, &read, Parsed::default());
            assert_eq!((matches!(grants, Grants::Read(_)), candidates[0].generation), (read_grants, 2), "{required:?}");
        }
    }
}
