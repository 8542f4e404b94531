//! Makes the kernel hold exactly what is desired. Knows nothing of Kubernetes.

pub mod iptables;
