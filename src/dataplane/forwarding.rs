//! `net.ipv4.ip_forward` (ip-sysctl): switched on where that was asked for and it is off. Never switched off.

use std::fs;
use std::io;

use tracing::info;

/// Where the setting lies. In a container `/proc/sys` is read-only; a pod that shall set it has the host's `/proc/sys/net`
/// mounted at the second place. Both show the network namespace of whoever opens them.
const PLACES: [&str; 2] = ["/proc/sys/net/ipv4/ip_forward", "/host/proc/sys/net/ipv4/ip_forward"];

/// What becomes of the setting where it is 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forwarding {
    /// It stays; status tells.
    Leave,
    /// It is set to 1, while anything is to be forwarded.
    Enable,
}

/// What was done about the setting.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Forwarded {
    /// Nothing.
    #[default]
    AsFound,
    /// It was 0 and is 1 now.
    SwitchedOn,
}

/// Why the setting could not be switched on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "net.ipv4.ip_forward is 0, so this node routes no packets, and --set-ip-forward cannot change it ({reason}); set it on the host, or, in a pod, mount the host's /proc/sys/net at /host/proc/sys/net"
)]
pub struct ForwardingError {
    /// What the system said, by place.
    pub reason: String,
}

impl Forwarding {
    /// Does what was asked for.
    pub(super) fn apply(self) -> Result<Forwarded, ForwardingError> {
        match self {
            Self::Leave => Ok(Forwarded::AsFound),
            Self::Enable => enable(&PLACES),
        }
    }
}

fn enable(places: &[&str]) -> Result<Forwarded, ForwardingError> {
    let mut reasons = Vec::new();
    for place in places {
        let outcome = fs::read_to_string(place).and_then(|value| match value.trim() {
            "0" => fs::write(place, "1").map(|()| Forwarded::SwitchedOn),
            _ => Ok(Forwarded::AsFound),
        });
        match outcome {
            Ok(forwarded) => {
                if forwarded == Forwarded::SwitchedOn {
                    info!(setting = place, "routing of packets switched on");
                }
                return Ok(forwarded);
            }
            // The second place is an offer.
            Err(error) if error.kind() == io::ErrorKind::NotFound && !reasons.is_empty() => {}
            Err(error) => reasons.push(format!("{place}: {error}")),
        }
    }
    Err(ForwardingError { reason: reasons.join("; ") })
}
