//! Whether any program has a file open for writing, as the kernel knows it.
//!
//! Asked by a read lease (`F_SETLEASE`, fcntl(2)), which the kernel grants only while nobody has the file open for writing;
//! it is given back at once. Must not decide what that means for the file.

use std::fs::File;
use std::os::fd::{AsRawFd, RawFd};

/// Who writes a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Writers {
    /// Nobody has it open for writing.
    None,
    /// Some program has.
    Some,
    /// The kernel cannot know, as on a network file system, or does not say.
    Unknown,
}

/// The file systems on which nobody writes but programs of this kernel (`f_type`, statfs(2)): ext, XFS, btrfs, tmpfs, ramfs,
/// overlayfs, F2FS, ZFS, bcachefs.
const LOCAL: [i64; 9] =
    [0xEF53, 0x5846_5342, 0x9123_683E, 0x0102_1994, 0x8584_58F6, 0x794C_7630, 0xF2F5_2010, 0x2FC1_2FC1, 0xCA45_1A4E];

/// `F_SETSIG` (include/uapi/asm-generic/fcntl.h), which `libc` lacks.
const SETSIG: libc::c_int = 10;

/// Asks the kernel about `file`, which must be open for reading only.
pub(super) fn of(file: &File) -> Writers {
    let local =
        rustix::fs::fstatfs(file).is_ok_and(|system| LOCAL.iter().any(|known| i128::from(system.f_type) == i128::from(*known)));
    if local { lease(file.as_raw_fd()) } else { Writers::Unknown }
}

/// Takes a read lease and gives it back. A program that opens the file for writing in between waits until it is given back,
/// some microseconds.
#[allow(unsafe_code, reason = "neither std, rustix nor nix has F_SETLEASE")]
fn lease(file: RawFd) -> Writers {
    // Whoever opens the file for writing meanwhile has a signal sent to us. SIGIO, the default, would end the process; SIGURG
    // is ignored.
    // SAFETY: these three calls of fcntl(2) take an integer and touch no memory; `file` is open for as long as its owner is
    // borrowed.
    let taken =
        unsafe { libc::fcntl(file, SETSIG, libc::SIGURG) == 0 && libc::fcntl(file, libc::F_SETLEASE, libc::F_RDLCK) == 0 };
    if taken {
        // SAFETY: as above.
        unsafe { libc::fcntl(file, libc::F_SETLEASE, libc::F_UNLCK) };
        return Writers::None;
    }
    let refused = std::io::Error::last_os_error();
    if refused.kind() == std::io::ErrorKind::WouldBlock { Writers::Some } else { Writers::Unknown }
}

#[cfg(test)]
mod tests {
    use std::fs::OpenOptions;

    use super::*;

    #[test]
    fn whoever_has_a_file_open_for_writing_is_seen_until_it_is_closed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        std::fs::write(&path, "text").unwrap();
        let asked = File::open(&path).unwrap();
        let _reader = File::open(&path).unwrap();
        assert_eq!(of(&asked), Writers::None, "is this a local file system?");
        for options in
            [OpenOptions::new().write(true), OpenOptions::new().append(true), OpenOptions::new().read(true).write(true)]
        {
            let writer = options.open(&path).unwrap();
            assert_eq!(of(&asked), Writers::Some);
            drop(writer);
            assert_eq!(of(&asked), Writers::None);
        }
    }

    #[test]
    fn a_writer_that_comes_while_it_is_asked_is_not_kept_waiting_and_ends_nobody() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        std::fs::write(&path, "text").unwrap();
        let asked = File::open(&path).unwrap();
        std::thread::scope(|scope| {
            let writes = scope.spawn(|| (0..2000).for_each(|_| drop(OpenOptions::new().append(true).open(&path).unwrap())));
            while !writes.is_finished() {
                assert_ne!(of(&asked), Writers::Unknown);
            }
        });
        assert_eq!(of(&asked), Writers::None);
    }

    #[test]
    fn of_a_file_system_that_others_may_write_to_nothing_is_said() {
        assert_eq!(of(&File::open("/proc/self/status").unwrap()), Writers::Unknown);
    }
}
