//! The metrics of an agent with all series: in a cluster, with forwards that are counted.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use portforward_operator::api::{Role, ShownPorts};
use portforward_operator::cluster::Contact;
use portforward_operator::dataplane::Backend;
use portforward_operator::dataplane::conntrack::flows::{Accounting, Volume, Volumes};
use portforward_operator::forward::ForwardKey;
use portforward_operator::metrics::{Detail, Metrics, Owners, PerForward};
use portforward_operator::model::{Destination, FlowMatch, Protocol, SourceNat, TargetPorts, Translation};
use portforward_operator::plan::{Acceptance, Verdict, Verdicts};
use portforward_operator::status::{Circumstance, Judged, Judgement, Standing, State, Type};

/// All series for single forwards.
pub(crate) const ALL: PerForward = PerForward { detail: Detail::Traffic, limit: 1000 };

pub(crate) fn in_cluster() -> Metrics {
    Metrics::new(Backend::default(), Some(Box::new(Contact::none())), ALL)
}

/// A forward with this name and with `reverse`, and its verdict.
pub(crate) fn forward(namespace: &str, name: &str, port: u16) -> (ForwardKey, Box<Verdict>) {
    let translation = |port: u16, source: &str| Translation {
        flows: FlowMatch {
            protocol: Protocol::Tcp,
            destination: "192.168.0.2".parse().unwrap(),
            ports: port.to_string().parse().unwrap(),
            source: source.parse().unwrap(),
            interface: None,
        },
        destination: Destination { address: "3.3.3.3".parse().unwrap(), ports: TargetPorts::Same },
        source: SourceNat::Masquerade,
    };
    let translations = vec![translation(port, "1.1.1.1/32"), translation(port, "3.3.3.3/32")];
    let verdict = Verdict::new(None, 1, Acceptance::Accepted, None);
    let key = ForwardKey::new(namespace, name);
    (key, Box::new(Verdict { translations, reversed: 1, ..verdict }))
}

/// Metrics with counts for these forwards, multiplied by their position: connections, and bytes of each connection.
pub(crate) fn counted(metrics: &Metrics, verdicts: &Verdicts, connections: u64, bytes: u64) {
    let owners = Owners::of(verdicts);
    let known: BTreeSet<ForwardKey> = (0..5).map(|number| forward("a", &format!("n{number}"), 80).0).collect();
    metrics.own(known.iter().chain(verdicts.keys()), verdicts);
    let opened = verdicts.values().map(|verdict| (verdict.translations[0].flows.clone(), connections)).collect::<Vec<_>>();
    metrics.connected(&owners, &opened);
    let volumes = |bytes| Volumes { original: Volume { packets: bytes / 10, bytes }, reply: Volume::default() };
    metrics.carried(Accounting::On, owners.lanes().map(|lane| (lane, volumes(bytes))));
}

/// The judgement of a node with this role for a forward.
pub(crate) fn judged(standing: Standing, role: Option<Role>, ready: State) -> Judgement {
    let conditions = vec![Judged::new(Type::Ready, ready, Circumstance::Ready, "")];
    Judgement { uid: None, standing, generation: 1, shown: ShownPorts::default(), role, conditions }
}

/// All series that can exist, with forwards and a conntrack table.
pub(crate) fn whole() -> Metrics {
    let metrics = in_cluster();
    counted(&metrics, &BTreeMap::from([forward("a", "b", 80)]), 0, 0);
    let roles = [Some(Role::Active), Some(Role::Standby), None];
    let judgements = roles.into_iter().zip(["b", "c", "d"]).map(|(role, name)| {
        let standing = if role.is_some() { Standing::Carried } else { Standing::Elsewhere };
        (ForwardKey::new("a", name), Arc::new(judged(standing, role, State::True)))
    });
    metrics.judged(&Arc::new(judgements.collect()));
    metrics
}
