//! Tests that the rendered objects follow common review rules for pods, rights and names.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::helm::{CHART, Helm, NAME, NAMESPACE, VERSIONS, objects, one, render};
use crate::schema::full;
use crate::versions::cases;

fn daemonset(values: &Value) -> Value {
    one(&objects(&render(values)), "DaemonSet").clone()
}

/// The pod spec of the agents.
fn pod(values: &Value) -> Value {
    daemonset(values)["spec"]["template"]["spec"].clone()
}

/// The container of the agent.
fn agent(values: &Value) -> Value {
    let containers = pod(values)["containers"].clone();
    assert_eq!(containers.as_array().map(Vec::len), Some(1), "{containers:#}");
    containers[0].clone()
}

fn env(agent: &Value, name: &str) -> Value {
    let found = agent["env"].as_array().into_iter().flatten().find(|one| one["name"] == name);
    found.unwrap_or_else(|| panic!("no {name}")).clone()
}

#[test]
fn the_daemonset_is_one_of_a_network_agent() {
    let set = daemonset(&json!({}));
    assert_eq!(
        set["spec"]["updateStrategy"],
        json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}})
    );
    let pod = &set["spec"]["template"]["spec"];
    for (field, wanted) in [
        ("priorityClassName", json!("system-node-critical")),
        ("tolerations", Value::Null),
        ("nodeSelector", json!({"kubernetes.io/os": "linux"})),
        ("hostNetwork", json!(true)),
        ("dnsPolicy", json!("ClusterFirstWithHostNet")),
        ("terminationGracePeriodSeconds", json!(10)),
        ("automountServiceAccountToken", json!(false)),
        ("serviceAccountName", json!(NAME)),
        ("securityContext", json!({"seccompProfile": {"type": "RuntimeDefault"}})),
    ] {
        assert_eq!(pod[field], wanted, "{field}");
    }
    // Not the token that Kubernetes mounts by default, which is valid for a year.
    let token = json!({"serviceAccountToken": {"path": "token", "expirationSeconds": 3600}});
    let access = pod["volumes"].as_array().unwrap().iter().find(|volume| volume["name"] == "api-access").unwrap();
    assert_eq!(access["projected"]["sources"][0], token);
    let agent = agent(&json!({}));
    let mount = json!({"name": "api-access", "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount", "readOnly": true});
    assert!(agent["volumeMounts"].as_array().unwrap().contains(&mount));
    assert_eq!(agent["args"], json!(["agent"]));
    assert_eq!(agent["terminationMessagePolicy"], "FallbackToLogsOnError");
    for (name, field) in [("NODE_NAME", "spec.nodeName"), ("POD_NAMESPACE", "metadata.namespace"), ("HOST_IP", "status.hostIP")] {
        assert_eq!(env(&agent, name)["valueFrom"]["fieldRef"]["fieldPath"], field);
    }
    // The requests are set. There is no CPU limit, because it would delay repairs.
    assert!(agent["resources"]["requests"]["cpu"].is_string() && agent["resources"]["requests"]["memory"].is_string());
    assert_eq!(agent["resources"].get("limits"), None);
}

/// Any program of the node could take a port before the agent does, and answer the probes in its place.
#[test]
fn the_probes_ask_the_agent_itself_and_no_port() {
    let agent = agent(&json!({"agent": {"stateDir": "/srv/state"}}));
    for (probe, what) in [("startupProbe", "live"), ("livenessProbe", "live"), ("readinessProbe", "ready")] {
        assert_eq!(agent[probe]["exec"]["command"], json!(["/portforward-operator", "health", what]), "{probe}");
        // The command waits for 5 seconds at most. Starting it takes longer on a busy node.
        assert!(agent[probe]["timeoutSeconds"].as_u64() >= Some(10), "{probe}");
    }
    assert_eq!(env(&agent, "PORTFORWARD_STATE_DIR")["value"], "/srv/state", "the command finds the socket by it");
}

#[test]
fn metrics_are_for_the_node_alone_unless_asked_for_more() {
    let alone = agent(&json!({}));
    assert_eq!(env(&alone, "PORTFORWARD_METRICS_ADDRESS")["value"], "127.0.0.1:10450");
    assert_eq!(alone.get("ports"), None);
    let open = agent(&json!({"metrics": {"listen": "NodeIP", "port": 20450}}));
    assert_eq!(env(&open, "PORTFORWARD_METRICS_ADDRESS")["value"], "$(HOST_IP):20450");
    assert_eq!(open["ports"], json!([{"name": "metrics", "containerPort": 20450, "protocol": "TCP"}]));
    // An environment variable can be used only in those that follow it.
    let names: Vec<&Value> = open["env"].as_array().unwrap().iter().map(|one| &one["name"]).collect();
    let place = |name: &str| names.iter().position(|one| *one == name);
    assert!(place("HOST_IP") < place("PORTFORWARD_METRICS_ADDRESS"), "{names:?}");
}

#[test]
fn secure_metrics_bring_the_certificate_the_rights_to_ask_and_monitors_that_show_a_token() {
    let secure = |more: Value| {
        let mut values = json!({"metrics": {"listen": "NodeIP", "secure": {"enabled": true}}});
        for (key, value) in more.as_object().unwrap() {
            values["metrics"]["secure"][key] = value.clone();
        }
        values
    };
    let asks = |objects: &[Value]| {
        let roles = objects.iter().filter(|object| object["kind"] == "ClusterRole").map(Value::to_string);
        roles.filter(|role| role.contains("tokenreviews") && role.contains("subjectaccessreviews")).count()
    };
    let reads =
        |objects: &[Value]| objects.iter().filter(|object| object["rules"][0]["nonResourceURLs"] == json!(["/metrics"])).count();
    let usual = objects(&render(&json!({})));
    assert_eq!((asks(&usual), reads(&usual)), (0, 0), "no unused right");
    let alone = objects(&render(&secure(json!({}))));
    assert_eq!((asks(&alone), reads(&alone)), (1, 1));
    assert_eq!(env(&agent(&secure(json!({}))), "PORTFORWARD_METRICS_SECURE")["value"], "true");

    let named = secure(json!({"secretName": "cert"}));
    let pod = one(&objects(&render(&named)), "DaemonSet")["spec"]["template"]["spec"].clone();
    let volume = pod["volumes"].as_array().unwrap().iter().find(|volume| volume["name"] == "metrics-certificate").unwrap();
    assert_eq!(volume["secret"]["secretName"], "cert");
    let mounts = pod["containers"][0]["volumeMounts"].as_array().unwrap();
    let folder = mounts.iter().find(|mount| mount["name"] == "metrics-certificate").unwrap()["mountPath"].as_str().unwrap();
    for (variable, file) in [("PORTFORWARD_METRICS_CERTIFICATE", "tls.crt"), ("PORTFORWARD_METRICS_KEY", "tls.key")] {
        assert_eq!(env(&agent(&named), variable)["value"], format!("{folder}/{file}"));
    }

    let token = json!({"credentials": {"name": "prometheus", "key": "token"}});
    let mut values = secure(json!({"authorization": token, "tlsConfig": {"serverName": "metrics"}}));
    values["monitoring"] = json!({"podMonitor": {"enabled": true}});
    let rendered = objects(&render(&values));
    let endpoint = &one(&rendered, "PodMonitor")["spec"]["podMetricsEndpoints"][0];
    assert_eq!((&endpoint["scheme"], &endpoint["authorization"]), (&json!("https"), &token));
    assert_eq!(endpoint["tlsConfig"]["serverName"], "metrics");
    values["metrics"]["secure"] = json!({"enabled": true});
    values["monitoring"] = json!({"serviceMonitor": {"enabled": true}});
    let rendered = objects(&render(&values));
    let endpoint = &one(&rendered, "ServiceMonitor")["spec"]["endpoints"][0];
    assert_eq!(endpoint["bearerTokenFile"], "/var/run/secrets/kubernetes.io/serviceaccount/token");
    assert_eq!(endpoint["tlsConfig"]["insecureSkipVerify"], true);
}

#[test]
fn the_container_has_two_capabilities_and_for_nft_one() {
    for (variant, wanted) in
        [("auto", json!(["NET_ADMIN", "NET_RAW"])), ("legacy", json!(["NET_ADMIN", "NET_RAW"])), ("nft", json!(["NET_ADMIN"]))]
    {
        let agent = agent(&json!({"agent": {"iptables": variant}}));
        assert_eq!(env(&agent, "PORTFORWARD_IPTABLES")["value"], variant);
        assert_eq!(
            agent["securityContext"],
            json!({
                "runAsUser": 0,
                "runAsGroup": 0,
                "allowPrivilegeEscalation": false,
                "readOnlyRootFilesystem": true,
                "capabilities": {"drop": ["ALL"], "add": wanted},
            }),
            "{variant}"
        );
    }
}

/// Every object with containers, in every case.
fn pods() -> Vec<(String, Value)> {
    let mut found = Vec::new();
    for (case, values) in cases() {
        for object in objects(&render(&values)) {
            let pod = if object["kind"] == "Pod" { &object["spec"] } else { &object["spec"]["template"]["spec"] };
            if pod.get("containers").is_some() {
                found.push((format!("{case}: {} {}", object["kind"], object["metadata"]["name"]), pod.clone()));
            }
        }
    }
    found
}

#[test]
fn nothing_is_privileged_or_sees_more_of_its_node_than_it_needs_whatever_the_values() {
    let pods = pods();
    let cleanups = cases().values().filter(|values| values.pointer("/cleanup/enabled") == Some(&json!(true))).count();
    assert_eq!(pods.len(), 2 * cases().len() - cleanups, "the agents and the check of each case, or the cleanup");
    for (place, pod) in pods {
        let text = pod.to_string();
        for foreign in ["privileged", "hostPID", "hostIPC", "shareProcessNamespace", "SYS_ADMIN", "SYS_MODULE", "Unconfined"] {
            assert!(!text.contains(foreign), "{place}: {foreign}");
        }
        assert_eq!(pod["securityContext"]["seccompProfile"]["type"], "RuntimeDefault", "{place}");
        for container in ["initContainers", "containers"].iter().flat_map(|list| pod[*list].as_array().into_iter().flatten()) {
            let context = &container["securityContext"];
            assert_eq!(context["allowPrivilegeEscalation"], false, "{place}");
            assert_eq!(context["readOnlyRootFilesystem"], true, "{place}");
            assert_eq!(context["capabilities"]["drop"], json!(["ALL"]), "{place}");
            let added: BTreeSet<&str> =
                context["capabilities"]["add"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
            assert!(added.is_subset(&["NET_ADMIN", "NET_RAW"].into()), "{place}: {added:?}");
        }
        let volumes: Vec<&Value> = pod["volumes"].as_array().into_iter().flatten().collect();
        let own = [json!("api-access"), json!("metrics-certificate")];
        let known = |volume: &&Value| volume.get("hostPath").is_some() || own.contains(&volume["name"]);
        assert!(volumes.iter().all(known), "{place}: {volumes:#?}");
        let paths: BTreeSet<&str> = volumes.iter().filter_map(|volume| volume["hostPath"]["path"].as_str()).collect();
        let known = ["/var/lib/portforward-operator", "/srv/portforward", "/run/xtables.lock", "/proc/sys/net", "/lib/modules"];
        assert!(paths.is_subset(&known.into()), "{place}: {paths:?}");
    }
}

/// The volumes of the node.
fn of_the_node(pod: &Value) -> Vec<&Value> {
    pod["volumes"].as_array().unwrap().iter().filter(|volume| volume.get("hostPath").is_some()).collect()
}

#[test]
fn the_node_s_files_are_the_record_and_the_lock_and_by_choice_its_network_settings() {
    let volume = |name: &str, path: &str, kind: &str| json!({"name": name, "hostPath": {"path": path, "type": kind}});
    let state = volume("state", "/var/lib/portforward-operator", "DirectoryOrCreate");
    let lock = volume("xtables-lock", "/run/xtables.lock", "FileOrCreate");
    assert_eq!(of_the_node(&pod(&json!({}))), [&state, &lock]);
    let forwarding = json!({"agent": {"setIpForward": true}});
    let settings = volume("proc-sys-net", "/proc/sys/net", "Directory");
    assert_eq!(of_the_node(&pod(&forwarding)), [&state, &lock, &settings]);
    let agent = agent(&forwarding);
    assert_eq!(agent["args"], json!(["agent", "--set-ip-forward"]));
    assert_eq!(agent["volumeMounts"][3], json!({"name": "proc-sys-net", "mountPath": "/host/proc/sys/net"}));
    // The path in the container is the one that the agent uses.
    let elsewhere = json!({"agent": {"stateDir": "/srv/state"}});
    let agent = self::agent(&elsewhere);
    assert_eq!(env(&agent, "PORTFORWARD_STATE_DIR")["value"], "/srv/state");
    assert_eq!(agent["volumeMounts"][0]["mountPath"], "/srv/state");
    assert_eq!(pod(&elsewhere)["volumes"][0]["hostPath"]["path"], "/srv/state");
}

#[test]
fn the_settings_of_the_agent_reach_it() {
    let agent = agent(&full());
    assert_eq!(
        agent["args"],
        json!([
            "agent",
            "--set-ip-forward",
            "--forward-selector=pool in (edge,core),!test",
            "--reserved-ports=22,30000:32767",
            "--forbidden-networks=nodes,pods,services,metadata,10.0.0.100",
            "--require-grants=report",
            "--max-translations=5000",
            "--node-name=$(NODE_NAME)"
        ])
    );
    assert_eq!(env(&agent, "PORTFORWARD_LOG_FORMAT")["value"], "json");
    assert_eq!(env(&agent, "PORTFORWARD_LOG")["value"], "info,portforward_operator::plan=debug");
    assert_eq!(env(&agent, "A")["value"], "b");
    assert_eq!(agent["securityContext"]["seLinuxOptions"]["type"], "spc_t");
    // A log level alone applies to this program, which logs each outage once. The Kubernetes client would log every try.
    let log = |level: &str| env(&self::agent(&json!({"agent": {"logLevel": level}})), "PORTFORWARD_LOG")["value"].clone();
    assert_eq!(log("warn"), "warn,kube_client=off,kube_runtime=off");
    assert_eq!(log("debug"), "debug");
    // Empty means none; unset means the default of the program.
    let reserved = |ports: Value| self::agent(&json!({"agent": {"reservedPorts": ports}}))["args"].clone();
    assert_eq!(reserved(json!("")), json!(["agent", "--reserved-ports="]));
    assert_eq!(reserved(json!(10250)), json!(["agent", "--reserved-ports=10250"]), "as --set gives it");
    assert_eq!(reserved(json!("22/TCP,30000-32767/UDP")), json!(["agent", "--reserved-ports=22/TCP,30000-32767/UDP"]));
    assert_eq!(reserved(Value::Null), json!(["agent"]));
    let forbidden = |networks: Value| self::agent(&json!({"agent": {"forbiddenNetworks": networks}}))["args"].clone();
    assert_eq!(forbidden(json!("")), json!(["agent", "--forbidden-networks="]));
    assert_eq!(forbidden(json!("nodes,10.0.0.0/8,fd00::/8")), json!(["agent", "--forbidden-networks=nodes,10.0.0.0/8,fd00::/8"]));
    assert_eq!(forbidden(Value::Null), json!(["agent"]));
    let required = |when: Value| self::agent(&json!({"agent": {"requireGrants": when}}))["args"].clone();
    assert_eq!(required(json!(true)), json!(["agent", "--require-grants=true"]));
    assert_eq!((required(json!(false)), required(Value::Null)), (json!(["agent"]), json!(["agent"])));
    let selecting = |selector: Value| self::agent(&json!({"agent": {"forwardSelector": selector}}))["args"].clone();
    assert_eq!(selecting(json!("pool in (a,b), !test")), json!(["agent", "--forward-selector=pool in (a,b), !test"]));
    assert_eq!((selecting(json!("")), selecting(Value::Null)), (json!(["agent"]), json!(["agent"])));
    let limited = self::agent(&json!({"agent": {"maxTranslations": 1_000_000}}));
    assert_eq!(limited["args"], json!(["agent", "--max-translations=1000000"]));
    let marking = |bit: Value| {
        let agent = self::agent(&json!({"agent": {"connmark": bit}}));
        let variables = agent["env"].as_array().unwrap().clone();
        variables.into_iter().find(|one| one["name"] == "PORTFORWARD_CONNMARK").map(|one| one["value"].clone())
    };
    assert_eq!(marking(json!("0x20")), Some(json!("0x20")));
    assert_eq!((marking(json!(4096)), marking(Value::Null)), (Some(json!("4096")), None));
}

#[test]
fn every_option_that_the_chart_gives_is_one_of_the_program() {
    let help =
        crate::bed::netns::must(std::process::Command::new(env!("CARGO_BIN_EXE_portforward-operator")).args(["agent", "--help"]));
    let agent = agent(&full());
    let arguments = agent["args"].as_array().unwrap().iter().filter_map(Value::as_str).skip(1);
    for argument in arguments {
        let option = argument.split('=').next().unwrap();
        assert!(help.contains(option), "{option}: {help}");
    }
    let variables = agent["env"].as_array().unwrap().iter().filter_map(|one| one["name"].as_str());
    for variable in variables.filter(|name| name.starts_with("PORTFORWARD_")) {
        assert!(help.contains(&format!("[env: {variable}=")), "{variable}: {help}");
    }
}

#[test]
fn the_image_is_named_by_tag_or_by_digest_which_decides() {
    let image = |image: Value| agent(&json!({"image": image}))["image"].clone();
    let digest = format!("sha256:{}", "0".repeat(64));
    assert_eq!(image(json!({})), format!("localhost/portforward-operator:{}", env!("CARGO_PKG_VERSION")));
    assert_eq!(image(json!({"tag": "1.2.3"})), "localhost/portforward-operator:1.2.3");
    assert_eq!(image(json!({"digest": digest, "tag": "1.2.3"})), format!("localhost/portforward-operator@{digest}"));
    assert_eq!(image(json!({"registry": "", "repository": "a/b", "tag": "c"})), "a/b:c");
    let everything = objects(&render(&full()));
    let check = one(&everything, "Pod");
    assert_eq!(check["spec"]["containers"][0]["image"], agent(&full())["image"]);
    assert_eq!(check["spec"]["imagePullSecrets"], json!([{"name": "registry"}]));
}

/// The labels by which built-in roles include other roles.
fn aggregated(role: &Value) -> BTreeSet<String> {
    let labels = role["metadata"]["labels"].as_object().unwrap();
    labels.keys().filter_map(|label| label.strip_prefix("rbac.authorization.k8s.io/aggregate-to-").map(str::to_owned)).collect()
}

#[test]
fn everybody_may_look_and_nobody_may_change_until_somebody_says_who() {
    let roles = |values: &Value| {
        let all = objects(&render(values)).into_iter().filter(|object| object["kind"] == "ClusterRole");
        all.map(|role| (role["metadata"]["name"].as_str().unwrap().to_owned(), role))
            .collect::<std::collections::BTreeMap<_, _>>()
    };
    let nobody = BTreeSet::<String>::new();
    let default = roles(&json!({}));
    assert_eq!(
        default.keys().collect::<Vec<_>>(),
        [
            "portforward-operator",
            "portforward-operator-edit",
            "portforward-operator-grants-edit",
            "portforward-operator-grants-view",
            "portforward-operator-view"
        ]
    );
    assert_eq!(aggregated(&default["portforward-operator-view"]), ["view", "edit", "admin"].map(str::to_owned).into());
    assert_eq!(default["portforward-operator-view"]["rules"][0]["verbs"], json!(["get", "list", "watch"]));
    assert_eq!(aggregated(&default["portforward-operator-edit"]), nobody);
    assert_eq!(aggregated(&default["portforward-operator-grants-view"]), ["view", "edit", "admin"].map(str::to_owned).into());
    assert_eq!(default["portforward-operator-grants-view"]["rules"][0]["verbs"], json!(["get", "list", "watch"]));
    assert_eq!(aggregated(&default["portforward-operator"]), nobody);
    for role in default.values() {
        let text = role["rules"].to_string();
        assert!(!text.contains('*') && !text.contains("secrets"), "{text}");
    }
    // Only the agents need to write the status.
    for (name, resource) in [
        ("portforward-operator-view", "portforwards"),
        ("portforward-operator-edit", "portforwards"),
        ("portforward-operator-grants-view", "portforwardgrants"),
        ("portforward-operator-grants-edit", "portforwardgrants"),
    ] {
        assert_eq!(
            default[name]["rules"],
            json!([{"apiGroups": ["portforward.dev"], "resources": [resource], "verbs": default[name]["rules"][0]["verbs"]}])
        );
    }
    let chosen = roles(&json!({"rbac": {"userRoles": {
        "view": {"aggregate": false}, "edit": {"aggregate": true}, "grantsView": {"aggregate": false},
    }}}));
    assert_eq!(aggregated(&chosen["portforward-operator-grants-view"]), nobody);
    assert_eq!(aggregated(&chosen["portforward-operator-view"]), nobody);
    assert_eq!(aggregated(&chosen["portforward-operator-edit"]), ["edit", "admin"].map(str::to_owned).into());
    // Who may edit a namespace must never be able to widen a grant, whatever the values are.
    assert_eq!(aggregated(&roles(&full())["forwards-grants-edit"]), nobody);
    assert_eq!(aggregated(&chosen["portforward-operator-grants-edit"]), nobody);
}

#[test]
fn every_object_has_the_labels_the_namespace_and_the_name_of_its_release() {
    let of_the_cluster = [
        "ClusterRole",
        "ClusterRoleBinding",
        "CustomResourceDefinition",
        "ValidatingAdmissionPolicy",
        "ValidatingAdmissionPolicyBinding",
    ];
    for (case, values) in cases() {
        let named = values.get("fullnameOverride").and_then(Value::as_str).unwrap_or(NAME);
        let account = values.pointer("/serviceAccount/name").and_then(Value::as_str).unwrap_or(NAME);
        for object in objects(&render(&values)) {
            let (kind, metadata) = (object["kind"].as_str().unwrap(), &object["metadata"]);
            let place = format!("{case}: {kind} {}", metadata["name"]);
            let namespace = metadata.get("namespace").and_then(Value::as_str);
            assert_eq!(namespace.is_none(), of_the_cluster.contains(&kind), "{place}");
            assert!(namespace.is_none_or(|namespace| namespace == NAMESPACE || namespace == "default"), "{place}");
            let name = metadata["name"].as_str().unwrap();
            let own = name.starts_with(named) || name == account || kind == "CustomResourceDefinition";
            assert!(own, "{place}");
            let labels = &metadata["labels"];
            assert_eq!(labels["app.kubernetes.io/instance"], NAME, "{place}");
            assert!(labels["app.kubernetes.io/name"].is_string(), "{place}");
        }
    }
}

#[test]
fn the_name_of_a_release_is_in_the_names_and_the_policy_knows_whom_it_binds() {
    let objects_of = |release: &str, values: &Value| {
        let arguments = ["template", release, CHART, "--namespace", "lines", "--kube-version=1.37", "--values", "-"];
        objects(&String::from_utf8_lossy(&Helm::Four.run(&arguments, values).stdout))
    };
    let objects = objects_of("east", &json!({}));
    let set = one(&objects, "DaemonSet");
    assert_eq!(set["metadata"]["name"], "east-portforward-operator");
    assert_eq!(set["spec"]["selector"]["matchLabels"]["app.kubernetes.io/instance"], "east");
    let policy = one(&objects, "ValidatingAdmissionPolicy");
    let binding = one(&objects, "ValidatingAdmissionPolicyBinding");
    assert_eq!(binding["spec"]["policyName"], policy["metadata"]["name"]);
    // Its parameter is the ClusterRoleBinding of the agents, which it finds by a label.
    let agents = one(&objects, "ClusterRoleBinding");
    let wanted = binding["spec"]["paramRef"]["selector"]["matchLabels"].as_object().unwrap();
    assert!(!wanted.is_empty() && wanted.iter().all(|(label, value)| agents["metadata"]["labels"][label] == *value));
    assert_eq!(policy["spec"]["paramKind"]["kind"], "ClusterRoleBinding");
    for binding in objects.iter().filter(|object| object["kind"].as_str().unwrap().ends_with("RoleBinding")) {
        assert_eq!(binding["subjects"][0]["name"], set["spec"]["template"]["spec"]["serviceAccountName"]);
        assert_eq!(binding["subjects"][0]["namespace"], "lines");
    }
    // The message names the account to which the rights must be bound.
    let own = objects_of("east", &json!({"rbac": {"create": false}}));
    assert_eq!(
        one(&own, "ValidatingAdmissionPolicy")["spec"]["matchConditions"][0]["expression"],
        "request.userInfo.username == 'system:serviceaccount:lines:east-portforward-operator'"
    );
    assert!(one(&own, "ValidatingAdmissionPolicyBinding")["spec"].get("paramRef").is_none());
}

#[test]
fn the_selectors_meet_the_agents_and_nothing_else() {
    for kind in ["podMonitor", "serviceMonitor"] {
        let values = json!({"metrics": {"listen": "NodeIP"}, "monitoring": {kind: {"enabled": true}}});
        let objects = objects(&render(&values));
        let set = one(&objects, "DaemonSet");
        let agents = &set["spec"]["template"]["metadata"]["labels"];
        let meets =
            |selector: &Value, labels: &Value| selector.as_object().unwrap().iter().all(|(label, value)| labels[label] == *value);
        let selector = &set["spec"]["selector"]["matchLabels"];
        assert!(meets(selector, agents));
        assert!(!meets(selector, &one(&objects, "Pod")["metadata"]["labels"]), "the DaemonSet would adopt the pod of the check");
        if kind == "podMonitor" {
            let monitor = one(&objects, "PodMonitor");
            assert!(meets(&monitor["spec"]["selector"]["matchLabels"], agents));
            assert_eq!(monitor["spec"]["podMetricsEndpoints"][0]["port"], "metrics");
        } else {
            let service = one(&objects, "Service");
            assert!(meets(&service["spec"]["selector"], agents));
            assert_eq!(service["spec"]["clusterIP"], "None");
            let monitor = one(&objects, "ServiceMonitor");
            assert!(meets(&monitor["spec"]["selector"]["matchLabels"], &service["metadata"]["labels"]));
            assert_eq!(monitor["spec"]["endpoints"][0]["port"], service["spec"]["ports"][0]["name"]);
        }
    }
}

#[test]
fn a_monitor_scrapes_as_it_is_told_and_each_series_names_its_node() {
    let endpoint = objects(&render(&full())).into_iter().find(|object| object["kind"] == "PodMonitor").unwrap();
    assert_eq!(endpoint["metadata"]["labels"]["release"], "prometheus");
    let endpoint = &endpoint["spec"]["podMetricsEndpoints"][0];
    assert_eq!((&endpoint["interval"], &endpoint["scrapeTimeout"]), (&json!("30s"), &json!("10s")));
    let relabelings = endpoint["relabelings"].as_array().unwrap();
    assert_eq!(relabelings[0], json!({"sourceLabels": ["__meta_kubernetes_pod_node_name"], "targetLabel": "node"}));
    assert_eq!(relabelings[1..], full()["monitoring"]["podMonitor"]["relabelings"].as_array().unwrap()[..]);
    assert_eq!(endpoint["metricRelabelings"], full()["monitoring"]["podMonitor"]["metricRelabelings"]);
}

#[test]
fn a_hook_of_the_test_runs_as_nobody_and_a_plain_render_has_no_other_hook() {
    let rendered = Helm::Four.template(CHART, VERSIONS[0], &full()).unwrap();
    let hooks: Vec<Value> =
        objects(&rendered).into_iter().filter(|object| object["metadata"]["annotations"].get("helm.sh/hook").is_some()).collect();
    assert_eq!(hooks.len(), 1);
    assert_eq!((&hooks[0]["kind"], &hooks[0]["metadata"]["annotations"]["helm.sh/hook"]), (&json!("Pod"), &json!("test")));
    assert_eq!(hooks[0]["spec"]["securityContext"]["runAsNonRoot"], true);
    assert_eq!(hooks[0]["spec"]["containers"][0]["securityContext"]["capabilities"].get("add"), None);
    assert_eq!(hooks[0]["spec"].get("volumes"), None);
}
