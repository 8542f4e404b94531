//! What `kubectl get` shows of a `PortForward`, and with `-o wide`.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceColumnDefinition;

/// A column: its name, where its value is, and what it means.
type Column = (&'static str, &'static str, &'static str);

/// Always shown: about 100 characters with common names.
const NARROW: [Column; 6] = [
    ("Client", ".spec.client.addresses[0]", "The first entry of spec.client.addresses"),
    ("Internal", ".spec.internal.addresses[0]", "Where the client connects"),
    ("Upstream", ".spec.upstream.targets[0].address", "The server that the client reaches"),
    ("Node", ".status.activeNode", "The node that holds the internal address"),
    ("Ready", r#".status.conditions[?(@.type=="Ready")].status"#, "Whether traffic can flow, as far as the agents know"),
    ("Reason", r#".status.conditions[?(@.type=="Ready")].reason"#, "Why it is ready or not"),
];

/// Shown with `-o wide` only.
const WIDE: [Column; 5] = [
    ("External", ".spec.external.addresses[0]", "The address that the upstream sees; empty where the node masquerades"),
    ("Mode", ".spec.mode", "Enabled or Disabled"),
    (
        "Accepted",
        r#".status.conditions[?(@.type=="Accepted")].status"#,
        "Whether the spec is usable and conflicts with no older forward",
    ),
    ("Programmed", r#".status.conditions[?(@.type=="Programmed")].status"#, "Whether the kernel holds what the spec asks for"),
    ("Message", r#".status.conditions[?(@.type=="Ready")].message"#, "What to do next"),
];

/// The columns in their order.
pub(super) fn columns() -> Vec<CustomResourceColumnDefinition> {
    let text = |(name, path, description): Column, priority| CustomResourceColumnDefinition {
        name: name.to_owned(),
        json_path: path.to_owned(),
        type_: "string".to_owned(),
        description: Some(description.to_owned()),
        priority,
        ..CustomResourceColumnDefinition::default()
    };
    let age = CustomResourceColumnDefinition {
        name: "Age".to_owned(),
        json_path: ".metadata.creationTimestamp".to_owned(),
        type_: "date".to_owned(),
        description: Some("How long ago it was created".to_owned()),
        ..CustomResourceColumnDefinition::default()
    };
    let narrow = NARROW.into_iter().map(|column| text(column, None));
    let wide = WIDE.into_iter().map(|column| text(column, Some(1)));
    narrow.chain([age]).chain(wide).collect()
}
