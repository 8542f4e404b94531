//! The number of connections that matched each DNAT rule of the operator, by the kernel's rule counters.
//!
//! A `nat` chain sees only the first packet of a flow (iptables(8)), so the packets of a rule are connections. The kernel
//! resets the counters when a chain is written. The numbers reported here only increase, and they are never too high: a
//! connection that may have been counted before the last reading is not reported.

use std::collections::BTreeMap;

use super::chain::ChainName;
use super::saved::SavedTable;
use crate::dataplane::rules::Met;
use crate::model::FlowMatch;

/// The last reading of each chain.
#[derive(Debug, Default)]
pub(super) struct Counters {
    /// After a chain was written, nothing is stored for it: all of its rules start at 0.
    chains: BTreeMap<ChainName, Reading>,
    /// Connections that were not reported yet, by flow match. This never becomes larger than the rules, even if the numbers
    /// are never fetched.
    due_before: BTreeMap<FlowMatch, u64>,
    due_after: BTreeMap<FlowMatch, u64>,
}

#[derive(Debug)]
enum Reading {
    /// The operator wrote the chain; its rules started at 0.
    Written,
    /// The counters of its rules, in order.
    Read(Vec<(FlowMatch, Count)>),
}

/// The counter of a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Count {
    packets: u64,
    /// The counter fell to this value. Legacy iptables writes a table with its counters at 0 and adds the old values a
    /// moment later, so a single lower reading may mean nothing.
    fallen: Option<u64>,
}

impl Counters {
    /// Takes over the counters before anything is written.
    pub(super) fn read(&mut self, table: &SavedTable) {
        let met = self.advance(table);
        add(&mut self.due_before, met);
    }

    /// Records that these chains were written since the last reading.
    pub(super) fn written<'a>(&mut self, chains: impl IntoIterator<Item = &'a ChainName>) {
        self.chains.extend(chains.into_iter().map(|name| (name.clone(), Reading::Written)));
    }

    /// Takes over the counters after a write.
    pub(super) fn read_back(&mut self, table: &SavedTable) {
        let met = self.advance(table);
        add(&mut self.due_after, met);
    }

    /// Takes over the counters of some chains before they are written.
    pub(super) fn read_part(&mut self, table: &SavedTable) {
        let (met, chains) = self.advanced(table);
        self.chains.extend(chains);
        add(&mut self.due_before, met);
    }

    /// Takes over the counters of the chains that were written. The chains `deleted` are gone.
    pub(super) fn read_back_part<'a>(&mut self, table: &SavedTable, deleted: impl IntoIterator<Item = &'a ChainName>) {
        for name in deleted {
            self.chains.remove(name);
        }
        let (met, chains) = self.advanced(table);
        self.chains.extend(chains);
        add(&mut self.due_after, met);
    }

    /// Returns the connections that were not reported yet.
    pub(super) fn told(&mut self) -> Met {
        let [before, after] = [&mut self.due_before, &mut self.due_after].map(|due| std::mem::take(due).into_iter().collect());
        Met { before, after }
    }

    fn advance(&mut self, table: &SavedTable) -> Vec<(FlowMatch, u64)> {
        let (met, chains) = self.advanced(table);
        self.chains = chains;
        met
    }

    /// The connections since the last reading of the chains of `table`, and their counters.
    fn advanced(&self, table: &SavedTable) -> (Vec<(FlowMatch, u64)>, BTreeMap<ChainName, Reading>) {
        let mut met = Vec::new();
        let mut chains = BTreeMap::new();
        for (name, counted) in table.counted() {
            let before = self.chains.get(name);
            let mut counts = Vec::with_capacity(counted.len());
            for (place, (flows, packets)) in counted.into_iter().enumerate() {
                let last = before.and_then(|before| before.count(place, &flows));
                // A rule that another program added: its former counter is not known.
                let (count, more) = last.map_or((Count { packets, fallen: None }, 0), |last| last.advance(packets));
                if more > 0 {
                    met.push((flows.clone(), more));
                }
                counts.push((flows, count));
            }
            chains.insert(name.clone(), Reading::Read(counts));
        }
        (met, chains)
    }
}

fn add(due: &mut BTreeMap<FlowMatch, u64>, met: Vec<(FlowMatch, u64)>) {
    for (flows, count) in met {
        *due.entry(flows).or_default() += count;
    }
}

impl Reading {
    /// The counter of the rule for `flows`, which is most likely still at position `place`.
    fn count(&self, place: usize, flows: &FlowMatch) -> Option<Count> {
        match self {
            Self::Written => Some(Count { packets: 0, fallen: None }),
            Self::Read(counts) => {
                let same = |(other, _): &&(FlowMatch, Count)| other == flows;
                counts.get(place).filter(same).or_else(|| counts.iter().find(same)).map(|(_, count)| *count)
            }
        }
    }
}

impl Count {
    /// The new state for a counter of `packets`, and the number of new connections.
    fn advance(self, packets: u64) -> (Self, u64) {
        match (packets.checked_sub(self.packets), self.fallen.and_then(|fallen| packets.checked_sub(fallen))) {
            (Some(more), _) | (None, Some(more)) => (Self { packets, fallen: None }, more),
            (None, None) => (Self { fallen: Some(packets), ..self }, 0),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use super::*;

    /// A table with rules for these ports, each with its packet counter.
    fn table(chains: &[(&str, &[(u16, u64)])]) -> SavedTable {
        let mut text = String::new();
        for (name, rules) in chains {
            let _ = writeln!(text, ":{name} - [0:0]");
            for (port, packets) in *rules {
                let _ = writeln!(
                    text,
                    "[{packets}:0] -A {name} -d 192.168.0.2/32 -p tcp -m tcp --dport {port} -j DNAT --to-destination 3.3.3.3"
                );
            }
        }
        SavedTable::parse(&text)
    }

    fn told(met: &[(FlowMatch, u64)]) -> Vec<(u16, u64)> {
        met.iter().map(|(flows, count)| (flows.ports.first(), *count)).collect()
    }

    /// The report after the rules have these counters.
    fn read(counters: &mut Counters, chains: &[(&str, &[(u16, u64)])]) -> Vec<(u16, u64)> {
        counters.read(&table(chains));
        told(&counters.told().before)
    }

    #[test]
    fn what_the_first_reading_finds_was_there_before_and_is_not_told() {
        let mut counters = Counters::default();
        assert_eq!(read(&mut counters, &[("PF-pt", &[(80, 700)])]), []);
        assert_eq!(read(&mut counters, &[("PF-pt", &[(80, 700)])]), []);
        assert_eq!(read(&mut counters, &[("PF-pt", &[(80, 703)])]), [(80, 3)]);
    }

    #[test]
    fn rules_of_a_chain_that_we_write_begin_with_nothing_wherever_they_were_before() {
        let mut counters = Counters::default();
        read(&mut counters, &[("PF-pt", &[(80, 700), (81, 5)])]);
        counters.read(&table(&[("PF-pt", &[(80, 702), (81, 5)])]));
        let names = ["PF-pt", "PF-pt5"].map(|name| name.parse().unwrap());
        counters.written(&names);
        counters.read_back(&table(&[("PF-pt", &[(80, 703)]), ("PF-pt5", &[(81, 0)])]));
        let met = counters.told();
        assert_eq!((told(&met.before), told(&met.after)), (vec![(80, 2)], vec![(80, 703)]));
        assert_eq!(read(&mut counters, &[("PF-pt", &[(80, 703)]), ("PF-pt5", &[(81, 4)])]), [(81, 4)]);
    }

    #[test]
    fn what_nobody_asks_for_is_added_up_by_flow_and_told_once() {
        let mut counters = Counters::default();
        for packets in 7..=1000 {
            counters.read(&table(&[("PF-pt", &[(80, packets), (81, 2 * packets)])]));
            counters.read_back(&table(&[("PF-pt", &[(80, packets), (81, 2 * packets)])]));
            assert!(counters.due_before.len() + counters.due_after.len() <= 2, "one entry a rule");
        }
        assert_eq!(told(&counters.told().before), [(80, 993), (81, 1986)]);
        assert_eq!(told(&counters.told().before), []);
    }

    #[test]
    fn a_number_that_is_low_for_a_moment_is_told_neither_again_nor_lost() {
        let mut counters = Counters::default();
        read(&mut counters, &[("PF-pt", &[(80, 700)])]);
        assert_eq!(read(&mut counters, &[("PF-pt", &[(80, 0)])]), []);
        assert_eq!(read(&mut counters, &[("PF-pt", &[(80, 702)])]), [(80, 2)]);
    }

    #[test]
    fn a_counter_that_another_program_set_back_counts_on_from_there() {
        let mut counters = Counters::default();
        read(&mut counters, &[("PF-pt", &[(80, 700)])]);
        assert_eq!(read(&mut counters, &[("PF-pt", &[(80, 2)])]), []);
        assert_eq!(read(&mut counters, &[("PF-pt", &[(80, 1)])]), [], "and back again");
        assert_eq!(read(&mut counters, &[("PF-pt", &[(80, 5)])]), [(80, 4)]);
        assert_eq!(read(&mut counters, &[("PF-pt", &[(80, 6)])]), [(80, 1)]);
    }

    #[test]
    fn rules_that_another_program_took_out_and_brought_back_count_from_then_on() {
        let mut counters = Counters::default();
        read(&mut counters, &[("PF-pt", &[(80, 700), (81, 1)])]);
        assert_eq!(read(&mut counters, &[("PF-pt", &[(81, 1)])]), []);
        assert_eq!(read(&mut counters, &[("PF-pt", &[(80, 710), (81, 1)])]), []);
        assert_eq!(read(&mut counters, &[]), []);
        assert_eq!(read(&mut counters, &[("PF-pt", &[(80, 710)])]), []);
        assert_eq!(read(&mut counters, &[("PF-pt", &[(80, 711)])]), [(80, 1)]);
    }
}
