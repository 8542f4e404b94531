//! Tests what an agent may do, with its tokens against a real API server: its rights and the admission policy.

#[path = "../bed/mod.rs"]
mod bed;
#[path = "../plane/mod.rs"]
mod plane;

mod attacks;
mod beyond;
mod flood;
mod leases;
mod rights;
mod status;
mod tokens;
mod users;

use std::sync::OnceLock;
use std::time::Duration;

use serde_json::{Value, json};

use bed::wait::eventually;
use plane::access::{AGENT, SYSTEM};
use plane::http::{Request, Response};
use plane::objects::PATIENCE;
use plane::{Plane, Resource};

/// The node of most agents in these tests, and another node.
const NODE: &str = "node-a";
const OTHER: &str = "node-b";
/// The namespace of the forwards.
const LINES: &str = "lines";
/// The message of the policy for a token that names no node.
const NO_NODE: &str = "the token of this agent names no node";

/// An API server with both nodes and the policy in force.
fn plane() -> &'static Plane {
    static PLANE: OnceLock<Plane> = OnceLock::new();
    PLANE.get_or_init(made)
}

/// A separate API server, for tests that change rights.
fn made() -> Plane {
    let plane = Plane::alone();
    for node in [NODE, OTHER] {
        plane.add_node(node, &json!({}));
    }
    plane.add_namespace(LINES);
    // The API server reads a new policy a moment later.
    let probe = leases::apply("probe", "probe", &json!({}), "&dryRun=All");
    let nameless = plane.token(SYSTEM, AGENT, HOUR);
    let enforced = eventually(PATIENCE, || refusal(&plane.send_as(&nameless, std::slice::from_ref(&probe))[0]).contains(NO_NODE));
    assert!(enforced, "the policy never came into force");
    plane
}

const HOUR: Duration = Duration::from_hours(1);

/// An agent: the holder of the token of its node.
struct Agent<'a> {
    plane: &'a Plane,
    token: String,
}

impl<'a> Agent<'a> {
    fn of(plane: &'a Plane, node: &str) -> Self {
        Self { plane, token: plane.agent_token(node, HOUR) }
    }

    fn send(&self, request: &Request) -> Response {
        self.plane.send_as(&self.token, std::slice::from_ref(request)).remove(0)
    }

    /// The request succeeds. Returns the object of the answer.
    #[track_caller]
    fn does(&self, request: &Request) -> Value {
        let answer = self.send(request);
        assert!(answer.done(), "{request:?}\n{} {:#}", answer.status, answer.body);
        answer.body
    }

    /// The policy refuses the request with these words.
    #[track_caller]
    fn refused(&self, request: &Request, words: &str) {
        let answer = self.send(request);
        let said = refusal(&answer);
        let by_policy = said.contains("ValidatingAdmissionPolicy 'portforward-operator'") && answer.status == 403;
        assert!(by_policy && said.contains(words), "{request:?}\n{} {:#}", answer.status, answer.body);
    }

    /// The agent has no right to this request.
    #[track_caller]
    fn unentitled(&self, request: &Request) {
        let answer = self.send(request);
        assert!(answer.status == 403 && refusal(&answer).contains("cannot"), "{request:?}\n{answer:?}");
    }
}

/// The reason for a refusal.
fn refusal(answer: &Response) -> String {
    answer.body["message"].as_str().unwrap_or_default().to_owned()
}

/// Creates a forward, as a user does.
fn add_forward(plane: &Plane, name: &str) {
    let mut object: Value = serde_saphyr::from_str(include_str!("../refusals/base.yaml")).unwrap();
    object["metadata"] = json!({"name": name, "namespace": LINES, "labels": {"line": "a"}});
    plane.apply(&object.to_string());
}

fn forward(plane: &Plane, name: &str) -> Value {
    plane.get(Resource::Forwards, &format!("{LINES}/{name}")).expect("the forward is there")
}
