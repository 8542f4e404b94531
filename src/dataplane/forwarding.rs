//! IP forwarding (`net.ipv4.ip_forward` and `net.ipv4.conf.IF.forwarding`, ip-sysctl): enabled if that was configured and
//! it is off. Never disabled.
//!
//! The kernel checks the setting of the incoming interface. Writing `ip_forward` sets all interfaces, so it is written
//! first.

use std::collections::BTreeSet;
use std::io;
use std::{fs, iter};

use tracing::info;

use crate::model::InterfaceName;

/// The directories of the settings. In a container `/proc/sys` is read-only; a pod that must change the settings has the
/// host's `/proc/sys/net` mounted at the second path. Both show the network namespace of the process that opens them.
const PLACES: [&str; 2] = ["/proc/sys/net/ipv4", "/host/proc/sys/net/ipv4"];

/// What to do with settings that are 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forwarding {
    /// They are not changed; the status reports them.
    Leave,
    /// They are set to 1 while there is something to forward.
    Enable,
}

/// What was changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Forwarded {
    /// Nothing.
    #[default]
    AsFound,
    /// One or more settings were 0 and were set to 1.
    SwitchedOn,
}

/// Why a setting could not be enabled.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{setting} is 0, so this node does not route the packets, and --set-ip-forward cannot change it ({reason}); set it on the host, or, in a pod, mount the host's /proc/sys/net at /host/proc/sys/net"
)]
pub struct ForwardingError {
    /// The setting, as a path below `/proc/sys`.
    pub setting: String,
    /// The errors of the system, by path.
    pub reason: String,
}

impl Forwarding {
    /// Applies the setting for packets that enter by `legs`.
    pub(super) fn apply(self, legs: &BTreeSet<InterfaceName>) -> Result<Forwarded, ForwardingError> {
        match self {
            Self::Leave => Ok(Forwarded::AsFound),
            Self::Enable => {
                let own = legs.iter().map(|leg| format!("conf/{leg}/forwarding"));
                let mut forwarded = Forwarded::AsFound;
                for setting in iter::once("ip_forward".to_owned()).chain(own) {
                    if enable(&setting, &PLACES)? == Forwarded::SwitchedOn {
                        forwarded = Forwarded::SwitchedOn;
                    }
                }
                Ok(forwarded)
            }
        }
    }
}

fn enable(setting: &str, places: &[&str]) -> Result<Forwarded, ForwardingError> {
    let mut reasons = Vec::new();
    for place in places {
        let path = format!("{place}/{setting}");
        let outcome = fs::read_to_string(&path).and_then(|value| match value.trim() {
            "0" => fs::write(&path, "1").map(|()| Forwarded::SwitchedOn),
            _ => Ok(Forwarded::AsFound),
        });
        match outcome {
            Ok(forwarded) => {
                if forwarded == Forwarded::SwitchedOn {
                    info!(setting = path, "routing of packets switched on");
                }
                return Ok(forwarded);
            }
            // An interface that does not exist yet has no setting, and the second path is optional.
            Err(error) if error.kind() == io::ErrorKind::NotFound && (setting != "ip_forward" || !reasons.is_empty()) => {}
            Err(error) => reasons.push(format!("{path}: {error}")),
        }
    }
    if reasons.is_empty() {
        return Ok(Forwarded::AsFound);
    }
    Err(ForwardingError {
        setting: format!("net/ipv4/{setting}").replace("net/ipv4/ip_forward", "net.ipv4.ip_forward"),
        reason: reasons.join("; "),
    })
}
