//! Tests that a second apply changes nothing and causes no write of an agent, for every combination of tools.

use std::process::Output;

use serde_json::Value;

use crate::bed::SERVER;
use crate::fleet::{Fleet, WEB, manifest, spec, web};
use crate::plane::{Plane, Resource};

const OTHER: &str = "lines/other";

pub(crate) fn text(output: &Output) -> String {
    [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned()).concat()
}

/// Asserts that `kubectl diff` finds no difference; it ends with 1 if it finds one.
#[track_caller]
fn differs_not(fleet: &Fleet, manifest: &str, how: &[&str]) {
    let output = fleet.plane.kubectl_with(["diff", "-f", "-"].iter().chain(how), manifest);
    assert!(output.status.success() && output.stdout.is_empty(), "kubectl diff {how:?}: {}", text(&output));
}

/// The same by server-side apply after a client-side apply. kubectl writes its own annotation into such an object again, in
/// another form. No other field differs.
#[track_caller]
fn differs_in_the_note_of_kubectl_alone(fleet: &Fleet, manifest: &str) {
    let output = fleet.plane.kubectl_with(["diff", "-f", "-", "--server-side"], manifest);
    let told = text(&output);
    let changed =
        told.lines().filter(|line| line.starts_with(['+', '-']) && !line.starts_with("+++") && !line.starts_with("---"));
    let other: Vec<&str> = changed.filter(|line| !line[1..].trim_start().starts_with("{\"apiVersion\":")).collect();
    assert!(output.status.code().is_some_and(|code| code < 2) && other.is_empty(), "{told}");
}

#[track_caller]
pub(crate) fn apply(plane: &Plane, manifest: &str, how: &[&str]) {
    let output = plane.kubectl_with(["apply", "-f", "-"].iter().chain(how), manifest);
    assert!(output.status.success(), "kubectl apply {how:?}: {}", text(&output));
}

fn object(fleet: &Fleet, key: &str) -> Value {
    fleet.plane.forward(key).expect("the forward is there")
}

const BY_SERVER: [&str; 1] = ["--server-side"];
const BY_CLIENT: [&str; 0] = [];

#[test]
fn a_second_apply_and_a_diff_find_nothing_to_do_and_no_agent_writes() {
    let fleet = Fleet::new(1);
    let (web, other) = (manifest(WEB, &web()), manifest(OTHER, &spec(82, SERVER, 82)));
    apply(&fleet.plane, &web, &BY_SERVER);
    apply(&fleet.plane, &other, &BY_CLIENT);
    fleet.plane.wait_condition(WEB, "Ready", "True", "Ready");
    fleet.plane.wait_condition(OTHER, "Ready", "True", "Ready");
    fleet.wait_events(WEB, 1);
    fleet.wait_events(OTHER, 1);
    let (before, from) = ([WEB, OTHER].map(|key| object(&fleet, key)), fleet.plane.audit().len());

    for (manifest, how) in [(&web, &BY_SERVER[..]), (&other, &BY_CLIENT[..])] {
        differs_not(&fleet, manifest, how);
        apply(&fleet.plane, manifest, how);
        apply(&fleet.plane, manifest, how);
    }
    differs_in_the_note_of_kubectl_alone(&fleet, &other);
    // Another field manager that applies the same, as Argo CD and Flux do with an object that was applied by hand.
    differs_not(&fleet, &web, &["--server-side", "--field-manager=argocd-controller"]);
    assert_eq!([WEB, OTHER].map(|key| object(&fleet, key)), before, "not even the version of the object is another");

    // A change of the way of applying changes only the field managers.
    apply(&fleet.plane, &other, &BY_SERVER);
    differs_not(&fleet, &other, &BY_SERVER);
    apply(&fleet.plane, &web, &BY_CLIENT);
    differs_not(&fleet, &web, &BY_CLIENT);
    for (key, before) in [WEB, OTHER].iter().zip(&before) {
        let now = object(&fleet, key);
        for part in ["/spec", "/status", "/metadata/generation"] {
            assert_eq!(now.pointer(part), before.pointer(part), "{key} {part}");
        }
    }
    let calls = fleet.calls(from);
    let written: Vec<&str> =
        calls.iter().filter(|call| call.writes() && call.resource != "leases").map(|call| call.uri.as_str()).collect();
    assert_eq!(written, Vec::<&str>::new(), "an agent wrote");
    assert!(fleet.plane.list(Resource::Forwards).len() == 2);
}
