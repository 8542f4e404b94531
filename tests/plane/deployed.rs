//! The objects that an installation creates at the API server, read from all files of `deploy/base` and `crds`.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::access::{AGENT, SYSTEM};

/// The kinds that matter for the rights of agents, in the order in which they are applied. The other objects of an
/// installation start agents; a plane has none.
const KINDS: [&str; 8] = [
    "Namespace",
    "ServiceAccount",
    "ClusterRole",
    "ClusterRoleBinding",
    "Role",
    "RoleBinding",
    "ValidatingAdmissionPolicy",
    "ValidatingAdmissionPolicyBinding",
];

/// The namespace, the RBAC rules and the admission policy for the agents.
pub(crate) fn access() -> Vec<Value> {
    let documents = documents("deploy/base");
    let of = |kind: &str| documents.iter().filter(|document| document["kind"] == kind).cloned().collect::<Vec<_>>();
    KINDS.iter().flat_map(|kind| of(kind)).collect()
}

/// The CRDs.
pub(crate) fn definitions() -> Vec<Value> {
    documents("crds")
}

/// The objects as one text for `kubectl apply`.
pub(crate) fn list(objects: &[Value]) -> String {
    json!({"apiVersion": "v1", "kind": "List", "items": objects}).to_string()
}

/// Every right of the agents, as a namespace (`None`: all namespaces) and `verb group/resource`, with `/name` for a right to
/// one object.
pub(crate) fn granted() -> BTreeSet<(Option<String>, String)> {
    let objects = access();
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let texts = |value: &Value| value.as_array().into_iter().flatten().filter_map(text).collect::<Vec<_>>();
    let is_agent = |subject: &Value| subject["name"] == AGENT && subject["namespace"] == SYSTEM;
    let bindings = objects.iter().filter(|object| object["subjects"].as_array().is_some_and(|all| all.iter().any(is_agent)));
    let mut granted = BTreeSet::new();
    for binding in bindings {
        let (kind, name) = (&binding["roleRef"]["kind"], &binding["roleRef"]["name"]);
        let namespace = &binding["metadata"]["namespace"];
        let is_role = |object: &&Value| {
            let near = object["kind"] == "ClusterRole" || object["metadata"]["namespace"] == *namespace;
            (&object["kind"], &object["metadata"]["name"]) == (kind, name) && near
        };
        let role = objects.iter().find(is_role).unwrap_or_else(|| panic!("{kind} {name} is missing"));
        for rule in role["rules"].as_array().into_iter().flatten() {
            assert!(rule.get("nonResourceURLs").is_none(), "a rule with nonResourceURLs is not expected: {rule}");
            let names: Vec<String> = texts(&rule["resourceNames"]).into_iter().map(|name| format!("/{name}")).collect();
            let names = if names.is_empty() { vec![String::new()] } else { names };
            for group in texts(&rule["apiGroups"]) {
                for resource in texts(&rule["resources"]) {
                    let path = if group.is_empty() { resource } else { format!("{group}/{resource}") };
                    for name in &names {
                        let rights =
                            texts(&rule["verbs"]).into_iter().map(|verb| (text(namespace), format!("{verb} {path}{name}")));
                        granted.extend(rights);
                    }
                }
            }
        }
    }
    granted
}

fn documents(folder: &str) -> Vec<Value> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.expect("a folder can be read").path()).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "yaml"));
    files.sort();
    let read = |file: PathBuf| -> Vec<Value> {
        let text = fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        serde_saphyr::from_multiple(&text).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
    };
    files.into_iter().flat_map(read).filter(|document| !document.is_null()).collect()
}
