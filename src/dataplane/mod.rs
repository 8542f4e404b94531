//! Makes the kernel of this node hold what the plan asks for. Knows nothing of Kubernetes.

pub mod conntrack;
pub mod routes;
