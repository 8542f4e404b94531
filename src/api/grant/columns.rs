//! The columns of `kubectl get pfg`, without and with `-o wide`.

use super::super::columns::Column;

/// Always shown.
pub(in super::super) const NARROW: [Column; 4] = [
    ("Namespaces", ".spec.namespaces", "string", "The namespaces whose forwards may use the grant"),
    ("Priority", ".spec.priority", "integer", "Decides conflicts between forwards: the higher one wins"),
    ("Forwards", ".status.forwards", "integer", "The number of forwards that lie inside the grant"),
    ("Refused", ".status.refused", "integer", "The number of forwards of these namespaces that lie inside no grant"),
];

/// Shown with `-o wide` only.
pub(in super::super) const WIDE: [Column; 2] = [
    ("Description", ".spec.description", "string", "The description of the grant"),
    (
        "Message",
        r#".status.conditions[?(@.type=="Accepted")].message"#,
        "string",
        "The message of the condition Accepted: what is wrong, and what to do",
    ),
];
