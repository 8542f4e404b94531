//! Tests the chart as a dependency of a parent chart, in the ways that Helm offers.

use std::fs;
use std::os::unix::fs::symlink;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::helm::{CHART, Helm, NAME, VERSIONS, objects};

/// A parent chart with this chart as a dependency with these settings, and with values of its own.
fn parent(dependency: &Value, values: &Value) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("charts")).unwrap();
    let from = format!("{}/{CHART}", env!("CARGO_MANIFEST_DIR"));
    symlink(from, folder.path().join("charts").join(NAME)).unwrap();
    let mut one = json!({"name": NAME, "version": env!("CARGO_PKG_VERSION")});
    one.as_object_mut().unwrap().extend(dependency.as_object().unwrap().clone());
    let chart = json!({"apiVersion": "v2", "name": "parent", "version": "0.1.0", "dependencies": [one]});
    fs::write(folder.path().join("Chart.yaml"), chart.to_string()).unwrap();
    fs::write(folder.path().join("values.yaml"), values.to_string()).unwrap();
    folder
}

/// The render of a Helm version.
fn render(helm: Helm, parent: &TempDir, values: &Value) -> Result<Vec<Value>, String> {
    helm.template(parent.path().to_str().unwrap(), VERSIONS[0], values).map(|text| objects(&text))
}

#[test]
fn a_parent_chart_sets_its_values_and_a_slip_is_still_refused() {
    let parent = parent(&json!({"alias": "lines"}), &json!({"global": {"team": "network", "imageRegistry": "r.example.com"}}));
    for helm in Helm::BOTH {
        let taken = render(helm, &parent, &json!({"lines": {"metrics": {"port": 20450}}})).unwrap();
        assert!(json!(taken).to_string().contains(r#""value":"127.0.0.1:20450""#));
        let refusal = render(helm, &parent, &json!({"lines": {"metrics": {"prot": 20450}}})).unwrap_err();
        assert!(refusal.contains("'prot' not allowed"), "{refusal}");
    }
}

#[test]
fn the_condition_of_a_dependency_switches_the_chart_on_and_off() {
    for (dependency, key) in [
        (json!({"condition": "portforward-operator.enabled"}), NAME),
        (json!({"condition": "lines.enabled", "alias": "lines"}), "lines"),
        // The first path that exists decides.
        (json!({"condition": "global.lines,portforward-operator.enabled"}), NAME),
    ] {
        for (said, wanted) in [(true, true), (false, false)] {
            let values = json!({key: {"enabled": said}});
            // Set in the values of the parent, and by the user.
            for (own, given) in [(&values, &json!({})), (&json!({}), &values)] {
                let parent = parent(&dependency, own);
                for helm in Helm::BOTH {
                    let rendered = render(helm, &parent, given).unwrap_or_else(|said| panic!("{helm:?} {dependency}: {said}"));
                    assert_eq!(!rendered.is_empty(), wanted, "{helm:?} {dependency} {own} {given}");
                }
            }
        }
    }
}

#[test]
fn a_switch_is_a_switch() {
    let parent = parent(&json!({"condition": "portforward-operator.enabled"}), &json!({}));
    for helm in Helm::BOTH {
        let refusal = render(helm, &parent, &json!({NAME: {"enabled": "yes"}})).unwrap_err();
        assert!(refusal.contains("enabled"), "{refusal}");
    }
}

#[test]
fn the_tags_of_a_dependency_switch_the_chart_on_and_off() {
    let parent = parent(&json!({"tags": ["network"]}), &json!({"tags": {"network": false}}));
    for helm in Helm::BOTH {
        assert!(render(helm, &parent, &json!({})).unwrap().is_empty());
        assert!(!render(helm, &parent, &json!({"tags": {"network": true}})).unwrap().is_empty());
    }
}

#[test]
fn a_parent_of_a_parent_may_switch_it_too() {
    let middle = parent(&json!({"condition": "portforward-operator.enabled"}), &json!({}));
    let outer = tempfile::tempdir().unwrap();
    fs::create_dir(outer.path().join("charts")).unwrap();
    symlink(middle.path(), outer.path().join("charts/parent")).unwrap();
    let dependencies = json!([{"name": "parent", "version": "0.1.0", "condition": "parent.enabled"}]);
    let chart = json!({"apiVersion": "v2", "name": "outer", "version": "0.1.0", "dependencies": dependencies});
    fs::write(outer.path().join("Chart.yaml"), chart.to_string()).unwrap();
    for helm in Helm::BOTH {
        for (enabled, inner, wanted) in [(true, true, true), (true, false, false), (false, true, false)] {
            let values = json!({"parent": {"enabled": enabled, NAME: {"enabled": inner}}, "global": {"a": 1}});
            assert_eq!(!render(helm, &outer, &values).unwrap().is_empty(), wanted, "{helm:?} {values}");
        }
    }
}
