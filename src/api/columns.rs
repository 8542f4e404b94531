//! The columns of `kubectl get pf`, and of `kubectl get pfg` as `api::grant` lists them.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceColumnDefinition;

use super::Kind;
use super::grant::columns as grant;

/// A column: its name, the JSON path of its value, its type, and its description.
pub(super) type Column = (&'static str, &'static str, &'static str, &'static str);

/// Always shown: about 100 characters with common names.
const NARROW: [Column; 7] = [
    (
        "Ready",
        r#".status.conditions[?(@.type=="Ready")].status"#,
        "string",
        "Whether traffic can flow, as far as the agents know",
    ),
    ("Reason", r#".status.conditions[?(@.type=="Ready")].reason"#, "string", "The reason of the condition Ready"),
    ("Client", ".spec.client.addresses", "string", "The addresses that may use the forward"),
    ("Internal", ".spec.internal.addresses[0]", "string", "The address that the client connects to"),
    ("Ports", ".status.ports", "string", "The first entries of spec.ports, and the number of further ones"),
    ("Upstream", ".spec.upstream.targets[0].address", "string", "The server that the forward leads to"),
    ("Node", ".status.activeNode", "string", "The node that holds the internal address"),
];

/// Shown with `-o wide` only.
const WIDE: [Column; 4] = [
    ("External", ".spec.external.addresses", "string", "The source address that the upstream sees"),
    ("Reverse", ".status.reverse", "string", "The first entries of spec.reverse.ports, and the number of further ones"),
    ("Description", ".spec.description", "string", "The description of the forward"),
    (
        "Message",
        r#".status.conditions[?(@.type=="Ready")].message"#,
        "string",
        "The message of the condition Ready: what is wrong, and what to do",
    ),
];

/// The columns of a kind, in order.
pub(super) fn columns(kind: Kind) -> Vec<CustomResourceColumnDefinition> {
    let (narrow, wide) = match kind {
        Kind::PortForward => (&NARROW[..], &WIDE[..]),
        Kind::PortForwardGrant => (&grant::NARROW[..], &grant::WIDE[..]),
    };
    let age = ("Age", ".metadata.creationTimestamp", "date", "How long ago it was created");
    let narrow = narrow.iter().copied().chain([age]).map(|column| definition(column, None));
    narrow.chain(wide.iter().map(|column| definition(*column, Some(1)))).collect()
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
