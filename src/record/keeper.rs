//! Keeps the record on the disk, and a note beside it whenever the kernel may be newer than the record.
//!
//! Decides what the note says. Does not decide when something is written, and writes no log.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::content::Rendered;
use super::mark::{self, Mark, Survives};
use super::{Closed, Loaded, Outdated, Record, RecordError, Stored, disk};

/// The cause of a note that is written before a change and removed after it.
const UNFINISHED: &str = "a change was not finished";
/// The cause of a note that takes the place of a record for some seconds.
const DEFERRED: &str = "the record of the last changes was not written yet";

/// Whether a record is written at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Haste {
    /// It is.
    Now,
    /// Only the note is written: what of the record on the disk must not be restored. The record is written later.
    Later,
}

/// What was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// The record, of this number of bytes.
    Written(u64),
    /// The record on the disk has this content already.
    Unchanged,
    /// Only the note.
    Noted,
}

/// One step of the agent, for the disk.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// The state that is or may be in force, as a record.
    pub record: Arc<Record>,
    /// The state that the agent is about to apply, or has applied in part; `None` if `record` is the whole truth.
    pub next: Option<Arc<Record>>,
}

/// Writes the record of one state directory.
#[derive(Debug)]
pub struct Keeper {
    dir: PathBuf,
    /// The record on the disk and its checksum; `None` if there is none, or none that can be used.
    written: Option<(Arc<Record>, String)>,
    mark: Mark,
    /// Whether the note takes the place of a record that was not written yet.
    deferred: bool,
    rendered: Rendered,
}

impl Keeper {
    /// For the state directory `dir`, from which `loaded` was read.
    #[must_use]
    pub fn new(dir: &Path, loaded: Option<&Loaded>) -> Self {
        let written = loaded.map(|loaded| (Arc::new(loaded.record.clone()), loaded.checksum.clone()));
        let mark = mark::read(dir).ok().flatten().unwrap_or_default();
        Self { dir: dir.to_owned(), written, mark, deferred: false, rendered: Rendered::default() }
    }

    /// Creates the note beside the record, or writes it again, so that a later write of it needs no space.
    ///
    /// # Errors
    /// When it cannot be written. Then it is not known whether the record is older than the kernel: nobody could note it.
    pub fn prepare(&mut self) -> Result<(), RecordError> {
        disk::make(&self.dir)?;
        mark::write(&self.dir, &self.mark, Survives::PowerFailure)
    }

    /// Writes what changed with `step`.
    ///
    /// With [`Haste::Later`], only the note is written, if there is a record on the disk.
    ///
    /// A step that is not finished is noted before the record is written. The note of a finished step is removed after its
    /// record was written. If that fails, the note says what must not be restored from the record on the disk.
    ///
    /// # Errors
    /// When the record could not be written.
    pub fn keep(&mut self, step: &Step, haste: Haste) -> Result<Kept, RecordError> {
        let Step { record, next } = step;
        let is_written = self.written.as_ref().is_some_and(|(written, _)| Arc::ptr_eq(written, record));
        if let Some(next) = next {
            let noted = self.note(next, UNFINISHED, Survives::Process);
            if is_written {
                return noted.map(|()| Kept::Unchanged).map_err(|unnoted| RecordError::Unnoted(unnoted.cause()));
            }
        } else if is_written {
            return self.note_nothing().map(|()| Kept::Unchanged);
        }
        if haste == Haste::Later && self.written.is_some() {
            self.deferred = true;
            let noted = self.note(next.as_ref().unwrap_or(record), DEFERRED, Survives::Process);
            return noted.map(|()| Kept::Noted).map_err(|unnoted| RecordError::Unnoted(unnoted.cause()));
        }
        let last = self.written.as_ref().map(|(_, checksum)| checksum.as_str());
        match super::store_checked(&self.dir, record, last, &mut self.rendered) {
            Ok((stored, checksum, bytes)) => {
                self.written = Some((Arc::clone(record), checksum));
                self.deferred = false;
                match next {
                    Some(next) => self.note(next, UNFINISHED, Survives::Process)?,
                    None => self.note_nothing()?,
                }
                Ok(match stored {
                    Stored::Written => Kept::Written(bytes),
                    Stored::Unchanged => Kept::Unchanged,
                })
            }
            Err(error) => match self.note(next.as_ref().unwrap_or(record), &error.cause(), Survives::PowerFailure) {
                Ok(()) => Err(error),
                Err(unnoted) => Err(RecordError::Unnoted(format!("{}; {}", error.cause(), unnoted.cause()))),
            },
        }
    }

    /// Notes what of the record on the disk is closed in `newer`.
    fn note(&mut self, newer: &Record, cause: &str, survives: Survives) -> Result<(), RecordError> {
        let Some((written, checksum)) = &self.written else { return Ok(()) };
        let mut closed = Closed::between(written, newer);
        // What was closed since the record on the disk may be open again in `newer`, which is not in force yet.
        if self.deferred
            && let Some((_, before)) = &self.mark.outdated
        {
            closed = closed.and(&before.closed);
        }
        let outdated = match &self.mark.outdated {
            Some((_, before)) => Outdated { since: before.since, ..Outdated::now(cause, closed) },
            None => Outdated::now(cause, closed),
        };
        self.put(Mark { boot: mark::boot(), outdated: Some((checksum.clone(), outdated)) }, survives)
    }

    fn note_nothing(&mut self) -> Result<(), RecordError> {
        // If the removal is lost in a power failure, the old note is about an older record, and is ignored.
        self.put(Mark { boot: mark::boot(), outdated: None }, Survives::Process)
    }

    fn put(&mut self, mark: Mark, survives: Survives) -> Result<(), RecordError> {
        if mark != self.mark {
            mark::write(&self.dir, &mark, survives)?;
            self.mark = mark;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;
    use crate::record::{Boot, load};
    use crate::source::Sourced;

    fn record(names: &[&str]) -> Arc<Record> {
        let sourced = |name: &&str| {
            let object = serde_json::json!({
                "apiVersion": "portforward.dev/v1alpha1", "kind": "PortForward",
                "metadata": {"name": name, "namespace": "a", "generation": 1},
                "spec": {
                    "client": {"addresses": ["1.1.1.1"]}, "internal": {"addresses": ["192.168.0.2"]},
                    "upstream": {"targets": [{"address": "3.3.3.3"}]}, "ports": [{"name": "http", "port": 80}],
                },
            });
            Sourced::of(Arc::new(crate::api::decode(object).unwrap()), None)
        };
        Arc::new(Record { node: "n".to_owned(), forwards: names.iter().map(sourced).collect(), ..Record::default() })
    }

    fn done(record: &Arc<Record>) -> Step {
        Step { record: Arc::clone(record), next: None }
    }

    fn begun(record: &Arc<Record>, next: &Arc<Record>) -> Step {
        Step { record: Arc::clone(record), next: Some(Arc::clone(next)) }
    }

    /// What may be restored from this folder, and the cause why this is not everything.
    fn restorable(dir: &Path) -> (Vec<String>, Option<String>) {
        let loaded = load(dir, "n").unwrap().unwrap();
        let names = loaded.restorable().forwards.iter().map(|it| it.object.metadata.name.clone().unwrap()).collect();
        (names, loaded.outdated.map(|outdated| outdated.cause))
    }

    /// Writes a step that changes the record.
    #[track_caller]
    fn write(keeper: &mut Keeper, step: &Step) {
        assert!(matches!(keeper.keep(step, Haste::Now).unwrap(), Kept::Written(_)));
    }

    fn strings(names: &[&str]) -> Vec<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    #[test]
    fn a_change_is_noted_before_it_is_made_and_the_note_ends_with_its_record() {
        let dir = tempfile::tempdir().unwrap();
        let mut keeper = Keeper::new(dir.path(), None);
        keeper.prepare().unwrap();
        let (both, one) = (record(&["x", "y"]), record(&["y"]));
        assert!(matches!(keeper.keep(&done(&both), Haste::Now).unwrap(), Kept::Written(_)));
        assert_eq!(restorable(dir.path()), (strings(&["x", "y"]), None));
        assert_eq!(keeper.keep(&begun(&both, &one), Haste::Now).unwrap(), Kept::Unchanged);
        assert_eq!(restorable(dir.path()), (strings(&["y"]), Some(UNFINISHED.to_owned())), "a crash here opens nothing again");
        assert!(matches!(keeper.keep(&done(&one), Haste::Now).unwrap(), Kept::Written(_)));
        assert_eq!(restorable(dir.path()), (strings(&["y"]), None));
        assert_eq!(keeper.keep(&begun(&one, &both), Haste::Now).unwrap(), Kept::Unchanged);
        assert_eq!(keeper.keep(&done(&one), Haste::Now).unwrap(), Kept::Unchanged, "the change was taken back");
        assert_eq!(restorable(dir.path()), (strings(&["y"]), None));
    }

    #[test]
    fn a_change_that_begins_before_its_record_is_written_is_noted_with_that_record() {
        let dir = tempfile::tempdir().unwrap();
        let mut keeper = Keeper::new(dir.path(), None);
        keeper.prepare().unwrap();
        let (both, one) = (record(&["x", "y"]), record(&["y"]));
        write(&mut keeper, &begun(&both, &one));
        assert_eq!(restorable(dir.path()), (strings(&["y"]), Some(UNFINISHED.to_owned())));
    }

    #[test]
    fn a_record_that_cannot_be_written_leaves_a_note_also_over_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let mut keeper = Keeper::new(dir.path(), None);
        keeper.prepare().unwrap();
        write(&mut keeper, &done(&record(&["x", "y", "z"])));
        // The temporary file of the record cannot be made.
        let obstacle = dir.path().join(".record.json.tmp");
        fs::create_dir(&obstacle).unwrap();
        assert!(keeper.keep(&done(&record(&["y", "z"])), Haste::Now).is_err());
        let (names, cause) = restorable(dir.path());
        assert_eq!(names, ["y", "z"]);
        assert!(cause.as_ref().unwrap().contains("record.json: cannot write it: "), "{cause:?}");

        let loaded = load(dir.path(), "n").unwrap();
        let mut restarted = Keeper::new(dir.path(), loaded.as_ref());
        restarted.prepare().unwrap();
        assert!(restarted.keep(&done(&record(&["z"])), Haste::Now).is_err());
        assert_eq!(restorable(dir.path()).0, ["z"]);
        assert!(restarted.keep(&begun(&record(&["y", "z"]), &record(&["y"])), Haste::Now).is_err());
        assert_eq!(restorable(dir.path()).0, ["y"], "what is about to be applied counts");
        assert!(restarted.keep(&done(&record(&["z"])), Haste::Now).is_err());
        let again = load(dir.path(), "n").unwrap().unwrap();
        assert_eq!(again.outdated.unwrap().since, loaded.unwrap().outdated.unwrap().since, "since the first failure");
        fs::remove_dir(&obstacle).unwrap();
        write(&mut restarted, &done(&record(&["z"])));
        assert_eq!(restorable(dir.path()), (strings(&["z"]), None));
    }

    #[test]
    fn rules_of_an_earlier_boot_are_told_from_those_of_this_one() {
        let dir = tempfile::tempdir().unwrap();
        let mut keeper = Keeper::new(dir.path(), None);
        write(&mut keeper, &done(&record(&["x"])));
        let boot = |dir: &Path| load(dir, "n").unwrap().unwrap().boot;
        assert_eq!(boot(dir.path()), Boot::This);
        mark::write(dir.path(), &Mark { boot: "another".to_owned(), outdated: None }, Survives::Process).unwrap();
        assert_eq!(boot(dir.path()), Boot::Earlier);
        fs::remove_file(dir.path().join(mark::FILE)).unwrap();
        assert_eq!(boot(dir.path()), Boot::This, "not known");
    }

    #[test]
    fn a_note_that_others_could_have_written_means_that_nothing_may_be_restored() {
        let dir = tempfile::tempdir().unwrap();
        write(&mut Keeper::new(dir.path(), None), &done(&record(&["x"])));
        fs::remove_file(dir.path().join(mark::FILE)).unwrap();
        std::os::unix::fs::symlink("/dev/zero", dir.path().join(mark::FILE)).unwrap();
        let (names, cause) = restorable(dir.path());
        assert!(names.is_empty() && cause.unwrap().contains("is a symbolic link"));
        let loaded = load(dir.path(), "n").unwrap();
        assert!(Keeper::new(dir.path(), loaded.as_ref()).prepare().is_err());
    }

    #[test]
    fn a_record_that_is_written_later_is_noted_and_what_was_closed_meanwhile_stays_closed() {
        let dir = tempfile::tempdir().unwrap();
        let mut keeper = Keeper::new(dir.path(), None);
        keeper.prepare().unwrap();
        let (all, some, other) = (record(&["x", "y", "z"]), record(&["y", "z"]), record(&["x", "y"]));
        let later = |keeper: &mut Keeper, step: &Step| keeper.keep(step, Haste::Later).unwrap();
        assert!(matches!(later(&mut keeper, &done(&all)), Kept::Written(_)), "there is no record that a note could be about");
        assert_eq!(later(&mut keeper, &begun(&all, &some)), Kept::Unchanged);
        assert_eq!(later(&mut keeper, &done(&some)), Kept::Noted);
        assert_eq!(restorable(dir.path()), (strings(&["y", "z"]), Some(DEFERRED.to_owned())));
        // The next change opens again what the previous one closed. It may not have been made when the agent ends.
        assert_eq!(later(&mut keeper, &begun(&some, &other)), Kept::Noted);
        assert_eq!(restorable(dir.path()).0, strings(&["y"]));
        assert_eq!(later(&mut keeper, &done(&other)), Kept::Noted);
        assert_eq!(restorable(dir.path()).0, strings(&["y"]), "until the record is written");
        write(&mut keeper, &done(&other));
        assert_eq!(restorable(dir.path()), (strings(&["x", "y"]), None));
    }
}
