//! Tests the six steps that an administrator does by hand, on the bed: their result, their side effects, and where the seed's
//! manifest gives the same and where it gives less.
//!
//! This also tests the bed: its hosts, servers and probes see what the first page of the design says.

mod bed;

use std::collections::BTreeMap;

use bed::agent::{Agent, AgentOptions, Manifests, operator};
use bed::client::{ANSWER, Connection, Silence};
use bed::kernel::{Variant, on_all_backends};
use bed::observe::{Observation, Observations, answered, observe};
use bed::server::Server;
use bed::{Bed, CLIENT, EXTERNAL, GATEWAY, INTERNAL, NEIGHBOUR, Proxy, SECOND_CLIENT, SERVER};

/// The seed as a manifest: the example of section 3 of the design.
const MANIFEST: &str = include_str!("../examples/bank-a-web.yaml");

/// The six steps of section 1 of the design, literally (the route in the syntax of `ip`).
fn do_by_hand(proxy: &Proxy, variant: Variant) {
    for rule in [
        "-t nat -A PREROUTING -i eth1 -d 192.168.0.2 -p tcp --dport 80 -j DNAT --to-destination 3.3.3.3:80",
        "-t nat -A POSTROUTING -s 1.1.1.1 -p tcp -j SNAT --to-source 2.2.2.2",
        "-t nat -A PREROUTING -i eth0 -s 3.3.3.3 -p tcp -j DNAT --to-destination 1.1.1.1:80",
        "-t nat -A POSTROUTING -s 3.3.3.3 -p tcp -j SNAT --to-source 192.168.0.2",
        "-t nat -A POSTROUTING -o eth0 -s 2.2.2.2 -j MASQUERADE",
    ] {
        proxy.iptables(variant, rule);
    }
    proxy.netns.ip(&format!("route add {CLIENT}/32 via {GATEWAY} dev eth1"));
}

fn expect(seen: &Observations, probe: &str, expected: Observation) {
    assert_eq!(seen[probe], expected, "{probe}\n{seen:#?}");
}

fn the_hand_made_node(variant: Variant) {
    let bed = Bed::new();
    do_by_hand(bed.proxy(), variant);
    let seen = observe(&bed);

    // The wanted results.
    expect(&seen, "client to internal:80", answered((SERVER, 80), EXTERNAL));
    expect(&seen, "server to external:80", answered((CLIENT, 80), INTERNAL));
    expect(&seen, "server to external:8443", answered((CLIENT, 80), INTERNAL));
    expect(&seen, "client to internal:81", Observation::Silent(Silence::Refused));
    expect(&seen, "client to internal:80/udp", Observation::Silent(Silence::Refused));
    expect(&seen, "server to external:80/udp", Observation::Silent(Silence::Refused));
    expect(&seen, "proxy to server:80", answered((SERVER, 80), EXTERNAL));

    // Rule 1 serves every host on the line.
    expect(&seen, "neighbour to internal:80", answered((SERVER, 80), NEIGHBOUR));
    expect(&seen, "second client to internal:80", answered((SERVER, 80), SECOND_CLIENT));
    // Rule 2 rewrites all TCP traffic of the client.
    expect(&seen, "client past the forward to server:8080", answered((SERVER, 8080), EXTERNAL));
    expect(&seen, "client past the forward to server:53/udp", answered((SERVER, 53), CLIENT));
    // Rule 3 takes all TCP ports from the server, independent of its destination.
    expect(&seen, "server past the forward to client:8443", answered((CLIENT, 80), INTERNAL));
    expect(&seen, "server past the forward to neighbour:80", answered((CLIENT, 80), INTERNAL));
}

#[test]
fn the_literal_rules_forward_both_ways_and_too_much_by_nft() {
    the_hand_made_node(Variant::Nft);
}

#[test]
fn the_literal_rules_forward_both_ways_and_too_much_by_legacy() {
    the_hand_made_node(Variant::Legacy);
}

/// Every probe for which the manifest has another result than the manual rules: first by hand, then by manifest.
fn stricter() -> BTreeMap<&'static str, [Observation; 2]> {
    let refused = Observation::Silent(Silence::Refused);
    BTreeMap::from([
        // Rule 1 allows every host on the line; ours allow only the client.
        ("neighbour to internal:80", [answered((SERVER, 80), NEIGHBOUR), refused]),
        ("second client to internal:80", [answered((SERVER, 80), SECOND_CLIENT), refused]),
        // Rule 2 rewrites everything that the client sends through the node; ours rewrite only what it sends to the forward.
        ("client past the forward to server:80", [answered((SERVER, 80), EXTERNAL), answered((SERVER, 80), CLIENT)]),
        ("client past the forward to server:8080", [answered((SERVER, 8080), EXTERNAL), answered((SERVER, 8080), CLIENT)]),
        // Rule 3 takes all TCP ports from the server, independent of its destination; ours take only what it sends to the
        // external address.
        ("server past the forward to client:8443", [answered((CLIENT, 80), INTERNAL), answered((CLIENT, 8443), SERVER)]),
        ("server past the forward to neighbour:80", [answered((CLIENT, 80), INTERNAL), answered((NEIGHBOUR, 80), SERVER)]),
    ])
}

/// Sets up one node by hand and another one by the manifest, and compares the results of every probe. `by_manifest` returns
/// what must live until then.
fn compare<T>(variant: Variant, by_manifest: impl FnOnce(&Bed) -> T) {
    let (by_hand, by_manifest) = std::thread::scope(|scope| {
        let by_hand = scope.spawn(|| {
            let bed = Bed::new();
            do_by_hand(bed.proxy(), variant);
            observe(&bed)
        });
        let bed = Bed::new();
        let living = by_manifest(&bed);
        let by_manifest = observe(&bed);
        drop(living);
        (by_hand.join().unwrap(), by_manifest)
    });
    let both = by_hand.keys().map(|probe| (*probe, [by_hand[probe], by_manifest[probe]]));
    let differing: BTreeMap<_, _> = both.filter(|(_, [by_hand, by_manifest])| by_hand != by_manifest).collect();
    assert_eq!(differing, stricter());
    assert_eq!(by_hand.len(), by_manifest.len());
    expect(&by_manifest, "client to internal:80", answered((SERVER, 80), EXTERNAL));
    expect(&by_manifest, "server to external:8443", answered((CLIENT, 80), INTERNAL));
}

fn the_agent_gives_what_the_literal_rules_give_and_is_stricter_where_it_says_so(variant: Variant) {
    compare(variant, |bed| {
        let manifests = Manifests::new(bed.proxy());
        manifests.put("bank-a-web.yaml", MANIFEST);
        let agent = Agent::start(bed.proxy(), &manifests, &AgentOptions::new(variant));
        agent.wait_ready("leased-lines/bank-a-web");
        agent
    });
}

fn what_render_prints_does_the_same_once_it_is_loaded(variant: Variant) {
    compare(variant, |bed| {
        let proxy = bed.proxy();
        let file = proxy.files().join("bank-a-web.yaml");
        std::fs::write(&file, MANIFEST).unwrap();
        let options = variant.options();
        let rendered = operator(proxy, ["render", &options[0], &options[1], file.to_str().unwrap()]);
        assert!(rendered.status.success(), "{rendered:?}");
        let text = String::from_utf8(rendered.stdout).unwrap();
        proxy.iptables_restore(variant, &text);
        text.lines().filter_map(|line| line.strip_prefix("# ip ")).for_each(|route| drop(proxy.netns.ip(route)));
    });
}

on_all_backends![the_agent_gives_what_the_literal_rules_give_and_is_stricter_where_it_says_so];

// nft(8) prints the maps of the backend nftables but cannot load them (docs/operations.md).
mod rendered {
    use super::what_render_prints_does_the_same_once_it_is_loaded;
    use crate::bed::kernel::Variant;

    #[test]
    fn by_nft() {
        what_render_prints_does_the_same_once_it_is_loaded(Variant::Nft);
    }

    #[test]
    fn by_legacy() {
        what_render_prints_does_the_same_once_it_is_loaded(Variant::Legacy);
    }
}

#[test]
fn a_bare_proxy_translates_nothing() {
    let bed = Bed::new();
    let seen = observe(&bed);
    expect(&seen, "client to internal:80", Observation::Silent(Silence::TimedOut));
    expect(&seen, "second client to internal:80", Observation::Silent(Silence::Refused));
    expect(&seen, "neighbour to internal:80", Observation::Silent(Silence::Refused));
    expect(&seen, "neighbour past the forward to server:80", answered((SERVER, 80), NEIGHBOUR));
    expect(&seen, "server to external:80", Observation::Silent(Silence::Refused));
    expect(&seen, "router to the proxy's own service", answered((EXTERNAL, bed::observe::OWN_SERVICE), bed::ROUTER));
}

#[test]
fn a_download_notices_an_interruption_and_an_orderly_end() {
    let bed = Bed::new();
    do_by_hand(bed.proxy(), Variant::Nft);
    let server = Server::tcp(&bed.server, SERVER, [80]);
    let connection = Connection::open(&bed.client, (CLIENT, 0), (INTERNAL, 80), ANSWER).unwrap();
    let download = connection.stream().unwrap();
    assert!(download.goes_on(ANSWER));
    assert!(download.finish().unwrap() > 0);

    let broken = Connection::open(&bed.client, (CLIENT, 0), (INTERNAL, 80), ANSWER).unwrap().stream().unwrap();
    assert!(broken.goes_on(ANSWER));
    drop(server);
    assert!(!broken.goes_on(ANSWER));
    assert_eq!(broken.finish(), Err(Silence::Broken));
}
