//! Tests real tools with a real API server and a real agent: how long Helm waits and when it gives up, what `kubectl diff` and
//! a second apply find, and the manifests with which the health script for Argo CD is tested.
//!
//! After an intended change: run `UPDATE_GOLDEN=1 cargo test --test gitops`, then read the difference of
//! `deploy/gitops/argocd`.

#[path = "../bed/mod.rs"]
mod bed;
#[path = "../cluster/fleet.rs"]
#[allow(dead_code, reason = "each test binary uses its own part of a fleet")]
mod fleet;
#[path = "../plane/mod.rs"]
mod plane;
#[path = "../kstatus/rules.rs"]
mod rules;

mod apply;
mod examples;
mod helm;
mod manifests;
mod wait;
