//! What the agent counts and measures of itself, as `OpenMetrics`, and its health; both over HTTP.
//!
//! Takes what the sync loop and the publishers report and decides nothing. Labels come from closed sets; there is no series
//! for each forward. Counters only rise, from the start of the agent.

mod address;
mod health;
mod labels;
mod registry;
mod server;

pub use address::{ListenAddress, NoAddress};
pub use health::{Health, Liveness, Phase, STUCK_AFTER, liveness};
pub use labels::{Part, Repair, Written};
pub use registry::{Metrics, PREFIX};
pub use server::{CONTENT_TYPE, Served, serve};
