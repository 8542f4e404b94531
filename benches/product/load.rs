//! What new flows and the memory of the agent meet while one forward is changed all the time: new UDP flows are counted where
//! they are sent and where they arrive.

use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::api::{Api, Kind};
use crate::bed::INTERNAL;
use crate::field::{AGENT_NODE, Field};
use crate::objects::{self, Side};
use crate::packet::{Packet, Receiver, Sender};
use crate::shared::shapes::{Forward, Transport};

/// The object that is changed.
const OBJECT: &str = "flows";
/// The network of its clients. Each address and source port is used for one flow.
const CLIENTS: Ipv4Addr = Ipv4Addr::new(10, 255, 0, 0);
/// The number of flows that are sent at least.
pub(crate) const FLOWS: u32 = 50_000;
/// The pause between two flows.
const EVERY: Duration = Duration::from_micros(200);
/// The source ports of a client.
const PORTS: std::ops::Range<u32> = 2_000..62_000;
/// A change that takes longer ends the run.
const LONGEST: Duration = Duration::from_mins(1);

/// What became of the flows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Flows {
    /// The number that was sent.
    pub(crate) sent: u32,
    /// The number that did not arrive at an upstream of the forward.
    pub(crate) lost: u32,
    /// The time that all changes took.
    pub(crate) time: Duration,
}

/// Changes a forward this number of times between two upstreams while new flows arrive, and waits each time until flows reach
/// the new upstream.
pub(crate) fn change_under_load(field: &Field, api: &Api, changes: u32) -> Flows {
    let forward = Forward {
        transport: Transport::Udp,
        client: Ipv4Addr::from_bits(CLIENTS.to_bits() + 1),
        prefix: 16,
        listen: SocketAddrV4::new(INTERNAL, 9_999),
        ports: 1,
        upstream: SocketAddrV4::new(Ipv4Addr::new(3, 4, 255, 1), 7_777),
        external: Ipv4Addr::new(2, 2, 2, 2),
    };
    // An entry of a flow without an answer would stay for 30 s, and the table would fill.
    field.bed.proxies[AGENT_NODE].netns.set("netfilter/nf_conntrack_udp_timeout", "2");
    let mut object = objects::forward(0, &forward);
    object["metadata"]["name"] = OBJECT.into();
    api.create(Kind::Forward, vec![object]);
    api.wait_ready(OBJECT, Some(1), LONGEST);
    // It takes the datagrams, so that the server does not answer them with ICMP, and drops them when its buffer is full.
    let _port = field.bed.server.run(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, forward.upstream.port()))).expect("it is free");
    let receiver = Receiver::large(&field.bed.server);
    let arrived = [Side::First, Side::Second].map(|side| (side.upstream(&forward), AtomicU32::new(0)));
    let (ends, drained) = (AtomicBool::new(false), AtomicBool::new(false));
    let begun = Instant::now();
    let (sent, time) = thread::scope(|scope| {
        scope.spawn(|| count(&receiver, forward.upstream.port(), &arrived, &drained));
        let sending = scope.spawn(|| send(field, &forward, &ends));
        let _ending = Ending([&ends, &drained]);
        let mut side = Side::First;
        for _ in 0..changes {
            side = side.other();
            api.change(Kind::Forward, OBJECT, &objects::forward_change(&forward, side));
            let place = &arrived[usize::from(side == Side::Second)].1;
            let before = place.load(Ordering::Relaxed);
            let deadline = Instant::now() + LONGEST;
            while place.load(Ordering::Relaxed) <= before + 20 {
                assert!(Instant::now() < deadline, "flows never reached the new upstream");
                thread::sleep(Duration::from_millis(1));
            }
        }
        let time = begun.elapsed();
        ends.store(true, Ordering::Relaxed);
        let sent = sending.join().expect("the sender does not panic");
        // What is on the way arrives.
        let deadline = Instant::now() + Duration::from_secs(2);
        while total(&arrived) < sent && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(10));
        }
        (sent, time)
    });
    Flows { sent, lost: sent - total(&arrived), time }
}

/// Sends new flows until `ends`, but at least [`FLOWS`]. Returns their number.
fn send(field: &Field, forward: &Forward, ends: &AtomicBool) -> u32 {
    let sender = Sender::new(&field.bed.client);
    let ports = PORTS.end - PORTS.start;
    let mut next = Instant::now();
    for number in 0.. {
        if ends.load(Ordering::Relaxed) && number >= FLOWS {
            return number;
        }
        let client = Ipv4Addr::from_bits(CLIENTS.to_bits() + 1 + number / ports);
        let port = u16::try_from(PORTS.start + number % ports).expect("a port has 16 bits");
        sender.send(&Packet::new(SocketAddrV4::new(client, port), forward.listen));
        next += EVERY;
        thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    0
}

/// Counts the packets that reach the upstreams until `drained`.
fn count(receiver: &Receiver, port: u16, arrived: &[(Ipv4Addr, AtomicU32); 2], drained: &AtomicBool) {
    while !drained.load(Ordering::Relaxed) {
        let Some((_, reached)) = receiver.next() else { continue };
        for (upstream, count) in arrived {
            if *reached.ip() == *upstream && reached.port() == port {
                count.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

fn total(arrived: &[(Ipv4Addr, AtomicU32); 2]) -> u32 {
    arrived.iter().map(|(_, count)| count.load(Ordering::Relaxed)).sum()
}

/// Ends the threads when it is dropped, also after a panic.
struct Ending<'a>([&'a AtomicBool; 2]);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        for flag in self.0 {
            flag.store(true, Ordering::Relaxed);
        }
    }
}
