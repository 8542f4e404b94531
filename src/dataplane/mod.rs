//! Makes the kernel of this node hold exactly what is desired. Knows nothing of Kubernetes.

pub mod conntrack;
pub mod iptables;
pub mod routes;
