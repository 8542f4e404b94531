//! Tests the alerts and the dashboard: their metrics exist, each alert fires when it should and only then, and the runbook has
//! a section for each alert.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use regex::Regex;
use serde_json::{Value, json};

use crate::exposition::{Family, parse, whole::whole};
use crate::helm::{CHART, NAME, objects, one, read, render};
use crate::schema::full;

const RUNBOOK: &str = "docs/alerts.md";

fn with_rules(values: Value) -> Value {
    let mut rules = values;
    rules["enabled"] = json!(true);
    json!({"monitoring": {"prometheusRule": rules}})
}

/// The rules that the chart renders.
fn rules(values: &Value) -> Vec<Value> {
    let objects = objects(&render(values));
    let groups = one(&objects, "PrometheusRule")["spec"]["groups"].as_array().unwrap().clone();
    assert_eq!(groups.len(), 1);
    groups[0]["rules"].as_array().unwrap().clone()
}

fn alerts() -> Vec<Value> {
    rules(&with_rules(json!({})))
}

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap_or_else(|| panic!("no {field}: {value}"))
}

fn names(alerts: &[Value]) -> BTreeSet<String> {
    alerts.iter().map(|alert| text(alert, "alert").to_owned()).collect()
}

/// Runs promtool in `folder`.
fn promtool(folder: &tempfile::TempDir, arguments: &[&str]) -> Output {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/hack/promtool.sh");
    let found = Command::new(script).stdin(Stdio::null()).stderr(Stdio::inherit()).output().expect("a script can be run");
    assert!(found.status.success(), "{script}: {}; it said above what is missing", found.status);
    let program = PathBuf::from(String::from_utf8_lossy(&found.stdout).trim());
    Command::new(program).args(arguments).current_dir(folder.path()).output().expect("promtool was found")
}

/// A folder with these rules, in the format of Prometheus.
fn folder(rules: &[Value]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let file = json!({"groups": [{"name": NAME, "rules": rules}]});
    std::fs::write(folder.path().join("rules.json"), file.to_string()).unwrap();
    folder
}

fn assert_passes(output: &Output) {
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && !said.contains("FAILED"), "{said}");
}

#[test]
fn prometheus_takes_the_rules_with_whatever_is_added() {
    for rules in [alerts(), rules(&full())] {
        assert_passes(&promtool(&folder(&rules), &["check", "rules", "--lint=all", "--lint-fatal", "rules.json"]));
    }
    let wrong = json!({"alert": "A", "expr": "sum(("});
    assert!(!promtool(&folder(&[wrong]), &["check", "rules", "rules.json"]).status.success());
}

/// The text of an alert with its labels inserted.
fn filled(said: &str, labels: &Value) -> String {
    let label = Regex::new(r"\{\{ \$labels\.(\w+) \}\}").unwrap();
    label.replace_all(said, |found: &regex::Captures<'_>| text(labels, &found[1]).to_owned()).into_owned()
}

/// The cases of `promtool test rules`, with the annotations of each alert inserted.
fn cases(alerts: &[Value]) -> Value {
    let always: BTreeMap<&str, &Value> = alerts.iter().map(|alert| (text(alert, "alert"), &alert["annotations"])).collect();
    let mut cases: Value = serde_saphyr::from_str(&read("tests/chart/alerts.yaml")).expect("the cases are YAML");
    cases["rule_files"] = json!(["rules.json"]);
    for case in cases["tests"].as_array_mut().unwrap() {
        case["interval"] = json!("1m");
        for tried in case["alert_rule_test"].as_array_mut().unwrap() {
            let name = text(tried, "alertname").to_owned();
            for expected in tried["exp_alerts"].as_array_mut().unwrap() {
                for part in ["description", "action", "runbook"] {
                    let said = filled(text(always[name.as_str()], part), &expected["exp_labels"]);
                    expected["exp_annotations"][part] = json!(said);
                }
            }
        }
    }
    cases
}

#[test]
fn every_alert_comes_when_it_should_and_not_when_it_should_not() {
    let alerts = alerts();
    let cases = cases(&alerts);
    let mut tried: BTreeMap<bool, BTreeSet<String>> = BTreeMap::new();
    for case in cases["tests"].as_array().unwrap().iter().flat_map(|case| case["alert_rule_test"].as_array().unwrap()) {
        let comes = !case["exp_alerts"].as_array().unwrap().is_empty();
        tried.entry(comes).or_default().insert(text(case, "alertname").to_owned());
    }
    assert_eq!(tried[&true], names(&alerts), "each alert has a case in which it comes");
    assert_eq!(tried[&false], names(&alerts), "and one in which it does not");
    let folder = folder(&alerts);
    std::fs::write(folder.path().join("cases.json"), cases.to_string()).unwrap();
    assert_passes(&promtool(&folder, &["test", "rules", "cases.json"]));
}

#[test]
fn each_alert_can_be_switched_and_set_by_itself_and_rules_can_be_added() {
    let given = json!({
        "PortForwardRepairs": false,
        "PortForwardStalled": {"enabled": false},
        "PortForwardNotReady": {"for": "1h", "severity": "page"},
        "PortForwardAgentDown": true,
    });
    let extra = json!([{"alert": "Mine", "expr": "vector(1)"}]);
    let usual = alerts();
    let set = rules(&with_rules(json!({"alerts": given, "extraRules": extra, "runbookUrl": "https://example.com/runbook"})));
    let gone: Vec<String> = names(&usual).difference(&names(&set)).cloned().collect();
    assert_eq!(gone, ["PortForwardRepairs", "PortForwardStalled"]);
    assert_eq!(set.last().unwrap(), &extra[0]);
    for alert in &set[..set.len() - 1] {
        let name = text(alert, "alert");
        let before = usual.iter().find(|before| before["alert"] == name).unwrap();
        let (length, severity) = match name {
            "PortForwardNotReady" => (json!("1h"), json!("page")),
            _ => (before["for"].clone(), before["labels"]["severity"].clone()),
        };
        assert_eq!((&alert["for"], &alert["labels"]["severity"]), (&length, &severity), "{name}");
        let link = format!("https://example.com/runbook#{}", name.to_lowercase());
        assert_eq!(text(&alert["annotations"], "runbook_url"), link);
        assert_eq!(before["annotations"].get("runbook_url"), None, "no link that leads nowhere");
    }
}

#[test]
fn the_rules_follow_the_name_that_the_monitors_give_the_job() {
    let values = json!({"nameOverride": "forwards", "monitoring": {"prometheusRule": {"enabled": true}}});
    let exprs: Vec<String> = rules(&values).iter().map(|rule| text(rule, "expr").to_owned()).collect();
    assert!(exprs.iter().all(|expr| expr.contains("job=\"forwards\"")), "{exprs:#?}");
    assert_eq!(exprs.len(), alerts().len());
}

#[test]
fn every_alert_has_its_section_of_the_runbook_and_every_section_its_alert() {
    let page = read(RUNBOOK);
    let sections: Vec<&str> = page.split("\n## ").skip(1).filter(|section| section.starts_with("PortForward")).collect();
    let named: BTreeSet<String> = sections.iter().map(|section| section.lines().next().unwrap().to_owned()).collect();
    let alerts = alerts();
    assert_eq!(named, names(&alerts));
    assert_eq!(named.len(), sections.len());
    for section in sections {
        for part in ["**Meaning.** ", "**Impact.** ", "**Diagnosis.** ", "**Mitigation.** "] {
            assert_eq!(section.matches(part).count(), 1, "{part}: {section}");
        }
    }
    for alert in &alerts {
        let row = format!(
            "| [{0}](#{1}) | {2} | {3} |",
            text(alert, "alert"),
            text(alert, "alert").to_lowercase(),
            text(&alert["labels"], "severity"),
            text(alert, "for")
        );
        assert!(page.contains(&row), "{RUNBOOK} lacks {row}");
        assert!(text(&alert["annotations"], "action").ends_with('.'), "the first step is there without a link: {alert}");
        assert_eq!(text(&alert["annotations"], "runbook"), format!("{RUNBOOK}#{}", text(alert, "alert").to_lowercase()));
    }
}

/// The metrics that exist: each series by its name, and the values of its labels.
fn known() -> BTreeMap<String, BTreeMap<String, BTreeSet<String>>> {
    let mut known: BTreeMap<String, BTreeMap<String, BTreeSet<String>>> = BTreeMap::new();
    for sample in parse(&whole().exposition().unwrap()).into_iter().flat_map(|family: Family| family.samples) {
        let labels = known.entry(sample.name).or_default();
        for (name, value) in sample.labels {
            labels.entry(name).or_default().insert(value);
        }
    }
    known
}

/// The metrics and labels in an expression that do not exist.
fn unknown(expr: &str) -> Vec<String> {
    let series = Regex::new(r"\b(portforward_\w+)(?:\{([^}]*)\})?").unwrap();
    let matcher = Regex::new(r#"(\w+)(=~|=|!=|!~)"([^"]*)""#).unwrap();
    // Labels that the scrape adds, and metrics of other programs.
    let of_others = ["job", "node", "instance"];
    let known = known();
    let mut wrong = Vec::new();
    for found in series.captures_iter(expr) {
        let Some(labels) = known.get(&found[1]) else {
            wrong.push(format!("{}: no such series", &found[1]));
            continue;
        };
        for asked in matcher.captures_iter(found.get(2).map_or("", |matchers| matchers.as_str())) {
            let (label, values) = (&asked[1], &asked[3]);
            if of_others.contains(&label) {
                continue;
            }
            let there = |value: &str| labels.get(label).is_some_and(|values| values.contains(value));
            wrong.extend(
                values.split('|').filter(|value| !there(value)).map(|value| format!("{}: no {label}={value}", &found[1])),
            );
        }
    }
    wrong
}

#[test]
fn alerts_ask_for_series_and_labels_that_there_are() {
    for alert in alerts() {
        assert_eq!(unknown(text(&alert, "expr")), Vec::<String>::new(), "{alert}");
    }
    let wrong = unknown(r#"rate(portforward_repair_total[5m]) > portforward_routes{state=~"missing|gone",via="x"}"#);
    assert_eq!(
        wrong,
        ["portforward_repair_total: no such series", "portforward_routes: no state=gone", "portforward_routes: no via=x"]
    );
}

#[test]
fn the_page_on_metrics_asks_for_series_and_labels_that_there_are() {
    let page = read("docs/metrics.md");
    let code = Regex::new("`([^`\n]*portforward_[^`\n]*)`").unwrap();
    let exprs: Vec<String> = code.captures_iter(&page).map(|found| found[1].replace("\\|", "|")).collect();
    assert!(exprs.len() > 30, "{exprs:?}");
    // The table has counters and buckets with the names that users look for. A histogram has its name without suffix.
    let wrong: Vec<String> =
        exprs.iter().flat_map(|expr| unknown(expr)).filter(|wrong| !wrong.contains("_duration_seconds: no such")).collect();
    assert_eq!(wrong, Vec::<String>::new());
}

/// The panels of a dashboard, with the rows and with the panels of collapsed rows.
fn panels(dashboard: &Value) -> Vec<&Value> {
    let own = dashboard["panels"].as_array().unwrap().iter();
    own.flat_map(|panel| std::iter::once(panel).chain(panel["panels"].as_array().into_iter().flatten())).collect()
}

#[test]
fn no_panel_in_sight_needs_what_an_agent_does_not_count_by_default() {
    let dashboard: Value = serde_json::from_str(&read(&format!("{CHART}/files/dashboard.json"))).unwrap();
    let by_choice = ["portforward_forward_bytes_total", "portforward_forward_packets_total", "portforward_conntrack_accounting"];
    for panel in dashboard["panels"].as_array().unwrap() {
        let own = json!({"targets": panel["targets"]}).to_string();
        assert!(!by_choice.iter().any(|series| own.contains(series)), "{} is empty by default", panel["title"]);
        assert!(panel["type"] != "row" || panel["collapsed"] == true);
    }
}

#[test]
fn the_dashboard_is_one_that_grafana_takes_and_asks_for_what_there_is() {
    let dashboard: Value = serde_json::from_str(&read(&format!("{CHART}/files/dashboard.json"))).expect("the dashboard is JSON");
    assert_eq!(dashboard["uid"], NAME, "links to it stay");
    assert_eq!(dashboard.get("id"), None, "it has none of its own in any Grafana");
    let variables: Vec<&str> = dashboard["templating"]["list"].as_array().unwrap().iter().map(|it| text(it, "name")).collect();
    assert_eq!(variables, ["datasource", "job", "instance"]);
    let panels = panels(&dashboard);
    let ids: BTreeSet<u64> = panels.iter().map(|panel| panel["id"].as_u64().unwrap()).collect();
    assert_eq!(ids.len(), panels.len());
    let labels = Regex::new(r"\{\{(\w+)\}\}").unwrap();
    for panel in panels.iter().filter(|panel| panel["type"] != "row") {
        assert!(!text(panel, "title").is_empty() && !text(panel, "description").is_empty());
        for target in panel["targets"].as_array().unwrap() {
            assert_eq!(target["datasource"]["uid"], "${datasource}");
            let expr = text(target, "expr");
            assert!(expr.contains("job=~\"$job\",instance=~\"$instance\""), "{expr}");
            assert_eq!(unknown(expr), Vec::<String>::new(), "{expr}");
            let given = |name: &str| {
                expr.contains(&format!("by ({name}")) || expr.contains(&format!(", {name}")) || !expr.contains(" by ")
            };
            assert!(labels.captures_iter(text(target, "legendFormat")).all(|label| given(&label[1])), "{expr}");
        }
    }
}

#[test]
fn no_two_panels_of_the_dashboard_lie_on_one_place_and_all_of_their_expressions_parse() {
    let dashboard: Value = serde_json::from_str(&read(&format!("{CHART}/files/dashboard.json"))).unwrap();
    let mut taken = BTreeSet::new();
    let mut exprs = Vec::new();
    for panel in panels(&dashboard) {
        let [x, y, w, h] = ["x", "y", "w", "h"].map(|side| panel["gridPos"][side].as_u64().unwrap());
        assert!(x + w <= 24);
        for place in (x..x + w).flat_map(|x| (y..y + h).map(move |y| (x, y))) {
            assert!(taken.insert(place), "{}: {place:?}", panel["title"]);
        }
        exprs.extend(
            panel["targets"]
                .as_array()
                .into_iter()
                .flatten()
                .map(|target| text(target, "expr").replace("$__rate_interval", "5m")),
        );
    }
    let rules: Vec<Value> = exprs.iter().map(|expr| json!({"record": "a:b", "expr": expr})).collect();
    let output = promtool(&folder(&rules), &["check", "rules", "--lint=none", "rules.json"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_sidecar_finds_the_dashboard_by_its_label_and_it_is_the_one_of_the_file() {
    let values = json!({"monitoring": {"dashboard": {"enabled": true, "annotations": {"grafana_folder": "Network"}}}});
    let objects = objects(&render(&values));
    let map = one(&objects, "ConfigMap");
    assert_eq!(map["metadata"]["labels"]["grafana_dashboard"], "1");
    assert_eq!(map["metadata"]["annotations"], json!({"grafana_folder": "Network"}));
    let data: Value = serde_json::from_str(text(&map["data"], "portforward-operator.json")).unwrap();
    assert_eq!(data, serde_json::from_str::<Value>(&read(&format!("{CHART}/files/dashboard.json"))).unwrap());
}

#[test]
fn a_series_about_a_forward_keeps_the_namespace_of_the_forward() {
    for kind in ["podMonitor", "serviceMonitor"] {
        let values = json!({"metrics": {"listen": "NodeIP"}, "monitoring": {kind: {"enabled": true}}});
        let rendered = objects(&render(&values));
        let monitor = rendered.iter().find(|object| object["apiVersion"] == "monitoring.coreos.com/v1").unwrap();
        let endpoints = [&monitor["spec"]["podMetricsEndpoints"], &monitor["spec"]["endpoints"]];
        assert!(endpoints.iter().any(|endpoint| endpoint[0]["honorLabels"] == true), "{monitor}");
    }
}
