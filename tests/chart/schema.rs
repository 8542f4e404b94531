//! Tests the schema of the values: at every level, it refuses misspelt keys and wrong types, and names them.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::helm::{CHART, Helm, VERSIONS, read};
use crate::table::{documented, place};

/// Maps whose keys the user chooses, by path. The schema cannot detect a misspelt key there, but it refuses an invalid key.
const FREE: [&str; 13] = [
    "/commonLabels",
    "/nodeSelector",
    "/podAnnotations",
    "/podLabels",
    "/serviceAccount/annotations",
    "/monitoring/podMonitor/labels",
    "/monitoring/podMonitor/annotations",
    "/monitoring/serviceMonitor/labels",
    "/monitoring/serviceMonitor/annotations",
    "/monitoring/prometheusRule/labels",
    "/monitoring/prometheusRule/annotations",
    "/monitoring/dashboard/labels",
    "/monitoring/dashboard/annotations",
];

/// Values that are passed on unchanged, in types of Kubernetes or of the Prometheus operator. Newer versions may have other
/// fields, so the API server checks them.
const HANDED_ON: [&str; 16] = [
    "/metrics/secure/authorization",
    "/metrics/secure/tlsConfig",
    "/agent/extraEnv",
    "/affinity",
    "/tolerations",
    "/imagePullSecrets",
    "/resources",
    "/podSecurityContext",
    "/containerSecurityContext",
    "/extraVolumes",
    "/extraVolumeMounts",
    "/monitoring/podMonitor/relabelings",
    "/monitoring/podMonitor/metricRelabelings",
    "/monitoring/serviceMonitor/relabelings",
    "/monitoring/serviceMonitor/metricRelabelings",
    "/monitoring/prometheusRule/extraRules",
];

/// Whether a part of the values is passed on unchanged or belongs to such a value.
fn is_handed_on(pointer: &str) -> bool {
    HANDED_ON.iter().any(|part| pointer == *part || pointer.starts_with(&format!("{part}/")))
}

/// Values that only a parent chart uses. They are not in the values file.
const OF_PARENTS: [&str; 2] = ["/enabled", "/global"];

/// Every value, once.
pub(crate) fn full() -> Value {
    serde_saphyr::from_str(&read("tests/chart/full.yaml")).expect("the values are YAML")
}

fn schema() -> Value {
    serde_json::from_str(&read(&format!("{CHART}/values.schema.json"))).expect("the schema is JSON")
}

/// A wrong change of the values, and the words that the refusal must contain.
struct Slip {
    pointer: String,
    values: Value,
    named: String,
}

/// Changes the part of the values at a pointer.
fn changed(values: &Value, pointer: &str, change: impl FnOnce(&mut Value)) -> Value {
    let mut values = values.clone();
    change(values.pointer_mut(pointer).expect("it is there"));
    values
}

/// Walks the values, each part with its pointer.
fn walk(part: &Value, pointer: &str, visit: &mut impl FnMut(&Value, &str)) {
    visit(part, pointer);
    for (key, inner) in part.as_object().into_iter().flatten() {
        walk(inner, &format!("{pointer}/{}", key.replace('/', "~1")), visit);
    }
    for (index, inner) in part.as_array().into_iter().flatten().enumerate() {
        walk(inner, &format!("{pointer}/{index}"), visit);
    }
}

/// The answer of Helm to each set of values: the refusal, or `None`. Needs only one run, with a parent chart that contains this
/// chart once per set, each under its own name.
fn refusals(values: &[&Value]) -> Vec<Option<String>> {
    let parent = parent(values.len());
    let all: serde_json::Map<String, Value> =
        values.iter().enumerate().map(|(index, values)| (alias(index), (*values).clone())).collect();
    let said = Helm::Four.template(parent.path().to_str().unwrap(), VERSIONS[0], &Value::Object(all)).unwrap_err();
    let (_, said) = said.split_once("values don't meet the specifications of the schema(s)").unwrap_or_else(|| panic!("{said}"));
    let of = |index| {
        let (_, from) = said.split_once(&format!("\n{}:\n", alias(index)))?;
        Some(from.lines().take_while(|line| line.starts_with(['-', ' '])).collect::<Vec<_>>().join("\n"))
    };
    (0..values.len()).map(of).collect()
}

fn alias(index: usize) -> String {
    format!("chart-{index}")
}

/// A chart that contains this chart this number of times, under different names.
fn parent(times: usize) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let charts = folder.path().join("charts");
    std::fs::create_dir(&charts).unwrap();
    let from = format!("{}/{CHART}", env!("CARGO_MANIFEST_DIR"));
    std::os::unix::fs::symlink(from, charts.join("portforward-operator")).unwrap();
    let dependency = |index| json!({"name": "portforward-operator", "version": env!("CARGO_PKG_VERSION"), "alias": alias(index)});
    let dependencies: Vec<Value> = (0..times).map(dependency).collect();
    let chart = json!({"apiVersion": "v2", "name": "parent", "version": "0.1.0", "dependencies": dependencies});
    std::fs::write(folder.path().join("Chart.yaml"), chart.to_string()).unwrap();
    std::fs::write(folder.path().join("values.yaml"), "global: {team: network}\n").unwrap();
    folder
}

/// Asserts that each wrong change is refused with its words, and that the unchanged values are accepted.
fn assert_refused(slips: &[Slip]) {
    let good = full();
    let values: Vec<&Value> = slips.iter().map(|slip| &slip.values).chain([&good]).collect();
    let said = refusals(&values);
    assert_eq!(said.last(), Some(&None), "the values that the slips are made of");
    let mut wrong = Vec::new();
    for (slip, said) in slips.iter().zip(&said) {
        match said {
            Some(said) if said.contains(&slip.named) => {}
            Some(said) => wrong.push(format!("{}: {said}", slip.pointer)),
            None => wrong.push(format!("{}: was taken", slip.pointer)),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_chart_passes_the_lint_of_both_helms() {
    for helm in Helm::BOTH {
        for values in [json!({}), full()] {
            let output = helm.run(&["lint", "--strict", "--kube-version=1.33", CHART, "--values", "-"], &values);
            let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success() && !said.contains("[WARNING]") && !said.contains("icon"), "{helm:?}: {said}");
        }
    }
}

#[test]
fn both_helms_render_the_same() {
    for values in [json!({}), full()] {
        let rendered = Helm::BOTH.map(|helm| helm.template(CHART, VERSIONS[0], &values).unwrap());
        // The two versions differ in empty lines between documents.
        let [four, three] =
            rendered.map(|text| text.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect::<Vec<_>>());
        assert_eq!(four, three);
    }
}

#[test]
fn every_key_that_is_misspelt_at_any_level_is_refused_by_name() {
    let full = full();
    let mut slips = Vec::new();
    walk(&full, "", &mut |part, pointer| {
        if is_handed_on(pointer) {
            return;
        }
        let free = FREE.contains(&pointer);
        for key in part.as_object().into_iter().flat_map(|fields| fields.keys()) {
            let wrong = if free { "no key!".to_owned() } else { format!("{key}x") };
            let values = changed(&full, pointer, |part| {
                let fields = part.as_object_mut().expect("it has fields");
                let value = fields.remove(key).expect("it has this field");
                fields.insert(wrong.clone(), value);
            });
            slips.push(Slip {
                pointer: format!("{pointer}/{key}"),
                values,
                named: format!("additional properties '{wrong}' not allowed"),
            });
        }
    });
    assert!(slips.len() > 90, "{}", slips.len());
    assert_refused(&slips);
}

#[test]
fn every_value_of_another_kind_is_refused() {
    let full = full();
    let mut slips = Vec::new();
    walk(&full, "", &mut |part, pointer| {
        let other = if part.is_object() || part.is_boolean() { json!("text") } else { json!({"a": "b"}) };
        if !pointer.is_empty() && (!is_handed_on(pointer) || HANDED_ON.contains(&pointer)) {
            slips.push(Slip {
                pointer: pointer.into(),
                values: changed(&full, pointer, |part| *part = other),
                named: String::new(),
            });
        }
    });
    assert!(slips.len() > 100, "{}", slips.len());
    assert_refused(&slips);
}

#[test]
fn what_no_cluster_could_use_is_refused() {
    let slips = [
        ("/metrics/port", json!(80)),
        ("/metrics/port", json!(65536)),
        ("/metrics/port", json!(10450.5)),
        ("/agent/backend", json!("ipvs")),
        ("/agent/nftablesTable", json!("mine")),
        ("/agent/iptables", json!("nftables")),
        ("/agent/logLevel", json!("inof")),
        ("/agent/reservedPorts", json!("22;53")),
        ("/agent/reservedPorts", json!("22/ICMP")),
        ("/agent/reservedPorts", json!(70000)),
        ("/agent/forbiddenNetworks", json!("node")),
        ("/agent/forbiddenNetworks", json!("nodes pods")),
        ("/agent/forbiddenNetworks", json!("10.0.0.0/8;pods")),
        ("/agent/forbiddenNetworks", json!(["nodes"])),
        ("/agent/stateDir", json!("/")),
        ("/agent/stateDir", json!("/srv/../etc")),
        ("/agent/stateDir", json!("srv")),
        ("/image/digest", json!("sha256:abc")),
        ("/image/tag", json!("a b")),
        ("/image/repository", json!("Upper")),
        ("/updateStrategy/rollingUpdate/maxUnavailable", json!(0)),
        ("/updateStrategy/rollingUpdate/maxUnavailable", json!("0%")),
        ("/terminationGracePeriodSeconds", json!(0)),
        ("/podLabels", json!({"a": "no value!"})),
        ("/podLabels", json!({"a": "x".repeat(64)})),
        ("/monitoring/podMonitor/interval", json!("30 s")),
        ("/monitoring/prometheusRule/runbookUrl", json!("docs/alerts.md")),
        ("/monitoring/prometheusRule/extraRules", json!([{"alert": "A", "record": "b", "expr": "1"}])),
        ("/monitoring/prometheusRule/extraRules", json!([{"expr": "1"}])),
        ("/agent/forwardMetrics/detail", json!(false)),
        ("/agent/forwardMetrics/limit", json!(-1)),
        ("/resources/limits", json!("512Mi")),
        ("/revisionHistoryLimit", json!(-1)),
        ("/minReadySeconds", json!(0.5)),
        ("/resourceQuota/pods", json!(0)),
        ("/resourceQuota/pods", json!("many")),
        ("/agent/forwardSelector", json!("pool=a/b=c")),
        ("/agent/forwardSelector", json!("pool>1")),
        ("/agent/forwardSelector", json!({"pool": "edge"})),
        ("/agent/connmark", json!("bit 12")),
        ("/agent/connmark", json!("0x100000000")),
        ("/agent/connmark", json!(-4096)),
        ("/agent/connmark", json!(true)),
        ("/agent/maxTranslations", json!(0)),
        ("/agent/maxTranslations", json!(0.5)),
        ("/agent/maxTranslations", json!("many")),
        ("/agent/reservedPorts", json!(65536)),
        ("/agent/reservedPorts", json!(22.5)),
        ("/agent/reservedPorts", json!(true)),
        ("/agent/requireGrants", json!("yes")),
        ("/image/tag", json!(0.5)),
        ("/commonLabels", json!({"a": "no value!"})),
        ("/extraVolumes", json!([{"emptyDir": {}}])),
        ("/fullnameOverride", json!("x".repeat(53))),
        ("/tolerations/0/effect", json!(1)),
        ("/tolerations/0/tolerationSeconds", json!("60")),
        ("/affinity", json!([])),
    ];
    let full = full();
    let slip = |(pointer, value): (&str, Value)| Slip {
        pointer: format!("{pointer}: {value}"),
        values: changed(&full, pointer, |part| *part = value.clone()),
        named: String::new(),
    };
    assert_refused(&slips.map(slip));
}

/// The paths of all fields in a part of the schema.
fn fields(schema: &Value, part: &Value, path: &str, found: &mut BTreeSet<String>) {
    let part = match part["$ref"].as_str() {
        Some(definition) => schema.pointer(definition.trim_start_matches('#')).expect("a definition is there"),
        None => part,
    };
    for (name, inner) in part["properties"].as_object().into_iter().flatten() {
        let path = format!("{path}/{name}");
        fields(schema, inner, &path, found);
        found.insert(path);
    }
    if let Some(items) = part.get("items") {
        fields(schema, items, &format!("{path}/0"), found);
    }
}

#[test]
fn the_tests_know_every_value_that_the_schema_knows() {
    let (schema, full) = (schema(), full());
    let mut known = BTreeSet::new();
    fields(&schema, &schema, "", &mut known);
    known.retain(|pointer| !OF_PARENTS.contains(&pointer.as_str()) || pointer == "/enabled");
    // In a list, it is enough that one entry has the field.
    let has = |pointer: &str| {
        let mut found = false;
        walk(&full, "", &mut |_, there| {
            let digits = |part: &str| part.parse::<usize>().is_ok();
            let same =
                there.split('/').zip(pointer.split('/')).all(|(one, other)| one == other || (digits(one) && digits(other)));
            found |= same && there.split('/').count() == pointer.split('/').count();
        });
        found
    };
    let missing: Vec<&String> = known.iter().filter(|pointer| !has(pointer)).collect();
    assert!(missing.is_empty(), "tests/chart/full.yaml lacks {missing:#?}");
}

#[test]
fn every_value_of_the_schema_is_documented_and_the_other_way_round() {
    let schema = schema();
    let documented: Vec<String> = documented().iter().map(|value| value.path.join("/")).collect();
    let mut known = BTreeSet::new();
    fields(&schema, &schema, "", &mut known);
    let covered = |path: &str| {
        let path = path.trim_start_matches('/');
        // A section above documented values, one of these values, or a part of one.
        documented.iter().any(|one| one == path || one.starts_with(&format!("{path}/")) || path.starts_with(&format!("{one}/")))
    };
    let missing: Vec<&String> = known.iter().filter(|path| !OF_PARENTS.contains(&path.as_str()) && !covered(path)).collect();
    assert!(missing.is_empty(), "values.yaml does not document {missing:#?}");
    for value in crate::table::documented() {
        // Panics if the schema lacks the value.
        place(&schema, &value.path);
        assert!(value.meaning.ends_with(['.', '?']), "{}: a sentence ends: {}", value.path.join("."), value.meaning);
    }
}
