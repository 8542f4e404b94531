//! Tests the effect of single values, from a values file and from `--set`.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::helm::{CHART, Helm, NAME, VERSIONS, named, objects, one, read, render};
use crate::schema::full;

fn rendered(values: &Value) -> Vec<Value> {
    objects(&render(values))
}

fn template(values: &Value) -> Value {
    one(&rendered(values), "DaemonSet")["spec"]["template"].clone()
}

/// The render of a Helm version with arguments such as `--set`.
fn by_words(helm: Helm, words: &[&str]) -> Vec<Value> {
    let version = format!("--kube-version={}", VERSIONS[0]);
    let arguments = ["template", NAME, CHART, &version].into_iter().chain(words.iter().copied()).collect::<Vec<_>>();
    let output = helm.run(&arguments, &Value::Null);
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    objects(&String::from_utf8_lossy(&output.stdout))
}

#[test]
fn a_number_or_a_truth_value_by_set_becomes_the_text_that_it_looks_like() {
    let words = [
        ("agent.reservedPorts=22", "/spec/template/spec/containers/0/args/1", "--reserved-ports=22"),
        ("agent.extraArgs[0]=5", "/spec/template/spec/containers/0/args/1", "5"),
        ("agent.extraArgs[0]=true", "/spec/template/spec/containers/0/args/1", "true"),
        ("image.tag=20260101", "/spec/template/spec/containers/0/image", "localhost/portforward-operator:20260101"),
        ("image.tag=1.10", "/spec/template/spec/containers/0/image", "localhost/portforward-operator:1.10"),
        ("nodeSelector.proxy=true", "/spec/template/spec/nodeSelector/proxy", "true"),
        ("nodeSelector.legs=2", "/spec/template/spec/nodeSelector/legs", "2"),
        ("tolerations[0].value=true", "/spec/template/spec/tolerations/0/value", "true"),
        ("imagePullSecrets[0].name=1234567890", "/spec/template/spec/imagePullSecrets/0/name", "1234567890"),
        ("podLabels.shard=12345678", "/spec/template/metadata/labels/shard", "12345678"),
        ("podAnnotations.scrape=false", "/spec/template/metadata/annotations/scrape", "false"),
        ("commonLabels.centre=42", "/metadata/labels/centre", "42"),
        ("commonLabels.centre=42", "/spec/template/metadata/labels/centre", "42"),
        (
            "agent.extraEnv[0].name=A,agent.extraEnv[0].value=1234567890",
            "/spec/template/spec/containers/0/env/12/value",
            "1234567890",
        ),
    ];
    for helm in Helm::BOTH {
        for (word, pointer, wanted) in words {
            let set = one(&by_words(helm, &["--set", word]), "DaemonSet").clone();
            assert_eq!(set.pointer(pointer), Some(&json!(wanted)), "{helm:?} {word}");
        }
        let account = by_words(helm, &["--set", "serviceAccount.annotations.role=123456789012"]);
        assert_eq!(one(&account, "ServiceAccount")["metadata"]["annotations"]["role"], "123456789012");
    }
}

#[test]
fn a_number_in_a_file_becomes_the_text_that_it_looks_like() {
    // Helm reads the numbers of a file as floats, and writes large ones with an exponent.
    let values = json!({
        "agent": {"reservedPorts": 30000, "extraEnv": [{"name": "A", "value": 1_234_567_890}]},
        "image": {"tag": 20_260_101},
        "podLabels": {"a": 12_345_678, "b": true},
        "podAnnotations": {"a": 0.5},
    });
    let template = template(&values);
    let agent = &template["spec"]["containers"][0];
    assert_eq!(agent["args"][1], "--reserved-ports=30000");
    assert_eq!(agent["image"], "localhost/portforward-operator:20260101");
    assert!(agent["env"].as_array().unwrap().contains(&json!({"name": "A", "value": "1234567890"})));
    assert_eq!(
        (&template["metadata"]["labels"]["a"], &template["metadata"]["labels"]["b"]),
        (&json!("12345678"), &json!("true"))
    );
    assert_eq!(template["metadata"]["annotations"], json!({"a": "0.5"}));
}

#[test]
fn what_kubernetes_gets_later_reaches_the_objects_without_another_chart() {
    let values = json!({
        "tolerations": [{"key": "a", "operator": "Lt", "value": "5", "later": {"a": 1}}],
        "affinity": {"nodeAffinity": {"later": [1]}, "podAntiAffinity": {}, "laterAffinity": {}},
        "resources": {"requests": {"later": "1"}, "claims": [{"name": "a"}]},
        "podSecurityContext": {"later": true},
        "containerSecurityContext": {"later": true},
        "extraVolumes": [{"name": "a", "later": {}}],
        "extraVolumeMounts": [{"name": "a", "mountPath": "/a", "later": true}],
        "agent": {"extraEnv": [{"name": "A", "valueFrom": {"fileKeyRef": {"path": "a"}}}]},
        "imagePullSecrets": [{"name": "a"}],
    });
    let spec = template(&values)["spec"].clone();
    assert_eq!(spec["tolerations"], values["tolerations"]);
    assert_eq!(spec["affinity"], values["affinity"]);
    let agent = &spec["containers"][0];
    assert_eq!(agent["resources"]["claims"], values["resources"]["claims"]);
    assert_eq!(agent["resources"]["requests"], json!({"cpu": "20m", "memory": "128Mi", "later": "1"}));
    assert_eq!((&spec["securityContext"]["later"], &agent["securityContext"]["later"]), (&json!(true), &json!(true)));
    assert!(spec["volumes"].as_array().unwrap().contains(&values["extraVolumes"][0]));
    assert!(agent["volumeMounts"].as_array().unwrap().contains(&values["extraVolumeMounts"][0]));
    assert!(agent["env"].as_array().unwrap().contains(&values["agent"]["extraEnv"][0]));
    let monitor = json!({
        "metrics": {"listen": "NodeIP"},
        "monitoring": {"podMonitor": {"enabled": true, "relabelings": [{"action": "later"}]},
                       "prometheusRule": {"enabled": true, "extraRules": [{"record": "a", "expr": "1", "later": 1}]}},
    });
    let text = json!(rendered(&monitor)).to_string();
    assert!(text.contains(r#""action":"later""#) && text.contains(r#""later":1"#), "{text}");
}

#[test]
fn a_security_context_is_merged_over_the_chart_s_own() {
    let own = template(&json!({}))["spec"].clone();
    let profile = json!({"type": "Localhost", "localhostProfile": "portforward"});
    let values = json!({
        "podSecurityContext": {"seccompProfile": profile},
        "containerSecurityContext": {"appArmorProfile": profile, "seLinuxOptions": {"type": "spc_t"}, "capabilities": {"add": ["NET_ADMIN"]}},
    });
    let spec = template(&values)["spec"].clone();
    assert_eq!(spec["securityContext"], json!({"seccompProfile": profile}));
    let mut wanted = own["containers"][0]["securityContext"].clone();
    wanted["appArmorProfile"] = profile;
    wanted["seLinuxOptions"] = json!({"type": "spc_t"});
    wanted["capabilities"]["add"] = json!(["NET_ADMIN"]);
    assert_eq!(spec["containers"][0]["securityContext"], wanted);
}

#[test]
fn common_labels_are_on_everything_and_in_no_selector() {
    let mut values = full();
    // The value of a single object has precedence there.
    values["commonLabels"] = json!({"team": "network", "release": "common"});
    let objects = rendered(&values);
    for object in &objects {
        assert_eq!(object["metadata"]["labels"]["team"], "network", "{}", named(std::slice::from_ref(object))[0]);
    }
    assert_eq!(one(&objects, "PodMonitor")["metadata"]["labels"]["release"], "prometheus");
    let set = one(&objects, "DaemonSet");
    assert_eq!(set["spec"]["template"]["metadata"]["labels"]["team"], "network");
    assert!(set["spec"]["selector"]["matchLabels"].get("team").is_none());
    // A label for pods has precedence over a label for all objects.
    let template = template(&json!({"commonLabels": {"team": "all"}, "podLabels": {"team": "pods"}}));
    assert_eq!(template["metadata"]["labels"]["team"], "pods");
}

#[test]
fn the_rollout_is_as_it_is_asked_for() {
    let set = one(&rendered(&full()), "DaemonSet").clone();
    assert_eq!((&set["spec"]["revisionHistoryLimit"], &set["spec"]["minReadySeconds"]), (&json!(3), &json!(5)));
    let none = one(&rendered(&json!({"revisionHistoryLimit": 0})), "DaemonSet").clone();
    assert_eq!(none["spec"]["revisionHistoryLimit"], 0);
}

#[test]
fn the_check_expects_the_admission_policy_where_the_chart_makes_it() {
    let arguments = |values: &Value| one(&rendered(values), "Pod")["spec"]["containers"][0]["args"].clone();
    assert_eq!(arguments(&json!({})), json!(["check"]));
    let off = json!({"admissionPolicy": {"enabled": false}});
    assert_eq!(arguments(&off), json!(["check", "--admission-policy=optional"]));
}

#[test]
fn a_quota_is_for_the_priority_class_of_the_agents_and_by_choice() {
    assert!(rendered(&json!({})).iter().all(|object| object["kind"] != "ResourceQuota"));
    let values = json!({"resourceQuota": {"enabled": true, "pods": "10k"}, "priorityClassName": "critical"});
    assert_eq!(
        one(&rendered(&values), "ResourceQuota")["spec"],
        json!({
            "hard": {"pods": "10k"},
            "scopeSelector": {"matchExpressions": [{"scopeName": "PriorityClass", "operator": "In", "values": ["critical"]}]},
        })
    );
    let default = rendered(&json!({"resourceQuota": {"enabled": true}}));
    assert_eq!(one(&default, "ResourceQuota")["spec"]["hard"]["pods"], "10000");
}

/// The fields of an object's pods that identify them and decide where they run.
fn placed(object: &Value) -> BTreeMap<String, Value> {
    let spec = object["spec"]["template"]["spec"].as_object().unwrap();
    let fields =
        ["imagePullSecrets", "nodeSelector", "affinity", "tolerations", "priorityClassName", "securityContext", "hostNetwork"];
    fields.into_iter().map(|field| (field.to_owned(), spec.get(field).cloned().unwrap_or_default())).collect()
}

#[test]
fn cleanup_takes_the_place_of_the_agents_with_the_values_of_the_release() {
    let everything = full();
    let agents = one(&rendered(&everything), "DaemonSet").clone();
    let mut values = everything;
    values["cleanup"]["enabled"] = true.into();
    let objects = rendered(&values);
    // It is the only DaemonSet: no agent is left that would restore the rules, and no pod asks for one.
    let cleanup = one(&objects, "DaemonSet");
    assert_eq!(cleanup["metadata"]["name"], "forwards-cleanup");
    assert_eq!(cleanup["metadata"]["namespace"], agents["metadata"]["namespace"]);
    assert!(objects.iter().all(|object| object["kind"] != "Pod"));
    assert_ne!(cleanup["spec"]["selector"], agents["spec"]["selector"]);
    assert_eq!(placed(cleanup), placed(&agents));
    // Helm 3 does not wait for nodes that may be unavailable.
    assert_eq!(cleanup["spec"]["updateStrategy"]["rollingUpdate"]["maxUnavailable"], 0);
    let agent = &agents["spec"]["template"]["spec"]["containers"][0];
    let spec = &cleanup["spec"]["template"]["spec"];
    for container in [&spec["initContainers"][0], &spec["containers"][0]] {
        assert_eq!((&container["image"], &container["imagePullPolicy"]), (&agent["image"], &agent["imagePullPolicy"]));
        assert_eq!(container["args"][0], "cleanup");
        let state = json!({"name": "PORTFORWARD_STATE_DIR", "value": "/srv/portforward"});
        assert!(container["env"].as_array().unwrap().contains(&state));
        assert!(
            container["volumeMounts"].as_array().unwrap().contains(&json!({"name": "state", "mountPath": "/srv/portforward"}))
        );
        assert_eq!(container["securityContext"], agent["securityContext"]);
    }
    // It removes the rules of both variants, also if the agents use only one.
    let nft = rendered(&json!({"agent": {"iptables": "nft"}, "cleanup": {"enabled": true}}));
    let container = &one(&nft, "DaemonSet")["spec"]["template"]["spec"]["initContainers"][0];
    assert_eq!(container["securityContext"]["capabilities"]["add"], json!(["NET_ADMIN", "NET_RAW"]));
}

#[test]
fn every_command_of_the_pages_that_gives_helm_values_is_taken() {
    let mut taken = 0;
    for page in ["README.md", "docs/install.md", "charts/portforward-operator/README.md"] {
        for line in read(page).replace("\\\n", " ").lines().map(str::trim) {
            let Some(words) = ["install", "upgrade"].iter().find_map(|verb| line.strip_prefix(&format!("helm {verb} "))) else {
                continue;
            };
            let words = words.replace("--reuse-values", "");
            let command = format!("{} template --kube-version=1.37 {words}", Helm::Four.program().display());
            let mut shell = std::process::Command::new("bash");
            let output = shell.args(["-c", &command]).current_dir(env!("CARGO_MANIFEST_DIR")).output().unwrap();
            assert!(output.status.success(), "{page}: {line}\n{}", String::from_utf8_lossy(&output.stderr));
            let rendered = objects(&String::from_utf8_lossy(&output.stdout));
            let placed = &one(&rendered, "DaemonSet")["spec"]["template"]["spec"]["nodeSelector"];
            assert!(!line.contains("nodeSelector") || placed["portforward.dev/proxy"] == "true", "{page}: {line}: {placed}");
            taken += 1;
        }
    }
    assert!(taken >= 4, "{taken}");
}
