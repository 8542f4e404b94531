//! Reads a `PortForward` from a document that no API server has looked at.
//!
//! Stricter than `serde`: a field that does not exist is an error, as `kubectl apply` makes it one. Must not
//! judge what the fields say.

use serde_json::Value;

use super::PortForward;

/// The group and version of the API.
const API_VERSION: &str = "portforward.dev/v1alpha1";

/// The namespace of an object that names none.
pub(crate) const DEFAULT_NAMESPACE: &str = "default";

/// Why a document is no `PortForward`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Another kind of object, or none.
    #[error("apiVersion, kind: {found} is not known here; write apiVersion: portforward.dev/v1alpha1 and kind: PortForward")]
    Kind {
        /// What the document says it is.
        found: String,
    },
    /// A field that the API does not have.
    #[error("{path}: there is no such field; correct its name or remove it (kubectl explain pf --recursive lists the fields)")]
    UnknownField {
        /// Where it is.
        path: String,
    },
    /// A field that must be there.
    #[error("{path}: is missing; add it")]
    Missing {
        /// Where it belongs.
        path: String,
    },
    /// A word that a field does not take.
    #[error("{path}: {detail}")]
    UnknownWord {
        /// Where it is.
        path: String,
        /// The word, and those that the field takes.
        detail: String,
    },
    /// A value of the wrong type.
    #[error("{path}: {detail}")]
    Type {
        /// Where it is.
        path: String,
        /// What is there, and what belongs there.
        detail: String,
    },
    /// A name that Kubernetes would not take.
    #[error(
        "{path}: {found} is not a name; write lower-case letters, digits, '-' and, in metadata.name, '.', such as bank-a-web"
    )]
    Name {
        /// Where it is.
        path: &'static str,
        /// The name, escaped.
        found: String,
    },
}

/// Reads one document. The namespace is `default` where it names none.
///
/// # Errors
/// When it is no `PortForward`, has a field too many, lacks one, or one has the wrong type. What the fields
/// say is not judged; `Forward::parse` does that.
pub fn decode(document: Value) -> Result<PortForward, DecodeError> {
    check_kind(&document)?;
    for path in ["metadata", "spec"] {
        if document.get(path).is_none_or(Value::is_null) {
            return Err(DecodeError::Missing { path: path.to_owned() });
        }
    }
    let mut unknown = None;
    let mut note = |path: serde_ignored::Path<'_>| match field(&path) {
        // Read above, and no part of the derived type.
        path if path == "apiVersion" || path == "kind" => {}
        path => unknown = unknown.take().or(Some(path)),
    };
    let decoded = serde_path_to_error::deserialize(serde_ignored::Deserializer::new(document, &mut note));
    let mut object: PortForward = decoded.map_err(|error| classify(&error))?;
    if let Some(path) = unknown {
        return Err(DecodeError::UnknownField { path });
    }
    let namespace = object.metadata.namespace.get_or_insert_with(|| DEFAULT_NAMESPACE.to_owned());
    check_identity(namespace, object.metadata.name.as_deref().unwrap_or_default())?;
    Ok(object)
}

fn check_kind(document: &Value) -> Result<(), DecodeError> {
    let word = |field| document.get(field).and_then(Value::as_str).unwrap_or_default();
    let (version, kind) = (word("apiVersion"), word("kind"));
    if version == API_VERSION && kind == "PortForward" {
        return Ok(());
    }
    let found = if version.is_empty() && kind.is_empty() {
        "a document without them".to_owned()
    } else {
        format!("{} {}", version.escape_default(), kind.escape_default()).chars().take(128).collect()
    };
    Err(DecodeError::Kind { found })
}

/// Checks the names of an object: a label and a subdomain (RFC 1123), as Kubernetes does.
///
/// # Errors
/// When the name is missing, or one of them is no name.
pub(crate) fn check_identity(namespace: &str, name: &str) -> Result<(), DecodeError> {
    if name.is_empty() {
        return Err(DecodeError::Missing { path: "metadata.name".to_owned() });
    }
    if name.len() > 253 || !name.split('.').all(is_label) {
        return Err(DecodeError::Name { path: "metadata.name", found: shown(name) });
    }
    if namespace.len() > 63 || !is_label(namespace) {
        return Err(DecodeError::Name { path: "metadata.namespace", found: shown(namespace) });
    }
    Ok(())
}

fn is_label(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    text.bytes().all(|byte| plain(byte) || byte == b'-')
        && text.bytes().next().is_some_and(plain)
        && text.bytes().last().is_some_and(plain)
}

fn shown(text: &str) -> String {
    format!("\"{}\"", text.chars().take(64).collect::<String>().escape_default())
}

/// `text` without control characters, cut.
fn printable(text: &str) -> String {
    text.chars().take(256).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// `serde` gives its errors as text alone; these beginnings are part of its `Error` trait.
fn classify(error: &serde_path_to_error::Error<serde_json::Error>) -> DecodeError {
    let path = error.path().to_string();
    let detail: String = printable(&error.inner().to_string());
    if let Some(field) = detail.strip_prefix("missing field `").and_then(|rest| rest.split('`').next()) {
        let path = if path == "." { field.to_owned() } else { format!("{path}.{field}") };
        DecodeError::Missing { path }
    } else if detail.starts_with("unknown variant") {
        DecodeError::UnknownWord { path, detail }
    } else {
        DecodeError::Type { path, detail }
    }
}

/// The path as a user writes it, without the steps that only Rust's types have.
fn field(path: &serde_ignored::Path<'_>) -> String {
    use serde_ignored::Path;
    let join = |parent: &Path<'_>, step: &str| match field(parent) {
        parent if parent.is_empty() => step.to_owned(),
        parent => format!("{parent}.{step}"),
    };
    match path {
        Path::Root => String::new(),
        Path::Seq { parent, index } => format!("{}[{index}]", field(parent)),
        Path::Map { parent, key } => join(parent, &key.chars().take(64).collect::<String>().escape_default().to_string()),
        Path::Some { parent } | Path::NewtypeStruct { parent } | Path::NewtypeVariant { parent } => field(parent),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn document(spec: &Value) -> Value {
        json!({"apiVersion": API_VERSION, "kind": "PortForward", "metadata": {"name": "web"}, "spec": spec})
    }

    fn spec() -> Value {
        json!({
            "client": {"addresses": ["1.1.1.1"]},
            "internal": {"addresses": ["192.168.0.2"]},
            "upstream": {"targets": [{"address": "3.3.3.3"}]},
            "ports": [{"name": "http", "port": 80}],
        })
    }

    fn error(change: impl FnOnce(&mut Value)) -> String {
        let mut document = document(&spec());
        change(&mut document);
        decode(document).unwrap_err().to_string()
    }

    #[test]
    fn the_defaults_of_the_schema_hold_without_an_api_server() {
        let object = decode(document(&spec())).unwrap();
        assert_eq!(object.metadata.namespace.as_deref(), Some("default"));
        assert_eq!(object.spec.mode, super::super::Mode::Enabled);
        assert_eq!(object.spec.ports[0].protocol, super::super::Protocol::Tcp);
    }

    #[test]
    fn what_kubectl_get_prints_is_taken() {
        let mut document = document(&spec());
        document["metadata"]["uid"] = json!("f0e1");
        document["metadata"]["managedFields"] = json!([{"manager": "kubectl", "fieldsV1": {"f:spec": {}}}]);
        document["status"] = json!({"observedGeneration": -1, "conditions": [{
            "type": "Ready", "status": "Unknown", "reason": "Pending", "message": "", "lastTransitionTime": "1970-01-01T00:00:00Z",
        }]});
        assert!(decode(document).is_ok());
    }

    #[test]
    fn a_mistake_is_named_with_its_path() {
        let cases = [
            (error(|d| d["spec"]["upsteam"] = json!({})), "spec.upsteam: there is no such field"),
            (error(|d| d["spec"]["external"] = json!({"adresses": []})), "spec.external.adresses: there is no such field"),
            (error(|d| d["spec"]["ports"][0]["port"] = json!("http")), "spec.ports[0].port: invalid type: string \"http\""),
            (error(|d| d["spec"]["ports"][0]["protocol"] = json!("tcp")), "spec.ports[0].protocol: unknown variant `tcp`"),
            (error(|d| drop(d["spec"].as_object_mut().unwrap().remove("client"))), "spec.client: is missing"),
            (error(|d| d["metadata"] = json!({})), "metadata.name: is missing"),
            (error(|d| d["kind"] = json!("Service")), "apiVersion, kind: portforward.dev/v1alpha1 Service is not known here"),
            (error(|d| *d = json!(["PortForward"])), "apiVersion, kind: a document without them is not known here"),
        ];
        for (message, beginning) in cases {
            assert!(message.starts_with(beginning), "{message}");
        }
    }
}
