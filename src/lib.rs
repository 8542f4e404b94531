//! Turns `PortForward` objects into NAT rules and host routes on proxy nodes.

pub mod api;
pub mod dataplane;
mod durable;
pub mod forward;
pub mod model;
pub mod netlink;
pub mod node;
pub mod plan;
pub mod publish;
pub mod record;
pub mod source;
pub mod status;
