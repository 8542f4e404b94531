//! A note beside the record: whether the kernel may be newer than the record, and what of the record must not be restored.
//!
//! The file has a fixed size and is overwritten in place, so that a full disk does not prevent it. Does not decide what is
//! outdated.

use std::fmt::Write as _;
use std::fs::{self, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::durable;

use super::{Closed, RecordError, disk};

/// The name of the file in the state directory.
pub(super) const FILE: &str = "unrecorded";

/// The size of the file in bytes: room for the longest text.
const SIZE: usize = 256 * 1024;
/// The maximum length of a cause in characters.
const CAUSE: usize = 256;

/// Why and since when the record is older than the kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Outdated {
    /// The first change that the record does not contain; `None` if this is not known.
    pub since: Option<Timestamp>,
    /// Why the record could not be written, for people.
    pub cause: String,
    /// The objects that must not be restored.
    pub closed: Closed,
}

impl Outdated {
    /// Nothing of the record may be restored.
    #[must_use]
    pub fn wholly(cause: &str) -> Self {
        Self { since: None, cause: cut(cause), closed: Closed::All }
    }

    /// From now on, for this cause.
    #[must_use]
    pub fn now(cause: &str, closed: Closed) -> Self {
        Self { since: Some(Timestamp::now()), cause: cut(cause), closed }
    }
}

fn cut(cause: &str) -> String {
    cause.chars().take(CAUSE).collect()
}

/// The content of the file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Mark {
    /// The boot of the machine in which the kernel was last changed from a recorded state (`boot_id`, random(4)).
    pub(super) boot: String,
    /// The checksum of the record that this is about, and what is wrong with it.
    pub(super) outdated: Option<(String, Outdated)>,
}

impl Mark {
    /// What is wrong with the record that has this checksum. A record that was written after the note is right.
    pub(super) fn about(&self, checksum: &str) -> Option<Outdated> {
        self.outdated.as_ref().filter(|(of, _)| of.is_empty() || of == checksum).map(|(_, outdated)| outdated.clone())
    }
}

/// This boot of the machine.
pub(super) fn boot() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").map(|id| id.trim().to_owned()).unwrap_or_default()
}

/// The note in `dir`; `None` if there is none. A damaged note means that nothing of the record may be restored.
pub(super) fn read(dir: &Path) -> Result<Option<Mark>, RecordError> {
    let Some(bytes) = disk::read(&dir.join(FILE), SIZE as u64)? else { return Ok(None) };
    if bytes.iter().all(|byte| *byte == 0) {
        // The file was created, and nothing was written to it yet.
        return Ok(None);
    }
    let text = String::from_utf8_lossy(&bytes);
    let mut lines = text.split('\n');
    let (Some(checksum), Some(content)) = (lines.next(), lines.next()) else { return Ok(Some(damaged())) };
    let parsed = (hash(content) == checksum).then(|| serde_json::from_str(content).ok()).flatten();
    Ok(Some(parsed.unwrap_or_else(damaged)))
}

fn damaged() -> Mark {
    let outdated = Outdated::wholly("the note about the record is damaged");
    Mark { boot: boot(), outdated: Some((String::new(), outdated)) }
}

/// What a note survives when [`write()`] has returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Survives {
    /// A power failure.
    PowerFailure,
    /// The end of this process.
    Process,
}

/// Overwrites the note in `dir`, which is created if it is missing.
pub(super) fn write(dir: &Path, mark: &Mark, survives: Survives) -> Result<(), RecordError> {
    let path = dir.join(FILE);
    let content = serde_json::to_string(mark)?;
    let text = format!("{}\n{content}\n", hash(&content));
    if text.len() > SIZE {
        let all = mark.outdated.clone().map(|(of, outdated)| (of, Outdated { closed: Closed::All, ..outdated }));
        return write(dir, &Mark { outdated: all, ..mark.clone() }, survives);
    }
    let io = |source| RecordError::Io { path: path.clone(), action: "write it", source };
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600).custom_flags(durable::nofollow());
    let file = options.open(&path).map_err(io)?;
    let metadata = file.metadata().map_err(io)?;
    disk::check_file(&path, &metadata)?;
    if metadata.len() < SIZE as u64 {
        // Zeros are written, because a file with a hole needs space when it is overwritten.
        file.write_all_at(&vec![0; SIZE], 0).and_then(|()| file.sync_all()).map_err(io)?;
    }
    file.write_all_at(text.as_bytes(), 0).map_err(io)?;
    match survives {
        Survives::PowerFailure => file.sync_data().map_err(io),
        Survives::Process => Ok(()),
    }
}

fn hash(text: &str) -> String {
    Sha256::digest(text).iter().fold(String::new(), |mut hash, byte| {
        // Writing to a `String` never fails.
        let _ = write!(hash, "{byte:02x}");
        hash
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(cause: &str) -> Mark {
        let closed = Closed::These(["a".to_owned()].into());
        Mark { boot: "b".to_owned(), outdated: Some(("of".to_owned(), Outdated::now(cause, closed))) }
    }

    #[test]
    fn a_note_is_read_as_it_was_written_also_after_a_longer_one() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(read(dir.path()).unwrap(), None);
        for mark in [mark(&"long ".repeat(100)), mark("short"), Mark { boot: "b".to_owned(), outdated: None }] {
            write(dir.path(), &mark, Survives::PowerFailure).unwrap();
            assert_eq!(read(dir.path()).unwrap(), Some(mark));
            assert_eq!(fs::metadata(dir.path().join(FILE)).unwrap().len(), SIZE as u64);
        }
    }

    #[test]
    fn a_damaged_note_means_that_nothing_may_be_restored() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), &mark("x"), Survives::PowerFailure).unwrap();
        let path = dir.path().join(FILE);
        let mut bytes = fs::read(&path).unwrap();
        bytes[80] ^= 1;
        fs::write(&path, bytes).unwrap();
        let outdated = read(dir.path()).unwrap().unwrap().about("any").unwrap();
        assert_eq!((outdated.closed, outdated.since), (Closed::All, None));
        write(dir.path(), &mark("x"), Survives::PowerFailure).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, text.replace(r#""cause":"x""#, r#""cause":"y""#)).unwrap();
        let outdated = read(dir.path()).unwrap().unwrap().about("any").unwrap();
        assert_eq!(outdated.closed, Closed::All, "it still has the form of a note");
    }

    #[test]
    fn a_note_is_not_written_into_a_file_that_is_not_roots_alone() {
        let dir = tempfile::tempdir().unwrap();
        let (path, target) = (dir.path().join(FILE), dir.path().join("target"));
        fs::write(&target, "theirs").unwrap();
        std::os::unix::fs::symlink(&target, &path).unwrap();
        assert!(write(dir.path(), &mark("x"), Survives::Process).is_err(), "a symbolic link");
        fs::remove_file(&path).unwrap();
        fs::rename(&target, &path).unwrap();
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o666)).unwrap();
        assert!(write(dir.path(), &mark("x"), Survives::Process).is_err(), "everybody can write it");
        assert_eq!(fs::read(&path).unwrap(), b"theirs");
    }

    #[test]
    fn a_note_that_was_created_and_not_written_yet_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(dir.path().join(FILE)).unwrap();
        file.set_len(SIZE as u64).unwrap();
        assert_eq!(read(dir.path()).unwrap(), None);
    }

    #[test]
    fn a_note_about_too_many_objects_is_about_all_and_a_cause_is_cut() {
        let dir = tempfile::tempdir().unwrap();
        let these = (0..40_000).map(|number| format!("{number:016x}")).collect();
        let outdated = Outdated::now(&"x".repeat(10 * CAUSE), Closed::These(these));
        assert_eq!(outdated.cause.len(), CAUSE);
        write(dir.path(), &Mark { boot: boot(), outdated: Some(("of".to_owned(), outdated)) }, Survives::Process).unwrap();
        assert_eq!(read(dir.path()).unwrap().unwrap().about("of").unwrap().closed, Closed::All);
    }

    #[test]
    fn a_note_is_about_one_record_only() {
        assert!(mark("x").about("of").is_some());
        assert_eq!(mark("x").about("a newer one"), None);
    }

    #[test]
    fn the_longest_note_fits_into_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let these = (0..12_000).map(|number| format!("{number:016x}")).collect();
        let mark = Mark {
            boot: boot(),
            outdated: Some(("f".repeat(64), Outdated::now(&"\u{1f600}\n".repeat(400), Closed::These(these)))),
        };
        write(dir.path(), &mark, Survives::PowerFailure).unwrap();
        assert_eq!(read(dir.path()).unwrap(), Some(mark));
    }
}
