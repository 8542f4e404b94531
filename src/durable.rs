//! Replaces a file as a whole, so that a reader or a crash sees the old content or the new, never a part.
//!
//! Must not decide what a file holds.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use rustix::fs::OFlags;

/// What became of content that was to be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Stored {
    /// The file now holds it.
    Written,
    /// The file held the same before; nothing was written.
    Unchanged,
}

/// Makes `path` a file of `mode` (permission bits) that holds exactly `content`, also after a loss of power.
///
/// Writes beside it, syncs, renames, and syncs the directory (fsync(2), rename(2)). A symbolic link at `path` is
/// replaced, not followed. One writer at a time: the name of the file beside it is fixed, so that a crash
/// leaves at most one.
pub(crate) fn replace(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it does not name a file in a directory"));
    };
    let dir = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
    let mut beside = OsString::from(".");
    beside.push(name);
    beside.push(".tmp");
    let beside = dir.join(beside);
    let done = write_new(&beside, content, mode).and_then(|()| fs::rename(&beside, path));
    if done.is_err() {
        // What is left over is removed as far as possible; the first error is the one to tell.
        let _ = fs::remove_file(&beside);
    }
    done.and_then(|()| File::open(dir)?.sync_all())
}

fn write_new(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).custom_flags(nofollow()).open(path)?;
    // The umask narrowed the mode at creation.
    file.set_permissions(Permissions::from_mode(mode))?;
    file.write_all(content)?;
    file.sync_all()
}

/// `O_NOFOLLOW` and `O_NONBLOCK` (open(2)): neither a symbolic link nor a FIFO may stand in for a file of ours.
pub(crate) fn nofollow() -> i32 {
    flags(OFlags::NOFOLLOW | OFlags::NONBLOCK)
}

/// Open flags as `std` takes them.
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
