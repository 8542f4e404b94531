//! The values of labels. They are closed sets, so that no address or error text ever creates a series.

/// The parts of a sync.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Reading the facts of the node. If this fails, nothing else is tried.
    Facts,
    /// The rules.
    Rules,
    /// The host routes.
    Routes,
    /// Removing the conntrack entries that only the old rules explain.
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

/// What is repaired after another program changed it.
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
    /// All repairs.
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

/// What the agent writes in addition to the kernel.
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

/// Whether the record on the disk is as new as the state of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordAge {
    /// It is.
    Current,
    /// It is older, because it could not be written, or not yet for a long time.
    Outdated,
}

/// The result of a sync.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SyncOutcome {
    /// Nothing had to be written; everything is as planned.
    Unchanged,
    /// Something was written, and now everything is as planned.
    Written,
    /// Something is not as planned.
    Failed,
}

impl SyncOutcome {
    /// All results.
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

/// The direction in which packets of a forward go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Towards {
    /// To the client.
    Client,
    /// To the upstream.
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
