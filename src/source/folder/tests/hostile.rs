//! Files that are no manifests: devices, FIFOs, very large and deeply nested files, and names with control characters. Each is
//! reported in few words, and the good file next to them is in force.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::symlink;

use rustix::fs::{CWD, FileType, makedev, mknodat};

use super::*;
use crate::source::folder::reading;

#[test]
fn files_that_never_end_or_are_no_text_block_nothing_and_are_reported_briefly() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let device = |name: &str, minor| {
        mknodat(CWD, path(name), FileType::CharacterDevice, 0o600.into(), makedev(1, minor)).unwrap();
    };
    device("zero.yaml", 5);
    device("random.yaml", 8);
    device("kmsg.yaml", 11);
    symlink("/dev/zero", path("zeros.yaml")).unwrap();
    mknodat(CWD, path("fifo.yaml"), FileType::Fifo, 0o600.into(), 0).unwrap();
    fs::create_dir(path("directory.yaml")).unwrap();
    let mebibytes = 8 << 20;
    fs::write(path("brackets.yaml"), b"[".repeat(mebibytes)).unwrap();
    fs::write(path("nuls.yaml"), b"\0".repeat(mebibytes)).unwrap();
    let bomb: String = (1..9).map(|level| format!("a{level}: &a{level} [{}]\n", format!("*a{},", level - 1).repeat(9))).collect();
    fs::write(path("bomb.yaml"), format!("a0: &a0 x\n{bomb}")).unwrap();
    let strange = OsStr::from_bytes(b"esc\x1b[31m\n.yaml");
    fs::write(dir.path().join(strange), "spec: [").unwrap();
    fs::write(path("good.yaml"), manifest("a", "3.3.3.3")).unwrap();

    let reading = reading::read(dir.path(), &Reading::default(), &BTreeSet::new(), CHECK).unwrap();
    let snapshot = Contents::default().update(&reading.at_rest(), Instant::now()).snapshot;
    assert_eq!(in_force(&snapshot), [forward("a", "3.3.3.3", 1)]);
    let refused: Vec<_> = snapshot.files.iter().filter(|file| file.path != Path::new("good.yaml")).collect();
    assert_eq!(refused.len(), 10);
    for file in refused {
        let error = file.error.as_ref().unwrap();
        assert!(error.len() < 1024 && !error.contains('\u{1b}'), "{}: {error:?}", file.path.display());
    }
}
