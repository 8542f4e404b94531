//! Ranges of both kinds: each port keeps its number, or all of them go to one.

use super::bed::client::ANSWER;
use super::bed::kernel::{Variant, on_both_variants};
use super::bed::observe::Observation;
use super::bed::server::Server;
use super::bed::site::Site;
use super::bed::{Bed, CLIENT, EXTERNAL, INTERNAL, SERVER};
use super::{Ask, REFUSED, TCP, UDP, arrival, seen_from, spec};

on_both_variants![
    a_range_without_target_port_keeps_every_number,
    a_range_with_target_port_goes_to_that_one,
    a_range_of_reverse_keeps_every_number_too,
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

fn a_range_with_target_port_goes_to_that_one(variant: Variant) {
    let ports = "ports: [{name: tcp, port: 6000, endPort: 6009, targetPort: 6005}, \
                 {name: udp, protocol: UDP, port: 6000, endPort: 6009, targetPort: 7005}]";
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
