//! Exactly the wrong conntrack entries are removed.

use portforward_operator::dataplane::conntrack::table::{Entry, Table};
use portforward_operator::dataplane::conntrack::{Judged, Purged, Purger, purge};
use portforward_operator::model::{Desired, Destination, FlowMatch, Protocol, SourceNat, TargetPorts, Translation, Translations};

use crate::namespace::{inside, run};

/// A translation from port 53 of the listen address to the upstream, for the client, with the external address as source.
fn translation(upstream: &str) -> Translation {
    Translation {
        flows: FlowMatch {
            protocol: Protocol::Udp,
            destination: "192.168.0.2".parse().unwrap(),
            ports: "53".parse().unwrap(),
            source: "1.1.1.1/32".parse().unwrap(),
            interface: None,
        },
        destination: Destination { address: upstream.parse().unwrap(), ports: TargetPorts::Same },
        source: SourceNat::Address("2.2.2.2".parse().unwrap()),
    }
}

fn insert(source_port: u16, client: &str, upstream: &str, more: &str) {
    run(&format!(
        "conntrack -I -p udp -t 300 -s {client} -d 192.168.0.2 --sport {source_port} --dport 53 \
         --reply-src {upstream} --reply-dst 2.2.2.2 --reply-port-src 53 --reply-port-dst {source_port} {more}"
    ));
}

async fn entries() -> Vec<Entry> {
    let mut entries = Table::open().unwrap().entries().await.unwrap();
    entries.sort_by_key(|entry| (entry.original, entry.protocol));
    entries
}

/// The desired state with this translation, on a node that holds its listen address.
fn in_force(translation: Translation) -> Desired {
    Desired { held: [translation.flows.destination].into(), translations: Translations::unit(translation), ..Desired::default() }
}

async fn source_ports() -> Vec<u16> {
    entries().await.iter().map(|entry| entry.original.source_port).collect()
}

#[test]
fn a_stale_entry_goes_and_its_neighbours_stay() {
    inside(|| async {
        insert(1001, "1.1.1.1", "3.3.3.3", "");
        insert(1002, "1.1.1.1", "4.4.4.4", "");
        insert(1003, "9.9.9.9", "3.3.3.3", "");
        run("conntrack -I -p tcp -t 300 --state ESTABLISHED -s 1.1.1.1 -d 192.168.0.2 --sport 1004 --dport 53 \
             --reply-src 3.3.3.3 --reply-dst 2.2.2.2 --reply-port-src 53 --reply-port-dst 1004");
        let before = Translations::unit(translation("3.3.3.3"));
        let now = in_force(translation("4.4.4.4"));
        assert_eq!(
            purge(&before, &in_force(translation("3.3.3.3"))).await.unwrap(),
            Purged { count: 1, ..Purged::default() },
            "the entry with another translation"
        );
        assert_eq!(source_ports().await, [1001, 1004, 1003]);
        assert_eq!(purge(&before, &now).await.unwrap(), Purged { count: 1, ..Purged::default() });
        assert_eq!(source_ports().await, [1004, 1003], "entries of another protocol and of another client stay");
        assert_eq!(purge(&now.translations, &Desired::default()).await.unwrap(), Purged { count: 0, ..Purged::default() });
        assert_eq!(source_ports().await, [1004, 1003]);
    });
}

/// A translation of another listen address and port, otherwise as [`translation`].
fn elsewhere(address: &str, port: &str, upstream: &str) -> Translation {
    let mut translation = translation(upstream);
    (translation.flows.destination, translation.flows.ports) = (address.parse().unwrap(), port.parse().unwrap());
    translation
}

#[test]
fn a_change_is_judged_by_the_connections_to_its_ports_and_no_others() {
    inside(|| async {
        insert(1001, "1.1.1.1", "3.3.3.3", "");
        for (source_port, address, port) in [(1002, "192.168.0.2", 54), (1003, "192.168.0.3", 53)] {
            run(&format!(
                "conntrack -I -p udp -t 300 -s 1.1.1.1 -d {address} --sport {source_port} --dport {port} \
                 --reply-src 3.3.3.3 --reply-dst 2.2.2.2 --reply-port-src 53 --reply-port-dst {source_port}"
            ));
        }
        let others = [elsewhere("192.168.0.2", "54", "9.9.9.9"), elsewhere("192.168.0.3", "53", "9.9.9.9")];
        let set = |upstream: &str| others.iter().cloned().chain([translation(upstream)]).collect::<Translations>();
        let before = set("3.3.3.3");
        let now = Desired { translations: set("4.4.4.4"), ..in_force(translation("4.4.4.4")) };
        let purged = Purger::default().purge(&before, &now, Judged::Changes).await.unwrap();
        assert_eq!(purged, Purged { count: 1, ..Purged::default() });
        assert_eq!(source_ports().await, [1002, 1003], "nothing has changed for the others");
        let purged = Purger::default().purge(&before, &now, Judged::All).await.unwrap();
        assert_eq!(purged, Purged { count: 2, ..Purged::default() });

        insert(1001, "1.1.1.1", "4.4.4.4", "");
        let gone = Desired { translations: others.iter().cloned().collect(), ..now.clone() };
        let purged = Purger::default().purge(&now.translations, &gone, Judged::Changes).await.unwrap();
        assert_eq!(purged, Purged { count: 1, ..Purged::default() }, "what was removed is a change too");
    });
}

#[test]
fn entries_are_read_with_both_tuples_and_what_happened_to_them() {
    inside(|| async {
        insert(1001, "1.1.1.1", "3.3.3.3", "-u SEEN_REPLY");
        run("conntrack -I -p icmp -t 300 -s 1.1.1.1 -d 192.168.0.2 --icmp-type 8 --icmp-code 0 --icmp-id 1");
        run("conntrack -I -p udp -t 300 -s fd00::1 -d fd00::2 --sport 1 --dport 2");
        let [entry] = &entries().await[..] else { panic!("only IPv4, only TCP and UDP") };
        assert_eq!(entry.protocol, Protocol::Udp);
        let show = |tuple: &portforward_operator::dataplane::conntrack::table::Tuple| {
            format!("{}:{} > {}:{}", tuple.source, tuple.source_port, tuple.destination, tuple.destination_port)
        };
        assert_eq!(show(&entry.original), "1.1.1.1:1001 > 192.168.0.2:53");
        assert_eq!(show(&entry.reply), "3.3.3.3:53 > 2.2.2.2:1001");
        assert!(entry.id.is_some());
        assert_eq!(entry.status.bits() & 2, 2, "IPS_SEEN_REPLY");
    });
}

#[test]
fn entries_of_another_zone_are_not_seen() {
    inside(|| async {
        insert(1001, "1.1.1.1", "3.3.3.3", "--zone 7");
        assert_eq!(entries().await, []);
        assert_eq!(
            purge(&Translations::unit(translation("3.3.3.3")), &Desired::default()).await.unwrap(),
            Purged { count: 0, ..Purged::default() }
        );
        assert!(run("conntrack -L").contains("zone=7"));
    });
}

#[test]
fn an_entry_that_is_gone_or_has_a_successor_is_no_error() {
    inside(|| async {
        insert(1001, "1.1.1.1", "3.3.3.3", "");
        let old = entries().await;
        run("conntrack -F");
        let mut table = Table::open().unwrap();
        assert_eq!(table.remove(&old.iter().collect::<Vec<_>>()).await.unwrap(), 0);
        insert(1001, "1.1.1.1", "4.4.4.4", "");
        let mut successor = entries().await;
        let current = successor[0].id;
        successor[0].id = current.map(|id| id ^ 1);
        assert_eq!(table.remove(&[&successor[0]]).await.unwrap(), 0, "another flow with the same tuple stays");
        assert_eq!(source_ports().await, [1001]);
    });
}

#[test]
fn a_table_of_many_entries_is_read_and_purged_whole() {
    inside(|| async {
        let line = |port: u16| {
            format!(
                "-I -p udp -t 300 -s 1.1.1.1 -d 192.168.0.2 --sport {port} --dport 53 --reply-src 3.3.3.3 --reply-dst 2.2.2.2 \
                 --reply-port-src 53 --reply-port-dst {port}\n"
            )
        };
        let lines = (2_000..5_000).map(line).collect::<Vec<_>>().concat();
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), lines).unwrap();
        run(&format!("conntrack -R {}", file.path().display()));
        assert_eq!(entries().await.len(), 3_000);
        let purged = purge(&Translations::unit(translation("3.3.3.3")), &Desired::default()).await.unwrap();
        assert_eq!(purged, Purged { count: 3_000, ..Purged::default() });
        assert_eq!(entries().await, []);
    });
}
