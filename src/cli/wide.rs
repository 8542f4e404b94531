//! The details of `status -o wide` below the table: role, translations, routes and chains of each forward, one per line.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use crate::api::Role;
use crate::dataplane::Layout;
use crate::dataplane::routes::{RouteState, RoutesReport};
use crate::dataplane::rules::{Overridden, RulesReport};
use crate::forward::ForwardKey;
use crate::model::{SourceNat, TargetPorts, Translation};
use crate::plan::{Plan, RoutePlan, Verdict};

/// A block for each of `chosen`, each after an empty line.
pub(super) fn details(
    chosen: &BTreeSet<ForwardKey>,
    plan: &Plan,
    layout: &Layout,
    rules: &RulesReport,
    routes: &RoutesReport,
) -> String {
    let verdicts = chosen.iter().filter_map(|key| Some((key, plan.verdicts.get(key)?)));
    verdicts.map(|(key, verdict)| block(key, verdict, layout, rules, routes)).collect()
}

fn block(key: &ForwardKey, verdict: &Verdict, layout: &Layout, rules: &RulesReport, routes: &RoutesReport) -> String {
    let mut text = format!("\n{key}: {}\n", role(verdict));
    let mut line = |what: &str, value: String| {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "  {what:<12}{value}");
    };
    for translation in &verdict.translations {
        line("translation", written(translation));
    }
    for route in &verdict.routes {
        line("route", routed(route, routes));
    }
    let mut exact = 0;
    for place in layout.places(&verdict.translations) {
        if rules.differing.contains(&place) {
            line("chain", format!("{place}: not as planned"));
        } else {
            exact += 1;
        }
    }
    for Overridden { place, instead, .. } in rules.overridden.iter().filter(|_| !verdict.translations.is_empty()) {
        line("chain", format!("{place}: begins with {instead}"));
    }
    let differ = text.contains(": not as planned\n");
    // Only differing chains get a line each, because a large forward has many chains.
    if exact > 0 {
        let _ = writeln!(text, "  {:<12}{exact} {}as planned", "chains", if differ { "more " } else { "" });
    }
    text
}

fn role(verdict: &Verdict) -> &'static str {
    match verdict.role {
        Some(Role::Active) if verdict.is_carried() => "carried, Active",
        Some(Role::Standby) if verdict.is_carried() => "carried, Standby",
        Some(Role::Active | Role::Standby) | None => "not carried",
    }
}

fn written(Translation { flows, destination, source }: &Translation) -> String {
    let by = flows.interface.as_ref().map(|interface| format!(" on {interface}")).unwrap_or_default();
    let port = match destination.ports {
        TargetPorts::Same => String::new(),
        TargetPorts::One(port) => format!(":{port}"),
        TargetPorts::Shifted(shift) => format!(":{}", shift.to()),
    };
    let source = match source {
        SourceNat::Address(address) => address.to_string(),
        SourceNat::Masquerade => "address of the outgoing interface".to_owned(),
    };
    format!(
        "{} {} → {}:{}{by} → {}{port}, source {source}",
        flows.protocol, flows.source, flows.destination, flows.ports, destination.address
    )
}

fn routed(route: &RoutePlan, report: &RoutesReport) -> String {
    match route {
        RoutePlan::Install(route) => {
            let state = match report.states.get(route) {
                Some(RouteState::Installed) => "installed",
                Some(RouteState::Satisfied) => "satisfied by another program's route",
                Some(RouteState::Contested { .. }) => "contested by another program's route",
                Some(RouteState::Missing) | None => "missing",
                Some(RouteState::Refused { .. }) => "refused",
            };
            format!("{} via {} dev {}: {state}", route.destination, route.gateway, route.interface)
        }
        RoutePlan::Withheld(obstacle) => format!("withheld: {}: {}", obstacle.reason.as_str(), obstacle.message),
    }
}
