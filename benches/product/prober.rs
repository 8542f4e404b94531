//! Opens a new TCP connection each millisecond, so that the moment is seen at which a forward begins to work or leads elsewhere.

use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use rustix::net::sockopt::set_socket_linger;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, connect, socket_with};

use crate::bed::netns::Netns;

/// The pause between two connections.
pub(crate) const EVERY: Duration = Duration::from_millis(1);
/// The source ports, each of which is used again only after all others. The kernel may take a connection from a port that was
/// used in the last seconds for the old one, and send it to the upstream of that time.
const PORTS: std::ops::Range<u16> = 10_000..60_000;
/// The number of connections that stay open. A connection is closed when as many others have followed.
const OPEN: usize = 64;

/// A client, and the address and port that it connects to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Path {
    /// The address of the client.
    pub(crate) from: Ipv4Addr,
    /// The destination.
    pub(crate) to: SocketAddrV4,
}

/// A path, and whether it needs no more connections.
#[derive(Debug)]
pub(crate) struct Probed {
    path: Path,
    done: AtomicBool,
}

impl Probed {
    /// A path that needs connections.
    pub(crate) const fn new(path: Path) -> Self {
        Self { path, done: AtomicBool::new(false) }
    }

    /// Ends the connections on this path.
    pub(crate) fn finish(&self) {
        self.done.store(true, Ordering::Relaxed);
    }
}

/// Opens connections on these paths in turn from a namespace, while `task` runs.
pub(crate) fn probing<T>(client: &Netns, paths: &[Probed], task: impl FnOnce() -> T) -> T {
    let ends = AtomicBool::new(false);
    let (begins, begun) = mpsc::channel();
    thread::scope(|scope| {
        scope.spawn(|| client.run(|| probe(paths, &ends, &begins)));
        // Also after a panic of the task.
        let _ending = Ending(&ends);
        begun.recv().expect("the prober begins");
        task()
    })
}

/// The same on one path.
pub(crate) fn probing_one<T>(client: &Netns, path: Path, task: impl FnOnce() -> T) -> T {
    probing(client, &[Probed::new(path)], task)
}

fn probe(paths: &[Probed], ends: &AtomicBool, begins: &mpsc::Sender<()>) {
    let mut open = VecDeque::new();
    let _ = begins.send(());
    while !ends.load(Ordering::Relaxed) {
        for path in paths.iter().filter(|path| !path.done.load(Ordering::Relaxed)) {
            // A refusal or a full buffer is one connection that does not arrive.
            if let Ok(socket) = begin(path.path) {
                open.push_back(socket);
            }
            if open.len() > OPEN {
                open.pop_front();
            }
            thread::sleep(EVERY);
            if ends.load(Ordering::Relaxed) {
                return;
            }
        }
        if paths.iter().all(|path| path.done.load(Ordering::Relaxed)) {
            thread::sleep(EVERY);
        }
    }
}

/// Sends the first packet of a connection and does not wait for its answer.
fn begin(path: Path) -> rustix::io::Result<OwnedFd> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)?;
    // A reset leaves nothing behind on either side.
    set_socket_linger(&socket, Some(Duration::ZERO))?;
    bind(&socket, &SocketAddrV4::new(path.from, next_port()))?;
    match connect(&socket, &path.to) {
        Ok(()) | Err(rustix::io::Errno::INPROGRESS) => Ok(socket),
        Err(error) => Err(error),
    }
}

fn next_port() -> u16 {
    static USED: AtomicU32 = AtomicU32::new(0);
    let used = USED.fetch_add(1, Ordering::Relaxed) % u32::from(PORTS.end - PORTS.start);
    PORTS.start + u16::try_from(used).expect("it is less than the number of ports")
}

/// Tells the prober to end when it is dropped.
struct Ending<'a>(&'a AtomicBool);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
