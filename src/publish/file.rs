//! The status file: the status as in `kubectl get pf -o json`, and which manifests could be read.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};
use tokio::task::spawn_blocking;

use crate::api::PortForward;
use crate::durable::{self, Stored};
use crate::source::FileReport;

/// All users of the node may read the status.
const MODE: u32 = 0o644;

/// Why status could not be written.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// The system returned an error.
    #[error("{}: cannot write the status; use a file in an existing directory that this program can write to", path.display())]
    Io {
        /// The status file.
        path: PathBuf,
        /// The error of the system.
        source: io::Error,
    },
    /// It could not be written as JSON.
    #[error("the status cannot be converted to JSON")]
    Unwritable(#[from] serde_json::Error),
    /// The task that wrote it stopped.
    #[error("the task that writes the status stopped")]
    Stopped(#[from] tokio::task::JoinError),
}

/// The file that the status is written to, for programs on this node.
#[derive(Clone, Debug)]
pub struct StatusFile {
    path: PathBuf,
}

impl StatusFile {
    /// The status file at `path`; its directory must exist.
    #[must_use]
    pub fn new(path: PathBuf) -> Self {
        Self { path }
    }

    /// Replaces the file as a whole (mode 0644) with the status of `objects` and the report about `files`, as a `v1` `List`
    /// with `files` beside its `items`. A content that differs only in transition times is not written again.
    ///
    /// # Errors
    /// When the system returns an error.
    pub async fn write(&self, objects: &[PortForward], files: &[FileReport]) -> Result<Stored, PublishError> {
        let document = document(objects, files)?;
        let path = self.path.clone();
        spawn_blocking(move || replace(&path, &document)).await?
    }
}

fn replace(path: &Path, document: &Value) -> Result<Stored, PublishError> {
    let old = fs::read(path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
    if old.is_some_and(|old| timeless(old) == timeless(document.clone())) {
        return Ok(Stored::Unchanged);
    }
    let text = serde_json::to_string_pretty(document)? + "\n";
    durable::replace(path, text.as_bytes(), MODE).map_err(|source| PublishError::Io { path: path.to_owned(), source })?;
    Ok(Stored::Written)
}

fn document(objects: &[PortForward], files: &[FileReport]) -> Result<Value, serde_json::Error> {
    let mut document = list(objects)?;
    document["files"] = files.iter().map(file).collect();
    Ok(document)
}

/// The status of `objects` as a `v1` `List`.
///
/// # Errors
/// When an object cannot be written as JSON.
pub fn list(objects: &[PortForward]) -> Result<Value, serde_json::Error> {
    let items: Vec<Value> = objects.iter().map(item).collect::<Result<_, _>>()?;
    Ok(json!({"apiVersion": "v1", "kind": "List", "items": items}))
}

/// The object without its spec, which is in the manifest.
fn item(object: &PortForward) -> Result<Value, serde_json::Error> {
    let whole = serde_json::to_value(object)?;
    let field = |path: &str| whole.pointer(path).filter(|value| !value.is_null()).cloned();
    let metadata: Map<_, _> = ["namespace", "name", "generation"]
        .into_iter()
        .filter_map(|name| Some((name.to_owned(), field(&format!("/metadata/{name}"))?)))
        .collect();
    Ok(json!({
        "apiVersion": field("/apiVersion"),
        "kind": field("/kind"),
        "metadata": metadata,
        "status": field("/status").unwrap_or_else(|| json!({})),
    }))
}

fn file(report: &FileReport) -> Value {
    let path = report.path.to_string_lossy();
    match &report.error {
        Some(error) => json!({"path": path, "error": error}),
        None => json!({"path": path}),
    }
}

/// `value` without its transition times.
fn timeless(mut value: Value) -> Value {
    forget_times(&mut value);
    value
}

fn forget_times(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.remove("lastTransitionTime");
            fields.values_mut().for_each(forget_times);
        }
        Value::Array(items) => items.iter_mut().for_each(forget_times),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::os::unix::fs::PermissionsExt;

    use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

    use crate::api::{NodeStatus, PortForwardStatus, Role, decode};

    use super::*;

    pub(in crate::publish) fn condition(kind: &str, status: &str, reason: &str, message: &str) -> Condition {
        Condition {
            type_: kind.into(),
            status: status.into(),
            reason: reason.into(),
            message: message.into(),
            last_transition_time: Time("2026-01-02T03:04:05Z".parse().unwrap()),
            observed_generation: Some(2),
        }
    }

    pub(in crate::publish) fn object(name: &str, conditions: &[Condition]) -> PortForward {
        let document = json!({
            "apiVersion": "portforward.dev/v1alpha1",
            "kind": "PortForward",
            "metadata": {"name": name, "generation": 2, "labels": {"a": "b"}},
            "spec": {
                "client": {"addresses": ["1.1.1.1"]},
                "internal": {"addresses": ["192.168.0.2"]},
                "upstream": {"targets": [{"address": "3.3.3.3"}]},
                "ports": [{"name": "http", "port": 80}],
            },
        });
        let node =
            NodeStatus { node_name: "proxy-1".into(), role: Role::Active, observed_generation: Some(2), conditions: Vec::new() };
        let status = PortForwardStatus { conditions: conditions.to_vec(), nodes: vec![node], ..Default::default() };
        PortForward { status: Some(status), ..decode(document).unwrap() }
    }

    #[tokio::test]
    async fn the_file_is_a_list_of_status_with_the_files_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("status.json");
        let objects = [object("web", &[condition("Ready", "True", "Ready", "")])];
        let files = [
            FileReport { path: "a.yaml".into(), error: None },
            FileReport { path: "b.yaml".into(), error: Some("is empty".into()) },
        ];
        assert_eq!(StatusFile::new(path.clone()).write(&objects, &files).await.unwrap(), Stored::Written);
        let wanted = json!({
            "apiVersion": "v1",
            "kind": "List",
            "items": [{
                "apiVersion": "portforward.dev/v1alpha1",
                "kind": "PortForward",
                "metadata": {"namespace": "default", "name": "web", "generation": 2},
                "status": {
                    "conditions": [{
                        "type": "Ready", "status": "True", "reason": "Ready", "message": "",
                        "lastTransitionTime": "2026-01-02T03:04:05Z", "observedGeneration": 2,
                    }],
                    "nodes": [{"nodeName": "proxy-1", "role": "Active", "observedGeneration": 2}],
                },
            }],
            "files": [{"path": "a.yaml"}, {"path": "b.yaml", "error": "is empty"}],
        });
        assert_eq!(serde_json::from_slice::<Value>(&fs::read(&path).unwrap()).unwrap(), wanted);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o644);
    }

    #[tokio::test]
    async fn equal_apart_from_time_is_not_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("status.json");
        let file = StatusFile::new(path.clone());
        let mut ready = condition("Ready", "True", "Ready", "");
        assert_eq!(file.write(&[object("web", &[ready.clone()])], &[]).await.unwrap(), Stored::Written);
        let before = fs::read(&path).unwrap();
        ready.last_transition_time = Time("2026-02-02T02:02:02Z".parse().unwrap());
        assert_eq!(file.write(&[object("web", &[ready.clone()])], &[]).await.unwrap(), Stored::Unchanged);
        assert_eq!(fs::read(&path).unwrap(), before);
        ready.status = "False".into();
        assert_eq!(file.write(&[object("web", &[ready.clone()])], &[]).await.unwrap(), Stored::Written);
        fs::write(&path, "torn").unwrap();
        assert_eq!(file.write(&[object("web", &[ready])], &[]).await.unwrap(), Stored::Written);
    }

    #[tokio::test]
    async fn a_file_that_cannot_be_written_is_named() {
        let error = StatusFile::new("/nowhere/status.json".into()).write(&[], &[]).await.unwrap_err().to_string();
        assert!(error.starts_with("/nowhere/status.json: cannot write the status; "), "{error}");
    }
}
