//! Validates every render for every version of Kubernetes with the schemas of that version. Unknown fields are refused.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use crate::helm::{CHART, Helm, VERSIONS, objects};
use crate::python;
use crate::schema::full;

/// Kinds that are not part of Kubernetes, so its schemas do not contain them.
const OF_OTHERS: [&str; 3] =
    ["monitoring.coreos.com/v1 PodMonitor", "monitoring.coreos.com/v1 PrometheusRule", "monitoring.coreos.com/v1 ServiceMonitor"];

/// The sets of values that change the render, by topic.
pub(crate) fn cases() -> BTreeMap<&'static str, Value> {
    BTreeMap::from([
        ("as it comes", json!({})),
        ("everything", full()),
        ("nft", json!({"agent": {"iptables": "nft"}})),
        ("legacy", json!({"agent": {"iptables": "legacy"}})),
        ("ip_forward", json!({"agent": {"setIpForward": true, "reservedPorts": ""}})),
        ("a pod monitor", json!({"metrics": {"listen": "NodeIP"}, "monitoring": {"podMonitor": {"enabled": true}}})),
        ("a service monitor", json!({"metrics": {"listen": "NodeIP"}, "monitoring": {"serviceMonitor": {"enabled": true}}})),
        ("alerts", json!({"monitoring": {"prometheusRule": {"enabled": true}, "dashboard": {"enabled": true}}})),
        ("on delete", json!({"updateStrategy": {"type": "OnDelete"}})),
        ("a share of the nodes", json!({"updateStrategy": {"rollingUpdate": {"maxUnavailable": "25%"}}})),
        (
            "as little as can be",
            json!({
                "crds": {"enabled": false},
                "serviceAccount": {"create": false, "name": "agents"},
                "rbac": {"create": false},
                "admissionPolicy": {"enabled": false},
                "nodeSelector": null,
                "tolerations": null,
                "resources": null,
                "priorityClassName": "",
                "affinity": null,
                "podLabels": null,
                "podAnnotations": null,
                "commonLabels": null,
                "podSecurityContext": null,
                "containerSecurityContext": null,
                "extraVolumes": null,
                "imagePullSecrets": null,
            }),
        ),
        ("cleanup", json!({"cleanup": {"enabled": true}})),
        ("cleanup with everything", {
            let mut values = full();
            values["cleanup"]["enabled"] = true.into();
            values
        }),
        (
            "no roles for users",
            json!({"rbac": {"userRoles": {"view": {"create": false}, "edit": {"create": false}, "grantsView": {"create": false}, "grantsEdit": {"create": false}}}}),
        ),
    ])
}

const VALIDATE: &str = r"
import functools, json, sys
import kubernetes_validate
from kubernetes_validate import utils
# The definitions of a version are large, and the same for each object.
utils.schema_contents = functools.cache(utils.schema_contents)
found = {}
for version, objects in json.load(sys.stdin).items():
    found[version] = []
    for thing in objects:
        try:
            judged = kubernetes_validate.validate(thing, version, strict=True)
            said = None if judged == version else 'was held against ' + judged
        except kubernetes_validate.SchemaNotFoundError:
            said = 'no schema'
        except kubernetes_validate.ValidationError as error:
            said = '/'.join(str(part) for part in error.path) + ': ' + error.message[:300]
        found[version].append(said)
json.dump(found, sys.stdout)
";

/// The errors of objects in each version of Kubernetes, and the kinds without a schema.
fn judged(by_version: &BTreeMap<&str, Vec<Value>>) -> (Vec<String>, BTreeSet<String>) {
    let answer = python::ask(VALIDATE, &json!(by_version));
    let (mut wrong, mut unknown) = (Vec::new(), BTreeSet::new());
    for (version, objects) in by_version {
        for (object, said) in objects.iter().zip(answer[version].as_array().expect("one answer to each")) {
            let kind = format!("{} {}", object["apiVersion"].as_str().unwrap(), object["kind"].as_str().unwrap());
            match said.as_str() {
                None => {}
                Some("no schema") => drop(unknown.insert(kind)),
                Some(said) => wrong.push(format!("{version} {kind} {}: {said}", object["metadata"]["name"])),
            }
        }
    }
    (wrong, unknown)
}

#[test]
fn every_render_is_right_for_every_version() {
    let mut by_version = BTreeMap::new();
    for version in VERSIONS {
        // Most objects are the same in most renders.
        let mut different: BTreeMap<String, Value> = BTreeMap::new();
        for (case, values) in cases() {
            let rendered = Helm::Four.template(CHART, version, &values).unwrap_or_else(|refusal| panic!("{case}: {refusal}"));
            different.extend(objects(&rendered).into_iter().map(|object| (object.to_string(), object)));
        }
        by_version.insert(version, different.into_values().collect());
    }
    let (wrong, unknown) = judged(&by_version);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(unknown, OF_OTHERS.map(str::to_owned).into());
}

#[test]
fn the_schemas_know_a_field_that_is_none() {
    let object = |spec: Value| json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}, "spec": spec});
    let containers = json!([{"name": "a"}]);
    let wrong = object(json!({"containers": containers, "hostnetwork": true}));
    let (found, _) = judged(&BTreeMap::from([("1.33", vec![wrong, object(json!({"containers": containers}))])]));
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].contains("hostnetwork"), "{found:?}");
}

#[test]
fn an_older_kubernetes_is_refused_by_name() {
    for helm in Helm::BOTH {
        let refusal = helm.template(CHART, "1.32", &json!({})).unwrap_err();
        assert!(refusal.contains("chart requires kubeVersion: >=1.33.0-0"), "{refusal}");
        // The version of a vendor has a suffix.
        helm.template(CHART, "v1.33.4-gke.100", &json!({})).unwrap();
    }
}
