//! Segments of a forward's flow that conntrack marks as invalid do not end the connection.

use std::net::{Ipv4Addr, SocketAddrV4};

use rustix::net::{AddressFamily, SendFlags, SocketType, ipproto, sendto, socket};

use crate::bed::client::{ANSWER, Connection};
use crate::bed::kernel::Variant;
use crate::bed::netns::Netns;
use crate::bed::{CLIENT, EXTERNAL, INTERNAL, NEIGHBOUR, Proxy, SERVER};
use crate::stage::{FILE, Manifest, SEED, Stage, on_both_variants, servers, wait};

on_both_variants! {
    a_segment_far_ahead_of_the_window_is_dropped_and_the_connection_goes_on,
}

/// Sends segments of one byte with the source `from`, spread over all sequence numbers. Half of them are far ahead of the
/// receive window, whatever the state of the connection is.
fn strays(netns: &Netns, from: (Ipv4Addr, u16), to: (Ipv4Addr, u16)) {
    let quarters = [0x1555_5555, 0x5555_5555, 0x9555_5555, 0xd555_5555];
    for sequence in quarters {
        for acknowledged in quarters {
            stray(netns, from, to, [sequence, acknowledged]);
        }
    }
}

fn stray(netns: &Netns, from: (Ipv4Addr, u16), to: (Ipv4Addr, u16), [sequence, acknowledged]: [u32; 2]) {
    let mut segment = vec![0; 21];
    segment[0..2].copy_from_slice(&from.1.to_be_bytes());
    segment[2..4].copy_from_slice(&to.1.to_be_bytes());
    segment[4..8].copy_from_slice(&sequence.to_be_bytes());
    segment[8..12].copy_from_slice(&acknowledged.to_be_bytes());
    segment[12] = 5 << 4;
    segment[13] = 0x18;
    segment[14..16].copy_from_slice(&1000_u16.to_be_bytes());
    let mut words = [&from.0.octets()[..], &to.0.octets(), &[0, 6, 0, 21], &segment].concat();
    words.push(0);
    let mut sum: u32 = words.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    segment[16..18].copy_from_slice(&(!u16::try_from(sum).unwrap()).to_be_bytes());
    let header = [0x45, 0, 0, 0, 0, 0, 0, 0, 64, 6, 0, 0];
    let packet = [&header[..], &from.0.octets(), &to.0.octets(), &segment].concat();
    netns.run(|| {
        let socket = socket(AddressFamily::INET, SocketType::RAW, Some(ipproto::RAW)).unwrap();
        sendto(&socket, &packet, SendFlags::empty(), &SocketAddrV4::new(to.0, 0)).unwrap();
    });
}

/// The number of packets that matched the rule of a chain that contains this text.
fn met(proxy: &Proxy, variant: Variant, chain: &str, rule: &str) -> u32 {
    let rules = proxy.iptables(variant, &format!("-v -S {chain}"));
    let line = rules.lines().find(|line| line.contains(rule)).unwrap_or_else(|| panic!("no {rule} in {rules}"));
    line.split_once("-c ").unwrap().1.split(' ').next().unwrap().parse().unwrap()
}

fn a_segment_far_ahead_of_the_window_is_dropped_and_the_connection_goes_on(variant: Variant) {
    let stage = Stage::seed(variant);
    let _servers = servers(&stage.bed);
    let proxy = stage.proxy();
    proxy.iptables(variant, "-A OUTPUT -p tcp --tcp-flags RST RST");
    let mut session = Connection::open(&stage.bed.client, (CLIENT, 0), (INTERNAL, 80), ANSWER).unwrap();
    let port = session.local().port();
    for (netns, from, to, rule) in [
        (&stage.bed.server, (SERVER, 80), (EXTERNAL, port), "-s 3.3.3.3/32 -d 2.2.2.2/32 -p tcp"),
        (&stage.bed.client, (CLIENT, port), (INTERNAL, 80), "-s 1.1.1.1/32 -d 192.168.0.2/32 -p tcp"),
    ] {
        strays(netns, from, to);
        wait("the operator's rule drops them", || met(proxy, variant, "PF-IN", rule) >= 1);
        assert_eq!(met(proxy, variant, "OUTPUT", "--tcp-flags RST RST"), 0, "the node sends no reset");
        session.exchange(ANSWER).expect("the connection still works");
    }
    // Hosts that are not part of a forward still get a reset from a port on which nothing listens.
    stray(&stage.bed.neighbour, (NEIGHBOUR, 4000), (INTERNAL, 80), [1, 1]);
    wait("another host gets a reset", || met(proxy, variant, "OUTPUT", "--tcp-flags RST RST") == 1);
    // The hosts of the forward get one too, when the forward is deleted.
    stage.manifests.remove(FILE);
    wait("the forward is closed", || stage.agent.forward(SEED).is_none());
    session.exchange(ANSWER).expect_err("both ends get a reset");
    stage.manifests.put(FILE, &Manifest::seed().text());
    stage.agent.wait_ready(SEED);
}
