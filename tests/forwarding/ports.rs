//! Tests the three kinds of ranges: each port keeps its number, all go to one port, or each goes to the port at the same
//! position.

use super::bed::client::ANSWER;
use super::bed::kernel::{Variant, on_all_backends};
use super::bed::observe::Observation;
use super::bed::server::Server;
use super::bed::site::Site;
use super::bed::{Bed, CLIENT, EXTERNAL, INTERNAL, SERVER};
use super::{Ask, REFUSED, TCP, UDP, arrival, seen_from, spec};

on_all_backends![
    a_range_without_target_port_keeps_every_number,
    a_range_with_one_target_port_goes_to_that_one,
    a_shifted_range_gives_each_port_its_own_target,
    a_range_of_reverse_keeps_every_number_too,
    a_shifted_range_of_reverse_gives_each_port_its_own_target_too,
    a_forward_that_is_reverse_alone_lets_the_server_call_and_nobody_else,
];

const EXTERNAL_LEG: &str = "external: {addresses: [2.2.2.2]},";

fn ask(bed: &Bed, transport: Ask, port: u16) -> Observation {
    arrival(transport(&bed.client, CLIENT, (INTERNAL, port), ANSWER))
}

fn a_range_without_target_port_keeps_every_number(variant: Variant) {
    let ports = "ports: [{name: tcp, port: 5000, endPort: 5099}, {name: udp, protocol: UDP, port: 5000, endPort: 5099}]";
    let site = Site::serve(variant, Bed::new(), &[("range", &spec(EXTERNAL_LEG, ports))]);
    let bed = &site.bed;
    let _servers = (Server::tcp(&bed.server, SERVER, 4999..=5100), Server::udp(&bed.server, SERVER, 4999..=5100));
    for transport in [TCP, UDP] {
        for port in 5000..=5099 {
            assert_eq!(ask(bed, transport, port), seen_from(EXTERNAL, (SERVER, port)));
        }
        assert_eq!(ask(bed, transport, 4999), REFUSED);
        assert_eq!(ask(bed, transport, 5100), REFUSED);
    }
}

fn a_range_with_one_target_port_goes_to_that_one(variant: Variant) {
    let ports = "ports: [{name: tcp, port: 6000, endPort: 6009, targetPort: 6005, targetEndPort: 6005}, \
                 {name: udp, protocol: UDP, port: 6000, endPort: 6009, targetPort: 7005, targetEndPort: 7005}]";
    let site = Site::serve(variant, Bed::new(), &[("range", &spec(EXTERNAL_LEG, ports))]);
    let bed = &site.bed;
    let _servers = (Server::tcp(&bed.server, SERVER, 5999..=6010), Server::udp(&bed.server, SERVER, [7000, 7005]));
    for (transport, target) in [(TCP, 6005), (UDP, 7005)] {
        for port in 6000..=6009 {
            assert_eq!(ask(bed, transport, port), seen_from(EXTERNAL, (SERVER, target)), "port {port}");
        }
        assert_eq!(ask(bed, transport, 5999), REFUSED);
        assert_eq!(ask(bed, transport, 6010), REFUSED);
    }
}

fn a_shifted_range_gives_each_port_its_own_target(variant: Variant) {
    let ports = "ports: [{name: tcp, port: 5000, endPort: 5031, targetPort: 5010, targetEndPort: 5041}, \
                 {name: udp, protocol: UDP, port: 34000, endPort: 34031, targetPort: 44000, targetEndPort: 44031}, \
                 {name: down, protocol: UDP, port: 65520, endPort: 65535, targetPort: 1, targetEndPort: 16}]";
    let site = Site::serve(variant, Bed::new(), &[("range", &spec(EXTERNAL_LEG, ports))]);
    let bed = &site.bed;
    let udp: Vec<u16> = (44000..=44031).chain(1..=17).collect();
    let _servers = (Server::tcp(&bed.server, SERVER, 5000..=5042), Server::udp(&bed.server, SERVER, udp));
    for (transport, from, to) in [(TCP, 5000..=5031, 5010), (UDP, 34000..=34031, 44000), (UDP, 65520..=65535, 1)] {
        for (port, target) in from.clone().zip(to..) {
            assert_eq!(ask(bed, transport, port), seen_from(EXTERNAL, (SERVER, target)), "port {port}");
        }
        assert_eq!(ask(bed, transport, from.start() - 1), REFUSED);
    }
    assert_eq!(ask(bed, TCP, 5032), REFUSED);
}

fn a_range_of_reverse_keeps_every_number_too(variant: Variant) {
    let ports = "ports: [{name: web, port: 80}], reverse: {ports: [{name: back, port: 7000, endPort: 7031}]}";
    let site = Site::serve(variant, Bed::new(), &[("range", &spec(EXTERNAL_LEG, ports))]);
    let bed = &site.bed;
    let _client = Server::tcp(&bed.client, CLIENT, 6999..=7032);
    let call = |port| arrival(TCP(&bed.server, SERVER, (EXTERNAL, port), ANSWER));
    for port in 7000..=7031 {
        assert_eq!(call(port), seen_from(INTERNAL, (CLIENT, port)));
    }
    assert_eq!((call(6999), call(7032)), (REFUSED, REFUSED));
}

fn a_shifted_range_of_reverse_gives_each_port_its_own_target_too(variant: Variant) {
    let ports = "ports: [{name: web, port: 80}], reverse: {ports: [\
                 {name: back, port: 7000, endPort: 7031, targetPort: 17000, targetEndPort: 17031}, \
                 {name: media, protocol: UDP, port: 8000, endPort: 8015, targetPort: 8001, targetEndPort: 8016}]}";
    let site = Site::serve(variant, Bed::new(), &[("range", &spec(EXTERNAL_LEG, ports))]);
    let bed = &site.bed;
    let _clients = (Server::tcp(&bed.client, CLIENT, 16999..=17032), Server::udp(&bed.client, CLIENT, 8000..=8017));
    for (transport, from, to) in [(TCP, 7000..=7031, 17000), (UDP, 8000..=8015, 8001)] {
        for (port, target) in from.clone().zip(to..) {
            let seen = arrival(transport(&bed.server, SERVER, (EXTERNAL, port), ANSWER));
            assert_eq!(seen, seen_from(INTERNAL, (CLIENT, target)), "port {port}");
        }
        for beside in [from.start() - 1, from.end() + 1] {
            assert_eq!(arrival(transport(&bed.server, SERVER, (EXTERNAL, beside), ANSWER)), REFUSED);
        }
    }
}

fn a_forward_that_is_reverse_alone_lets_the_server_call_and_nobody_else(variant: Variant) {
    let site = Site::serve(
        variant,
        Bed::new(),
        &[("callback", &spec(EXTERNAL_LEG, "reverse: {ports: [{port: 9443, targetPort: 443}]}"))],
    );
    let bed = &site.bed;
    let _servers = (Server::tcp(&bed.client, CLIENT, [443]), Server::tcp(&bed.server, SERVER, [443, 9443]));
    assert_eq!(arrival(TCP(&bed.server, SERVER, (EXTERNAL, 9443), ANSWER)), seen_from(INTERNAL, (CLIENT, 443)));
    for port in [443, 9443] {
        assert_eq!(ask(bed, TCP, port), REFUSED, "the client may not call");
    }
}
