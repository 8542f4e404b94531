//! When a status counts as contested.

use super::agents::{Agents, as_active, as_standby};
use super::*;

/// One forward, its honest agent, and its history.
struct Case {
    agents: Agents,
    contest: Contest,
    second: i64,
}

impl Case {
    fn new() -> Self {
        let mut case = Self { agents: Agents::new(&[("a", as_active())]), contest: Contest::default(), second: 1000 };
        case.writes();
        case
    }

    /// Lets the agent `a` write what it may write now. Returns the number of writes.
    fn writes(&mut self) -> usize {
        for writes in 0..10 {
            let due = self.agents.next("a");
            let stored = self.agents.status.clone();
            self.contest.look(&stored, due.as_ref(), at(self.second));
            match self.contest.rule(&stored, due, at(self.second)) {
                Ruling::Rest | Ruling::Later => return writes,
                Ruling::Write(write) => {
                    self.contest.wrote(&write);
                    self.agents.take(write);
                }
            }
        }
        panic!("the agent never comes to rest");
    }

    /// Overwrites the summary, and lets the agent write `after` seconds later.
    fn overwritten(&mut self, after: i64) -> usize {
        self.agents.state(&[("Accepted", "True"), ("Programmed", "True"), ("Ready", "True")], Some("evil"));
        self.second += after;
        self.writes()
    }
}

#[test]
fn a_summary_that_is_overwritten_again_and_again_is_contested_and_not_ready() {
    let mut case = Case::new();
    assert_eq!((0..5).map(|_| case.overwritten(1)).sum::<usize>(), 5);
    assert_eq!(case.agents.ready(), "Ready=True Ready", "it may be a mistake");
    case.overwritten(1);
    case.second += 5;
    case.writes();
    assert_eq!(case.agents.ready(), "Ready=False StatusContested");
    assert_eq!(case.writes(), 0, "and it stays so");
    case.second += 599;
    case.writes();
    assert!(!case.contest.is_contested());
    assert_eq!(case.agents.ready(), "Ready=True Ready", "ten minutes without an attack are enough");
}

/// Each write is a revision in the store.
#[test]
fn the_agent_pauses_between_the_writes_of_a_contested_status() {
    let mut case = Case::new();
    let writes: usize = (0..600).map(|_| case.overwritten(1)).sum();
    assert!((8..=20).contains(&writes), "{writes} writes in ten minutes");
    assert!(case.contest.is_contested());
}

#[test]
fn an_entry_that_is_removed_again_and_again_is_contested_too() {
    let mut case = Case::new();
    for _ in 0..6 {
        case.agents.status.nodes.clear();
        case.second += 2;
        case.writes();
    }
    assert!(case.contest.is_contested());
    case.second += 2;
    case.writes();
    assert_eq!(
        (case.agents.entries().len(), case.agents.ready().as_str()),
        (1, "Ready=True Ready"),
        "the summary was not touched"
    );
}

#[test]
fn an_address_that_moves_to_and_fro_is_no_contest() {
    let mut case = Case::new();
    case.agents.says.insert("b".to_owned(), as_standby());
    for _ in 0..20 {
        for (a, b) in [(as_standby(), as_active()), (as_active(), as_active()), (as_active(), as_standby())] {
            case.agents.says = BTreeMap::from([("a".to_owned(), a), ("b".to_owned(), b)]);
            case.second += 1;
            case.writes();
            case.agents.settle_of("b");
            case.writes();
        }
    }
    assert!(!case.contest.is_contested());
    assert_eq!(case.agents.ready(), "Ready=True Ready");
}

/// Two nodes hold the address, and both see that the status is contested, but not at the same time.
#[test]
fn the_statement_of_another_agent_that_the_status_is_contested_is_no_attack() {
    let mut case = Case::new();
    for _ in 0..10 {
        case.agents.state(&[("Ready", "False")], Some("a"));
        for condition in &mut case.agents.status.conditions {
            condition.reason = "StatusContested".to_owned();
        }
        case.second += 1;
        case.writes();
    }
    assert!(!case.contest.is_contested());
}
