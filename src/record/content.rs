//! The text of a record: an envelope with format and checksum around the state that was applied.
//!
//! Decides which parts of the text are accepted. Must not access the disk.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Write;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::api;
use crate::model::{Nodes, Translation};
use crate::source::{GrantSet, Sourced, SourcedGrant};
use crate::supervise::guarded;

use super::translation::Written;
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

/// The texts of the forwards of the last record, by the address of the object. An object that is still the same is not rendered
/// again.
#[derive(Debug, Default)]
pub(super) struct Rendered(HashMap<usize, (Sourced, String)>);

/// The text of a record.
pub(super) struct Text {
    pub(super) bytes: Vec<u8>,
    pub(super) checksum: String,
}

/// The text of `record`: compact JSON with the keys of every object in order, so equal records have equal texts.
pub(super) fn render(record: &Record, rendered: &mut Rendered) -> Result<Text, RecordError> {
    let grant = |sourced: &SourcedGrant| entry(&*sourced.object, sourced.origin.as_ref());
    let in_force = |it: &Translation| serde_json::to_string(&Written::from(it));
    let mut fields = Fields::default();
    fields.texts("apiServers", &record.api_servers)?;
    fields.list("forwards", rendered.forwards(&record.forwards))?;
    if let Some(set) = &record.grants {
        fields.list("grants", set.grants.iter().map(grant))?;
    }
    if record.grants_required {
        fields.add("grantsRequired", "true");
    }
    fields.list("inForce", record.in_force.iter().map(in_force))?;
    fields.add("labels", &serde_json::to_string(&record.labels)?);
    fields.add("node", &serde_json::to_string(&record.node)?);
    fields.texts("nodeAddresses", &record.node_addresses)?;
    fields.texts("nodes", &record.nodes.addresses)?;
    fields.texts("pods", &record.nodes.pods)?;
    fields.texts("services", &record.services)?;
    let content = fields.object();
    let sha256 = hash(&content);
    let format = format(record);
    let text = format!("{{\"format\":{format},\"sha256\":\"{sha256}\",\"content\":{content}}}");
    Ok(Text { bytes: text.into_bytes(), checksum: sha256 })
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
    /// The text of each of `forwards`.
    fn forwards(&mut self, forwards: &[Sourced]) -> impl Iterator<Item = serde_json::Result<String>> {
        let mut before = std::mem::take(&mut self.0);
        forwards.iter().map(move |sourced| {
            let place = Arc::as_ptr(&sourced.object).addr();
            // The entry holds the object, so no other object can have its address.
            let text = match before.remove(&place) {
                Some((known, text)) if known.origin == sourced.origin => text,
                Some(_) | None => entry(&*sourced.object, sourced.origin.as_ref())?,
            };
            self.0.insert(place, (sourced.clone(), text.clone()));
            Ok(text)
        })
    }
}

/// The fields of a JSON object. They are added in the order of their names.
#[derive(Default)]
struct Fields(String);

impl Fields {
    fn add(&mut self, name: &str, value: &str) {
        let comma = if self.0.is_empty() { "" } else { "," };
        // Writing to a `String` never fails.
        let _ = write!(self.0, "{comma}\"{name}\":{value}");
    }

    fn list(&mut self, name: &str, items: impl Iterator<Item = serde_json::Result<String>>) -> serde_json::Result<()> {
        self.add(name, "[");
        for (place, item) in items.enumerate() {
            if place > 0 {
                self.0.push(',');
            }
            self.0 += &item?;
        }
        self.0.push(']');
        Ok(())
    }

    /// Adds addresses or networks, unless there are none.
    fn texts<T: ToString>(&mut self, name: &str, values: &BTreeSet<T>) -> serde_json::Result<()> {
        if values.is_empty() {
            return Ok(());
        }
        self.list(name, values.iter().map(|value| serde_json::to_string(&value.to_string())))
    }

    fn object(self) -> String {
        format!("{{{}}}", self.0)
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
            Ok(sourced) => record.forwards.push(sourced),
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
            Ok(translation) => record.in_force.push(translation),
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
    Ok(Sourced { object: Arc::new(object), origin, trouble: None })
}

fn grant(entry: Value) -> Result<SourcedGrant, String> {
    let Entry { object, origin } = serde_json::from_value(entry).map_err(|_| strange())?;
    let object = Arc::new(guarded(|| api::decode_grant(object).map_err(|error| error.to_string()))?);
    Ok(SourcedGrant { object, origin, trouble: None })
}

/// The checksum of `content`: that of its compact JSON.
pub(super) fn checksum(content: &Value) -> String {
    hash(&content.to_string())
}

/// SHA-256 in hexadecimal.
fn hash(text: &str) -> String {
    let digest = Sha256::digest(text);
    digest.iter().fold(String::new(), |mut text, byte| {
        // Writing to a `String` never fails.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
