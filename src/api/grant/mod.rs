//! The kind `PortForwardGrant`: what the administrators of the proxy nodes let the forwards of some namespaces ask for.
//!
//! Decides how a grant is written, how its fields are explained, and what `kubectl apply` refuses. `crate::grant` checks
//! everything again. Does no I/O.

pub(super) mod columns;
mod rules;
mod schema;
mod spec;
mod status;

pub use spec::{Gateway, Limits, PortForwardGrant, PortForwardGrantSpec, Ports, Sockets};
pub use status::{PortForwardGrantStatus, RefusedForward};
