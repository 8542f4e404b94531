//! The loads of tenant A: what an attack on this operator tried.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use crate::bed::wait::eventually;
use crate::bed::{CLIENT, EXTERNAL, INTERNAL, SERVER};
use crate::fleet::Fleet;
use crate::plane::Resource;
use crate::plane::http::Request;

/// The namespace of tenant A.
pub(crate) const TENANT: &str = "tenant-a";
/// The number of objects that are created over one connection.
const CHUNK: usize = 50;
/// How long the agent may take to process all objects.
const PROCESSED: Duration = Duration::from_mins(5);

/// What tenant A has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Load {
    /// Forwards with one client and one port.
    Tiny,
    /// Forwards with as many clients and ports as the schema allows.
    Wide,
    /// Disabled forwards with an annotation of 250 KiB.
    Annotated,
    /// One old forward, and younger ones that all conflict with it.
    Conflicts,
}

impl Load {
    /// All loads.
    pub(crate) const ALL: [Self; 4] = [Self::Tiny, Self::Wide, Self::Annotated, Self::Conflicts];

    /// The name, as an argument.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Tiny => "tiny",
            Self::Wide => "wide",
            Self::Annotated => "annotated",
            Self::Conflicts => "conflicts",
        }
    }

    /// The objects, of which this percentage of the full load is made.
    pub(crate) fn objects(self, percent: usize) -> Vec<Value> {
        let part = |full: usize| 0..(full * percent / 100).max(2);
        match self {
            Self::Tiny => part(10_000).map(tiny).collect(),
            Self::Wide => part(2).map(wide).collect(),
            Self::Annotated => part(1100).map(annotated).collect(),
            Self::Conflicts => std::iter::once(old()).chain(part(1500).map(young)).collect(),
        }
    }

    /// Waits until the last object is in force.
    pub(crate) fn wait_in_force(self, fleet: &Fleet, count: usize) {
        let last = match self {
            Self::Tiny | Self::Wide => format!("{TENANT}/{}", name(count - 1)),
            Self::Annotated | Self::Conflicts => return,
        };
        let state = || fleet.plane.condition(&last, "Ready");
        let ready = || state().is_some_and(|(status, _)| status == "True");
        assert!(eventually(PROCESSED, ready), "{last}: {:?}", state());
    }

    /// Changes one object after the other until `ends`.
    pub(crate) fn change(self, fleet: &Fleet, count: usize, ends: &AtomicBool) {
        for turn in 0.. {
            if ends.load(Ordering::Relaxed) {
                return;
            }
            let (name, spec) = match self {
                Self::Conflicts => ("dom".to_owned(), json!({"mode": if turn % 2 == 0 { "Disabled" } else { "Enabled" }})),
                Self::Tiny | Self::Wide | Self::Annotated => {
                    (name(turn % count), json!({"upstream": {"targets": [{"address": format!("3.3.3.{}", 10 + turn % 200)}]}}))
                }
            };
            fleet.plane.patch(Resource::Forwards, &format!("{TENANT}/{name}"), json!({"spec": spec}));
        }
    }
}

/// Creates the objects.
pub(crate) fn fill(fleet: &Fleet, objects: &[Value]) {
    for chunk in objects.chunks(CHUNK) {
        let post = |object: &Value| Request::post(Resource::Forwards.path(Some(TENANT), None), object.clone());
        let answers = fleet.plane.send(&chunk.iter().map(post).collect::<Vec<_>>());
        let failed = answers.iter().find(|answer| !answer.done());
        assert!(failed.is_none(), "{failed:?}");
    }
}

fn name(index: usize) -> String {
    format!("f{index:05}")
}

fn object(name: &str, clients: &Value, ports: &Value) -> Value {
    let spec = json!({
        "client": {"addresses": clients}, "internal": {"addresses": [INTERNAL]}, "external": {"addresses": [EXTERNAL]},
        "upstream": {"targets": [{"address": SERVER}]}, "ports": ports,
    });
    json!({"apiVersion": "portforward.dev/v1alpha1", "kind": "PortForward", "metadata": {"name": name}, "spec": spec})
}

fn tiny(index: usize) -> Value {
    object(&name(index), &json!([CLIENT]), &json!([{"port": 10_000 + index}]))
}

fn wide(index: usize) -> Value {
    // No two of them can be merged into one network.
    let clients: Vec<String> = (0..64).map(|number| format!("10.1.0.{}", 2 * number + 1)).collect();
    let port = |number: usize| json!({"name": format!("p{number}"), "port": 20_000 + 2 * (64 * index + number)});
    object(&name(index), &json!(clients), &json!((0..64).map(port).collect::<Vec<_>>()))
}

fn annotated(index: usize) -> Value {
    let mut object = tiny(index);
    object["metadata"]["annotations"] = json!({"example.com/note": "x".repeat(255_000)});
    object["spec"]["mode"] = json!("Disabled");
    object
}

fn old() -> Value {
    object("dom", &json!(["10.0.0.0/8"]), &json!([{"port": 11_000, "endPort": 20_000}]))
}

fn young(index: usize) -> Value {
    let client = format!("10.2.{}.{}", index / 250, 1 + index % 250);
    object(&name(index), &json!([client]), &json!([{"port": 12_000}]))
}

impl fmt::Display for Load {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tiny => "one client, one port",
            Self::Wide => "64 clients, 64 ports",
            Self::Annotated => "250 KiB annotation, disabled",
            Self::Conflicts => "forwards that conflict with one",
        })
    }
}
