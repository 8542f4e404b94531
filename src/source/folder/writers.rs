//! Asks the kernel whether a program has a file open for writing.
//!
//! Takes a read lease (`F_SETLEASE`, fcntl(2)), which the kernel grants only if no program has the file open for writing, and
//! releases it at once. Does not decide what this means for the file.

use std::fs::File;
use std::os::fd::{AsRawFd, RawFd};

/// Whether a program has a file open for writing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Writers {
    /// No program has it open for writing.
    None,
    /// A program has it open for writing.
    Some,
    /// The kernel cannot know, as on a network file system, or gives no answer.
    Unknown,
}

/// The file systems that only programs of this kernel can write to (`f_type`, statfs(2)): ext, XFS, btrfs, tmpfs, ramfs,
/// overlayfs, F2FS, ZFS, bcachefs.
const LOCAL: [i64; 9] =
    [0xEF53, 0x5846_5342, 0x9123_683E, 0x0102_1994, 0x8584_58F6, 0x794C_7630, 0xF2F5_2010, 0x2FC1_2FC1, 0xCA45_1A4E];

/// `F_SETSIG` (include/uapi/asm-generic/fcntl.h), which `libc` does not define.
const SETSIG: libc::c_int = 10;

/// Asks about `file`, which must be open for reading only.
pub(super) fn of(file: &File) -> Writers {
    let local =
        rustix::fs::fstatfs(file).is_ok_and(|system| LOCAL.iter().any(|known| i128::from(system.f_type) == i128::from(*known)));
    if local { lease(file.as_raw_fd()) } else { Writers::Unknown }
}

/// Takes a read lease and releases it. A program that opens the file for writing in between waits until the release, a few
/// microseconds.
#[allow(unsafe_code, reason = "neither std, rustix nor nix has F_SETLEASE")]
fn lease(file: RawFd) -> Writers {
    // If a program opens the file for writing in between, the kernel sends us a signal. SIGIO, the default, would end the
    // process; SIGURG is ignored.
    // SAFETY: these three calls of fcntl(2) take integers and access no memory; the borrow of its owner keeps `file` open.
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
    fn a_program_with_the_file_open_for_writing_is_seen_until_it_closes_it() {
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
    fn a_writer_that_opens_the_file_during_the_lease_is_not_blocked_and_no_process_ends() {
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
    fn on_other_file_systems_the_answer_is_unknown() {
        assert_eq!(of(&File::open("/proc/self/status").unwrap()), Writers::Unknown);
    }
}
