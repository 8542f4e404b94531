//! The values of labels: closed sets, so that no address or error text ever becomes a series.

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

/// What became of a sync.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SyncOutcome {
    /// Everything was as planned.
    Unchanged,
    /// Something was written, and now everything is as planned.
    Written,
    /// Something is not as planned.
    Failed,
}

impl SyncOutcome {
    /// Everything that may become of one.
    pub const ALL: [Self; 3] = [Self::Unchanged, Self::Written, Self::Failed];

    /// The value of the label.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unchanged => "unchanged",
            Self::Written => "written",
            Self::Failed => "failed",
        }
    }
}

/// Where packets of a forward go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Towards {
    /// To its client.
    Client,
    /// To its upstream.
    Upstream,
}

impl Towards {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Client, Self::Upstream];

    /// The value of the label.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Upstream => "upstream",
        }
    }
}
