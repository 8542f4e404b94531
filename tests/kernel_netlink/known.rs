//! Only what was written since the last look is read, and what another program changed is found nevertheless.

use portforward_operator::dataplane::Look;
use portforward_operator::dataplane::iptables::{Extent, Iptables, Report, Ruleset, Table, Variant};
use portforward_operator::dataplane::rules::Counting;
use portforward_operator::model::{
    Connmark, Destination, FlowMatch, Protocol, SourceNat, TargetPorts, Translation, Translations,
};

use crate::namespace::{inside, run, shell};

fn translation(port: u16, upstream: &str) -> Translation {
    Translation {
        flows: FlowMatch {
            protocol: Protocol::Tcp,
            destination: "192.168.0.2".parse().unwrap(),
            ports: port.to_string().parse().unwrap(),
            source: "1.1.1.1/32".parse().unwrap(),
            interface: None,
        },
        destination: Destination { address: upstream.parse().unwrap(), ports: TargetPorts::Same },
        source: SourceNat::Address("2.2.2.2".parse().unwrap()),
    }
}

/// Translations of a hundred ports to this upstream, the first one to another.
fn rules(first: &str, upstream: &str) -> Ruleset {
    let translations: Translations =
        (1000..1100).map(|port| translation(port, if port == 1000 { first } else { upstream })).collect();
    Ruleset::of(&translations, Connmark::default())
}

async fn applied(agent: &Iptables, ruleset: &Ruleset) -> Report {
    let report = agent.apply(ruleset, Look::Changes).await;
    assert!(report.is_exact(), "{report:?}");
    // Another agent reads everything.
    assert!(Iptables::new(agent.variant()).inspect(ruleset).await.is_exact());
    report
}

#[test]
fn only_what_was_written_is_read_back() {
    for variant in Variant::ALL {
        inside(move || async move {
            let agent = Iptables::new(variant).counting(Counting::On);
            assert_eq!(applied(&agent, &rules("3.3.3.3", "3.3.3.3")).await.read, Extent::Everything);
            // The first apply also moved the jumps, which are not counted as its own writes.
            agent.apply(&rules("3.3.3.3", "3.3.3.3"), Look::Changes).await;
            assert_eq!(applied(&agent, &rules("3.3.3.3", "3.3.3.3")).await.read, Extent::Nothing);
            for upstream in ["3.3.3.4", "3.3.3.5"] {
                let changed = applied(&agent, &rules(upstream, "3.3.3.3")).await;
                assert!(changed.read == Extent::Written && changed.written.len() <= 3, "{:?}", changed.written);
            }
            // Chains come and go.
            let many = rules("3.3.3.5", "3.3.3.3");
            let few = Ruleset::of(&Translations::unit(translation(1000, "3.3.3.5")), Connmark::default());
            for ruleset in [&few, &many, &few] {
                let changed = applied(&agent, ruleset).await;
                assert!(changed.read == Extent::Written && changed.changed(), "{changed:?}");
            }
            // Several COMMITs by one program: each has 2,000 rules at most.
            let large = |upstream: &str| {
                Ruleset::of(&(1000..6000).map(|port| translation(port, upstream)).collect(), Connmark::default())
            };
            for ruleset in [&large("3.3.3.3"), &large("3.3.3.4"), &few] {
                let changed = applied(&agent, ruleset).await;
                // On legacy, many chains are read back faster as whole tables.
                let whole = variant == Variant::Legacy && changed.written.len() > 64;
                let read = if whole { Extent::Everything } else { Extent::Written };
                assert_eq!((changed.read, changed.changed()), (read, true));
            }
            let all = agent.apply(&few, Look::Everything).await;
            assert!(all.is_exact() && all.read == Extent::Everything, "{all:?}");
        });
    }
}

#[test]
fn what_another_program_wrote_is_found_although_only_changes_are_read() {
    for variant in Variant::ALL {
        inside(move || async move {
            let agent = Iptables::new(variant).counting(Counting::On);
            let ruleset = rules("3.3.3.3", "3.3.3.3");
            for _ in 0..2 {
                applied(&agent, &ruleset).await;
            }
            for damage in [
                "iptables-VARIANT -t nat -F PF-PRE",
                "iptables-VARIANT -t nat -D POSTROUTING -j PF-POST",
                "iptables-VARIANT -t filter -F",
                "iptables-VARIANT -t nat -I PF-PRE -p tcp -j ACCEPT",
                // As many rules of the same size.
                "iptables-VARIANT-save -t nat | sed s/3.3.3.3/3.3.3.9/ | iptables-VARIANT-restore -T nat",
                "iptables-VARIANT -t nat -F && iptables-VARIANT -t nat -X",
                "if test VARIANT = nft; then nft flush ruleset; else iptables-legacy -t filter -F && iptables-legacy -t filter -X; fi",
            ] {
                let damage = &damage.replace("VARIANT", &variant.to_string());
                shell(damage);
                let repaired = agent.apply(&ruleset, Look::Changes).await;
                assert!(
                    repaired.changed() && repaired.is_exact() && repaired.read == Extent::Everything,
                    "{damage}: {repaired:?}"
                );
                assert!(Iptables::new(variant).inspect(&ruleset).await.is_exact(), "{damage}");
            }
            // A write of another program that does not concern the operator is a reason to look, and changes nothing. On legacy the
            // kernel shows that no chain of the operator changed.
            run(&format!("iptables-{variant} -t nat -N OTHER"));
            let looked = agent.apply(&ruleset, Look::Changes).await;
            let read = if variant == Variant::Nft { Extent::Everything } else { Extent::Nothing };
            assert!(!looked.changed() && looked.read == read, "{looked:?}");
            // The facts that were read before this look may be older than that write, so there is a reason for one more sync.
            assert!(!agent.is_untouched().await);
            assert_eq!(applied(&agent, &ruleset).await.read, Extent::Nothing);
            assert!(agent.is_untouched().await);
            // Together with a change: the agent does not take the other program's write for its own.
            run(&format!("iptables-{variant} -t nat -F PF-PRE"));
            assert_eq!(applied(&agent, &rules("3.3.3.4", "3.3.3.3")).await.read, Extent::Everything);
        });
    }
}

/// A chain that cannot be deleted is emptied. The report names neither this nor what was written before a failure.
#[test]
fn after_a_write_that_was_not_complete_everything_is_read() {
    for variant in Variant::ALL {
        inside(move || async move {
            let agent = Iptables::new(variant);
            let (many, few) = (
                rules("3.3.3.3", "3.3.3.3"),
                Ruleset::of(&Translations::unit(translation(2000, "3.3.3.5")), Connmark::default()),
            );
            applied(&agent, &many).await;
            let stale = many.chains(Table::Nat).keys().find(|name| !few.chains(Table::Nat).contains_key(*name)).unwrap();
            run(&format!("iptables-{variant} -t nat -N OTHER"));
            run(&format!("iptables-{variant} -t nat -A OTHER -j {stale}"));
            for _ in 0..2 {
                agent.apply(&many, Look::Changes).await;
            }
            let stuck = agent.apply(&few, Look::Changes).await;
            assert!(stuck.stuck.contains(stale) && stuck.read == Extent::Everything, "{stuck:?}");
            assert!(stuck.left.is_empty() && !stuck.disturbed, "it is empty, and read as such at once: {stuck:?}");
            applied(&agent, &many).await;
        });
    }
}
