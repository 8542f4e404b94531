//! Tests which content of a file counts while a program writes it.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use proptest::prelude::*;

use super::*;
use crate::source::FileReport;
use crate::source::folder::contents::Update;
use crate::source::folder::reading::{Arrival, FileContent, Place, read as read_files};
use crate::source::folder::writers::Writers;

/// A folder whose state the test sets, at moments that the test names.
struct Told {
    contents: Contents,
    reading: Reading,
    start: Instant,
}

const FILE: &str = "a.yaml";

impl Told {
    fn new() -> Self {
        Self { contents: Contents::default(), reading: Reading::default(), start: Instant::now() }
    }

    /// With both objects in force, from this directory.
    fn at_place(place: Place) -> Self {
        let mut told = Self::new();
        told.reading.place = Some(place);
        assert_eq!(told.at(0.0, Some((BOTH, Writers::None))), "a b");
        told
    }

    /// With both objects in force.
    fn with_both() -> Self {
        let mut told = Self::new();
        assert_eq!(told.at(0.0, Some((BOTH, Writers::None))), "a b");
        told
    }

    /// The objects in force if the file has this content at this second; `None`: the file does not exist.
    fn at(&mut self, second: f64, file: Option<(&[&str], Writers)>) -> String {
        self.told(second, file.map(|(names, writers)| content(names, writers)))
    }

    fn told(&mut self, second: f64, file: Option<FileContent>) -> String {
        self.reading.files.remove(Path::new(FILE));
        self.reading.files.extend(file.map(|content| (FILE.into(), content)));
        names(&self.update(second).snapshot)
    }

    fn update(&mut self, second: f64) -> Update {
        self.contents.update(&self.reading, self.start + Duration::from_secs_f64(second))
    }

    /// After how many seconds from `second` it wants to read again.
    fn due(&mut self, second: f64) -> Option<f64> {
        let now = self.start + Duration::from_secs_f64(second);
        self.update(second).due.map(|due| (due - now).as_secs_f64())
    }

    fn report(&mut self, second: f64) -> String {
        error(&self.update(second).snapshot, FILE)
    }
}

const BOTH: &[&str] = &["a", "b"];
const FIRST: &[&str] = &["a"];

fn text(names: &[&str]) -> String {
    names.iter().map(|name| manifest(name, "3.3.3.3")).collect::<Vec<_>>().join("---\n")
}

fn content(names: &[&str], writers: Writers) -> FileContent {
    let objects = document::objects(&text(names), CHECK).map(Arc::new);
    let mut digest = [0; 32];
    names.join(" ").bytes().zip(&mut digest).for_each(|(byte, place)| *place = byte);
    FileContent { digest: Some(digest), objects, writers, age: Duration::ZERO, arrival: Arrival::Unknown }
}

fn names(snapshot: &Snapshot) -> String {
    in_force(snapshot).into_iter().map(|(name, ..)| name).collect::<Vec<_>>().join(" ")
}

#[test]
fn nothing_is_withdrawn_while_a_program_has_the_file_open() {
    let mut told = Told::with_both();
    for second in [1.0, 2.0, 60.0, 299.0] {
        assert_eq!(told.at(second, Some((FIRST, Writers::Some))), "a b", "{second}");
    }
    assert_eq!(told.at(300.0, Some((BOTH, Writers::None))), "a b");
    assert_eq!(told.at(301.0, Some((&["a", "b", "c"], Writers::Some))), "a b", "nor added");
    assert_eq!(told.at(301.1, Some((&["a", "b", "c"], Writers::None))), "a b");
    assert_eq!(told.at(303.1, Some((&["a", "b", "c"], Writers::None))), "a b c", "two seconds after it was closed");
}

#[test]
fn a_file_that_is_opened_and_closed_repeatedly_counts_once_it_stays_unchanged() {
    let mut told = Told::with_both();
    for (second, names) in [(1.0, FIRST), (2.5, &["a", "x"]), (4.0, &["a", "x", "y"])] {
        assert_eq!(told.at(second, Some((names, Writers::None))), "a b", "{second}");
    }
    assert_eq!(told.due(4.0), Some(2.0));
    assert_eq!(told.at(6.0, Some((&["a", "x", "y"], Writers::None))), "a x y");
    assert_eq!(told.due(6.0), None);
}

#[test]
fn a_complete_file_that_is_renamed_counts_at_once_unless_a_program_writes_it() {
    let mut told = Told::with_both();
    let moved = |writers| Some(FileContent { arrival: Arrival::Moved, ..content(FIRST, writers) });
    assert_eq!(told.told(1.0, moved(Writers::Some)), "a b");
    assert_eq!(told.told(1.0, moved(Writers::None)), "a");
}

#[test]
fn a_file_without_earlier_content_counts_as_soon_as_it_is_closed() {
    let mut told = Told::new();
    assert_eq!(told.at(0.0, Some((FIRST, Writers::Some))), "");
    assert_eq!(told.at(0.1, Some((BOTH, Writers::None))), "a b");
}

#[test]
fn without_knowledge_of_writers_content_counts_after_5_s_without_a_change() {
    let mut told = Told::with_both();
    assert_eq!(told.at(1.0, Some((FIRST, Writers::Unknown))), "a b");
    assert_eq!(told.at(5.9, Some((FIRST, Writers::Unknown))), "a b");
    assert_eq!(told.at(6.0, Some((FIRST, Writers::Unknown))), "a");
    let mut fresh = Told::new();
    assert_eq!(fresh.at(0.0, Some((FIRST, Writers::Unknown))), "", "a new file too: it may be incomplete");
    assert_eq!(fresh.at(5.0, Some((FIRST, Writers::Unknown))), "a");
}

#[test]
fn an_old_file_counts_at_once_at_the_start() {
    for (writers, age, wanted) in [
        (Writers::None, 2, "a"),
        (Writers::None, 1, "a b"),
        (Writers::Unknown, 65, "a"),
        (Writers::Unknown, 64, "a b"),
        (Writers::Some, 100_000, "a b"),
    ] {
        let mut told = Told::with_both();
        // After a restart, the digest of the content in force is not known.
        let snapshot = told.update(0.0).snapshot;
        told.contents = Contents::remembering(&snapshot.forwards);
        let old = FileContent { age: Duration::from_secs(age), ..content(FIRST, writers) };
        assert_eq!(told.told(0.0, Some(old)), wanted, "{writers:?} {age}");
    }
}

#[test]
fn a_writer_that_never_closes_the_file_is_reported_and_delays_it_for_five_minutes() {
    let mut told = Told::with_both();
    assert_eq!(told.at(1.0, Some((FIRST, Writers::Some))), "a b");
    assert_eq!((told.report(1.0).as_str(), told.due(1.0)), ("", Some(10.0)));
    let said = told.report(11.0);
    assert!(said.contains("open for writing") && said.contains("5 minutes"), "{said}");
    assert_eq!(told.due(11.0), Some(290.0));
    assert_eq!(told.at(100.0, Some((&["a", "x"], Writers::Some))), "a b", "it continues to write");
    assert_eq!(told.at(399.0, Some((&["a", "x"], Writers::Some))), "a b");
    assert_eq!(told.at(400.0, Some((&["a", "x"], Writers::Some))), "a x");
    assert_eq!(told.report(401.0), "");
}

#[test]
fn a_file_that_is_deleted_and_created_again_was_never_absent() {
    let mut told = Told::with_both();
    assert_eq!(told.at(1.0, None), "a b");
    assert_eq!(told.due(1.0), Some(0.5));
    assert_eq!(told.at(1.4, Some((FIRST, Writers::None))), "a b", "it counts like any changed file");
    assert_eq!(told.at(3.4, Some((FIRST, Writers::None))), "a");
    assert_eq!(told.at(4.0, None), "a");
    assert_eq!(told.at(4.5, None), "", "a file that stays absent is deleted");
}

#[test]
fn an_object_that_moves_to_another_file_stays_and_no_file_is_refused() {
    for (from, to) in [("a.yaml", "b.yaml"), ("b.yaml", "a.yaml")] {
        let mut told = Told::new();
        told.reading.files.insert(from.into(), content(BOTH, Writers::None));
        assert_eq!(names(&told.update(0.0).snapshot), "a b");
        told.reading.files.insert(from.into(), content(FIRST, Writers::None));
        told.reading.files.insert(to.into(), content(&["b"], Writers::None));
        for second in [1.0, 2.0, 3.0, 4.0] {
            let snapshot = told.update(second).snapshot;
            assert_eq!(names(&snapshot), "a b", "{from} {second}");
            assert_eq!(error(&snapshot, "b.yaml"), "", "{from} {second}");
        }
        told.reading.files.remove(Path::new(from));
        told.update(5.0);
        assert_eq!(names(&told.update(6.0).snapshot), "b", "it is in the other file now");
    }
}

/// The contents that a program writes between the first one, with both objects, and the last one.
fn steps() -> impl Strategy<Value = Vec<(Vec<&'static str>, bool)>> {
    prop::collection::vec((prop::sample::subsequence(vec!["a", "b", "x"], 1..=3), any::<bool>()), 1..8)
}

proptest! {
    /// With less than 2 s between two writes, or with the file open, only the content before and the content at the end are
    /// ever in force.
    #[test]
    fn the_content_in_force_changes_from_the_old_to_the_new_in_one_step(steps in steps()) {
        let mut told = Told::with_both();
        let mut second = 0.0;
        for (names, open) in &steps {
            second += 1.9;
            let writers = if *open { Writers::Some } else { Writers::None };
            // Writing the same bytes again is no change.
            second = if told.reading.files[Path::new(FILE)].digest == content(names, writers).digest { second - 1.9 } else { second };
            prop_assert_eq!(told.at(second, Some((names, writers))), "a b");
        }
        let last = steps.last().map(|(names, _)| names.clone()).unwrap_or_default();
        told.at(second, Some((&last, Writers::None)));
        let wanted = last.join(" ");
        prop_assert_eq!(told.at(second + 2.0, Some((&last, Writers::None))), wanted);
    }
}

#[test]
fn a_real_writer_is_seen_from_its_first_byte_to_its_close() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(FILE);
    fs::write(&path, text(BOTH)).unwrap();
    let look = || read_files(dir.path(), &Reading::default(), &BTreeSet::new(), CHECK).unwrap().files[Path::new(FILE)].writers;
    assert_eq!(look(), Writers::None);
    let mut truncating = File::create(&path).unwrap();
    assert_eq!(look(), Writers::Some);
    truncating.write_all(text(FIRST).as_bytes()).unwrap();
    assert_eq!(look(), Writers::Some);
    drop(truncating);
    assert_eq!(look(), Writers::None);
    let appending = OpenOptions::new().append(true).open(&path).unwrap();
    assert_eq!(look(), Writers::Some);
    drop(appending);
    assert_eq!(look(), Writers::None);
}

/// A directory, and the time of its last change in seconds.
fn place(inode: u64, changed: u64) -> Place {
    Place { identity: (1, inode), changed: UNIX_EPOCH + Duration::from_secs(changed) }
}

const HOUR: f64 = 3600.0;

#[test]
fn the_last_file_that_is_removed_from_its_folder_is_withdrawn_at_once() {
    let mut told = Told::at_place(place(7, 0));
    told.reading.place = Some(place(7, 1));
    assert_eq!(told.at(1.0, None), "a b");
    assert_eq!(told.due(1.0), Some(0.5));
    assert_eq!(told.at(1.5, None), "");
}

#[test]
fn an_empty_directory_in_the_place_of_the_folder_withdraws_nothing_for_an_hour_and_is_reported() {
    let mut told = Told::at_place(place(7, 0));
    told.reading.place = Some(place(8, 5));
    assert_eq!(told.at(1.0, None), "a b");
    assert_eq!(told.due(1.0), None, "it is read again as usual");
    let said = error(&told.update(1.0).snapshot, FileReport::FOLDER);
    assert!(said.contains("is its volume mounted?") && said.contains("60 minutes"), "{said}");
    assert_eq!(told.at(HOUR, None), "a b");
    // The volume is back, under another number.
    told.reading.place = Some(place(9, 0));
    assert_eq!(told.at(HOUR + 1.0, Some((BOTH, Writers::None))), "a b");
    assert_eq!(told.update(HOUR + 1.0).snapshot.files.len(), 1, "no report about the folder");
    told.reading.place = Some(place(8, 5));
    assert_eq!(told.at(HOUR + 2.0, None), "a b");
    assert_eq!(told.at(HOUR + 2.0 + HOUR, None), "");
    assert_eq!(told.update(HOUR + 3.0 + HOUR).snapshot.files, []);
}

#[test]
fn a_file_that_is_missing_in_a_new_folder_is_withdrawn_10_s_after_the_last_new_file() {
    let mut told = Told::at_place(place(7, 0));
    told.reading.place = Some(place(8, 5));
    assert_eq!(told.at(1.0, None), "a b");
    for (second, file) in [(20.0, "b.yaml"), (25.0, "c.yaml")] {
        told.reading.files.insert(file.into(), content(&[], Writers::None));
        assert_eq!(told.at(second, None), "a b");
    }
    assert_eq!(told.at(34.9, None), "a b");
    assert_eq!(told.at(35.0, None), "");
    assert_eq!(told.at(36.0, Some((BOTH, Writers::None))), "a b");
    assert_eq!(told.at(37.0, None), "a b");
    assert_eq!(told.at(37.5, None), "", "the new folder is the folder now");
}

#[test]
fn after_a_restart_an_empty_folder_withdraws_at_once_only_if_it_was_changed_since_the_record() {
    for (changed, wanted) in [(99, "a b"), (100, "")] {
        let remembered = Told::with_both().update(0.0).snapshot.forwards;
        let mut told = Told::new();
        told.contents = Contents::remembering(&remembered).seen_at(Some(UNIX_EPOCH + Duration::from_secs(100)));
        told.reading.place = Some(place(7, changed));
        assert_eq!(told.at(0.0, None), "a b");
        assert_eq!(told.at(1.0, None), wanted, "changed at {changed}");
    }
}
