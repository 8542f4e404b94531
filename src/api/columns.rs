//! What `kubectl get` shows of a `PortForward`, and with `-o wide`.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceColumnDefinition;

/// A column: its name, where its value is, of what type, and what it means.
type Column = (&'static str, &'static str, &'static str, &'static str);

/// Always shown: about 100 characters with common names.
const NARROW: [Column; 7] = [
    (
        "Ready",
        r#".status.conditions[?(@.type=="Ready")].status"#,
        "string",
        "Whether traffic can flow, as far as the agents know",
    ),
    ("Reason", r#".status.conditions[?(@.type=="Ready")].reason"#, "string", "Why it is ready or not"),
    ("Client", ".spec.client.addresses", "string", "Who may use it"),
    ("Internal", ".spec.internal.addresses[0]", "string", "Where the client connects"),
    ("Ports", ".status.ports", "string", "The first entries of spec.ports, and how many more there are"),
    ("Upstream", ".spec.upstream.targets[0].address", "string", "The server that the client reaches"),
    ("Node", ".status.activeNode", "string", "The node that holds the internal address"),
];

/// Shown with `-o wide` only.
const WIDE: [Column; 4] = [
    ("External", ".spec.external.addresses", "string", "Whom the upstream sees"),
    ("Reverse", ".status.reverse", "string", "The first entries of spec.reverse.ports, and how many more there are"),
    ("Description", ".spec.description", "string", "What it is for"),
    ("Message", r#".status.conditions[?(@.type=="Ready")].message"#, "string", "What to do next"),
];

/// The columns in their order.
pub(super) fn columns() -> Vec<CustomResourceColumnDefinition> {
    let age = ("Age", ".metadata.creationTimestamp", "date", "How long ago it was created");
    let narrow = NARROW.into_iter().chain([age]).map(|column| definition(column, None));
    narrow.chain(WIDE.map(|column| definition(column, Some(1)))).collect()
}

fn definition((name, path, kind, description): Column, priority: Option<i32>) -> CustomResourceColumnDefinition {
    CustomResourceColumnDefinition {
        name: name.to_owned(),
        json_path: path.to_owned(),
        type_: kind.to_owned(),
        description: Some(description.to_owned()),
        priority,
        ..CustomResourceColumnDefinition::default()
    }
}
