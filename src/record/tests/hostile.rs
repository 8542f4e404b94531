//! Files in the state directory that are no record, no note and no lock. Each is refused without being read to its end, and
//! nothing outside the directory is changed.

use rustix::fs::{CWD, FileType, mknodat};

use super::*;

/// Replaces the file `name` of a stored record.
fn replaced(name: &str, by: impl FnOnce(&Path)) -> (TempDir, PathBuf) {
    let (parent, dir) = stored();
    let path = dir.join(name);
    let _ = fs::remove_file(&path);
    by(&path);
    (parent, dir)
}

fn fifo(path: &Path) {
    mknodat(CWD, path, FileType::Fifo, 0o600.into(), 0).unwrap();
}

/// `/dev/zero`, which never ends (null(4)).
fn zeros(path: &Path) {
    mknodat(CWD, path, FileType::CharacterDevice, 0o600.into(), rustix::fs::makedev(1, 5)).unwrap();
}

fn private(path: &Path, bytes: &[u8]) {
    fs::write(path, bytes).unwrap();
    set_mode(path, 0o600);
}

#[track_caller]
fn refused(dir: &Path, wanted: &str) {
    let error = load(dir, NODE).unwrap_err().to_string();
    assert!(error.contains(wanted), "{error}");
}

#[test]
fn a_record_that_is_a_fifo_a_device_or_a_link_to_one_is_refused_at_once() {
    for (by, wanted) in [
        (fifo as fn(&Path), "is not a regular file"),
        (zeros, "is not a regular file"),
        (|path| symlink("/dev/zero", path).unwrap(), "is a symbolic link"),
        (|path| symlink("/dev/kmsg", path).unwrap(), "is a symbolic link"),
    ] {
        let (_parent, dir) = replaced("record.json", by);
        refused(&dir, wanted);
    }
}

#[test]
fn a_record_of_many_zeros_or_of_deep_nesting_is_refused() {
    let sparse = |path: &Path| {
        private(path, b"");
        fs::File::options().write(true).open(path).unwrap().set_len(64 << 20).unwrap();
    };
    let (_parent, dir) = replaced("record.json", sparse);
    refused(&dir, "is damaged (it is not JSON at line 1, column 1)");
    let (_parent, dir) = replaced("record.json", |path| private(path, &b"[".repeat(8 << 20)));
    refused(&dir, "is damaged");
    let nested = format!("{{\"format\":1,\"content\":{}", "{\"a\":".repeat(1 << 20));
    let (_parent, dir) = replaced("record.json", |path| private(path, nested.as_bytes()));
    refused(&dir, "is damaged");
}

/// A record with a valid checksum that only root could have written is still checked like any other input.
#[test]
fn a_forged_record_opens_no_loopback_address() {
    let loaded = forged(|content| {
        content["forwards"][0]["object"]["spec"]["upstream"]["targets"][0]["address"] = json!("127.0.0.1");
    });
    let forwards = loaded.record.forwards.iter().map(|sourced| crate::forward::Forward::parse(&sourced.object));
    assert_eq!(forwards.map(|parsed| parsed.is_ok()).collect::<Vec<_>>(), [false, true]);
}

#[test]
fn the_other_name_of_a_file_that_is_linked_as_the_record_is_never_changed() {
    let (parent, dir) = stored();
    let other = parent.path().join("other");
    private(&other, b"of another program");
    fs::remove_file(dir.join("record.json")).unwrap();
    fs::hard_link(&other, dir.join("record.json")).unwrap();
    refused(&dir, "is damaged");
    assert_eq!(store(&dir, &record()).unwrap(), Stored::Written);
    assert_eq!(fs::read(&other).unwrap(), b"of another program");
    // The temporary file is created new, also where a link has its name.
    symlink(&other, dir.join(".record.json.tmp")).unwrap();
    assert_eq!(store(&dir, &Record { node: NODE.into(), ..Record::default() }).unwrap(), Stored::Written);
    assert_eq!(fs::read(&other).unwrap(), b"of another program");
}

#[test]
fn a_lock_or_a_note_that_is_a_link_a_fifo_or_a_directory_is_refused_and_nothing_is_written_through_it() {
    let outside = tempfile::NamedTempFile::new().unwrap();
    let link = |path: &Path| symlink(outside.path(), path).unwrap();
    let others: [&dyn Fn(&Path); 4] = [&link, &fifo, &zeros, &|path| fs::create_dir(path).unwrap()];
    for by in others {
        let (_parent, dir) = replaced("lock", by);
        lock(&dir, Purpose::Agent).unwrap_err();
        let (_parent, dir) = replaced("unrecorded", by);
        let loaded = load(&dir, NODE).unwrap().unwrap();
        assert!(loaded.restorable().forwards.is_empty(), "nobody knows what was closed");
        Keeper::new(&dir, Some(&loaded)).prepare().unwrap_err();
    }
    assert_eq!(fs::read(outside.path()).unwrap(), b"");
}
