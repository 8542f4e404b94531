//! What the API server says was asked of it, and by whom: its own audit log.

use std::collections::BTreeSet;
use std::fs;
use std::net::IpAddr;

use serde_json::Value;

use super::Plane;

/// Every call, without its body. A watch is noted as soon as it has begun.
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
    /// The user, such as `system:serviceaccount:portforward-system:portforward-operator`.
    pub(crate) user: String,
    /// From where: the management address tells the agents apart.
    pub(crate) source: Option<IpAddr>,
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`, ...
    pub(crate) verb: String,
    /// The group of the resource; empty for the core group.
    pub(crate) group: String,
    /// The plural of the resource; empty for paths that are none.
    pub(crate) resource: String,
    /// Such as `status`; else empty.
    pub(crate) subresource: String,
    /// Empty where the resource has none, or the call spans all.
    pub(crate) namespace: String,
    /// Empty for calls of a collection.
    pub(crate) name: String,
    /// Path and query.
    pub(crate) uri: String,
    /// The status of HTTP.
    pub(crate) code: u64,
}

impl AuditEvent {
    /// Whether the call was to change something.
    pub(crate) fn writes(&self) -> bool {
        !["get", "list", "watch"].contains(&self.verb.as_str())
    }

    /// `verb group/resource/subresource`, as an access rule would name it.
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
    /// Every call since the plane was made, in the order in which they were answered; earlier entries never change.
    pub(crate) fn audit(&self) -> Vec<AuditEvent> {
        let text = fs::read_to_string(self.file("audit.log")).unwrap_or_default();
        // The end of a watch repeats its beginning.
        let mut seen = BTreeSet::new();
        let complete = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        complete.filter(|entry| seen.insert(entry["auditID"].to_string())).map(|entry| AuditEvent::read(&entry)).collect()
    }

    /// The calls of one user since the first `from` calls of all users.
    pub(crate) fn audit_of(&self, user: &str, from: usize) -> Vec<AuditEvent> {
        self.audit().into_iter().skip(from).filter(|event| event.user == user).collect()
    }
}
