//! The lock file of legacy xtables: keeps other users away from it, and finds out who holds the lock.
//!
//! The legacy programs take an exclusive lock (flock(2)) on this file for every change. A process that can open the file,
//! even only for reading, can hold the lock for ever, and no rule can be changed meanwhile. So only root may open it (ADR
//! 0057). `iptables-nft` has no lock.

use std::fmt;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, OFlags, flock, major, minor};
use tracing::{info, warn};

/// The file, unless `XTABLES_LOCKFILE` names another one (iptables(8)).
const DEFAULT: &str = "/run/xtables.lock";
/// All locks of the system (`proc_locks(5)`). The kernel hides those of processes that this PID namespace does not contain.
const LOCKS: &str = "/proc/locks";
/// The mode of the file: only root may open it.
const MODE: u32 = 0o600;
/// The permission bits of the group and of all others (inode(7)).
const OTHERS: u32 = 0o077;

/// The path of the lock file.
pub(super) fn path() -> PathBuf {
    std::env::var_os("XTABLES_LOCKFILE").filter(|path| !path.is_empty()).map_or_else(|| DEFAULT.into(), PathBuf::from)
}

/// What was done to the lock file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Protected {
    /// Nothing: only its owner may open it.
    Before,
    /// It was missing and was created.
    Created,
    /// Others could open it by this mode (permission bits). Now only its owner may.
    Corrected(u32),
}

/// Makes the lock file one that only root may open, and creates it if it is missing. The kubelet creates it with mode 0644
/// for a `hostPath` volume. Logs what was changed. Logs a failure once (`told`): the programs work without this.
pub(super) fn protect(told: &mut Option<String>) {
    let path = path();
    let file = path.display();
    match make_private(&path) {
        Ok(Protected::Before | Protected::Created) => *told = None,
        Ok(Protected::Corrected(mode)) => {
            *told = None;
            let mode = format!("{mode:04o}");
            info!(%file, mode, "every user could take the lock of iptables-legacy; now only root can (mode 0600)");
        }
        Err(error) => {
            let text = error.to_string();
            if told.as_ref() != Some(&text) {
                warn!(%file, error = text, "other users may be able to hold the lock of iptables-legacy, and then no rule can be changed; set its owner to root and its mode to 0600");
                *told = Some(text);
            }
        }
    }
}

fn make_private(path: &Path) -> io::Result<Protected> {
    match fs::symlink_metadata(path) {
        Ok(found) if found.is_file() && is_ours(&found) && found.mode() & OTHERS == 0 => return Ok(Protected::Before),
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::NotFound => match create(path) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            created => return created.map(|_| Protected::Created),
        },
        Err(error) => return Err(error),
    }
    let file = open(path)?;
    let found = file.metadata()?;
    if !found.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    if !is_ours(&found) {
        return Err(io::Error::other(format!("it belongs to user {}", found.uid())));
    }
    file.set_permissions(Permissions::from_mode(MODE))?;
    Ok(Protected::Corrected(found.mode() & 0o7777))
}

fn is_ours(found: &fs::Metadata) -> bool {
    found.uid() == 0 || found.uid() == rustix::process::geteuid().as_raw()
}

fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(MODE).open(path)
}

/// Opens the file for reading. Does not follow a symbolic link, and does not wait for the writer of a FIFO.
fn open(path: &Path) -> io::Result<File> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(path)
}

/// Who holds the lock, as far as it is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Holder {
    /// A process.
    Process {
        /// Its process id.
        pid: u32,
        /// The name of its program, escaped.
        program: Option<String>,
        /// Its user.
        user: Option<u32>,
    },
    /// A process in another PID namespace, which this one cannot see.
    Hidden,
    /// Nobody any more.
    Free,
    /// Not known.
    Unknown,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Process { pid, program, user } => {
                write!(f, "process {pid}")?;
                if let Some(program) = program {
                    write!(f, " ({program})")?;
                }
                if let Some(user) = user {
                    write!(f, " of user {user}")?;
                }
                f.write_str(" holds it; end that process if it does not end by itself")
            }
            Self::Hidden => f.write_str("a process outside of this container holds it; lslocks on the node shows which one"),
            Self::Free => f.write_str("another process held it for this time"),
            Self::Unknown => f.write_str("another process holds it; lslocks on the node shows which one"),
        }
    }
}

/// Finds out who holds the lock on the file `path`.
pub(super) fn holder(path: &Path) -> Holder {
    look(path).unwrap_or(Holder::Unknown)
}

fn look(path: &Path) -> io::Result<Holder> {
    let file = open(path)?;
    let found = file.metadata()?;
    if let Some(pid) = locker(&fs::read_to_string(LOCKS)?, found.dev(), found.ino()) {
        let status = Path::new("/proc").join(pid.to_string());
        let program = fs::read_to_string(status.join("comm")).ok().map(|name| name.trim_end().escape_debug().to_string());
        let user = fs::metadata(status).ok().map(|process| process.uid());
        return Ok(Holder::Process { pid, program, user });
    }
    // The lock is released when the file is closed, at the end of this function.
    Ok(match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Holder::Free,
        Err(_) => Holder::Hidden,
    })
}

/// The process that holds a lock of flock(2) on the file with this device and inode, by the text of [`LOCKS`].
fn locker(locks: &str, device: u64, inode: u64) -> Option<u32> {
    let file = format!("{:02x}:{:02x}:{inode}", major(device), minor(device));
    // 1: FLOCK  ADVISORY  WRITE 4711 00:19:1234 0 EOF. A process that waits for the lock has an arrow after the number.
    locks.lines().find_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            [_, "FLOCK", _, _, pid, of, ..] if *of == file => pid.parse().ok(),
            _ => None,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::symlink_metadata(path).unwrap().mode() & 0o7777
    }

    #[test]
    fn a_lock_file_that_others_may_open_becomes_roots_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        assert_eq!(make_private(&path).unwrap(), Protected::Created);
        assert_eq!((mode(&path), make_private(&path).unwrap()), (MODE, Protected::Before));
        for open in [0o644, 0o666, 0o640, 0o604] {
            fs::set_permissions(&path, Permissions::from_mode(open)).unwrap();
            assert_eq!((make_private(&path).unwrap(), mode(&path)), (Protected::Corrected(open), MODE));
        }
        assert!(!fs::read_dir(folder.path()).unwrap().any(|entry| entry.unwrap().path() != path));
    }

    #[test]
    fn what_is_no_file_is_left_alone_and_does_not_stop_the_agent() {
        let folder = tempfile::tempdir().unwrap();
        let [target, link, fifo, private] = ["target", "link", "fifo", "private"].map(|name| folder.path().join(name));
        fs::write(&target, "").unwrap();
        fs::set_permissions(&target, Permissions::from_mode(0o644)).unwrap();
        std::os::unix::fs::symlink(&target, &link).unwrap();
        for (fifo, mode) in [(&fifo, 0o644), (&private, 0o600)] {
            rustix::fs::mknodat(rustix::fs::CWD, fifo, rustix::fs::FileType::Fifo, mode.into(), 0).unwrap();
        }
        // Nobody else can open the second FIFO, but it is no lock file either.
        for path in [&link, &fifo, &private, &folder.path().to_owned()] {
            assert!(make_private(path).is_err(), "{}", path.display());
        }
        assert_eq!([&target, &fifo, &private].map(|path| mode(path)), [0o644, 0o644, 0o600]);
    }

    /// Its owner could open it whatever its mode is. Only root can make such a file.
    #[test]
    fn a_lock_file_of_another_user_is_left_alone_and_reported() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        for before in [0o600, 0o644] {
            fs::write(&path, "").unwrap();
            fs::set_permissions(&path, Permissions::from_mode(before)).unwrap();
            if std::os::unix::fs::chown(&path, Some(65534), None).is_err() {
                return;
            }
            let error = make_private(&path).unwrap_err().to_string();
            assert_eq!((error.as_str(), mode(&path)), ("it belongs to user 65534", before));
            fs::remove_file(&path).unwrap();
        }
    }

    #[test]
    fn the_process_that_holds_the_lock_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let file = create(&path).unwrap();
        assert_eq!(holder(&path), Holder::Free);
        flock(&file, FlockOperation::LockExclusive).unwrap();
        let found = holder(&path);
        let Holder::Process { pid, program: Some(_), user: Some(user) } = &found else { panic!("{found:?}") };
        assert_eq!((*pid, *user), (std::process::id(), rustix::process::geteuid().as_raw()));
        assert_eq!(holder(&folder.path().join("absent")), Holder::Unknown);
    }

    #[test]
    fn a_process_that_waits_for_the_lock_and_another_kind_of_lock_are_not_its_holder() {
        let locks = "1: POSIX  ADVISORY  WRITE 11 00:19:1234 0 EOF\n2: FLOCK  ADVISORY  WRITE 22 00:1a:1234 0 EOF\n\
                     3: FLOCK  ADVISORY  READ  33 00:19:1234 0 EOF\n3: -> FLOCK  ADVISORY  WRITE 44 00:19:1234 0 EOF\n";
        assert_eq!(locker(locks, 0x19, 1234), Some(33));
        assert_eq!(locker(locks, 0x19, 1235), None);
    }
}
