//! Routing of packets (`net.ipv4.ip_forward` and `net.ipv4.conf.IF.forwarding`, ip-sysctl): switched on where that was asked for
//! and it is off. Never switched off.
//!
//! The kernel asks the interface that a packet enters by. Writing `ip_forward` sets all of them, so it comes first.

use std::collections::BTreeSet;
use std::io;
use std::{fs, iter};

use tracing::info;

use crate::model::InterfaceName;

/// Where the settings lie. In a container `/proc/sys` is read-only; a pod that shall set them has the host's `/proc/sys/net`
/// mounted at the second place. Both show the network namespace of whoever opens them.
const PLACES: [&str; 2] = ["/proc/sys/net/ipv4", "/host/proc/sys/net/ipv4"];

/// What becomes of the settings that are 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forwarding {
    /// They stay; status tells.
    Leave,
    /// They are set to 1, while anything is to be forwarded.
    Enable,
}

/// What was done about the settings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Forwarded {
    /// Nothing.
    #[default]
    AsFound,
    /// One or more were 0 and are 1 now.
    SwitchedOn,
}

/// Why a setting could not be switched on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{setting} is 0, so this node does not route the packets, and --set-ip-forward cannot change it ({reason}); set it on the host, or, in a pod, mount the host's /proc/sys/net at /host/proc/sys/net"
)]
pub struct ForwardingError {
    /// The setting, as a path below `/proc/sys`.
    pub setting: String,
    /// What the system said, by place.
    pub reason: String,
}

impl Forwarding {
    /// Does what was asked for, for packets that enter by `legs`.
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
            // An interface that is not there yet has no setting, and the second place is an offer.
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
