//! Proof that something did not arrive, by order and not by the clock: what was sent after it has arrived.

use std::io;
use std::net::UdpSocket;

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use super::server::Server;
use super::wait::{PATIENCE, eventually};
use super::{Bed, CLIENT, SERVER};

/// The port of the server for what is sent after.
const AFTER: u16 = 65_007;

impl Bed {
    /// Returns once everything that the client has sent so far and that the proxy lets through has arrived at the server.
    ///
    /// Sends datagrams of its own past every forward on the same way, and waits for their arrival. The kernel hands
    /// packets from one namespace to the next in the order of their sending, for each processor; so one goes from each.
    /// The proxy has to route, and its FORWARD to let them pass.
    pub(crate) fn wait_passed(&self) {
        let server = Server::udp(&self.server, SERVER, [AFTER]);
        let sockets = self.client.run(send_from_every_processor).expect("the client can send");
        // Counted, since rules of others may give them another source.
        let came = eventually(PATIENCE, || server.seen().len() >= sockets.len());
        assert!(came, "of {} datagrams past the forward these arrived: {:?}", sockets.len(), server.seen());
    }
}

/// A datagram from each processor that this thread may run on; the thread is one of its own, and stays on the last.
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
