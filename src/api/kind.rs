//! The kinds of objects in this API.

use std::fmt;

/// A kind of object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// A forward.
    PortForward,
    /// What the forwards of some namespaces may ask for.
    PortForwardGrant,
}

impl Kind {
    /// All kinds, in the order in which `crd` prints them.
    pub const ALL: [Self; 2] = [Self::PortForward, Self::PortForwardGrant];

    /// The name of the kind.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::PortForward => "PortForward",
            Self::PortForwardGrant => "PortForwardGrant",
        }
    }

    /// The short name for kubectl.
    #[must_use]
    pub const fn short(self) -> &'static str {
        match self {
            Self::PortForward => "pf",
            Self::PortForwardGrant => "pfg",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
