//! Tests objects of a newer CRD, which this agent cannot decode.

use serde_json::{Value, json};

use crate::bed::wait::eventually;
use crate::bed::{SECOND_SERVER, SERVER};
use crate::fleet::{Fleet, REFUSED, WEB, manifest, spec, web};
use crate::plane::Resource;
use crate::plane::http::Request;
use crate::plane::objects::PATIENCE;

const OTHER: &str = "lines/other";
const UNKNOWN: &str = "lines/unknown";

/// Makes the CRD accept what a later version may accept: another mode, and another field.
fn upgrade_definition(fleet: &Fleet) {
    let name = "portforwards.portforward.dev";
    let mut definition = fleet.plane.get(Resource::Definitions, name).unwrap();
    let fields = definition.pointer_mut("/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties").unwrap();
    fields["mode"]["enum"].as_array_mut().unwrap().push("DryRun".into());
    fields["mss"] = json!({"type": "integer"});
    fleet.plane.must(&Request::put(Resource::Definitions.path(None, Some(name)), definition));
    let later = manifest("default/probe", &format!("mss: 1360, mode: Disabled, {}", spec(84, SERVER, 80)));
    let mut refusal = None;
    let taken = eventually(PATIENCE, || fleet.plane.try_apply(&later).map_err(|text| refusal = Some(text)).is_ok());
    assert!(taken, "{refusal:?}");
    // A watch that began earlier continues with the older CRD and its fields until it ends.
    let from = fleet.plane.audit().len();
    let watched = || fleet.calls(from).iter().any(|call| call.verb == "watch" && call.resource == "portforwards");
    assert!(eventually(PATIENCE, watched), "the agent's watch never ended");
}

/// A condition of the summary: its status, its reason, and its generation.
fn condition(fleet: &Fleet, key: &str, kind: &str) -> Option<(String, String, i64)> {
    let forward = fleet.plane.forward(key)?;
    let found = forward["status"]["conditions"].as_array()?.iter().find(|one| one["type"] == kind)?.clone();
    let text = |value: &Value| value.as_str().map(str::to_owned);
    Some((text(&found["status"])?, text(&found["reason"])?, found["observedGeneration"].as_i64()?))
}

#[track_caller]
fn wait_unsupported(fleet: &Fleet, key: &str, generation: i64) {
    let wanted = Some(("False".to_owned(), "UnsupportedSchema".to_owned(), generation));
    let said = || condition(fleet, key, "Accepted");
    assert!(eventually(PATIENCE, || said() == wanted), "{:?} instead of {wanted:?}", said());
}

#[test]
fn the_last_good_content_of_an_object_that_cannot_be_decoded_stays_in_force() {
    let mut fleet = Fleet::new(1);
    fleet.apply(WEB, &web());
    fleet.apply(OTHER, &spec(82, SERVER, 82));
    fleet.plane.wait_ready(WEB);
    fleet.plane.wait_ready(OTHER);
    upgrade_definition(&fleet);
    fleet.apply(UNKNOWN, &format!("mss: 1360, {}", spec(83, SERVER, 80)));
    wait_unsupported(&fleet, UNKNOWN, 1);
    assert_eq!(
        condition(&fleet, UNKNOWN, "Stalled").map(|said| said.0),
        Some("True".to_owned()),
        "no retry heals it, but an upgrade"
    );
    assert_eq!(fleet.ask(83), REFUSED, "it never had a good content");

    fleet.apply(WEB, &format!("mode: DryRun, {}", spec(81, SECOND_SERVER, 81)));
    wait_unsupported(&fleet, WEB, 1);
    let message = |forward: &Value| forward["status"]["conditions"].to_string().contains("DryRun");
    fleet.plane.wait(Resource::Forwards, WEB, "does not say what is not known", message);
    fleet.reaches(80, SERVER, 80);
    assert_eq!(fleet.ask(81), REFUSED);

    // No other object is affected, and edits of others are applied.
    fleet.apply(OTHER, &spec(82, SECOND_SERVER, 82));
    fleet.plane.wait_condition(OTHER, "Ready", "True", "Ready");
    fleet.reaches(82, SECOND_SERVER, 82);

    // A restart keeps this state.
    let before = fleet.plane.forward(WEB).unwrap();
    fleet.kill(0);
    fleet.flush(0);
    fleet.start(0);
    fleet.wait_reaches(80, SERVER, 80);
    fleet.reaches(82, SECOND_SERVER, 82);
    assert_eq!(fleet.plane.forward(WEB).unwrap()["status"], before["status"]);

    fleet.apply(WEB, &format!("mode: Enabled, {}", spec(81, SECOND_SERVER, 81)));
    fleet.plane.wait_condition(WEB, "Ready", "True", "Ready");
    fleet.plane.wait_condition(WEB, "Accepted", "True", "Accepted");
    fleet.reaches(81, SECOND_SERVER, 81);
    assert_eq!(fleet.ask(80), REFUSED);
}
