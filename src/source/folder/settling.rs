//! Decides when the content of a file counts: once its writer has finished, as far as this can be seen.
//!
//! Pure: the time is an argument, and files are only names.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::Instant;

use super::reading::{Arrival, Digest, FileContent};
use super::writers::Writers;

/// How long new content must stay unchanged after the file was closed, if it replaces other content. Shell scripts open and
/// close a file several times while they write it (`>` and then `>>`).
const CLOSED: Duration = Duration::from_secs(2);
/// The same, if the kernel does not know whether a program has the file open, as on a network file system.
const UNKNOWN: Duration = Duration::from_secs(5);
/// The largest expected difference between the clocks of such a file system and of this node.
const SKEW: Duration = Duration::from_mins(1);
/// The same while a program has the file open. Without this limit, a program that never closes the file would block it forever.
pub(super) const HELD_OPEN: Duration = Duration::from_mins(5);
/// The time after which this is reported.
const SAID: Duration = Duration::from_secs(10);
/// How long a file must be missing. Some editors delete a file and create it again.
const GONE: Duration = Duration::from_millis(500);
/// The same in another directory than the one that had the file. A program may still be copying files into it.
const ELSEWHERE: Duration = Duration::from_secs(10);
/// The same if the other directory has no manifest at all, as the mount point of a volume that is not mounted.
pub(super) const EMPTIED: Duration = Duration::from_hours(1);

/// Whether a content, or the absence of a file, counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Settled {
    /// It counts.
    Yes,
    /// It counts at this time if nothing changes until then.
    NotBefore(Instant),
    /// The same. A program has had the file open for so long that it is reported.
    HeldOpen(Instant),
}

/// The directory in which a file is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Missing {
    /// The directory that had the file. Somebody removed the file.
    Here,
    /// Another directory, with manifests.
    Elsewhere,
    /// Another directory, without any manifest.
    Emptied,
}

/// How long each file has been unchanged.
#[derive(Debug, Default)]
pub(super) struct Settling {
    contents: BTreeMap<PathBuf, (Digest, Instant)>,
    gone: BTreeMap<PathBuf, Instant>,
}

/// The content of a file until now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Former {
    /// No content is in force.
    Nothing,
    /// This content, or content with unknown bytes (after a restart).
    Good(Option<Digest>),
}

impl Settling {
    /// Whether `content` of the file at `path` counts at the moment `now`.
    pub(super) fn content(&mut self, path: &Path, content: &FileContent, former: Former, now: Instant) -> Settled {
        self.gone.remove(path);
        // A file that cannot be read replaces nothing.
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

    /// Whether the file at `path`, which does not exist at the moment `now`, counts as deleted.
    pub(super) fn gone(&mut self, path: &Path, missing: Missing, now: Instant) -> Settled {
        self.contents.remove(path);
        let since = *self.gone.entry(path.to_owned()).or_insert(now);
        let wanted = match missing {
            Missing::Here => GONE,
            Missing::Elsewhere => ELSEWHERE,
            Missing::Emptied => EMPTIED,
        };
        if now.saturating_duration_since(since) < wanted {
            return Settled::NotBefore(since + wanted);
        }
        self.gone.remove(path);
        Settled::Yes
    }

    /// Lets every missing file be missing from now on, because the directory changed.
    pub(super) fn all_gone_anew(&mut self) {
        self.gone.clear();
    }
}
