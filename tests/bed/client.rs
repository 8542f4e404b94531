//! Real clients in a namespace: the result of a request, and what the server says that it saw.

use std::fmt;
use std::io::{self, BufReader, Read as _, Write as _};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_reuseaddr, set_socket_timeout};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, connect, socket_with};

use super::Bed;
use super::netns::{Netns, must};
use super::server::{Pattern, Request, Seen, Server};
use super::wait::eventually;

/// The time limit for an answer that must arrive. A missing answer is never proved by this time, but by later packets that
/// arrived: see [`Connection::is_cut`], [`UdpFlow::is_cut`] and [`Bed::wait_passed`].
pub(crate) const ANSWER: Duration = Duration::from_secs(20);

/// Why there was no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Silence {
    /// No program listens: RST, or ICMP port unreachable.
    Refused,
    /// ICMP host, network or administratively unreachable, or no route.
    Unreachable,
    /// No answer arrived in time.
    TimedOut,
    /// The connection ended or was reset before all data had arrived.
    Broken,
    /// An answer arrived, but not the expected one.
    Garbled,
}

/// Sends a request over a new TCP connection.
pub(crate) fn tcp_ask(
    netns: &Netns,
    from: impl Into<IpAddr>,
    to: impl Into<SocketAddr>,
    limit: Duration,
) -> Result<Seen, Silence> {
    Connection::open(netns, (from.into(), 0), to, limit).map(|connection| connection.seen)
}

/// Sends one datagram from a new socket.
pub(crate) fn udp_ask(
    netns: &Netns,
    from: impl Into<IpAddr>,
    to: impl Into<SocketAddr>,
    limit: Duration,
) -> Result<Seen, Silence> {
    UdpFlow::open(netns, (from.into(), 0), to)?.ask(limit)
}

/// A TCP connection to a server of the bed.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: TcpStream,
    lines: BufReader<TcpStream>,
    asked: u64,
    /// What the server saw.
    pub(crate) seen: Seen,
}

impl Connection {
    /// Connects from an address and port (0: any), and reads what the server saw.
    pub(crate) fn open(
        netns: &Netns,
        from: impl Into<SocketAddr>,
        to: impl Into<SocketAddr>,
        limit: Duration,
    ) -> Result<Self, Silence> {
        let (from, to) = (from.into(), to.into());
        let stream = netns.run(|| connected(from, to, limit))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(limit))?;
        let mut lines = BufReader::new(stream.try_clone()?);
        let seen = line(&mut lines)?.parse()?;
        Ok(Self { stream, lines, asked: 0, seen })
    }

    /// The client's own address and port.
    pub(crate) fn local(&self) -> SocketAddr {
        self.stream.local_addr().expect("a connected socket has an address")
    }

    /// Sends the next number and expects it back, to prove that the connection works.
    pub(crate) fn exchange(&mut self, limit: Duration) -> Result<(), Silence> {
        self.asked += 1;
        self.limit(limit)?;
        writeln!(self.stream, "{}", Request::Echo(self.asked))?;
        if line(&mut self.lines)? == self.asked.to_string() { Ok(()) } else { Err(Silence::Garbled) }
    }

    /// Sends the next number, and returns whether it did not arrive. It did not arrive if the server's kernel received no byte
    /// of it before the datagrams of [`Bed::wait_passed`], which are sent later on the same path past the forward.
    pub(crate) fn is_cut(&mut self, bed: &Bed) -> bool {
        let Some(before) = self.received(bed) else { return true };
        self.asked += 1;
        // A reset already proves that the connection is cut.
        if writeln!(&self.stream, "{}", Request::Echo(self.asked)).is_err() {
            return true;
        }
        bed.wait_passed();
        self.received(bed).is_none_or(|after| after == before)
    }

    /// The number of bytes that the server's kernel received on this connection; `None` if it no longer has the connection.
    fn received(&self, bed: &Bed) -> Option<u64> {
        let Seen { peer, local } = self.seen;
        let of_this = ["src", &local.to_string(), "dst", &peer.to_string()].map(str::to_owned);
        let shown = must(bed.server.command("ss").args(["--tcp", "--info", "--numeric", "--no-header"]).args(of_this));
        let count = shown.split_whitespace().find_map(|word| word.strip_prefix("bytes_received:"));
        let count = count.map(|count| count.parse().expect("ss prints a number of bytes"));
        // ss omits the count while it is 0.
        shown.split_whitespace().next().map(|_| count.unwrap_or(0))
    }

    /// Downloads this number of bytes and compares each. `limit` is the longest time without progress.
    pub(crate) fn download(&mut self, bytes: u64, limit: Duration) -> Result<(), Silence> {
        self.limit(limit)?;
        writeln!(self.stream, "{}", Request::Download(bytes))?;
        let mut pattern = Pattern::default();
        io::copy(&mut (&mut self.lines).take(bytes), &mut pattern)?;
        if pattern.offset == bytes { Ok(()) } else { Err(Silence::Broken) }
    }

    /// Uploads this number of bytes, which the server compares. `limit` is the longest time without progress.
    pub(crate) fn upload(&mut self, bytes: u64, limit: Duration) -> Result<(), Silence> {
        self.limit(limit)?;
        writeln!(self.stream, "{}", Request::Upload(bytes))?;
        io::copy(&mut Pattern::default().take(bytes), &mut self.stream)?;
        if line(&mut self.lines)? == bytes.to_string() { Ok(()) } else { Err(Silence::Broken) }
    }

    /// Turns the connection into a download that runs in the background until [`Download::finish`].
    pub(crate) fn stream(mut self) -> Result<Download, Silence> {
        self.limit(STANDSTILL)?;
        writeln!(self.stream, "{}", Request::Stream)?;
        Ok(Download::start(self))
    }

    fn limit(&self, limit: Duration) -> io::Result<()> {
        self.stream.set_read_timeout(Some(limit))?;
        self.stream.set_write_timeout(Some(limit))
    }
}

/// How long a download may make no progress before it counts as interrupted. This allows several retransmissions, so that TCP
/// can recover from a short outage; [`Download::goes_on`] shows the recovery.
const STANDSTILL: Duration = Duration::from_mins(1);

/// The pause between two reads of a [`Download`]. It limits the download to about 3 MB/s, so that it lasts longer than the
/// events of the test.
const PACE: Duration = Duration::from_millis(5);

/// An endless download in the background. Every byte is compared.
#[derive(Debug)]
pub(crate) struct Download {
    bytes: Arc<AtomicU64>,
    stop: mpsc::Sender<()>,
    reading: JoinHandle<Result<u64, Silence>>,
}

impl Download {
    fn start(mut connection: Connection) -> Self {
        let bytes = Arc::new(AtomicU64::new(0));
        let (stop, stopped) = mpsc::channel();
        let counted = Arc::clone(&bytes);
        let reading = thread::spawn(move || {
            let mut pattern = Pattern::default();
            loop {
                if io::copy(&mut (&mut connection.lines).take(16 * 1024), &mut pattern)? == 0 {
                    return Err(Silence::Broken);
                }
                counted.store(pattern.offset, Ordering::Relaxed);
                match stopped.recv_timeout(PACE) {
                    Err(RecvTimeoutError::Timeout) => {}
                    Ok(()) | Err(RecvTimeoutError::Disconnected) => break,
                }
            }
            connection.stream.shutdown(Shutdown::Write)?;
            io::copy(&mut connection.lines, &mut pattern)?;
            Ok(pattern.offset)
        });
        Self { bytes, stop, reading }
    }

    /// The number of received bytes.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Whether more data arrives within `limit`. Data that was already in buffers at the call does not count.
    pub(crate) fn goes_on(&self, limit: Duration) -> bool {
        // More than the buffers of both ends can hold (tcp_rmem and tcp_wmem, tcp(7), as the bed sets them).
        let enough = self.bytes() + 512 * 1024;
        eventually(limit, || self.bytes() >= enough || self.reading.is_finished()) && !self.reading.is_finished()
    }

    /// Ends the download normally. Returns the number of received bytes, or how it was interrupted earlier.
    pub(crate) fn finish(self) -> Result<u64, Silence> {
        let _ = self.stop.send(());
        self.reading.join().expect("reading does not panic")
    }
}

/// A UDP socket that stays open, so that the kernel keeps tracking its flow.
#[derive(Debug)]
pub(crate) struct UdpFlow {
    socket: UdpSocket,
    asked: u64,
}

impl UdpFlow {
    /// A socket from an address and port (0: any). It is connected so that it receives ICMP errors.
    pub(crate) fn open(netns: &Netns, from: impl Into<SocketAddr>, to: impl Into<SocketAddr>) -> Result<Self, Silence> {
        let (from, to) = (from.into(), to.into());
        let socket = netns.run(|| {
            let socket = UdpSocket::bind(from)?;
            socket.connect(to).map(|()| socket)
        })?;
        Ok(Self { socket, asked: 0 })
    }

    /// The client's own address and port.
    pub(crate) fn local(&self) -> SocketAddr {
        self.socket.local_addr().expect("a connected socket has an address")
    }

    /// Sends a datagram, and returns whether it arrived at none of these servers. It did not arrive if no server saw it before
    /// the datagrams of [`Bed::wait_passed`], which are sent later on the same path past the forward.
    pub(crate) fn is_cut(&mut self, bed: &Bed, servers: &[Server]) -> bool {
        let arrived = || servers.iter().map(|server| server.seen().len()).sum::<usize>();
        let before = arrived();
        self.asked += 1;
        // A pending error belongs to an earlier datagram only. An error for this datagram does not affect later ones either.
        let _ = self.socket.take_error();
        self.socket.send(self.asked.to_string().as_bytes()).expect("a datagram can be sent");
        bed.wait_passed();
        let _ = self.socket.take_error();
        arrived() == before
    }

    /// Sends one datagram and waits for its answer. Late answers to earlier datagrams are skipped.
    pub(crate) fn ask(&mut self, limit: Duration) -> Result<Seen, Silence> {
        self.asked += 1;
        self.socket.set_read_timeout(Some(limit))?;
        self.socket.send(self.asked.to_string().as_bytes())?;
        let mut datagram = [0; 2048];
        loop {
            let length = match self.socket.recv(&mut datagram) {
                // After an interrupting signal, a wait with a time limit is not restarted (signal(7)).
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                received => received?,
            };
            let text = String::from_utf8_lossy(&datagram[..length]);
            let (number, seen) = text.split_once(' ').ok_or(Silence::Garbled)?;
            if number == self.asked.to_string() {
                return Ok(seen.parse()?);
            }
        }
    }
}

/// A TCP socket that is bound before it connects. `std` cannot do this.
fn connected(from: SocketAddr, to: SocketAddr, limit: Duration) -> io::Result<TcpStream> {
    let family = if to.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    set_socket_reuseaddr(&socket, true)?;
    bind(&socket, &from)?;
    // The limit also applies to connect(2), which then returns EINPROGRESS (socket(7)).
    set_socket_timeout(&socket, Timeout::Send, Some(limit))?;
    connect(&socket, &to).map_err(|error| if error == Errno::INPROGRESS { Errno::TIMEDOUT } else { error })?;
    Ok(socket.into())
}

fn line(lines: &mut impl io::BufRead) -> Result<String, Silence> {
    let mut line = String::new();
    match lines.read_line(&mut line)? {
        0 => Err(Silence::Broken),
        _ => Ok(line.trim_end().to_owned()),
    }
}

impl From<io::Error> for Silence {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::ConnectionRefused => Self::Refused,
            io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => Self::Unreachable,
            io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => Self::TimedOut,
            io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe | io::ErrorKind::UnexpectedEof => Self::Broken,
            io::ErrorKind::InvalidData | io::ErrorKind::Other => Self::Garbled,
            kind => panic!("a probe failed with an unexpected error: {kind}: {error}"),
        }
    }
}

impl fmt::Display for Silence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Refused => "refused",
            Self::Unreachable => "unreachable",
            Self::TimedOut => "no answer",
            Self::Broken => "broken off",
            Self::Garbled => "garbled",
        })
    }
}
