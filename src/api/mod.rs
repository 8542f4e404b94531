//! The Kubernetes API of this project: `PortForward` in `portforward.dev/v1alpha1`.
//!
//! Decides how an object is written, how its fields are explained, and what `kubectl apply` refuses. `crate::forward` checks
//! everything again, because an object may come from a folder, an older CRD or an attacker. Does no I/O.

mod columns;
mod crd;
mod decode;
mod mistakes;
mod port;
mod rules;
mod schema;
mod shown;
mod spec;
mod status;
mod structure;

pub use crd::{crd, crd_yaml};
pub use decode::decode;
pub(crate) use decode::{DEFAULT_NAMESPACE, check_identity, quoted};
pub(crate) use mistakes::Mistakes;
pub use mistakes::{DecodeError, DecodeErrors, Rest};
pub use port::Port;
pub use shown::ShownPorts;
pub use spec::{Client, External, Internal, Mode, PortEntry, PortForward, PortForwardSpec, Protocol, Reverse, Target, Upstream};
pub use status::{NodeStatus, PortForwardStatus, Role};
