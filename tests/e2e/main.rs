//! The real image on real nodes: kubelet and containerd start the agent from what users install, and what they apply is so
//! in the kernel of the nodes. Run by `make e2e`; the tests run one after the other.

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
