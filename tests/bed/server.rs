//! Real servers in a namespace. Each tells its peer what it saw, and keeps a list of it.
//!
//! Over TCP, the first line is what the server saw. Then the client sends requests, one line each: see [`Request`].

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::netns::Netns;

/// What a server saw of a connection or datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Seen {
    /// The peer that connected or sent.
    pub(crate) peer: SocketAddr,
    /// The server's own address, as it was in the packet that arrived.
    pub(crate) local: SocketAddr,
}

/// The requests of a client on a TCP connection, one line each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Request {
    /// Send this number back as a line.
    Echo(u64),
    /// Send this number of bytes of the pattern.
    Download(u64),
    /// Send the pattern until the client shuts down its direction.
    Stream,
    /// This number of bytes of the pattern follows. The server answers with the number of correct bytes.
    Upload(u64),
}

/// A TCP or UDP server on one address and any number of ports. It stops and closes its connections when this is dropped.
#[derive(Debug)]
pub(crate) struct Server {
    shared: Arc<Shared>,
    /// A byte asks the serving thread to read everything that has arrived; the thread then sends the byte back. The thread
    /// ends when this is shut down.
    wake: Mutex<UnixStream>,
    serving: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    seen: Mutex<Vec<Seen>>,
    open: Mutex<BTreeMap<SocketAddr, TcpStream>>,
}

impl Server {
    /// Listens by TCP. The sockets are bound when this returns.
    pub(crate) fn tcp(netns: &Netns, address: impl Into<IpAddr>, ports: impl IntoIterator<Item = u16>) -> Self {
        let (address, ports) = (address.into(), ports.into_iter().collect::<Vec<_>>());
        let listeners = netns.run(|| bind(&ports, |port| TcpListener::bind((address, port))));
        for listener in &listeners {
            listener.set_nonblocking(true).expect("a socket can be made not to block");
        }
        // Shutting down a listener stops it at once. Closing it is not enough: see below.
        let close = |listener: &TcpListener| rustix::net::shutdown(listener, rustix::net::Shutdown::Both).is_ok();
        Self::serve(listeners, close, |listener, shared| {
            while let Ok((stream, peer)) = listener.accept() {
                let (Ok(copy), Ok(local)) = (stream.try_clone(), stream.local_addr()) else { continue };
                let seen = shared.note(Seen { peer, local });
                lock(&shared.open).insert(peer, copy);
                let shared = Arc::clone(shared);
                thread::spawn(move || shared.converse(stream, seen));
            }
        })
    }

    /// Answers datagrams. The sockets are bound when this returns.
    pub(crate) fn udp(netns: &Netns, address: impl Into<IpAddr>, ports: impl IntoIterator<Item = u16>) -> Self {
        let (address, ports) = (address.into(), ports.into_iter().collect::<Vec<_>>());
        let sockets = netns.run(|| bind(&ports, |port| UdpSocket::bind((address, port))));
        for socket in &sockets {
            socket.set_nonblocking(true).expect("a socket can be made not to block");
        }
        // A child process that another test is starting has a copy of every socket between fork(2) and execve(2). A bound
        // socket then still receives datagrams that nothing reads. When it is connected to another address, it receives none.
        let close = |socket: &UdpSocket| socket.local_addr().and_then(|local| socket.connect((local.ip(), 1))).is_ok();
        Self::serve(sockets, close, |socket, shared| {
            let mut datagram = [0; 2048];
            while let Ok((length, peer)) = socket.recv_from(&mut datagram) {
                let Ok(local) = socket.local_addr() else { continue };
                let seen = shared.note(Seen { peer, local });
                let number = String::from_utf8_lossy(&datagram[..length]);
                // An error here means that the client is gone. The client's own test reports that.
                let _ = socket.send_to(format!("{number} {seen}").as_bytes(), peer);
            }
        })
    }

    /// What this server has seen so far, in order of arrival. It includes all established connections and all datagrams that
    /// the kernel holds for it at the time of the call.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        let mut wake = lock(&self.wake);
        // If the thread panicked, it does not answer, and then its test fails.
        let _ = wake.write_all(&[1]).and_then(|()| wake.read_exact(&mut [0]));
        lock(&self.shared.seen).clone()
    }

    /// Clears the list.
    pub(crate) fn forget(&self) {
        lock(&self.shared.seen).clear();
    }

    fn serve<S: AsFd + Send + 'static>(
        sockets: Vec<S>,
        close: impl Fn(&S) -> bool + Send + 'static,
        take: impl Fn(&S, &Arc<Shared>) + Send + 'static,
    ) -> Self {
        let (wake, mut woken) = UnixStream::pair().expect("a socket pair can be created");
        let shared = Arc::new(Shared::default());
        let for_thread = Arc::clone(&shared);
        let serving = thread::spawn(move || {
            loop {
                let ready = readable(sockets.iter().map(AsFd::as_fd).chain([woken.as_fd()]), None);
                if !ready.contains(&sockets.len()) {
                    for index in ready {
                        take(&sockets[index], &for_thread);
                    }
                } else if woken.read_exact(&mut [0]).is_ok() {
                    for socket in &sockets {
                        take(socket, &for_thread);
                    }
                    let _ = woken.write_all(&[1]);
                } else {
                    assert!(sockets.iter().all(close), "a server's socket can be closed");
                    return;
                }
            }
        });
        Self { shared, wake: Mutex::new(wake), serving: Some(serving) }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = lock(&self.wake).shutdown(Shutdown::Both);
        if let Some(serving) = self.serving.take() {
            let _ = serving.join();
        }
        for stream in lock(&self.shared.open).values() {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

impl Shared {
    fn note(&self, seen: Seen) -> Seen {
        lock(&self.seen).push(seen);
        seen
    }

    /// Serves one TCP connection until it ends. An interruption by the peer is not an error here.
    fn converse(&self, stream: TcpStream, seen: Seen) {
        let _ = answer(stream, seen);
        lock(&self.open).remove(&seen.peer);
    }
}

/// Sends the greeting, then serves the requests of the client until it closes.
fn answer(mut stream: TcpStream, seen: Seen) -> io::Result<()> {
    // Accepted sockets do not inherit the non-blocking mode on Linux, but this code must not depend on that.
    stream.set_nonblocking(false)?;
    stream.set_nodelay(true)?;
    writeln!(stream, "{seen}")?;
    let mut lines = BufReader::new(stream.try_clone()?);
    let mut line = String::new();
    while lines.read_line(&mut line)? > 0 {
        match line.trim_end().parse().map_err(io::Error::other)? {
            Request::Echo(number) => writeln!(stream, "{number}")?,
            Request::Download(bytes) => io::copy(&mut Pattern::default().take(bytes), &mut stream).map(drop)?,
            Request::Stream => stream_until_shut(&mut stream)?,
            Request::Upload(bytes) => {
                let mut pattern = Pattern::default();
                io::copy(&mut (&mut lines).take(bytes), &mut pattern)?;
                writeln!(stream, "{}", pattern.offset)?;
            }
        }
        line.clear();
    }
    Ok(())
}

fn stream_until_shut(stream: &mut TcpStream) -> io::Result<()> {
    let mut pattern = Pattern::default();
    while readable([stream.as_fd()], Some(&Timespec::default())).is_empty() {
        io::copy(&mut (&mut pattern).take(8192), stream)?;
    }
    stream.shutdown(Shutdown::Write)
}

/// The numbers 0, 1, 2, ... as little-endian words. Reading generates them, and writing checks them.
#[derive(Debug, Default)]
pub(crate) struct Pattern {
    /// The number of bytes so far, all of them correct.
    pub(crate) offset: u64,
}

impl Pattern {
    fn next_byte(&mut self) -> u8 {
        // The value is below 8, so the cast cannot truncate it.
        let byte = (self.offset / 8).to_le_bytes()[(self.offset % 8) as usize];
        self.offset += 1;
        byte
    }
}

impl io::Read for Pattern {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        buffer.fill_with(|| self.next_byte());
        Ok(buffer.len())
    }
}

impl io::Write for Pattern {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for byte in bytes {
            if self.next_byte() != *byte {
                return Err(io::Error::new(io::ErrorKind::InvalidData, format!("other data at byte {}", self.offset - 1)));
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.peer, self.local)
    }
}

impl FromStr for Seen {
    type Err = io::Error;

    fn from_str(text: &str) -> io::Result<Self> {
        let address = |text: &str| text.parse().map_err(io::Error::other);
        let (peer, local) = text.trim().split_once(' ').ok_or(io::ErrorKind::InvalidData)?;
        Ok(Self { peer: address(peer)?, local: address(local)? })
    }
}

impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Echo(number) => write!(f, "echo {number}"),
            Self::Download(bytes) => write!(f, "download {bytes}"),
            Self::Stream => write!(f, "stream 0"),
            Self::Upload(bytes) => write!(f, "upload {bytes}"),
        }
    }
}

impl FromStr for Request {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (verb, number) = text.split_once(' ').ok_or_else(|| format!("no request: {text}"))?;
        let number = number.parse().map_err(|error| format!("{text}: {error}"))?;
        match verb {
            "echo" => Ok(Self::Echo(number)),
            "download" => Ok(Self::Download(number)),
            "stream" => Ok(Self::Stream),
            "upload" => Ok(Self::Upload(number)),
            _ => Err(format!("no request: {text}")),
        }
    }
}

/// Binds every port, after raising the limit of open files to the maximum for this process.
fn bind<S>(ports: &[u16], one: impl Fn(u16) -> io::Result<S>) -> Vec<S> {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).expect("a process may use its own limit");
    ports.iter().map(|port| one(*port).unwrap_or_else(|error| panic!("port {port}: {error}"))).collect()
}

/// The sockets that can be read, including closed and failed ones. Waits for `limit` at most.
fn readable<'a>(sockets: impl IntoIterator<Item = BorrowedFd<'a>>, limit: Option<&Timespec>) -> Vec<usize> {
    let mut sockets: Vec<_> = sockets.into_iter().map(|socket| PollFd::from_borrowed_fd(socket, PollFlags::IN)).collect();
    // After an interrupted wait the result is empty, and the caller tries again.
    let _ = poll(&mut sockets, limit);
    (0..sockets.len()).filter(|index| !sockets[*index].revents().is_empty()).collect()
}

/// A list stays usable after a thread panicked while it held the lock.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
