//! Turns `PortForward` objects into NAT rules and host routes on proxy nodes.

pub mod api;
mod durable;
pub mod forward;
pub mod model;
pub mod publish;
pub mod record;
pub mod source;
