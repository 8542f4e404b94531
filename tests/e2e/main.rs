//! Tests the real image on real nodes: kubelet and containerd start the agent from the manifests or the chart, and the forwards
//! that users apply are in the kernels of the nodes. `make e2e` runs these tests, one after the other.

#[path = "../bed/mod.rs"]
mod bed;
#[path = "../plane/mod.rs"]
mod plane;

mod cluster;
mod flat;
mod helm;
mod image;
mod kernel;
mod kustomize;
mod node;
