//! A `PortForward` as the API server sends it, reduced to what the agent uses.
//!
//! The rest is skipped while the text is read and never held: annotations, labels, `managedFields`, owners and finalizers. An
//! annotation may have 256 KiB, and each agent holds all objects of the cluster. Does not judge the spec.

use std::borrow::Cow;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::Resource;
use kube::core::ObjectMeta;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::api::{self, PortForward, PortForwardStatus};
use crate::forward::ForwardKey;

/// The maximum size of the fields other than metadata and status, in bytes of text. The largest spec that the schema accepts
/// is below it.
const MOST_BYTES: usize = 128 * 1024;

/// One object, not decoded yet.
#[derive(Clone, Debug, Deserialize)]
#[serde(from = "Sent")]
pub(super) struct Received {
    /// Only the fields that [`api::used`] keeps.
    pub(super) metadata: ObjectMeta,
    /// The status, if this program can decode it. An unknown status does not make the spec unknown.
    pub(super) status: Option<PortForwardStatus>,
    /// The other fields, or why they are not kept.
    fields: Result<Map<String, Value>, String>,
}

#[derive(Deserialize)]
struct Sent {
    #[serde(default)]
    metadata: Metadata,
    #[serde(default)]
    status: Value,
    #[serde(flatten)]
    fields: Map<String, Value>,
}

/// The used fields. serde skips the others without keeping them.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Metadata {
    name: Option<String>,
    namespace: Option<String>,
    uid: Option<String>,
    generation: Option<i64>,
    resource_version: Option<String>,
    creation_timestamp: Option<Time>,
    deletion_timestamp: Option<Time>,
}

impl From<Sent> for Received {
    fn from(Sent { metadata, status, fields }: Sent) -> Self {
        let Metadata { name, namespace, uid, generation, resource_version, creation_timestamp, deletion_timestamp } = metadata;
        let metadata = ObjectMeta {
            name,
            namespace,
            uid,
            generation,
            resource_version,
            creation_timestamp,
            deletion_timestamp,
            ..ObjectMeta::default()
        };
        let bytes: usize = fields.iter().map(|(name, value)| name.len() + size(value)).sum();
        let fields = if bytes > MOST_BYTES {
            Err(format!("the object has more than {} KiB without its metadata; write a smaller spec", MOST_BYTES / 1024))
        } else {
            Ok(fields)
        };
        Self { metadata, status: serde_json::from_value(status).ok(), fields }
    }
}

/// The approximate length of a value as text, in bytes.
fn size(value: &Value) -> usize {
    const SCALAR: usize = 8;
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => SCALAR,
        Value::String(text) => SCALAR + text.len(),
        Value::Array(items) => SCALAR + items.iter().map(size).sum::<usize>(),
        Value::Object(fields) => fields.iter().map(|(name, value)| SCALAR + name.len() + size(value)).sum(),
    }
}

impl Received {
    /// The key of the object.
    pub(super) fn key(&self) -> ForwardKey {
        ForwardKey::named(&self.metadata)
    }

    /// Decodes strictly: an unknown field of the spec may change the meaning of the other fields.
    ///
    /// # Errors
    /// What this program does not know, or that the object is too large.
    pub(super) fn decode(self) -> Result<PortForward, String> {
        let Self { metadata, status, fields } = self;
        let mut document = Value::Object(fields?);
        document["metadata"] = json!(metadata);
        let decoded = api::decode(document).map_err(|error| error.to_string())?;
        Ok(PortForward { status, ..decoded })
    }
}

impl Resource for Received {
    type DynamicType = ();
    type Scope = <PortForward as Resource>::Scope;

    fn kind((): &()) -> Cow<'_, str> {
        PortForward::kind(&())
    }

    fn group((): &()) -> Cow<'_, str> {
        PortForward::group(&())
    }

    fn version((): &()) -> Cow<'_, str> {
        PortForward::version(&())
    }

    fn plural((): &()) -> Cow<'_, str> {
        PortForward::plural(&())
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(spec: &Value) -> String {
        let metadata = json!({
            "name": "web", "namespace": "a", "uid": "1", "generation": 3, "resourceVersion": "7",
            "creationTimestamp": "2026-01-31T12:00:00Z", "deletionTimestamp": "2026-01-31T12:00:01Z",
            "labels": {"l": "x"}, "annotations": {"large": "x".repeat(250_000)}, "finalizers": ["f/g"],
            "ownerReferences": [{"apiVersion": "v1", "kind": "ConfigMap", "name": "o", "uid": "2"}],
            "managedFields": [{"manager": "kubectl", "operation": "Apply", "fieldsV1": {"f:spec": {}}}],
        });
        json!({"apiVersion": "portforward.dev/v1alpha1", "kind": "PortForward", "metadata": metadata, "spec": spec}).to_string()
    }

    fn spec() -> Value {
        json!({
            "client": {"addresses": ["1.1.1.1"]}, "internal": {"addresses": ["192.168.0.2"]},
            "upstream": {"targets": [{"address": "3.3.3.3"}]}, "ports": [{"name": "http", "port": 80}],
        })
    }

    #[test]
    fn what_no_agent_uses_is_not_held() {
        let received: Received = serde_json::from_str(&text(&spec())).unwrap();
        assert!(format!("{received:?}").len() < 4096, "{received:?}");
        let whole: PortForward = serde_json::from_str(&text(&spec())).unwrap();
        let decoded = received.decode().unwrap();
        assert_eq!(decoded.metadata, api::used(whole.metadata));
        assert!(decoded.metadata.creation_timestamp.is_some() && decoded.metadata.deletion_timestamp.is_some());
        assert_eq!(decoded.spec, whole.spec);
    }

    #[test]
    fn a_spec_that_no_schema_accepted_is_not_held_and_is_named() {
        let mut spec = spec();
        spec["nodeSelector"] = json!({"matchLabels": {"k".repeat(MOST_BYTES): "v"}});
        let received: Received = serde_json::from_str(&text(&spec)).unwrap();
        assert!(format!("{received:?}").len() < 4096);
        let error = received.decode().unwrap_err();
        assert!(error.contains("more than 128 KiB"), "{error}");
    }

    #[test]
    fn the_largest_spec_that_the_schema_accepts_is_held() {
        let port = |number: usize| {
            json!({
                "name": format!("{number:0>63}"), "protocol": "UDP", "port": 10_000 + number, "endPort": 10_000 + number,
                "targetPort": 20_000 + number, "targetEndPort": 20_000 + number,
            })
        };
        let ports: Vec<Value> = (0..64).map(port).collect();
        let (key, label) = (format!("{}/{}", "d".repeat(253), "k".repeat(63)), "v".repeat(63));
        let requirement = json!({"key": key, "operator": "NotIn", "values": vec![label.clone(); 32]});
        let labels: Map<String, Value> = (0..32).map(|number| (format!("{number:0>2}{}", &key[2..]), json!(label))).collect();
        let addresses: Vec<String> = (0..64).map(|number| format!("255.255.255.{number:0>3}/{:>30}", 32)).collect();
        let mut spec = spec();
        spec["description"] = json!("\u{1f600}".repeat(256));
        spec["client"] = json!({"addresses": addresses});
        spec["nodeSelector"] = json!({"matchLabels": labels, "matchExpressions": vec![requirement; 32]});
        spec["ports"] = json!(ports);
        spec["reverse"] = json!({"ports": ports});
        let received: Received = serde_json::from_str(&text(&spec)).unwrap();
        received.decode().unwrap();
    }
}
