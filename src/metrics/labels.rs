//! The values of labels: closed sets, so that no name, address or error text ever becomes a series.

/// What a sync consists of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Reading the facts of the node; without them nothing else is tried.
    Facts,
    /// The rules.
    Rules,
    /// The host routes.
    Routes,
    /// The connections that only the old rules explain.
    Conntrack,
}

impl Part {
    /// Every part.
    pub const ALL: [Self; 4] = [Self::Facts, Self::Rules, Self::Routes, Self::Conntrack];

    /// The value of the label.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Facts => "facts",
            Self::Rules => "rules",
            Self::Routes => "routes",
            Self::Conntrack => "conntrack",
        }
    }
}

/// What of ours is put back where another program changed it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repair {
    /// A chain and the rules in it.
    Rules,
    /// The jump to our chains in a built-in chain.
    Jumps,
    /// A host route.
    Routes,
}

impl Repair {
    /// Everything that is put back.
    pub const ALL: [Self; 3] = [Self::Rules, Self::Jumps, Self::Routes];

    /// The value of the label.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Rules => "rules",
            Self::Jumps => "jumps",
            Self::Routes => "routes",
        }
    }
}

/// What the agent writes besides the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// The record of what was last applied.
    Record,
    /// The status of the forwards: the status file, or the API server.
    Status,
}

impl Written {
    /// Everything that is written.
    pub const ALL: [Self; 2] = [Self::Record, Self::Status];

    /// The value of the label.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Record => "record",
            Self::Status => "status",
        }
    }
}
