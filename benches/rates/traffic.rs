//! Real TCP connections from the client to the server.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::net::sockopt::{Timeout, set_socket_linger, set_socket_timeout};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, connect, socket_with};

use crate::netns::Netns;
use crate::shared::shapes::Forward;

/// The number of connections at the same time.
const AT_ONCE: u32 = 32;
/// The number of threads of the server.
const SERVING: usize = 40;
/// The request for one byte, and the one for as many as can be sent.
const REQUESTS: [u8; 2] = [b'1', b'*'];
/// The time limit of one connection.
const PATIENCE: Duration = Duration::from_secs(5);

/// The server on port 80 of all upstreams. Its threads end with the process.
pub(crate) fn serve(netns: &Netns) {
    let listener = netns.run(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, 80))).expect("port 80 is free");
    let listener = Arc::new(listener);
    for _ in 0..SERVING {
        let listener = Arc::clone(&listener);
        thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                // The client closes when it has enough.
                let _ = answer(stream);
            }
        });
    }
}

/// Waits until a connection through this forward works.
pub(crate) fn wait(netns: &Netns, forward: &Forward, limit: Duration) -> bool {
    let deadline = Instant::now() + limit;
    netns.run(|| {
        while Instant::now() < deadline {
            if ask(forward).is_ok() {
                return true;
            }
            thread::sleep(Duration::from_millis(50));
        }
        false
    })
}

/// The number of connections per second, each to another forward: connect, one byte in both directions, close.
pub(crate) fn connections(netns: &Netns, forwards: &[Forward], time: Duration) -> f64 {
    let (ends, done, failed) = (AtomicBool::new(false), AtomicU32::new(0), AtomicU32::new(0));
    let begun = Instant::now();
    let count = u32::try_from(forwards.len()).expect("a set is small");
    thread::scope(|scope| {
        for worker in 0..AT_ONCE {
            let (ends, done, failed) = (&ends, &done, &failed);
            scope.spawn(move || {
                netns.run(|| {
                    // A large odd step, so that consecutive connections do not use consecutive forwards.
                    let mut index = worker * 311 % count;
                    while !ends.load(Ordering::Relaxed) {
                        let counter = if ask(&forwards[index as usize]).is_ok() { done } else { failed };
                        counter.fetch_add(1, Ordering::Relaxed);
                        index = (index + 7_919) % count;
                    }
                });
            });
        }
        thread::sleep(time);
        ends.store(true, Ordering::Relaxed);
    });
    let (done, failed) = (done.into_inner(), failed.into_inner());
    assert!(failed * 100 <= done, "{failed} connections failed and {done} did not");
    f64::from(done) / begun.elapsed().as_secs_f64()
}

/// The gigabits per second of one connection from the server to the client.
pub(crate) fn bulk(netns: &Netns, forward: &Forward, time: Duration) -> f64 {
    netns.run(|| {
        let mut stream = open(forward).expect("the forward works");
        stream.write_all(&REQUESTS[1..]).expect("the forward works");
        let (mut buffer, mut bits, begun) = (vec![0; 256 << 10], 0.0, Instant::now());
        while begun.elapsed() < time {
            let read = stream.read(&mut buffer).expect("the server sends");
            assert!(read > 0, "the connection ended");
            bits += f64::from(u32::try_from(read).expect("a buffer is small")) * 8.0;
        }
        bits / begun.elapsed().as_secs_f64() / 1e9
    })
}

fn ask(forward: &Forward) -> io::Result<()> {
    let mut stream = open(forward)?;
    stream.write_all(&REQUESTS[..1])?;
    stream.read_exact(&mut [0])
}

/// A connection of the client of this forward. It is reset when it is closed, so that no port waits for its end.
fn open(forward: &Forward) -> io::Result<TcpStream> {
    let socket = socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    set_socket_linger(&socket, Some(Duration::ZERO))?;
    for direction in [Timeout::Send, Timeout::Recv] {
        set_socket_timeout(&socket, direction, Some(PATIENCE))?;
    }
    bind(&socket, &SocketAddrV4::new(forward.client, 0))?;
    connect(&socket, &forward.listen)?;
    Ok(socket.into())
}

fn answer(mut stream: TcpStream) -> io::Result<()> {
    let mut request = [0];
    stream.read_exact(&mut request)?;
    if request[0] == REQUESTS[0] {
        stream.write_all(&request)?;
        // Until the client has closed.
        let _ = stream.read(&mut request);
        return Ok(());
    }
    let block = vec![0; 256 << 10];
    loop {
        stream.write_all(&block)?;
    }
}
