//! Reads and writes by netlink with a real kernel: facts, events, host routes and conntrack.
//!
//! Each test has its own network namespace. The tests need root, `ip`, `nft` and `conntrack`.

mod conntrack;
mod facts;
mod known;
mod namespace;
mod next_hops;
mod routes;
mod rules;
mod watch;

use std::collections::BTreeSet;

use portforward_operator::dataplane::{conntrack::purge, routes as host_routes};
use portforward_operator::model::{Desired, Translations};
use portforward_operator::node::Observer;

#[test]
fn every_operation_may_run_on_any_thread_of_a_runtime() {
    fn may_move<T: Send>(_: T) {}
    let (observer, translations, wanted) = (Observer::default(), Translations::new(), BTreeSet::new());
    may_move(observer.facts());
    may_move(host_routes::apply(&wanted));
    may_move(host_routes::remove_all());
    may_move(purge(&translations, &Desired::default()));
}
