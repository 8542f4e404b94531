//! The Kubernetes API of this project: `PortForward` and `PortForwardGrant` in `portforward.dev/v1alpha1`.
//!
//! Decides how an object is written, how its fields are explained, and what `kubectl apply` refuses. `crate::forward` and
//! `crate::grant` check everything again, because an object may come from a folder, an older CRD or an attacker. Does no I/O.

mod columns;
mod crd;
mod decode;
pub mod grant;
mod kind;
mod mistakes;
mod port;
mod rules;
mod schema;
mod shown;
mod spec;
mod status;
mod structure;
mod used;

pub use crd::crds_yaml;
pub(crate) use decode::{API_VERSION, DEFAULT_NAMESPACE, check_identity, is_label, quoted};
pub use decode::{decode, decode_grant};
pub use grant::{PortForwardGrant, PortForwardGrantSpec, PortForwardGrantStatus};
pub use kind::Kind;
pub(crate) use mistakes::Mistakes;
pub use mistakes::{DecodeError, DecodeErrors, Rest};
pub use port::Port;
pub use shown::ShownPorts;
pub use spec::{Client, External, Internal, Mode, PortEntry, PortForward, PortForwardSpec, Protocol, Reverse, Target, Upstream};
pub use status::{NodeStatus, PortForwardStatus, Role};
pub use used::used;
