//! Tests what the agents of the other nodes do while an attacker writes with the stolen token of an agent.

use serde_json::{Value, json};

use crate::bed::wait::{eventually, until};
use crate::fleet::{Fleet, LINES, WEB, name, web};
use crate::plane::Resource;
use crate::plane::access::SYSTEM;
use crate::plane::deployed;
use crate::plane::http::{Request, Response};
use crate::plane::objects::PATIENCE;
use crate::plane::proxy_address;
use crate::scrape::scrape;

/// The token of a node whose agent does not run.
struct Thief<'a> {
    fleet: &'a Fleet,
    node: String,
    token: String,
}

impl<'a> Thief<'a> {
    fn of(fleet: &'a Fleet, node: usize) -> Self {
        let thief =
            Self { fleet, node: name(node), token: fleet.plane.agent_token(&name(node), std::time::Duration::from_hours(1)) };
        thief.renew();
        thief
    }

    fn send(&self, request: Request) -> Response {
        self.fleet.plane.send_as(&self.token, &[request]).remove(0)
    }

    /// Renews the Lease, so that the node counts as alive.
    fn renew(&self) {
        let time = format!("{:.6}", k8s_openapi::jiff::Timestamp::now());
        let lease = json!({
            "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
            "metadata": {"name": self.node, "labels": {"portforward.dev/agent": "true"}},
            "spec": {"holderIdentity": self.node, "leaseDurationSeconds": 40, "renewTime": time},
        });
        let path = Resource::Leases.path(Some(SYSTEM), Some(&self.node));
        let renewed = self.send(Request::apply(format!("{path}?fieldManager=portforward-agent&force=true"), lease));
        assert!(renewed.done(), "{renewed:?}");
    }

    /// Applies a status under a field manager. Null removes what the field manager owns.
    fn apply(&self, manager: &str, status: &Value) -> Response {
        let mut body = json!({"apiVersion": "portforward.dev/v1alpha1", "kind": "PortForward", "metadata": {"name": "web", "namespace": LINES}});
        if !status.is_null() {
            body["status"] = status.clone();
        }
        let path = Resource::Forwards.path(Some(LINES), Some("web"));
        self.send(Request::apply(format!("{path}/status?fieldManager={manager}&force=true"), body))
    }

    /// Says that its node is active and ready.
    fn claim(&self) -> Response {
        let entry =
            json!({"nodeName": self.node, "role": "Active", "observedGeneration": 1, "conditions": ready("True", "Ready")});
        self.apply(&format!("portforward-node-{}", self.node), &json!({"nodes": [entry]}))
    }

    /// Waits for a summary, while the Lease of the node is renewed.
    #[track_caller]
    fn wait(&self, status: &str, reason: &str) {
        let wanted = Some((status.to_owned(), reason.to_owned()));
        let came = eventually(PATIENCE, || {
            self.renew();
            self.fleet.plane.condition(WEB, "Ready") == wanted
        });
        assert!(came, "{wanted:?}: {:#}", self.fleet.plane.forward(WEB).unwrap_or_default()["status"]);
    }

    /// Waits until the status does not say that traffic flows. The reason depends on how often it had to be corrected.
    #[track_caller]
    fn wait_denied(&self) {
        let denied = eventually(PATIENCE, || {
            self.renew();
            self.fleet.plane.condition(WEB, "Ready").is_some_and(|(status, _)| status == "False")
        });
        assert!(denied, "{:#}", self.fleet.plane.forward(WEB).unwrap_or_default()["status"]);
    }
}

fn ready(status: &str, reason: &str) -> Value {
    let condition = |kind: &str, status: &str, reason: &str| json!({"type": kind, "status": status, "reason": reason, "message": "forged", "observedGeneration": 1, "lastTransitionTime": "2026-01-01T00:00:00Z"});
    json!([
        condition("Accepted", "True", "Accepted"),
        condition("Programmed", "True", "Programmed"),
        condition("Ready", status, reason)
    ])
}

/// The first node by name was taken over, so the agent of the other one is not responsible for the summary if the entry of the
/// first one counts.
#[test]
fn a_forged_active_entry_that_comes_first_silences_no_honest_agent() {
    let mut fleet = Fleet::without_agents(2);
    fleet.bed.move_addresses(fleet.proxy(0), fleet.proxy(1));
    fleet.start(1);
    fleet.apply(WEB, &web());
    fleet.wait_active(WEB, Some(1));
    let thief = Thief::of(&fleet, 0);
    assert!(thief.claim().done());
    thief.wait("False", "AddressOnSeveralNodes");
    // It hides the entry of the honest node for a moment, and says that the forward is ready on its own node.
    let forged = json!({"conditions": ready("True", "Ready"), "activeNode": "px0", "observedGeneration": 1});
    let written = until(PATIENCE, || {
        thief.renew();
        thief.apply("portforward-node-px1", &Value::Null);
        thief.apply("portforward-summary", &forged).done().then_some(())
    });
    assert!(written.is_some(), "the policy alone does not prevent it");
    thief.wait_denied();
    fleet.wait_entries(WEB, &["px0 Active Ready", "px1 Active Ready"]);

    // The owner disables it. The honest node has withdrawn it, and has no entry any more.
    thief.apply("portforward-node-px1", &Value::Null);
    let _ = thief.apply("portforward-summary", &forged);
    fleet.plane.patch(Resource::Forwards, WEB, json!({"spec": {"mode": "Disabled"}}));
    fleet.agent(1).wait_log("forward disabled");
    thief.wait_denied();
    // When the Lease of the node has expired, its entry does not count any more, and the honest node removes it.
    fleet.wait_entries(WEB, &[]);
    fleet.plane.wait_condition(WEB, "Accepted", "True", "Disabled");
}

#[test]
fn a_status_that_is_overwritten_again_and_again_is_not_ready_and_counted() {
    let mut fleet = Fleet::without_agents(2);
    fleet.start(0);
    fleet.apply(WEB, &web());
    fleet.plane.wait_ready(WEB);
    let thief = Thief::of(&fleet, 1);
    let forged = json!({"conditions": ready("False", "Forged"), "observedGeneration": 1});
    let contested = Some(("False".to_owned(), "StatusContested".to_owned()));
    let came = eventually(PATIENCE, || {
        let now = fleet.plane.condition(WEB, "Ready");
        if now.as_ref().is_some_and(|(_, reason)| reason == "Ready") {
            assert!(thief.apply("portforward-summary", &forged).done());
        }
        now == contested
    });
    assert!(came, "{:#}", fleet.plane.forward(WEB).unwrap_or_default()["status"]);
    let log = "another client keeps overwriting the status of this forward";
    assert_eq!(fleet.agent(0).log().matches(log).count(), 1, "{}", fleet.agent(0).log());
    let (_, metrics) = scrape(&fleet, &["http://127.0.0.1:10450/metrics"]);
    assert!(metrics.contains("portforward_status_contested 1\n"), "{metrics}");
    // Each further overwriting is answered, but with a pause, so that the store does not fill.
    let from = fleet.plane.audit().len();
    for _ in 0..200 {
        thief.apply("portforward-summary", &forged);
    }
    thief.wait("False", "StatusContested");
    let honest = |call: &&crate::plane::audit::AuditEvent| call.source == Some(proxy_address(0).into());
    let writes = fleet.calls(from).iter().filter(honest).filter(|call| call.subresource == "status" && call.writes()).count();
    assert!(writes < 20, "{writes}");
}

/// Attack 22.
#[test]
fn an_entry_that_is_removed_hundreds_of_times_is_written_again_with_few_writes() {
    let mut fleet = Fleet::without_agents(2);
    fleet.start(0);
    fleet.apply(WEB, &web());
    fleet.plane.wait_ready(WEB);
    let thief = Thief::of(&fleet, 1);
    let from = fleet.plane.audit().len();
    for _ in 0..300 {
        thief.apply("portforward-node-px0", &Value::Null);
    }
    fleet.wait_entries(WEB, &["px0 Active Ready"]);
    let honest = |call: &&crate::plane::audit::AuditEvent| call.source == Some(proxy_address(0).into());
    let writes = fleet.calls(from).iter().filter(honest).filter(|call| call.subresource == "status" && call.writes()).count();
    assert!((1..40).contains(&writes), "{writes} writes of the honest agent");
    // The forward itself is not affected.
    fleet.reaches(80, crate::bed::SERVER, 80);
}

/// The CRD of the forwards, and the same with room for invented conditions, as before the types of conditions were limited.
fn crds() -> [Value; 2] {
    let is_forwards = |crd: &Value| crd["metadata"]["name"] == "portforwards.portforward.dev";
    let crd = deployed::definitions().into_iter().find(is_forwards).expect("there is a CRD");
    let mut loose = crd.clone();
    let conditions = "/spec/versions/0/schema/openAPIV3Schema/properties/status/properties/conditions";
    let conditions = loose.pointer_mut(conditions).expect("a status has conditions");
    conditions["maxItems"] = 16.into();
    conditions["items"]["properties"]["type"] = json!({"type": "string", "maxLength": 64});
    [crd, loose]
}

/// Attacks 15 and 16 made the honest summary impossible: what another field manager owns stays, and with many conditions the
/// summary is invalid.
#[test]
fn what_another_field_manager_owns_in_a_status_is_removed_by_the_agent() {
    let mut fleet = Fleet::new(1);
    fleet.apply(WEB, &web());
    fleet.plane.wait_ready(WEB);
    fleet.kill(0);
    let [crd, loose] = crds();
    fleet.plane.apply(&loose.to_string());
    let path = format!("{}/status", Resource::Forwards.path(Some(LINES), Some("web")));
    let invented = |count: usize| {
        let condition = |number| json!({"type": format!("X{number}"), "status": "True", "reason": "Evil", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"});
        (0..count).map(condition).chain([json!({"type": "Stalled", "status": "True", "reason": "Evil", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"})]).collect::<Vec<_>>()
    };
    let apply = |manager: &str, status: Value| {
        let body = json!({"apiVersion": "portforward.dev/v1alpha1", "kind": "PortForward", "metadata": {"name": "web", "namespace": LINES}, "status": status});
        fleet.plane.send_one(&Request::apply(format!("{path}?fieldManager={manager}&force=true"), body))
    };
    let own = fleet.plane.forward(WEB).unwrap()["status"]["nodes"][0].clone();
    let evil = json!({"conditions": invented(8), "reverse": "TCP 1", "nodes": [own, {"nodeName": "px9", "role": "Active"}]});
    assert!(eventually(PATIENCE, || apply("evil", evil.clone()).done()), "{:?}", apply("evil", evil));
    fleet.plane.apply(&crd.to_string());
    // The API server accepts what is there already (ratcheting), but no other type.
    let mut other = invented(1);
    other[0]["type"] = "Y0".into();
    assert!(eventually(PATIENCE, || apply("evil-too", json!({"conditions": other})).status == 422));

    fleet.start(0);
    fleet.plane.wait(Resource::Forwards, WEB, "was never cleaned", |forward| {
        let conditions = forward["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let types: Vec<&str> = conditions.iter().filter_map(|it| it["type"].as_str()).collect();
        types.len() == 3
            && ["Accepted", "Programmed", "Ready"].iter().all(|kind| types.contains(kind))
            && forward["status"]["reverse"].is_null()
    });
    fleet.wait_entries(WEB, &["px0 Active Ready"]);
    fleet.plane.wait_ready(WEB);
    let log = "another field manager owns a part of the status";
    assert!(fleet.agent(0).log().contains(log), "{}", fleet.agent(0).log());
}
