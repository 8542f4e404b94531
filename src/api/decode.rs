//! Reads an object from a document that the API server has not validated.
//!
//! Checks the structure only: fields, types and enums, as the schema of the CRD describes them. Unknown fields are errors,
//! as they are for `kubectl apply`. Must not judge the values; `crate::forward` and
//! `crate::grant` do that.

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::mistakes::{DecodeError, DecodeErrors, Rest};
use super::structure::{self, Repaired};
use super::{Kind, PortForward, PortForwardGrant};

/// The group and version of the API.
pub(crate) const API_VERSION: &str = "portforward.dev/v1alpha1";

/// The namespace of an object that names none.
pub(crate) const DEFAULT_NAMESPACE: &str = "default";

/// The fields with the identity of an object.
const NAMES: [&str; 3] = ["metadata", "metadata.name", "metadata.namespace"];

/// Decodes the document of a `PortForward`. Without a namespace, the object is in `default`. A field with the value `null`
/// counts as absent, as it does for the API server.
///
/// # Errors
/// All structural mistakes: another kind, unknown and missing fields, wrong types, names that Kubernetes does not accept.
/// The values are not judged; `Forward::parse` does that.
pub fn decode(document: Value) -> Result<PortForward, DecodeErrors> {
    let mut object: PortForward = decode_as(Kind::PortForward, document)?;
    object.metadata.namespace.get_or_insert_with(|| DEFAULT_NAMESPACE.to_owned());
    Ok(object)
}

/// Decodes the document of a `PortForwardGrant`. A field with the value `null` counts as absent.
///
/// # Errors
/// As [`decode`]. The values are not judged; `Grant::parse` does that.
pub fn decode_grant(document: Value) -> Result<PortForwardGrant, DecodeErrors<PortForwardGrant>> {
    decode_as(Kind::PortForwardGrant, document)
}

fn decode_as<O: DeserializeOwned>(kind: Kind, mut document: Value) -> Result<O, DecodeErrors<O>> {
    check_kind(kind, &document)?;
    remove_nulls(&mut document);
    let Repaired { mut mistakes, mut touched, .. } = structure::repair(kind, &mut document);
    let text = |path| document.pointer(path).and_then(Value::as_str);
    // A name that is missing or no text is reported already.
    if let Some(name) = text("/metadata/name").filter(|_| !touched.iter().any(|path| NAMES.contains(&path.as_str())))
        && let Err(mistake) = check_identity(text("/metadata/namespace").unwrap_or(DEFAULT_NAMESPACE), name)
    {
        mistakes.push(mistake);
        touched.extend(NAMES.map(str::to_owned));
    }
    let object = serde_json::from_value(document);
    if !mistakes.is_empty() {
        return Err(DecodeErrors::of(mistakes, object.ok().map(|object| Rest { object, touched })));
    }
    object.map_err(|_| {
        let whole = DecodeError::Type {
            // The schema describes every field, so this is a value that the schema cannot describe.
            path: "the document".to_owned(),
            found: "a value that does not fit its field".to_owned(),
            wanted: "the fields as kubectl explain --recursive lists them",
        };
        whole.into()
    })
}

fn remove_nulls(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|_, value| !value.is_null());
            fields.values_mut().for_each(remove_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(remove_nulls),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn check_kind(wanted: Kind, document: &Value) -> Result<(), DecodeError> {
    let word = |field| document.get(field).and_then(Value::as_str).unwrap_or_default();
    let (version, kind) = (word("apiVersion"), word("kind"));
    if version == API_VERSION && kind == wanted.name() {
        return Ok(());
    }
    let found = match (version.is_empty(), kind.is_empty()) {
        (true, true) => "a document without them".to_owned(),
        (true, false) => format!("kind {} without apiVersion", kind.escape_default()),
        (false, true) => format!("apiVersion {} without kind", version.escape_default()),
        (false, false) => format!("{} {}", version.escape_default(), kind.escape_default()),
    };
    let found = found.chars().take(128).collect();
    Err(DecodeError::Kind { found, wanted })
}

/// Checks the names of an object: a label and a subdomain (RFC 1123), as Kubernetes does.
///
/// # Errors
/// When the name is missing, or Kubernetes would not accept the name or the namespace.
pub(crate) fn check_identity(namespace: &str, name: &str) -> Result<(), DecodeError> {
    if name.is_empty() {
        return Err(DecodeError::Missing { path: "metadata.name".to_owned() });
    }
    if name.len() > 253 || !name.split('.').all(is_label) {
        return Err(DecodeError::Name { path: "metadata.name", found: quoted(name) });
    }
    if !is_label(namespace) {
        return Err(DecodeError::Name { path: "metadata.namespace", found: quoted(namespace) });
    }
    Ok(())
}

/// Whether `text` is a label (RFC 1123): lower-case letters, digits and '-', 63 characters at most.
pub(crate) fn is_label(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    text.len() <= 63
        && text.bytes().all(|byte| plain(byte) || byte == b'-')
        && text.bytes().next().is_some_and(plain)
        && text.bytes().last().is_some_and(plain)
}

/// `text` in quotes, escaped and cut, so that a message can carry it.
pub(crate) fn quoted(text: &str) -> String {
    const LONGEST: usize = 64;
    let cut = if text.chars().count() > LONGEST { "…" } else { "" };
    format!("\"{}{cut}\"", text.chars().take(LONGEST).collect::<String>().escape_default())
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
            (error(|d| d["spec"]["upsteam"] = json!({})), "spec.upsteam: there is no such field; "),
            (
                error(|d| d["spec"]["external"] = json!({"adresses": []})),
                "spec.external.adresses: there is no such field; did you mean addresses?",
            ),
            (
                error(|d| d["spec"]["ports"][0]["port"] = json!("http")),
                "spec.ports[0].port: \"http\" is not accepted here; write a whole number without quotes",
            ),
            (
                error(|d| d["spec"]["ports"][0]["port"] = json!(80.5)),
                "spec.ports[0].port: 80.5 is not accepted here; write a whole number without quotes",
            ),
            (
                error(|d| d["spec"]["ports"] = json!({"port": 80})),
                "spec.ports: a group of fields is not accepted here; write a list, each entry on a line of its own that begins with \"- \"",
            ),
            (
                error(|d| d["spec"]["ports"][0] = json!(80)),
                "spec.ports[0]: 80 is not accepted here; write its fields, each as name: value on a line of its own",
            ),
            (
                error(|d| d["spec"]["client"]["addresses"] = json!([1.1])),
                "spec.client.addresses[0]: 1.1 is not accepted here; write text, in quotes where it looks like a number, true or false",
            ),
            (
                error(|d| d["spec"]["ports"][0]["protocol"] = json!("tcp")),
                "spec.ports[0].protocol: \"tcp\" is not accepted here; write TCP or UDP",
            ),
            (error(|d| d["spec"]["mode"] = json!(5)), "spec.mode: 5 is not accepted here; write Enabled or Disabled"),
            (error(|d| d["spec"]["mode"] = json!("on")), "spec.mode: \"on\" is not accepted here; write Enabled or Disabled"),
            (error(|d| drop(d["spec"].as_object_mut().unwrap().remove("client"))), "spec.client: is missing; add it"),
            (error(|d| d["spec"]["client"] = Value::Null), "spec.client: is missing; add it"),
            (error(|d| d["metadata"] = json!({})), "metadata.name: is missing; add it"),
            (error(|d| d["metadata"]["lables"] = json!({})), "metadata.lables: there is no such field; did you mean labels?"),
            (
                error(|d| d["metadata"]["annotations"] = json!({"a\n": 1})),
                "metadata.annotations[\"a\\n\"]: 1 is not accepted here; write text",
            ),
            (
                error(|d| d["metadata"]["creationTimestamp"] = json!("today")),
                "metadata.creationTimestamp: \"today\" is not accepted here; write a time",
            ),
            (error(|d| d["kind"] = json!("Service")), "apiVersion, kind: portforward.dev/v1alpha1 Service is not known here"),
            (error(|d| *d = json!(["PortForward"])), "apiVersion, kind: a document without them is not known here"),
        ];
        for (message, beginning) in cases {
            assert!(message.starts_with(beginning), "{message}");
        }
    }

    #[test]
    fn all_mistakes_are_named() {
        let all = error(|document| {
            document["metadata"]["name"] = json!("Web");
            document["spec"]["mode"] = json!("enabled");
            document["spec"]["client"] = json!({"address": "1.1.1.1"});
            document["spec"]["ports"] = json!([{"port": "http"}, {"prt": 80}]);
        });
        let expected = [
            "spec.client.address: there is no such field; did you mean addresses?",
            "spec.mode: \"enabled\" is not accepted here; write Enabled or Disabled",
            "spec.ports[0].port: \"http\" is not accepted here; write a whole number without quotes",
            "spec.ports[1].prt: there is no such field; did you mean port?",
            "metadata.name: \"Web\" is not a name; write lower-case letters, digits, '-' and, in metadata.name, '.', such as bank-a-web",
        ];
        assert_eq!(all, expected.join("; "));
    }

    #[test]
    fn a_misspelt_or_misplaced_field_is_told_where_it_belongs_and_is_not_missing_too() {
        assert_eq!(
            error(|document| document["spec"]["upstream"] = json!({"target": [{"address": "3.3.3.3"}]})),
            "spec.upstream.target: there is no such field; did you mean targets?"
        );
        assert_eq!(
            error(|document| document["spec"]["gateways"] = json!(["1.1.1.254"])),
            "spec.gateways: there is no such field; did you mean spec.internal.gateways?"
        );
        assert_eq!(
            error(|document| document["spec"]["ports"][0]["zzz"] = json!(1)),
            "spec.ports[0].zzz: there is no such field; correct its name or remove it (kubectl explain pf --recursive lists the fields)"
        );
    }

    #[test]
    fn a_document_of_many_mistakes_has_a_short_error() {
        let all = error(|document| {
            let many = (0..10_000).map(|number| (format!("field{number}"), json!(1))).collect();
            document["spec"]["upstream"] = Value::Object(many);
        });
        assert!(all.ends_with("; 9981 more mistakes are not shown; correct those above first"), "{all}");
        assert!(all.len() < 8192, "{}", all.len());
    }

    #[test]
    fn the_schema_and_the_types_accept_the_same_documents() {
        // Each optional field, once, and what an API server adds.
        let full = json!({
            "apiVersion": API_VERSION, "kind": "PortForward",
            "metadata": {
                "name": "web", "namespace": "bank-a", "uid": "f0e1", "resourceVersion": "7", "generation": 3,
                "creationTimestamp": "2026-01-31T12:00:00Z", "deletionTimestamp": "2026-01-31T12:00:00.5Z",
                "deletionGracePeriodSeconds": 0, "finalizers": ["a/b"], "generateName": "web-", "selfLink": "/x",
                "labels": {"app": "web"}, "annotations": {"a/b": "c"},
                "ownerReferences": [{"apiVersion": "v1", "kind": "ConfigMap", "name": "a", "uid": "b", "controller": true}],
                "managedFields": [{
                    "manager": "kubectl", "operation": "Apply", "apiVersion": API_VERSION, "time": "2026-01-31T12:00:00Z",
                    "fieldsType": "FieldsV1", "fieldsV1": {"f:spec": {"f:mode": {}}}, "subresource": "status",
                }],
            },
            "spec": {
                "mode": "Disabled", "description": "text",
                "nodeSelector": {
                    "matchLabels": {"a": "b"}, "matchExpressions": [{"key": "a", "operator": "In", "values": ["b"]}],
                },
                "client": {"addresses": ["1.1.1.1"]},
                "internal": {"addresses": ["192.168.0.2"], "interface": "eth0", "gateways": ["192.168.0.1"]},
                "external": {"addresses": ["2.2.2.2"], "interface": "eth1"},
                "upstream": {"targets": [{"address": "3.3.3.3"}]},
                "ports": [{"name": "http", "protocol": "UDP", "port": 80, "endPort": 81, "targetPort": 90, "targetEndPort": 91}],
                "reverse": {"ports": [{"port": 80}]},
            },
        });
        decode(full).unwrap();
    }
}
