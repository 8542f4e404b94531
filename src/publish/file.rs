//! The status file: the status as in `kubectl get pf -o json`, and which manifests could be read.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use serde::{Deserialize, Serialize};
use tokio::task::spawn_blocking;

use super::Shown;
use crate::api::{API_VERSION, PortForwardStatus};
use crate::durable::{self, Stored};
use crate::forward::ForwardKey;
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
    /// with `files` beside its `items`. The same content is not written again.
    ///
    /// # Errors
    /// When the system returns an error.
    pub async fn write(&self, objects: Vec<Shown>, files: Vec<FileReport>) -> Result<Stored, PublishError> {
        let path = self.path.clone();
        spawn_blocking(move || replace(&path, &List { files: Some(files.iter().map(Reported::of).collect()), ..list(&objects) }))
            .await?
    }

    /// The statuses in the file, each with its object; none if there is no file, or if it is not one that this program wrote.
    pub(crate) async fn read(&self) -> Vec<(ForwardKey, PortForwardStatus)> {
        let path = self.path.clone();
        let read = spawn_blocking(move || {
            let file = BufReader::new(File::open(path).ok()?);
            serde_json::from_reader::<_, Known>(file).ok()
        });
        let items = read.await.ok().flatten().map_or_else(Vec::new, |known| known.items);
        items.into_iter().map(|KnownItem { metadata: key, status }| (key.into(), status)).collect()
    }
}

/// Writes the file piece by piece: its text may be larger than everything else that the agent holds.
fn replace(path: &Path, list: &List<'_>) -> Result<Stored, PublishError> {
    let io = |source| PublishError::Io { path: path.to_owned(), source };
    if File::open(path).is_ok_and(|file| has_text(file, list)) {
        return Ok(Stored::Unchanged);
    }
    durable::replace_with(path, MODE, |file| {
        let mut file = BufWriter::new(file);
        print(list, &mut file)?;
        file.flush()
    })
    .map_err(io)?;
    Ok(Stored::Written)
}

fn print(list: &List<'_>, out: &mut impl Write) -> io::Result<()> {
    serde_json::to_writer_pretty(&mut *out, list)?;
    out.write_all(b"\n")
}

/// Whether the file has exactly the text of `list`.
fn has_text(file: File, list: &List<'_>) -> bool {
    let mut compared = Compared(BufReader::new(file));
    print(list, &mut compared).is_ok() && compared.0.read(&mut [0]).is_ok_and(|more| more == 0)
}

/// Fails as soon as what is written differs from what is read.
struct Compared<R>(R);

impl<R: Read> Write for Compared<R> {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        let mut there = [0; 1024];
        let length = text.len().min(there.len());
        let (there, text) = (&mut there[..length], &text[..length]);
        self.0.read_exact(there)?;
        if there == text { Ok(length) } else { Err(io::Error::other("another content")) }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The status of some objects as a `v1` `List`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct List<'a> {
    api_version: &'static str,
    kind: &'static str,
    items: Vec<Item<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    files: Option<Vec<Reported<'a>>>,
}

/// An object without its spec, which is in the manifest.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Item<'a> {
    api_version: &'static str,
    kind: &'static str,
    metadata: Metadata<'a>,
    status: &'a PortForwardStatus,
}

#[derive(Debug, Serialize)]
struct Metadata<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    namespace: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    generation: Option<i64>,
}

/// A file of the folder.
#[derive(Debug, Serialize)]
struct Reported<'a> {
    path: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
}

/// What is read of the file again.
#[derive(Deserialize)]
struct Known {
    items: Vec<KnownItem>,
}

#[derive(Deserialize)]
struct KnownItem {
    metadata: KnownKey,
    #[serde(default)]
    status: PortForwardStatus,
}

#[derive(Deserialize)]
struct KnownKey {
    namespace: String,
    name: String,
}

impl From<KnownKey> for ForwardKey {
    fn from(KnownKey { namespace, name }: KnownKey) -> Self {
        Self::new(namespace, name)
    }
}

impl<'a> Item<'a> {
    fn of(Shown { object, status }: &'a Shown) -> Self {
        static BLANK: LazyLock<PortForwardStatus> = LazyLock::new(PortForwardStatus::default);
        let metadata = &object.metadata;
        let metadata = Metadata {
            namespace: metadata.namespace.as_deref(),
            name: metadata.name.as_deref(),
            generation: metadata.generation,
        };
        Self { api_version: API_VERSION, kind: "PortForward", metadata, status: status.as_deref().unwrap_or(&BLANK) }
    }
}

impl<'a> Reported<'a> {
    fn of(report: &'a FileReport) -> Self {
        Self { path: report.path.to_string_lossy().into_owned(), error: report.error.as_deref() }
    }
}

/// The status of `objects` as a `v1` `List`.
#[must_use]
pub fn list(objects: &[Shown]) -> List<'_> {
    List { api_version: "v1", kind: "List", items: objects.iter().map(Item::of).collect(), files: None }
}

#[cfg(test)]
pub(super) mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::sync::Arc;

    use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
    use serde_json::{Value, json};

    use crate::api::{NodeStatus, Role, decode};

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

    pub(in crate::publish) fn object(name: &str, conditions: &[Condition]) -> Shown {
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
        Shown { object: Arc::new(decode(document).unwrap()), status: Some(Arc::new(status)) }
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
        assert_eq!(StatusFile::new(path.clone()).write(objects.into(), files.into()).await.unwrap(), Stored::Written);
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
    async fn equal_content_is_not_written_and_is_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("status.json");
        let file = StatusFile::new(path.clone());
        assert_eq!(file.read().await, []);
        let mut ready = condition("Ready", "True", "Ready", "");
        let write = async |condition: &Condition| {
            file.write(vec![object("web", std::slice::from_ref(condition))], Vec::new()).await.unwrap()
        };
        assert_eq!(write(&ready).await, Stored::Written);
        assert_eq!(write(&ready).await, Stored::Unchanged);
        let key = ForwardKey::new("default", "web");
        let status = PortForwardStatus::clone(object("web", &[ready.clone()]).status.as_ref().unwrap());
        assert_eq!(file.read().await, [(key, status)]);
        ready.status = "False".into();
        assert_eq!(write(&ready).await, Stored::Written);
        let whole = fs::read_to_string(&path).unwrap();
        for torn in ["torn", &whole[..whole.len() - 1], &format!("{whole}\n")] {
            fs::write(&path, torn).unwrap();
            assert_eq!(write(&ready).await, Stored::Written, "{torn}");
            assert_eq!(fs::read_to_string(&path).unwrap(), whole);
        }
    }

    #[tokio::test]
    async fn a_file_that_cannot_be_written_is_named() {
        let error = StatusFile::new("/nowhere/status.json".into()).write(Vec::new(), Vec::new()).await.unwrap_err().to_string();
        assert!(error.starts_with("/nowhere/status.json: cannot write the status; "), "{error}");
    }
}
