//! Turns `PortForward` objects into NAT rules and host routes on proxy nodes.
//!
//! A source ([`source`]) provides the objects ([`api`]). [`forward`] and [`grant`] validate and parse them. [`plan`] combines them with
//! the facts of the node ([`node`]) into the desired state of its kernel ([`model`]). [`dataplane`] applies that state and
//! reads it back, and [`status`] reports the result. [`agent`] is the loop that does this for one node.

pub mod agent;
pub mod api;
mod bounded;
pub mod cli;
pub mod cluster;
pub mod dataplane;
mod durable;
pub mod forward;
pub mod grant;
pub mod metrics;
pub mod model;
pub mod netlink;
pub mod node;
pub mod plan;
pub mod progress;
pub mod publish;
pub mod record;
mod similar;
pub mod source;
pub mod status;
pub mod supervise;
pub mod version;
mod words;
