//! The objects: forwards for the agent, and Services for kube-proxy that do the same job.
//!
//! Pure. A forward and the Service of the same index lead to the same upstream.

use std::net::{Ipv4Addr, SocketAddrV4};

use serde_json::{Value, json};

use crate::prober::Path;
use crate::shared::manifest;
use crate::shared::shapes::{Forward, Transport};

/// The first address of the Services.
const SERVICES: Ipv4Addr = Ipv4Addr::new(172, 20, 1, 0);
/// The network of the Services, as an option of the API server.
pub(crate) const SERVICE_NETWORK: &str = "172.20.0.0/16";
/// The port of every Service and every upstream.
const PORT: u16 = 80;

/// The two upstreams of each forward, between which it is changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// The upstream at the beginning.
    First,
    /// The other one.
    Second,
}

impl Side {
    /// The other one.
    pub(crate) const fn other(self) -> Self {
        match self {
            Self::First => Self::Second,
            Self::Second => Self::First,
        }
    }

    /// The upstream of a forward.
    pub(crate) fn upstream(self, forward: &Forward) -> Ipv4Addr {
        let first = *forward.upstream.ip();
        match self {
            Self::First => first,
            Self::Second => Ipv4Addr::from_bits(first.to_bits() + 0x0001_0000),
        }
    }
}

/// The name of the object with this index.
pub(crate) fn name(index: usize) -> String {
    format!("f{index:05}")
}

/// The object of a forward.
pub(crate) fn forward(index: usize, forward: &Forward) -> Value {
    manifest::object(&name(index), forward)
}

/// The change that leads a forward to one of its upstreams.
pub(crate) fn forward_change(forward: &Forward, side: Side) -> Value {
    json!({"spec": {"upstream": {"targets": [{"address": side.upstream(forward)}]}}})
}

/// The Service with this index. It has no selector, so that only its slice names the upstream.
pub(crate) fn service(index: usize) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name(index)},
        "spec": {"clusterIP": service_address(index), "ports": [{"port": PORT, "protocol": "TCP", "targetPort": PORT}]},
    })
}

/// The slice of a Service, which leads to the upstream of the forward.
pub(crate) fn slice(index: usize, forward: &Forward) -> Value {
    let name = name(index);
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": name, "labels": {"kubernetes.io/service-name": name}},
        "endpoints": [endpoint(*forward.upstream.ip())],
        "ports": [{"name": "", "port": PORT, "protocol": "TCP"}],
    })
}

/// The change that leads a Service to one of the upstreams of the forward.
pub(crate) fn slice_change(forward: &Forward, side: Side) -> Value {
    json!({"endpoints": [endpoint(side.upstream(forward))]})
}

/// How the client of a forward reaches it.
pub(crate) fn forward_path(forward: &Forward) -> Path {
    Path { from: forward.client, to: forward.listen }
}

/// How a client reaches a Service.
pub(crate) fn service_path(index: usize) -> Path {
    Path { from: crate::bed::CLIENT, to: SocketAddrV4::new(service_address(index), PORT) }
}

/// The index of a forward in the middle of a set that probes can use: one port of TCP.
pub(crate) fn middle(forwards: &[Forward]) -> usize {
    let usable = |index: &usize| forwards[*index].transport == Transport::Tcp && forwards[*index].ports == 1;
    (forwards.len() / 2..forwards.len()).chain(0..forwards.len()).find(usable).expect("every set has such a forward")
}

fn service_address(index: usize) -> Ipv4Addr {
    Ipv4Addr::from_bits(SERVICES.to_bits() + u32::try_from(index).expect("a set is small"))
}

fn endpoint(address: Ipv4Addr) -> Value {
    json!({"addresses": [address], "conditions": {"ready": true}})
}
