//! When the content of a file counts: once its writer is done with it, as far as that can be told.
//!
//! Pure: the moment comes in as an argument. Knows files by name only.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::Instant;

use super::reading::{Arrival, Digest, FileContent};
use super::writers::Writers;

/// How long content must not change that takes the place of other, once nobody has the file open: shell scripts open and close a
/// file several times while they write it (`>` and then `>>`).
const CLOSED: Duration = Duration::from_secs(2);
/// The same where it is not known whether anybody has the file open, as on a network file system.
const UNKNOWN: Duration = Duration::from_secs(5);
/// How far apart the clocks of such a file system and of this node may be.
const SKEW: Duration = Duration::from_mins(1);
/// The same while a program has the file open: one that never closes it holds nothing up for ever.
pub(super) const HELD_OPEN: Duration = Duration::from_mins(5);
/// After how long that is said.
const SAID: Duration = Duration::from_secs(10);
/// How long a file must be missing: some editors remove it and make it anew.
const GONE: Duration = Duration::from_millis(500);

/// What became of the question whether something counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Settled {
    /// It counts.
    Yes,
    /// It may at this moment, if nothing happens until then.
    NotBefore(Instant),
    /// The same; a program has the file open for so long that it is said.
    HeldOpen(Instant),
}

/// Since when each file is as it is.
#[derive(Debug, Default)]
pub(super) struct Settling {
    contents: BTreeMap<PathBuf, (Digest, Instant)>,
    gone: BTreeMap<PathBuf, Instant>,
}

/// What a file held until now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Former {
    /// Nothing that is in force.
    Nothing,
    /// This, or something whose bytes are not known (after a restart).
    Good(Option<Digest>),
}

impl Settling {
    /// Whether `content` of the file at `path` counts at the moment `now`.
    pub(super) fn content(&mut self, path: &Path, content: &FileContent, former: Former, now: Instant) -> Settled {
        self.gone.remove(path);
        // What cannot be read takes the place of nothing.
        let Some(digest) = content.digest else {
            self.contents.remove(path);
            return Settled::Yes;
        };
        let since = match self.contents.get(path) {
            Some((known, since)) if *known == digest => *since,
            Some(_) | None => {
                self.contents.insert(path.to_owned(), (digest, now));
                now
            }
        };
        if former == Former::Good(Some(digest)) {
            return Settled::Yes;
        }
        let seen = now.saturating_duration_since(since);
        let (unchanged, wanted) = match (content.writers, content.arrival, former) {
            (Writers::None, Arrival::Moved, _) | (Writers::None, Arrival::Unknown, Former::Nothing) => return Settled::Yes,
            (Writers::None, Arrival::Unknown, Former::Good(_)) => (seen.max(content.age), CLOSED),
            (Writers::Unknown, _, _) => (seen.max(content.age.saturating_sub(SKEW)), UNKNOWN),
            (Writers::Some, _, _) => (seen, HELD_OPEN),
        };
        let left = wanted.saturating_sub(unchanged);
        match content.writers {
            _ if left.is_zero() => Settled::Yes,
            Writers::None | Writers::Unknown => Settled::NotBefore(now + left),
            Writers::Some if seen < SAID => Settled::NotBefore(since + SAID),
            Writers::Some => Settled::HeldOpen(now + left),
        }
    }

    /// Whether the file at `path`, which is not there at the moment `now`, counts as gone.
    pub(super) fn gone(&mut self, path: &Path, now: Instant) -> Settled {
        self.contents.remove(path);
        let since = *self.gone.entry(path.to_owned()).or_insert(now);
        if now.saturating_duration_since(since) < GONE {
            return Settled::NotBefore(since + GONE);
        }
        self.gone.remove(path);
        Settled::Yes
    }
}
