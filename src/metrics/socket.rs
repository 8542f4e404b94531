//! The socket of health in the state directory, which only root can enter: binds it, and asks the agent behind it.
//!
//! A port of the loopback interface can be taken by any user of the node before the agent starts. That user could then
//! answer the probes of the kubelet. This socket cannot be taken (ADR 0056).

use std::fs::{self, File};
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::net::UnixListener;

/// The name of the socket in the state directory.
pub const HEALTH_SOCKET: &str = "health.sock";
/// The name under which it is bound, before it gets its mode and its name.
const NEW: &str = ".health.sock.new";
/// Much more than an agent answers, in bytes.
const MOST_BYTES: u64 = 64 * 1024;

/// The path of `name` in the open directory `dir`. The path of a socket has at most 107 bytes (unix(7)); this one is short
/// whatever the path of the directory is.
fn within(dir: &File, name: &str) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}/{name}", dir.as_raw_fd()))
}

/// Binds the socket in the state directory `dir`, for root only. Replaces one that an earlier agent left: the caller holds
/// the lock of the directory, so no agent uses it.
pub(super) fn bind(dir: &Path) -> io::Result<UnixListener> {
    let dir = File::open(dir)?;
    let (new, path) = (within(&dir, NEW), within(&dir, HEALTH_SOCKET));
    remove(&new)?;
    let listener = UnixListener::bind(&new)?;
    fs::set_permissions(&new, fs::Permissions::from_mode(0o600))?;
    fs::rename(&new, &path)?;
    Ok(listener)
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Removes the socket from the state directory `dir`. It is no error if there is none.
///
/// # Errors
/// When the system returns an error.
pub fn remove_health_socket(dir: &Path) -> io::Result<()> {
    remove(&dir.join(HEALTH_SOCKET))
}

/// Asks the agent of the state directory `dir` for a page of its health, such as `/livez`: the HTTP status and the text.
/// Each step may take as long as `patience`.
///
/// # Errors
/// When no agent listens, when it does not answer in time, or when the directory cannot be entered.
pub fn ask_health(dir: &Path, page: &str, patience: Duration) -> io::Result<(u16, String)> {
    let dir = File::open(dir)?;
    let mut stream = UnixStream::connect(within(&dir, HEALTH_SOCKET))?;
    stream.set_read_timeout(Some(patience))?;
    stream.set_write_timeout(Some(patience))?;
    stream.write_all(format!("GET {page} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").as_bytes())?;
    let mut answer = String::new();
    stream.take(MOST_BYTES).read_to_string(&mut answer)?;
    let (head, text) = answer.split_once("\r\n\r\n").ok_or(ErrorKind::UnexpectedEof)?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    Ok((status.ok_or(ErrorKind::InvalidData)?, text.trim_end().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_socket_that_a_crash_left_is_replaced_and_is_for_root_only() {
        let folder = tempfile::tempdir().unwrap();
        drop(bind(folder.path()).unwrap());
        fs::write(folder.path().join(NEW), "left in the middle").unwrap();
        let refused = ask_health(folder.path(), "/livez", Duration::from_secs(1)).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
        let _listener = bind(folder.path()).unwrap();
        let names: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, [HEALTH_SOCKET]);
        let mode = fs::metadata(folder.path().join(HEALTH_SOCKET)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    /// Answers one request with this text.
    fn answer(listener: UnixListener, text: String) -> std::thread::JoinHandle<()> {
        let listener = listener.into_std().unwrap();
        listener.set_nonblocking(false).unwrap();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let _ = stream.read(&mut [0; 1024]).unwrap();
            // The one who asks may leave before the end.
            let _ = stream.write_all(text.as_bytes());
        })
    }

    #[tokio::test]
    async fn an_answer_is_read_up_to_a_limit_and_needs_a_status() {
        let folder = tempfile::tempdir().unwrap();
        let ask = || ask_health(folder.path(), "/livez", Duration::from_mins(1));
        let long = format!("HTTP/1.1 503 x\r\n\r\n{}", "x".repeat(1 << 20));
        let agent = answer(bind(folder.path()).unwrap(), long);
        let (status, text) = ask().unwrap();
        assert_eq!((status, text.len() < 64 * 1024), (503, true));
        agent.join().unwrap();
        for (said, kind) in [("HTTP/1.1 ok x\r\n\r\nlive", ErrorKind::InvalidData), ("HTTP/1.1 200 OK", ErrorKind::UnexpectedEof)]
        {
            let agent = answer(bind(folder.path()).unwrap(), said.to_owned());
            assert_eq!(ask().unwrap_err().kind(), kind, "{said}");
            agent.join().unwrap();
        }
    }

    #[tokio::test]
    async fn an_agent_that_does_not_answer_is_waited_for_only_so_long() {
        let folder = tempfile::tempdir().unwrap();
        let absent = ask_health(folder.path(), "/livez", Duration::from_secs(1)).unwrap_err();
        assert_eq!(absent.kind(), ErrorKind::NotFound);
        let _listener = bind(folder.path()).unwrap();
        let silent = ask_health(folder.path(), "/livez", Duration::from_millis(50)).unwrap_err();
        assert!([ErrorKind::WouldBlock, ErrorKind::TimedOut].contains(&silent.kind()), "{silent}");
        remove_health_socket(folder.path()).unwrap();
        remove_health_socket(folder.path()).unwrap();
    }
}
