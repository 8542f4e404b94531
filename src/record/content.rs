//! The text of a record: an envelope with format and checksum around the state that was applied.
//!
//! Decides which parts of the text are accepted. Must not access the disk.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::api;
use crate::forward::ForwardKey;
use crate::model::Nodes;
use crate::source::{Difference, Forwards, GrantSet, Sourced, SourcedGrant};
use crate::supervise::guarded;

use super::translation::{Line, Written};
use super::{Boot, Loaded, Record, RecordError};

/// The format of a record that contains no API servers. Programs before format 2 can read it too.
const WITHOUT_API_SERVERS: u64 = 1;
/// A record that may contain API servers, but no addresses of the node.
const WITHOUT_NODE_ADDRESSES: u64 = 2;
/// A record that may contain API servers and addresses of the node, but neither grants nor other networks of the cluster.
const WITHOUT_GRANTS_AND_NETWORKS: u64 = 3;
/// The newest format that this program writes and reads. It may also contain grants, and the networks of Services, nodes and pods.
const FORMAT: u64 = 4;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Envelope {
    #[serde(rename = "format")]
    _format: u64,
    sha256: String,
    content: Value,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Content {
    node: String,
    labels: BTreeMap<String, String>,
    #[serde(default)]
    api_servers: Vec<Value>,
    #[serde(default)]
    node_addresses: Vec<Value>,
    #[serde(default)]
    services: Vec<Value>,
    #[serde(default)]
    nodes: Vec<Value>,
    #[serde(default)]
    pods: Vec<Value>,
    forwards: Vec<Value>,
    #[serde(default)]
    grants: Option<Vec<Value>>,
    #[serde(default)]
    grants_required: bool,
    in_force: Vec<Value>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    object: Value,
    origin: Option<PathBuf>,
}

/// The texts of the forwards of the last record. An object that is still the same is not rendered again.
#[derive(Debug, Default)]
pub(super) struct Rendered {
    forwards: Forwards,
    texts: BTreeMap<ForwardKey, Box<str>>,
}

/// The text of a record.
pub(super) struct Text {
    pub(super) bytes: Vec<u8>,
    pub(super) checksum: String,
}

/// The text of `record`: compact JSON with the keys of every object in order, so equal records have equal texts.
pub(super) fn render(record: &Record, rendered: &mut Rendered) -> Result<Text, RecordError> {
    let grant = |sourced: &SourcedGrant| entry(&*sourced.object, sourced.origin.as_ref());
    let unknown = "0".repeat(2 * Sha256::output_size());
    let mut text = format!("{{\"format\":{},\"sha256\":\"{unknown}", format(record)).into_bytes();
    let checksum = text.len() - unknown.len()..text.len();
    text.extend_from_slice(b"\",\"content\":");
    let content = text.len();
    let mut fields = Fields::begin(text);
    fields.texts("apiServers", &record.api_servers)?;
    rendered.follow(&record.forwards)?;
    fields.list("forwards", rendered.texts.values(), |object, text| {
        text.extend_from_slice(object.as_bytes());
        Ok(())
    })?;
    if let Some(set) = &record.grants {
        fields.list("grants", &set.grants, |sourced, text| {
            text.extend_from_slice(grant(sourced)?.as_bytes());
            Ok(())
        })?;
    }
    if record.grants_required {
        fields.value("grantsRequired", &true)?;
    }
    fields.list("inForce", &record.in_force, |translation, text| serde_json::to_writer(text, &Line::from(translation)))?;
    fields.value("labels", &record.labels)?;
    fields.value("node", &record.node)?;
    fields.texts("nodeAddresses", &record.node_addresses)?;
    fields.texts("nodes", &record.nodes.addresses)?;
    fields.texts("pods", &record.nodes.pods)?;
    fields.texts("services", &record.services)?;
    let mut bytes = fields.end();
    let sha256 = hash(bytes.get(content..).unwrap_or_default());
    bytes.splice(checksum, sha256.bytes());
    bytes.push(b'}');
    Ok(Text { bytes, checksum: sha256 })
}

/// The oldest format that can hold the content, so that older programs can read it where possible.
fn format(record: &Record) -> u64 {
    let with_grants = record.grants.is_some() || record.grants_required;
    let with_networks = !(record.services.is_empty() && record.nodes.addresses.is_empty() && record.nodes.pods.is_empty());
    match (record.api_servers.is_empty(), record.node_addresses.is_empty()) {
        _ if with_grants || with_networks => FORMAT,
        (_, false) => WITHOUT_GRANTS_AND_NETWORKS,
        (false, true) => WITHOUT_NODE_ADDRESSES,
        (true, true) => WITHOUT_API_SERVERS,
    }
}

impl Rendered {
    /// Renders those of `newest` that differ from the last ones.
    fn follow(&mut self, newest: &Forwards) -> serde_json::Result<()> {
        let Self { forwards, mut texts } = std::mem::take(self);
        for Difference { key, before, now } in forwards.differences(newest) {
            let Some(now) = now else {
                texts.remove(key);
                continue;
            };
            let is_same = |before: &Sourced| Arc::ptr_eq(&before.object, &now.object) && before.origin == now.origin;
            if !before.is_some_and(is_same) {
                texts.insert(key.clone(), entry(&*now.object, now.origin.as_ref())?.into());
            }
        }
        *self = Self { forwards: newest.clone(), texts };
        Ok(())
    }
}

/// The fields of a JSON object, after the text before it. They are added in the order of their names.
struct Fields {
    text: Vec<u8>,
    is_first: bool,
}

impl Fields {
    fn begin(mut text: Vec<u8>) -> Self {
        text.push(b'{');
        Self { text, is_first: true }
    }

    fn name(&mut self, name: &str) {
        if !std::mem::take(&mut self.is_first) {
            self.text.push(b',');
        }
        self.text.extend_from_slice(format!("\"{name}\":").as_bytes());
    }

    fn value(&mut self, name: &str, value: &impl Serialize) -> serde_json::Result<()> {
        self.name(name);
        serde_json::to_writer(&mut self.text, value)
    }

    fn list<T>(
        &mut self,
        name: &str,
        items: impl IntoIterator<Item = T>,
        write: impl Fn(T, &mut Vec<u8>) -> serde_json::Result<()>,
    ) -> serde_json::Result<()> {
        self.name(name);
        self.text.push(b'[');
        for (place, item) in items.into_iter().enumerate() {
            if place > 0 {
                self.text.push(b',');
            }
            write(item, &mut self.text)?;
        }
        self.text.push(b']');
        Ok(())
    }

    /// Adds addresses or networks, unless there are none.
    fn texts<T: ToString>(&mut self, name: &str, values: &BTreeSet<T>) -> serde_json::Result<()> {
        if values.is_empty() {
            return Ok(());
        }
        self.list(name, values, |value, text| serde_json::to_writer(text, &value.to_string()))
    }

    fn end(self) -> Vec<u8> {
        let mut text = self.text;
        text.push(b'}');
        text
    }
}

/// An object as the record holds it.
fn entry(object: &impl Serialize, origin: Option<&PathBuf>) -> serde_json::Result<String> {
    let mut object = serde_json::to_value(object)?;
    // These fields are not part of what was asked for. They change with every status update, and each change would rewrite the
    // record.
    for (parent, field) in [("", "status"), ("/metadata", "resourceVersion"), ("/metadata", "managedFields")] {
        object.pointer_mut(parent).and_then(Value::as_object_mut).map(|fields| fields.remove(field));
    }
    let origin = serde_json::to_string(&origin)?;
    Ok(format!("{{\"object\":{object},\"origin\":{origin}}}"))
}

/// Reads the text of a record for `node`. `path` is the file that it was read from, for error messages.
pub(super) fn parse(path: &Path, bytes: &[u8], node: &str) -> Result<Loaded, RecordError> {
    let damaged = |detail: String| RecordError::Damaged { path: path.to_owned(), detail };
    let document: Value = serde_json::from_slice(bytes).map_err(|error| damaged(unreadable(&error)))?;
    // The format is checked first, because another format may have another envelope.
    match document.get("format").and_then(Value::as_u64) {
        Some(WITHOUT_API_SERVERS..=FORMAT) => {}
        Some(found) => return Err(RecordError::Version { path: path.to_owned(), found, known: FORMAT }),
        None => return Err(damaged("the format number is missing".to_owned())),
    }
    let envelope: Envelope = serde_json::from_value(document).map_err(|_| damaged(strange()))?;
    if checksum(&envelope.content) != envelope.sha256 {
        return Err(damaged("the checksum does not match".to_owned()));
    }
    let content: Content = serde_json::from_value(envelope.content).map_err(|_| damaged(strange()))?;
    if content.node != node {
        let found = content.node.chars().take(253).collect::<String>().escape_debug().to_string();
        return Err(RecordError::OtherNode { path: path.to_owned(), found, node: node.to_owned() });
    }
    Ok(believe(content, envelope.sha256))
}

/// Why a text is not JSON.
fn unreadable(error: &serde_json::Error) -> String {
    if error.is_eof() {
        return "it ends too early".to_owned();
    }
    format!("it is not JSON at line {}, column {}", error.line(), error.column())
}

/// What is wrong with a value that does not have the fields of its format.
fn strange() -> String {
    "its fields are not those of its format".to_owned()
}

/// Accepts each entry that is valid by itself.
fn believe(content: Content, checksum: String) -> Loaded {
    let mut lost = Vec::new();
    let mut keep = |list: &str, number: usize, error: String| lost.push(format!("{list}[{number}]: {error}"));
    let mut record = Record { node: content.node, labels: content.labels, ..Record::default() };
    let mut nodes = Nodes::default();
    let lists = [
        ("apiServers", content.api_servers, &mut record.api_servers),
        ("nodeAddresses", content.node_addresses, &mut record.node_addresses),
        ("nodes", content.nodes, &mut nodes.addresses),
    ];
    for (list, entries, addresses) in lists {
        for (number, entry) in entries.into_iter().enumerate() {
            match serde_json::from_value::<IpAddr>(entry) {
                Ok(address) => drop(addresses.insert(address)),
                Err(_) => keep(list, number, "is not an address".to_owned()),
            }
        }
    }
    for (list, entries, networks) in
        [("services", content.services, &mut record.services), ("pods", content.pods, &mut nodes.pods)]
    {
        for (number, entry) in entries.into_iter().enumerate() {
            match entry.as_str().and_then(|text| text.parse::<IpNet>().ok()) {
                Some(network) => drop(networks.insert(network.trunc())),
                None => keep(list, number, "is not a network".to_owned()),
            }
        }
    }
    record.nodes = Arc::new(nodes);
    for (number, entry) in content.forwards.into_iter().enumerate() {
        match forward(entry) {
            Ok(sourced) => drop(record.forwards.insert(sourced)),
            Err(error) => keep("forwards", number, error),
        }
    }
    record.grants_required = content.grants_required;
    record.grants = content.grants.map(|entries| {
        let mut set = GrantSet::default();
        for (number, entry) in entries.into_iter().enumerate() {
            match grant(entry) {
                Ok(sourced) => set.grants.push(sourced),
                Err(error) => keep("grants", number, error),
            }
        }
        Arc::new(set)
    });
    for (number, entry) in content.in_force.into_iter().enumerate() {
        let written: Result<Written, _> = serde_json::from_value(entry).map_err(|_| strange());
        match written.and_then(|written| written.parse()) {
            Ok(translation) => drop(record.in_force.insert(translation)),
            Err(error) => keep("inForce", number, error),
        }
    }
    Loaded { record, lost, checksum, outdated: None, boot: Boot::This }
}

fn forward(entry: Value) -> Result<Sourced, String> {
    let Entry { object, origin } = serde_json::from_value(entry).map_err(|_| strange())?;
    let mut object = guarded(|| api::decode(object).map_err(|error| error.to_string()))?;
    if origin.is_none() {
        object.metadata = api::used(object.metadata);
    }
    Ok(Sourced::of(Arc::new(object), origin))
}

fn grant(entry: Value) -> Result<SourcedGrant, String> {
    let Entry { object, origin } = serde_json::from_value(entry).map_err(|_| strange())?;
    let object = Arc::new(guarded(|| api::decode_grant(object).map_err(|error| error.to_string()))?);
    Ok(SourcedGrant { object, origin, trouble: None })
}

/// The checksum of `content`: that of its compact JSON.
pub(super) fn checksum(content: &Value) -> String {
    hash(content.to_string().as_bytes())
}

/// SHA-256 in hexadecimal.
fn hash(bytes: &[u8]) -> String {
    let digest = Sha256::digest(bytes);
    digest.iter().fold(String::new(), |mut text, byte| {
        // Writing to a `String` never fails.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
