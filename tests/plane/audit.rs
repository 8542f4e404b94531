//! The calls that the API server received, and who sent them, from its audit log.

use std::collections::BTreeSet;
use std::fs;
use std::net::IpAddr;

use serde_json::Value;

use super::Plane;

/// Logs every call without its body. A watch is logged as soon as it has begun.
pub(crate) const POLICY: &str = "
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: Metadata
";

/// One call of the API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AuditEvent {
    /// The user, for example `system:serviceaccount:portforward-system:portforward-operator`.
    pub(crate) user: String,
    /// The source address. The management addresses distinguish the agents.
    pub(crate) source: Option<IpAddr>,
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`, ...
    pub(crate) verb: String,
    /// The API group of the resource; empty for the core group.
    pub(crate) group: String,
    /// The plural name of the resource; empty for paths that are not resources.
    pub(crate) resource: String,
    /// For example `status`; otherwise empty.
    pub(crate) subresource: String,
    /// Empty for a cluster-scoped resource or a call for all namespaces.
    pub(crate) namespace: String,
    /// Empty for calls of a collection.
    pub(crate) name: String,
    /// The path and the query.
    pub(crate) uri: String,
    /// The HTTP status.
    pub(crate) code: u64,
}

impl AuditEvent {
    /// Whether the call is a write.
    pub(crate) fn writes(&self) -> bool {
        !["get", "list", "watch"].contains(&self.verb.as_str())
    }

    /// The call as an access rule names it: `verb group/resource/subresource`.
    pub(crate) fn permission(&self) -> String {
        let parts = [&self.group, &self.resource, &self.subresource];
        let path: Vec<&str> = parts.into_iter().map(String::as_str).filter(|part| !part.is_empty()).collect();
        format!("{} {}", self.verb, path.join("/"))
    }

    fn read(entry: &Value) -> Self {
        let text = |pointer: &str| entry.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
        Self {
            user: text("/user/username"),
            source: text("/sourceIPs/0").parse().ok(),
            verb: text("/verb"),
            group: text("/objectRef/apiGroup"),
            resource: text("/objectRef/resource"),
            subresource: text("/objectRef/subresource"),
            namespace: text("/objectRef/namespace"),
            name: text("/objectRef/name"),
            uri: text("/requestURI"),
            code: entry.pointer("/responseStatus/code").and_then(Value::as_u64).unwrap_or_default(),
        }
    }
}

impl Plane {
    /// Every call since the plane was created, in the order in which the calls were answered. New entries are only appended.
    pub(crate) fn audit(&self) -> Vec<AuditEvent> {
        let text = fs::read_to_string(self.file("audit.log")).unwrap_or_default();
        // A watch has a second entry when it ends.
        let mut seen = BTreeSet::new();
        let complete = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        complete.filter(|entry| seen.insert(entry["auditID"].to_string())).map(|entry| AuditEvent::read(&entry)).collect()
    }

    /// The calls of one user, without the first `from` calls of all users.
    pub(crate) fn audit_of(&self, user: &str, from: usize) -> Vec<AuditEvent> {
        self.audit().into_iter().skip(from).filter(|event| event.user == user).collect()
    }
}
