//! Proves that a packet did not arrive. The proof relies on order and not on time: a packet that was sent later has arrived.

use std::io;
use std::net::UdpSocket;

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use super::server::Server;
use super::wait::{PATIENCE, eventually};
use super::{Bed, CLIENT, SERVER};

/// The port of the server for the later packets.
const AFTER: u16 = 65_007;

impl Bed {
    /// Returns when everything that the client has sent so far, and that the proxy lets through, has arrived at the server.
    ///
    /// Sends its own datagrams on the same path past every forward, and waits for their arrival. For each processor, the
    /// kernel passes packets between namespaces in the order in which they were sent. So it sends one datagram from each
    /// processor. The proxy must route, and its FORWARD chain must accept these datagrams.
    pub(crate) fn wait_passed(&self) {
        let server = Server::udp(&self.server, SERVER, [AFTER]);
        let sockets = self.client.run(send_from_every_processor).expect("the client can send");
        // Only their number is checked, because rules of other programs may change their source.
        let came = eventually(PATIENCE, || server.seen().len() >= sockets.len());
        assert!(came, "of {} datagrams past the forward, only these arrived: {:?}", sockets.len(), server.seen());
    }
}

/// Sends a datagram from each processor that this thread may run on. The thread then stays on the last one, so it must be a
/// separate thread.
fn send_from_every_processor() -> io::Result<Vec<UdpSocket>> {
    let allowed = sched_getaffinity(None)?;
    let mut sockets = Vec::new();
    for processor in (0..CpuSet::MAX_CPU).filter(|processor| allowed.is_set(*processor)) {
        let mut this = CpuSet::new();
        this.set(processor);
        sched_setaffinity(None, &this)?;
        let socket = UdpSocket::bind((CLIENT, 0))?;
        socket.send_to(b"0", (SERVER, AFTER))?;
        sockets.push(socket);
    }
    Ok(sockets)
}
