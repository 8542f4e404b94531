//! The changes of tenant B: when the kernel follows, and when the status says so.

use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use futures::StreamExt;
use kube::Api;
use kube::api::{ListParams, Patch, PatchParams, WatchEvent, WatchParams};
use portforward_operator::api::PortForward;
use portforward_operator::cluster::connect;
use serde_json::json;

use crate::bed::client::tcp_ask;
use crate::bed::{CLIENT, INTERNAL, SERVER};
use crate::fleet::{Fleet, spec};
use crate::plane::access::{ADMIN, Kubeconfig};

/// The namespace of tenant B.
const TENANT: &str = "tenant-b";
/// The port of its forward.
const PORT: u16 = 80;
/// The ports of the server, which the forward leads to in turn.
const TARGETS: [u16; 3] = [80, 81, 82];
/// A change that takes longer ends the run.
const LONGEST: Duration = Duration::from_mins(3);
/// The pause between two packets.
const EVERY: Duration = Duration::from_millis(5);

/// The times from the request of a change to its effects.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Taken {
    /// Until the API server answers that the change is stored. This part is not up to the agent.
    pub(crate) answered: Duration,
    /// Until a connection of the client reaches the new port of the server.
    pub(crate) kernel: Duration,
    /// Until `Ready` is `True` for the new generation.
    pub(crate) status: Duration,
}

/// Tenant B, with a forward in force.
pub(crate) struct Observer<'a> {
    fleet: &'a Fleet,
    kubeconfig: Kubeconfig,
    changes: usize,
}

impl<'a> Observer<'a> {
    /// Creates the forward and waits until it is in force.
    pub(crate) fn new(fleet: &'a Fleet) -> Self {
        fleet.plane.add_namespace(TENANT);
        fleet.apply(&format!("{TENANT}/web"), &spec(PORT, SERVER, TARGETS[0]));
        fleet.plane.wait_ready(&format!("{TENANT}/web"));
        Self { fleet, kubeconfig: fleet.plane.kubeconfig("tenant-b", ADMIN), changes: 0 }
    }

    /// Changes the target of the forward, and waits for the kernel and for the status.
    pub(crate) fn change(&mut self) -> Taken {
        self.changes += 1;
        let target = TARGETS[self.changes % TARGETS.len()];
        let this = &*self;
        thread::scope(|scope| {
            let (sender, receiver) = mpsc::channel();
            let status = scope.spawn(move || this.fleet.plane.netns().run(|| this.change_status(target, &sender)));
            let begun = receiver.recv().expect("the change is sent");
            while this.target() != Some(target) {
                assert!(begun.elapsed() < LONGEST, "the kernel did not follow");
                thread::sleep(EVERY);
            }
            let kernel = begun.elapsed();
            let (answered, ready) = status.join().expect("the status is watched");
            Taken { answered: answered - begun, kernel, status: ready - begun }
        })
    }

    /// The port of the server that a new connection of the client reaches.
    fn target(&self) -> Option<u16> {
        let seen = tcp_ask(&self.fleet.bed.client, CLIENT, (INTERNAL, PORT), Duration::from_secs(2)).ok();
        seen.map(|seen| seen.local.port())
    }

    /// Changes the target, says when, and returns when the API server had answered and when the status was ready.
    fn change_status(&self, target: u16, begun: &mpsc::Sender<Instant>) -> (Instant, Instant) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime can be made");
        let changed = async {
            let client = connect(Some(&self.kubeconfig.path)).await.expect("the kubeconfig is valid").client;
            let api: Api<PortForward> = Api::namespaced(client, TENANT);
            // The version of the object may be too old for a watch, if it did not change for some minutes.
            let before = api.list(&ListParams::default()).await.expect("tenant B has a forward");
            let version = before.metadata.resource_version.unwrap_or_default();
            let mut events = api.watch(&WatchParams::default(), &version).await.expect("a watch can begin").boxed();
            begun.send(Instant::now()).expect("the other side waits");
            let patch = Patch::Merge(json!({"spec": {"ports": [{"name": "web", "port": PORT, "targetPort": target}]}}));
            let after = api.patch("web", &PatchParams::default(), &patch).await.expect("the forward can be changed");
            let answered = Instant::now();
            let wanted = after.metadata.generation;
            while let Some(event) = events.next().await {
                if let WatchEvent::Modified(object) = event.expect("the watch goes on") {
                    let conditions = object.status.map(|status| status.conditions).unwrap_or_default();
                    let ready = conditions.iter().find(|condition| condition.type_ == "Ready");
                    if ready.is_some_and(|ready| ready.status == "True" && ready.observed_generation == wanted) {
                        return (answered, Instant::now());
                    }
                }
            }
            panic!("the watch has ended");
        };
        runtime.block_on(async { tokio::time::timeout(LONGEST, changed).await.expect("the status follows") })
    }
}
