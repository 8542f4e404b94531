//! A disk of its own for the state directory of a proxy: it can hang, be full, or become read-only.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::netns::must;

/// A separate file system in a file, mounted at the state directory of a proxy. An error in it makes it read-only.
#[derive(Debug)]
pub(crate) struct Disk {
    mount: PathBuf,
}

impl Disk {
    /// A disk at this folder, which is created.
    pub(crate) fn at(mount: PathBuf) -> Self {
        let image = mount.with_extension("image");
        fs::File::create(&image).unwrap().set_len(16 << 20).unwrap();
        must(Command::new("mkfs.ext4").arg("-q").arg(&image));
        fs::create_dir_all(&mount).unwrap();
        must(Command::new("mount").args(["-o", "loop,errors=remount-ro"]).args([&image, &mount]));
        Self { mount }
    }

    /// From now on, writes hang (`fsfreeze(8)`).
    pub(crate) fn freeze(&self) {
        must(Command::new("fsfreeze").arg("--freeze").arg(&self.mount));
    }

    /// Ends [`Disk::freeze`].
    pub(crate) fn thaw(&self) {
        must(Command::new("fsfreeze").arg("--unfreeze").arg(&self.mount));
    }

    /// Writes a file until no space is left.
    pub(crate) fn fill(&self) {
        let mut file = fs::File::create(self.mount.join("filler")).unwrap();
        for size in [64 * 1024, 1024, 1] {
            while file.write_all(&vec![b'x'; size]).and_then(|()| file.sync_all()).is_ok() {}
        }
        assert!(fs::write(self.mount.join("more"), "x").is_err(), "the disk is full");
        let _ = fs::remove_file(self.mount.join("more"));
    }

    /// Removes that file.
    pub(crate) fn clear(&self) {
        fs::remove_file(self.mount.join("filler")).unwrap();
        must(Command::new("sync").arg("--file-system").arg(&self.mount));
    }

    /// Reports an error of the file system to the kernel, which then makes it read-only.
    pub(crate) fn fail(&self) {
        let source = must(Command::new("findmnt").args(["--noheadings", "--output", "SOURCE"]).arg(&self.mount));
        let device = Path::new(source.trim()).file_name().unwrap().to_owned();
        fs::write(Path::new("/sys/fs/ext4").join(device).join("trigger_fs_error"), "test").unwrap();
        assert!(fs::write(self.mount.join("more"), "x").is_err(), "the disk is read-only");
    }

    /// Makes it writable again.
    pub(crate) fn mend(&self) {
        must(Command::new("mount").args(["-o", "remount,rw"]).arg(&self.mount));
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // If the test passed, the file system is thawed already.
        let _ = Command::new("fsfreeze").arg("--unfreeze").arg(&self.mount).output();
        let _ = Command::new("umount").arg("--lazy").arg(&self.mount).output();
    }
}
