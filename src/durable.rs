//! Replaces a file as a whole, so that a reader, also after a crash, sees either the old content or the new one.
//!
//! Does not decide what a file contains.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use rustix::fs::OFlags;

/// The result of writing a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Stored {
    /// The new content was written.
    Written,
    /// The file had the same content before; nothing was written.
    Unchanged,
}

/// Makes `path` a file of `mode` (permission bits) with exactly `content`. The content survives a power failure.
///
/// Writes a temporary file in the same directory, syncs it, renames it, and syncs the directory (fsync(2), rename(2)). A
/// symbolic link at `path` is replaced, not followed. Only one writer at a time is allowed: the name of the temporary file
/// is fixed, so that a crash leaves at most one.
pub(crate) fn replace(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    replace_with(path, mode, |file| file.write_all(content))
}

/// As [`replace`], with the content that `write` writes.
pub(crate) fn replace_with(path: &Path, mode: u32, write: impl FnOnce(&mut File) -> io::Result<()>) -> io::Result<()> {
    let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the path does not name a file in a directory"));
    };
    let dir = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
    let mut beside = OsString::from(".");
    beside.push(name);
    beside.push(".tmp");
    let beside = dir.join(beside);
    let done = write_new(&beside, mode, write).and_then(|()| fs::rename(&beside, path));
    if done.is_err() {
        // The temporary file is removed if possible. The first error is the one to report.
        let _ = fs::remove_file(&beside);
    }
    done.and_then(|()| File::open(dir)?.sync_all())
}

fn write_new(path: &Path, mode: u32, write: impl FnOnce(&mut File) -> io::Result<()>) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).custom_flags(nofollow()).open(path)?;
    // The umask narrowed the mode at creation.
    file.set_permissions(Permissions::from_mode(mode))?;
    write(&mut file)?;
    file.sync_all()
}

/// `O_NOFOLLOW` and `O_NONBLOCK` (open(2)): a symbolic link or a FIFO is not opened in place of the file.
pub(crate) fn nofollow() -> i32 {
    flags(OFlags::NOFOLLOW | OFlags::NONBLOCK)
}

/// Open flags as the type that `std` uses.
pub(crate) fn flags(flags: OFlags) -> i32 {
    flags.bits().cast_signed()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_whole_with_its_mode_and_nothing_is_left_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("kept");
        std::os::unix::fs::symlink("/dev/null", &path).unwrap();
        fs::write(dir.path().join(".kept.tmp"), "left by a crash").unwrap();
        for content in ["first, longer", "second"] {
            replace(&path, content.as_bytes(), 0o640).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), content);
        }
        let metadata = fs::symlink_metadata(&path).unwrap();
        assert!(metadata.is_file());
        assert_eq!(metadata.permissions().mode() & 0o7777, 0o640);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_cannot_be_replaced_is_an_error_and_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("kept");
        fs::create_dir(&path).unwrap();
        assert!(replace(&path, b"text", 0o600).is_err());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        assert!(replace(&dir.path().join("no/such"), b"text", 0o600).is_err());
    }
}
