//! Tests combinations of values: those that cannot work are refused with advice, and the notes name the risks.

use serde_json::{Value, json};

use crate::helm::{CHART, Helm, NAMESPACE, try_render};
use crate::schema::full;

#[test]
fn what_cannot_work_together_is_refused_with_what_to_do() {
    let monitor = |kind: &str| json!({"monitoring": {kind: {"enabled": true}}});
    let both = json!({"enabled": true});
    for (values, wanted) in [
        (
            monitor("podMonitor"),
            "monitoring.podMonitor cannot reach agents that serve metrics to their own node only: set metrics.listen to NodeIP",
        ),
        (monitor("serviceMonitor"), "monitoring.serviceMonitor cannot reach agents"),
        (
            json!({"metrics": {"listen": "NodeIP"}, "monitoring": {"podMonitor": both, "serviceMonitor": both}}),
            "would scrape every agent twice: enable one of them",
        ),
        (
            json!({"metrics": {"listen": "NodeIP", "secure": {"enabled": true}}, "monitoring": {"podMonitor": both}}),
            "set metrics.secure.authorization to a Secret with a token, or use monitoring.serviceMonitor",
        ),
        (json!({"serviceAccount": {"create": false}}), "set serviceAccount.name to the ServiceAccount of the agents"),
        (json!({"rbac": {"create": false, "userRoles": {"edit": {"aggregate": true}}}}), "no role to aggregate"),
        (json!({"rbac": {"userRoles": {"edit": {"create": false, "aggregate": true}}}}), "no role to aggregate"),
        (
            json!({"agent": {"extraEnv": [{"name": "NODE_NAME", "value": "a"}]}}),
            "agent.extraEnv sets NODE_NAME, which the chart sets itself",
        ),
        (json!({"agent": {"extraEnv": [{"name": "PORTFORWARD_LOG", "value": "a"}]}}), "agent.extraEnv sets PORTFORWARD_LOG"),
        (
            json!({"agent": {"extraEnv": [{"name": "A", "value": "a"}, {"name": "A", "value": "b"}]}}),
            "agent.extraEnv sets A twice",
        ),
        (
            json!({"agent": {"extraArgs": ["--state-dir=/srv/other"]}}),
            "agent.extraArgs sets --state-dir, but the probes and the cleanup use the directory of the chart: remove it, and set agent.stateDir",
        ),
        (json!({"agent": {"extraArgs": ["--state-dir", "/srv/other"]}}), "agent.extraArgs sets --state-dir"),
        (json!({"enabled": false}), "enabled: false works only if this chart is a dependency of a parent chart"),
        (
            json!({"resourceQuota": {"enabled": true}, "priorityClassName": ""}),
            "set priorityClassName, or resourceQuota.enabled to false",
        ),
        (
            json!({"extraVolumes": [{"name": "state", "emptyDir": {}}]}),
            "extraVolumes has a volume state, and the chart has a volume with this name: use another name",
        ),
        (
            json!({"commonLabels": {"portforward.dev/agents": "false"}}),
            "commonLabels sets portforward.dev/agents, which the chart sets itself",
        ),
        (
            json!({"commonLabels": {"app.kubernetes.io/instance": "other"}}),
            "commonLabels sets app.kubernetes.io/instance, which the chart sets itself",
        ),
        (
            json!({"podLabels": {"app.kubernetes.io/name": "other"}}),
            "podLabels sets app.kubernetes.io/name, which the chart sets itself",
        ),
    ] {
        let refusal = try_render(&values).expect_err(wanted);
        assert!(refusal.contains(wanted), "{values}: {refusal}");
    }
}

/// The notes that a user reads after `helm install`.
fn notes(values: &Value) -> String {
    let arguments = ["install", "pf", CHART, "--namespace", NAMESPACE, "--dry-run=client", "--values", "-"];
    let output = Helm::Four.run(&arguments, values);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    text.split_once("NOTES:\n").expect("there are notes").1.to_owned()
}

#[test]
fn the_notes_name_the_next_command_and_what_stays() {
    let said = notes(&json!({}));
    for wanted in [
        "kubectl rollout status daemonset/pf-portforward-operator --namespace portforward-system",
        "helm test pf --namespace portforward-system",
        "kubectl label namespace portforward-system pod-security.kubernetes.io/enforce=privileged",
        concat!("NOTE: the image localhost/portforward-operator:", env!("CARGO_PKG_VERSION"), " is in no registry"),
        "ctr --namespace k8s.io images import portforward-operator.tar",
        "NOTE: every Linux node without taints gets an agent",
        "kubectl label node NODE portforward.dev/proxy=true",
        "insufficient quota to match these scopes",
        "If the only agent stops",
        "NOTE: forwards need no grant (agent.requireGrants: false)",
        "`helm uninstall` leaves these in place:\n- the CRDs, every PortForward and every PortForwardGrant",
        "/var/lib/portforward-operator",
        "--reuse-values --set cleanup.enabled=true",
    ] {
        assert!(said.contains(wanted), "{wanted}\n{said}");
    }
    assert!(!said.contains("WARNING"), "{said}");
}

#[test]
fn the_notes_warn_of_what_is_risky_and_of_nothing_else() {
    let risks = [
        (json!({"rbac": {"userRoles": {"edit": {"aggregate": true}}}}), "rbac.userRoles.edit.aggregate"),
        (json!({"metrics": {"listen": "NodeIP"}}), "metrics.listen: NodeIP"),
        (json!({"agent": {"setIpForward": true}}), "agent.setIpForward"),
        (json!({"admissionPolicy": {"enabled": false}}), "admissionPolicy.enabled: false"),
        (json!({"crds": {"keep": false}}), "crds.keep: false"),
        (json!({"containerSecurityContext": {"privileged": true}}), "containerSecurityContext"),
        (json!({"containerSecurityContext": {"allowPrivilegeEscalation": true}}), "containerSecurityContext"),
    ];
    for (values, wanted) in risks {
        let said = notes(&values);
        assert_eq!(said.matches("WARNING").count(), 1, "{values}: {said}");
        assert!(said.contains(wanted), "{values}: {said}");
    }
    // A digest, a private registry, and selected nodes.
    let said = notes(&full());
    for none in ["is in no registry", "every Linux node", "named by a tag"] {
        assert!(!said.contains(none), "{said}");
    }
    let said = notes(&json!({"image": {"registry": "registry.example.com"}}));
    assert!(said.contains("NOTE: the image is named by a tag") && !said.contains("is in no registry"), "{said}");
    let said = notes(&json!({"crds": {"enabled": false}}));
    assert!(said.contains("Apply them before") && !said.contains("every PortForward"), "{said}");
    let said = notes(&json!({"agent": {"requireGrants": true}}));
    assert!(!said.contains("grant"), "{said}");
    let said = notes(&json!({"agent": {"requireGrants": "report"}}));
    assert!(said.contains("`kubectl get pfg` counts them") && !said.contains("need no grant"), "{said}");
    let said = notes(&json!({"priorityClassName": ""}));
    assert!(!said.contains("quota"), "{said}");
}

#[test]
fn the_notes_of_a_cleanup_name_what_to_wait_for_and_the_last_step() {
    let said = notes(&json!({"cleanup": {"enabled": true}}));
    for wanted in [
        "kubectl rollout status daemonset/pf-portforward-operator-cleanup --namespace portforward-system",
        "helm uninstall pf --namespace portforward-system",
        "--set cleanup.enabled=false",
    ] {
        assert!(said.contains(wanted), "{wanted}\n{said}");
    }
    assert!(!said.contains("helm test"), "{said}");
}
