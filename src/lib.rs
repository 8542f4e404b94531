//! Turns `PortForward` objects into NAT rules and host routes on proxy nodes.
//!
//! The objects ([`api`]) come from a source ([`source`]), are read into types that need no second look ([`forward`]), and are
//! planned with the facts of the node ([`node`]) into what its kernel should hold ([`plan`], [`model`]). The dataplane
//! ([`dataplane`]) makes it so and reads it back, and status ([`status`]) says what is true. The loop that does this for one
//! node is [`agent`].

pub mod agent;
pub mod api;
pub mod cli;
pub mod cluster;
pub mod dataplane;
mod durable;
pub mod forward;
pub mod metrics;
pub mod model;
pub mod netlink;
pub mod node;
pub mod plan;
pub mod progress;
pub mod publish;
pub mod record;
pub mod source;
pub mod status;
pub mod supervise;
pub mod version;
mod words;
