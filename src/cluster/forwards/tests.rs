//! What a watch of objects becomes.

use super::*;
use crate::api::{Mode, PortForwardStatus};

fn object(name: &str, uid: &str, generation: i64, mode: &str) -> Received {
    let spec = serde_json::json!({
        "mode": mode, "client": {"addresses": ["1.1.1.1"]}, "internal": {"addresses": ["192.168.0.2"]},
        "upstream": {"targets": [{"address": "3.3.3.3"}]}, "ports": [{"name": "http", "port": 80}],
    });
    serde_json::from_value(serde_json::json!({
        "apiVersion": "portforward.dev/v1alpha1", "kind": "PortForward", "spec": spec,
        "metadata": {"name": name, "namespace": "a", "uid": uid, "generation": generation},
    }))
    .unwrap()
}

fn text(objects: &Objects) -> Vec<String> {
    let snapshot = objects.snapshot(Snapshot::default()).unwrap();
    let forwards = snapshot.forwards.iter().map(|sourced| {
        let metadata = &sourced.object.metadata;
        format!(
            "{} {}{}",
            metadata.name.as_ref().unwrap(),
            metadata.generation.unwrap(),
            if sourced.trouble.is_some() { " outdated" } else { "" }
        )
    });
    forwards.chain(snapshot.undecoded.keys().map(|key| format!("{} unknown", key.name))).collect()
}

#[test]
fn an_object_counts_as_deleted_only_after_a_complete_list() {
    let mut objects = Objects::default();
    objects.take(Event::Init);
    objects.take(Event::InitApply(object("x", "1", 1, "Enabled")));
    objects.take(Event::InitApply(object("y", "2", 1, "Enabled")));
    assert!(objects.snapshot(Snapshot::default()).is_none(), "an incomplete list is no set");
    assert!(objects.take(Event::InitDone).is_some());
    assert!(objects.take(Event::Init).is_none());
    assert!(objects.take(Event::InitApply(object("y", "2", 1, "Enabled"))).is_none());
    assert_eq!(text(&objects), ["x 1", "y 1"], "an incomplete list removes nothing");
    assert!(objects.take(Event::InitDone).is_some());
    assert_eq!(text(&objects), ["y 1"]);
    assert!(objects.take(Event::Delete(object("y", "2", 1, "Enabled"))).is_some());
    assert_eq!(text(&objects), Vec::<String>::new());
}

#[test]
fn an_object_of_unknown_form_keeps_its_last_good_content_and_affects_no_other() {
    let mut objects = Objects { listed: true, ..Objects::default() };
    objects.take(Event::Apply(object("x", "1", 1, "Enabled")));
    objects.take(Event::Apply(object("x", "1", 2, "DryRun")));
    objects.take(Event::Apply(object("y", "2", 1, "DryRun")));
    objects.take(Event::Apply(object("z", "3", 1, "Enabled")));
    assert_eq!(text(&objects), ["x 1 outdated", "z 1", "y unknown"]);
    let mut written = object("x", "1", 2, "DryRun");
    written.metadata.resource_version = Some("7".to_owned());
    assert_eq!(objects.take(Event::Apply(written)), Some(Change::Status));
    assert_eq!(objects.take(Event::Apply(object("x", "1", 3, "Simulated"))), Some(Change::Content), "another mistake");
    objects.take(Event::Apply(object("x", "9", 1, "DryRun")));
    assert_eq!(text(&objects), ["z 1", "x unknown", "y unknown"], "another object of the same name has no last good content");
}

#[test]
fn an_object_that_makes_the_decoder_panic_keeps_its_last_good_content_and_affects_no_other() {
    let decode: Decode = |object| {
        assert_ne!(object.metadata.generation, Some(2), "a fault of the decoder");
        decode(object)
    };
    let mut objects = Objects { decode, listed: true, ..Objects::default() };
    objects.take(Event::Apply(object("x", "1", 1, "Enabled")));
    objects.take(Event::Apply(object("x", "1", 2, "Enabled")));
    objects.take(Event::Apply(object("y", "2", 2, "Enabled")));
    objects.take(Event::Apply(object("z", "3", 1, "Enabled")));
    assert_eq!(text(&objects), ["x 1 outdated", "z 1", "y unknown"]);
    let snapshot = objects.snapshot(Snapshot::default()).unwrap();
    assert!(snapshot.undecoded.values().all(|it| it.error.contains("a fault of the decoder")), "{snapshot:?}");
}

#[test]
fn a_set_has_the_time_of_the_last_change_of_more_than_status() {
    let mut objects = Objects { listed: true, ..Objects::default() };
    let (sender, receiver) = watch::channel(None);
    let wake = Notify::new();
    let start = Instant::now();
    let heard = |objects: &Objects, secs| {
        let heard = Heard::of(start + Duration::from_secs(secs));
        offer(Snapshot { heard, ..objects.snapshot(Snapshot::default()).unwrap() }, &sender, &wake);
        receiver.borrow().as_ref().and_then(|snapshot: &Arc<Snapshot>| snapshot.heard.at()).map(|at| (at - start).as_secs())
    };
    objects.take(Event::Apply(object("x", "1", 1, "Enabled")));
    assert_eq!(heard(&objects, 1), None, "found at the start");
    objects.take(Event::Apply(object("x", "1", 2, "Enabled")));
    assert_eq!(heard(&objects, 2), Some(2));
    let mut changed = object("x", "1", 2, "Enabled");
    changed.metadata.resource_version = Some("7".to_owned());
    objects.take(Event::Apply(changed));
    assert_eq!(heard(&objects, 3), Some(2), "a change of status does not count");
}

/// The versions of a CRD may differ in the fields that they keep and in their defaults.
#[test]
fn another_spec_of_the_same_generation_is_taken_over() {
    let mut objects = Objects { listed: true, ..Objects::default() };
    objects.take(Event::Apply(object("x", "1", 1, "Enabled")));
    let before = objects.snapshot(Snapshot::default()).unwrap();
    assert_eq!(objects.take(Event::Apply(object("x", "1", 1, "Disabled"))), Some(Change::Content));
    let snapshot = objects.snapshot(Snapshot::default()).unwrap();
    assert!(!same_but_status(&before, &snapshot));
    assert!(snapshot.forwards.iter().all(|it| it.object.spec.mode == Mode::Disabled), "{snapshot:?}");
}

#[test]
fn a_list_that_is_read_again_gives_the_same_values() {
    let mut objects = Objects::default();
    let listed = || {
        let mut listed = object("x", "1", 1, "Enabled");
        listed.metadata.resource_version = Some("7".to_owned());
        [Event::Init, Event::InitApply(listed), Event::InitDone]
    };
    let mut read = || {
        for event in listed() {
            objects.take(event);
        }
        objects.snapshot(Snapshot::default()).unwrap().forwards.iter().next().unwrap().clone()
    };
    let (first, again) = (read(), read());
    assert!(Arc::ptr_eq(&first.object, &again.object) && Arc::ptr_eq(&first.stored.unwrap(), &again.stored.unwrap()));
}

#[test]
fn a_change_of_only_the_status_asks_for_nothing_new() {
    let mut objects = Objects { listed: true, ..Objects::default() };
    objects.take(Event::Apply(object("x", "1", 1, "Enabled")));
    let first = objects.snapshot(Snapshot::default()).unwrap();
    let mut changed = object("x", "1", 1, "Enabled");
    changed.status = Some(PortForwardStatus { active_node: Some("a".to_owned()), ..PortForwardStatus::default() });
    changed.metadata.resource_version = Some("7".to_owned());
    objects.take(Event::Apply(changed));
    let after = objects.snapshot(Snapshot::default()).unwrap();
    assert!(same_but_status(&first, &after));
    let [key] = &after.forwards.keys().collect::<Vec<_>>()[..] else { panic!("{after:?}") };
    let (before, after) = (first.forwards.get(key).unwrap(), after.forwards.get(key).unwrap());
    assert!(Arc::ptr_eq(&before.object, &after.object), "it stays the same value");
    let stored = after.stored.as_ref().unwrap();
    assert_eq!(stored.status.as_ref().unwrap().active_node.as_deref(), Some("a"));
    assert_eq!(stored.version.as_deref(), Some("7"));
    objects.take(Event::Apply(object("x", "1", 2, "Disabled")));
    assert!(!same_but_status(&first, &objects.snapshot(Snapshot::default()).unwrap()));
}
