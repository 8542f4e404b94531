//! Tests the result of each tool for each state of a forward: kstatus (Helm 4, Flux), `kubectl wait`, Argo CD with our health
//! script, and Flux with our health expressions. The real status code creates the states, and every reason of the closed list
//! occurs in one of them.
//!
//! After an intended change: run `UPDATE_GOLDEN=1 cargo test --test kstatus`, then read the difference of `docs/gitops.md`.

mod agents;
mod argo;
mod courses;
mod examples;
mod flux;
mod rules;
mod states;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use portforward_operator::status::{Circumstance, Reason};
use serde_json::Value;

use argo::Health;
use rules::Kstatus;
use states::{Row, State, states, states_of};

/// The health script for Argo CD.
const SCRIPT: &str = "deploy/gitops/argocd/resource_customizations/portforward.dev/PortForward/health.lua";

fn path(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(file)
}

fn read(file: &str) -> String {
    fs::read_to_string(path(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
}

fn yaml(file: &str) -> Vec<Value> {
    serde_saphyr::from_multiple(&read(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
}

/// A condition of the summary.
fn condition<'a>(object: &'a Value, kind: &str) -> Option<&'a Value> {
    object["status"]["conditions"].as_array()?.iter().find(|condition| condition["type"] == kind)
}

/// Asserts for every state that the result of a tool is that of its row.
#[track_caller]
fn assert_rows<T: PartialEq + std::fmt::Debug>(made: impl Fn(&State) -> T, said: impl Fn(Row) -> T) {
    let wrong: Vec<String> = states()
        .iter()
        .filter(|state| made(state) != said(state.row))
        .map(|state| format!("{}: {:?} instead of {:?}\n{:#}", state.name, made(state), said(state.row), state.object))
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_reason_is_in_a_state_that_the_status_code_makes() {
    for reason in Reason::all() {
        if reason == Reason::Circumstance(Circumstance::Leaving) {
            // Only an object of a deleted folder has it, so no such tool ever sees one.
            continue;
        }
        let word = format!("\"reason\":\"{reason}\"");
        let made = states_of(reason);
        assert!(!made.is_empty(), "{reason}");
        assert!(made.iter().all(|state| state.object.to_string().contains(&word)), "{reason} is not in its states: {made:#?}");
    }
    let rows: BTreeSet<Row> = states().iter().map(|state| state.row).collect();
    assert_eq!(rows, Row::ALL.into_iter().collect(), "every row of the page has a state");
}

#[test]
fn kstatus_says_of_every_state_what_is_so() {
    assert_rows(|state| rules::kstatus(&state.object).0, Row::kstatus);
}

#[test]
fn kubectl_wait_returns_for_the_present_spec_only() {
    assert_rows(|state| rules::kubectl_wait(&state.object, "Ready"), Row::wait);
}

#[test]
fn argo_cd_says_of_every_state_what_is_so() {
    let script = read(SCRIPT);
    assert_rows(|state| argo::health(&script, &state.object).0, Row::argo);
}

#[test]
fn the_expressions_for_flux_say_what_kstatus_says() {
    let checks = flux::checks(&yaml(flux::EXPRESSIONS));
    let alive = |state: &&State| rules::kstatus(&state.object).0 != Kstatus::Terminating;
    for state in states().iter().filter(alive) {
        assert_eq!(checks.judge(&state.object), rules::kstatus(&state.object).0, "{}: {:#}", state.name, state.object);
    }
}

/// The message that a user reads in the tool is the message of the condition.
#[test]
fn tools_that_do_not_say_current_pass_our_message_on() {
    let script = read(SCRIPT);
    for state in states() {
        let ready = condition(&state.object, "Ready").unwrap();
        let (said, message) = rules::kstatus(&state.object);
        let (health, shown) = argo::health(&script, &state.object);
        let of_this_spec = state.object["status"]["observedGeneration"] == state.object["metadata"]["generation"];
        if of_this_spec && matches!(said, Kstatus::InProgress | Kstatus::Failed) {
            assert_eq!(Some(message.as_str()), ready["message"].as_str(), "{}", state.name);
            assert_eq!(shown, format!("{}: {}", ready["reason"].as_str().unwrap(), message), "{}", state.name);
        }
        assert!(!shown.is_empty() || health == Health::Healthy, "{}", state.name);
    }
}

/// For all judgements of two nodes about a new object, in every order: no tool reports a final state too early.
#[test]
fn nobody_is_told_an_end_before_it_is_one() {
    for (name, statuses) in courses::courses() {
        let (last, before) = statuses.split_last().expect("something is written");
        let ends: BTreeSet<String> = before
            .iter()
            .map(rules::kstatus)
            .filter(|(said, _)| *said != Kstatus::InProgress && *said != rules::kstatus(last).0)
            .map(|(said, message)| format!("{said:?} ({message})"))
            .collect();
        assert!(ends.is_empty(), "{name}: {ends:?} before {:?}", rules::kstatus(last));
    }
}

const PAGE: &str = "docs/gitops.md";
const BEGIN: &str = "<!-- The table is generated: UPDATE_GOLDEN=1 cargo test --test kstatus -->\n";
const END: &str = "<!-- End of the table -->\n";

fn table() -> String {
    let mut text = "\n| state | `Ready` | kstatus | `kubectl wait` | Argo CD |\n|---|---|---|---|---|\n".to_owned();
    for row in Row::ALL {
        let in_row: Vec<State> = states().into_iter().filter(|state| state.row == row).collect();
        let reasons: BTreeSet<String> = in_row.iter().map(|state| ready(&state.object)).collect();
        let reasons = match row.reasons() {
            Some(page) => page.to_owned(),
            None => reasons.into_iter().collect::<Vec<_>>().join(", "),
        };
        let wait = if row.wait() { "returns" } else { "waits" };
        let _ = writeln!(text, "| {} | {reasons} | {:?} | {wait} | {:?} |", row.text(), row.kstatus(), row.argo());
    }
    text + "\n"
}

/// The status and the reason of `Ready`.
fn ready(object: &Value) -> String {
    let ready = condition(object, "Ready").expect("Ready is always there");
    format!("`{}` `{}`", ready["status"].as_str().unwrap(), ready["reason"].as_str().unwrap())
}

#[test]
fn the_table_on_the_page_is_the_one_that_these_tests_prove() {
    let page = read(PAGE);
    let (before, rest) = page.split_once(BEGIN).expect("the page says where its table begins");
    let (_, after) = rest.split_once(END).expect("the page says where its table ends");
    let wanted = format!("{before}{BEGIN}{}{END}{after}", table());
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(path(PAGE), &wanted).unwrap();
    } else {
        assert_eq!(page, wanted, "renew it: UPDATE_GOLDEN=1 cargo test --test kstatus");
    }
}
