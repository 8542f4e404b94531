//! An HTTP/1.1 client that requests one page, as a probe does.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// The time limit for an answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// The answer.
#[derive(Debug)]
pub(crate) struct Page {
    /// The HTTP status.
    pub(crate) status: u16,
    /// The media type.
    pub(crate) media: String,
    /// The body.
    pub(crate) text: String,
}

/// Requests `path`, from the network namespace of this thread.
pub(crate) fn get(address: SocketAddr, path: &str) -> io::Result<Page> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    ask(&mut stream, path)
}

/// Requests `path` from the server behind a Unix socket.
pub(crate) fn get_from(socket: &Path, path: &str) -> io::Result<Page> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    ask(&mut stream, path)
}

fn ask(stream: &mut (impl Read + Write), path: &str) -> io::Result<Page> {
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let broken = || io::Error::new(io::ErrorKind::InvalidData, answer.clone());
    let (head, text) = answer.split_once("\r\n\r\n").ok_or_else(broken)?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or_else(broken)?;
    let media = head.lines().find_map(|line| line.split_once(": ").filter(|(name, _)| name.eq_ignore_ascii_case("content-type")));
    Ok(Page { status, media: media.map(|(_, media)| media.to_owned()).unwrap_or_default(), text: text.to_owned() })
}
