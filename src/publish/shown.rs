//! An object with its status.

use std::sync::Arc;

use crate::api::{PortForward, PortForwardStatus};

/// An object and what is shown of it.
#[derive(Clone, Debug)]
pub struct Shown {
    /// The object; its own status does not count.
    pub object: Arc<PortForward>,
    /// The status on this node, if it has one.
    pub status: Option<Arc<PortForwardStatus>>,
}
