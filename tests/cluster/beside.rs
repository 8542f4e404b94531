//! Runs the tests that mostly wait, for example until a Lease or a token expires, in parallel in one test. Each of them alone
//! would take a minute.

use std::thread;

use crate::{nodes, outages, rest};

/// The tests, each with its claim.
const WAITING: [(&str, fn()); 6] = [
    ("each agent is killed in turn and the traffic goes on", nodes::each_agent_is_killed_in_turn_and_the_traffic_goes_on),
    ("after a long outage no agent is taken for dead", outages::after_a_long_outage_no_agent_is_taken_for_dead),
    (
        "an API server that goes and comes delays no repair and is one line",
        outages::an_api_server_that_goes_and_comes_delays_no_repair_and_is_one_line,
    ),
    (
        "an expired token is one line and a new one in the same file heals it",
        outages::an_expired_token_is_one_line_and_a_new_one_in_the_same_file_heals_it,
    ),
    ("a frozen API server delays no repair", outages::a_frozen_api_server_delays_no_repair),
    ("at rest and over a restart only Leases are written", rest::at_rest_and_over_a_restart_only_leases_are_written),
];

#[test]
fn what_mostly_waits() {
    let failed: Vec<&str> = thread::scope(|scope| {
        // A panic message of a thread begins with the name of the thread.
        let run = |(claim, test): (&'static str, fn())| {
            (claim, thread::Builder::new().name(claim.to_owned()).spawn_scoped(scope, test).expect("a thread can be made"))
        };
        let running = WAITING.map(run);
        running.into_iter().filter_map(|(claim, test)| test.join().is_err().then_some(claim)).collect()
    });
    assert!(failed.is_empty(), "{failed:#?}");
}
