//! The agent's own metrics (`OpenMetrics`), served over HTTP, and its health, served at a socket for root.
//!
//! Takes what the sync loop and the publishers report, and decides nothing. Labels come from closed sets, except the names
//! of forwards; the administrator limits how many forwards are shown. Counters only increase, starting when the agent
//! starts.

mod address;
mod cluster;
mod connections;
mod conntrack;
mod forwards;
mod health;
mod labels;
mod owners;
mod ready;
mod registry;
mod secure;
mod server;
mod shares;
mod socket;
mod traffic;
mod unserved;

pub use address::{ListenAddress, NoAddress};
pub use cluster::ClusterView;
pub use forwards::{Detail, PerForward};
pub use health::{Health, Liveness, Phase, STUCK_AFTER, VOUCHES_FOR, liveness};
pub use labels::{Part, RecordAge, Repair, SyncOutcome, Towards, Written};
pub use owners::{Finder, Lane, Owners};
pub use registry::{Metrics, PREFIX};
pub use secure::{Admission, Certificate, Gate, Secure, serve_secure};
pub use server::{CONTENT_TYPE, health_pages, metrics_pages, serve_health, serve_metrics};
pub use socket::{HEALTH_SOCKET, ask_health, remove_health_socket};
pub use traffic::Traffic;
