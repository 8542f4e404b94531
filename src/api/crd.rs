//! Builds the CRD of each kind.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;
use serde_json::Value;

use super::columns::columns;
use super::{Kind, PortForward, PortForwardGrant};

/// All CRDs as YAML, one document for each kind, for `kubectl apply`.
#[must_use]
pub fn crds_yaml() -> String {
    Kind::ALL.map(Kind::crd_yaml).join("---\n")
}

impl Kind {
    /// The CRD, as it should be applied to a cluster.
    ///
    /// Use this function and not the one that `CustomResource` derives: that CRD allows `null` for every optional field.
    ///
    /// # Panics
    /// Never: the CRD is built from constants, and a test builds it.
    #[must_use]
    pub fn crd(self) -> CustomResourceDefinition {
        serde_json::from_value(document(self)).expect("the CRD that is built here is valid")
    }

    /// The CRD as YAML, for `kubectl apply`.
    ///
    /// # Panics
    /// Never: the CRD is built from constants, and a test builds it.
    #[must_use]
    pub fn crd_yaml(self) -> String {
        serde_saphyr::to_string(&document(self)).expect("a CRD can be written as YAML")
    }
}

pub(super) fn document(kind: Kind) -> Value {
    let mut definition = match kind {
        Kind::PortForward => PortForward::crd(),
        Kind::PortForwardGrant => PortForwardGrant::crd(),
    };
    for version in &mut definition.spec.versions {
        version.additional_printer_columns = Some(columns(kind));
    }
    let mut document = serde_json::to_value(definition).expect("a CRD can be written as JSON");
    tidy(&mut document);
    if kind == Kind::PortForward {
        let status = document
            .pointer_mut("/spec/versions/0/schema/openAPIV3Schema/properties/status")
            .and_then(Value::as_object_mut)
            .expect("the CRD has a status");
        // The API server gives an object without a status an empty one and then sets the defaults of its fields.
        status.insert("default".into(), serde_json::json!({}));
    }
    document
}

/// Removes `nullable`, writes integers without a fraction, and puts each paragraph of a description in one line, because the
/// program that shows a description breaks the lines itself.
fn tidy(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            if let Some(Value::String(text)) = fields.get_mut("description") {
                *text = text.split("\n\n").map(|paragraph| paragraph.replace('\n', " ")).collect::<Vec<_>>().join("\n\n");
            }
            if fields.get("nullable").is_some_and(Value::is_boolean) {
                fields.remove("nullable");
            }
            fields.values_mut().for_each(tidy);
        }
        Value::Array(items) => items.iter_mut().for_each(tidy),
        Value::Number(number) => {
            if let Some(whole) = number.as_f64().filter(|float| float.fract() == 0.0 && number.is_f64()) {
                #[allow(clippy::cast_possible_truncation, reason = "every number of the schema is a small integer")]
                let whole = whole as i64;
                *value = whole.into();
            }
        }
        Value::Null | Value::Bool(_) | Value::String(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_reads_as_it_prints() {
        let text = serde_json::json!({
            "apiVersion": "portforward.dev/v1alpha1",
            "kind": "PortForward",
            "metadata": {"name": "bank-a-web", "namespace": "leased-lines"},
            "spec": {
                "mode": "Enabled",
                "nodeSelector": {},
                "client": {"addresses": ["1.1.1.1"]},
                "internal": {"addresses": ["192.168.0.2"], "interface": "eth1", "gateways": ["192.168.0.1"]},
                "external": {"addresses": ["2.2.2.2"], "interface": "eth0"},
                "upstream": {"targets": [{"address": "3.3.3.3"}]},
                "ports": [{"name": "http", "protocol": "TCP", "port": 80, "targetPort": 80}],
                "reverse": {"ports": [{"name": "all", "protocol": "TCP", "port": 1, "targetPort": 80, "endPort": 65535, "targetEndPort": 80}]},
            },
        });
        let object: PortForward = serde_json::from_value(text.clone()).unwrap();
        assert_eq!(serde_json::to_value(object).unwrap(), text);
    }

    #[test]
    fn a_grant_reads_as_it_prints() {
        let text = serde_json::json!({
            "apiVersion": "portforward.dev/v1alpha1",
            "kind": "PortForwardGrant",
            "metadata": {"name": "bank-a"},
            "spec": {
                "description": "Bank A",
                "namespaces": ["leased-lines"],
                "nodeSelector": {},
                "listen": [{"cidrs": ["192.168.0.0/24"], "protocol": "TCP", "port": 1024, "endPort": 29999}],
                "clients": ["1.1.0.0/16"],
                "upstreams": [{"cidrs": ["3.3.3.0/24"]}],
                "external": ["2.2.2.0/29"],
                "gateways": [{"address": "192.168.0.1", "routes": ["1.1.0.0/16"]}],
                "reverse": [{"protocol": "TCP", "port": 8000, "endPort": 8999}],
                "oneLeg": true,
                "limits": {"forwards": 100, "translations": 2000, "routes": 0},
                "priority": -1,
            },
            "status": {
                "observedGeneration": 1, "forwards": 2, "refused": 1,
                "refusals": [{"namespace": "leased-lines", "name": "web", "message": "text"}],
            },
        });
        let object: PortForwardGrant = serde_json::from_value(text.clone()).unwrap();
        assert_eq!(serde_json::to_value(object).unwrap(), text);
    }

    #[test]
    fn each_crd_is_valid_and_has_no_format_that_the_api_server_does_not_know() {
        for kind in Kind::ALL {
            let text = kind.crd_yaml();
            let names = kind.crd().spec.names;
            assert_eq!((names.kind.as_str(), names.short_names.unwrap()), (kind.name(), vec![kind.short().to_owned()]));
            for foreign in ["nullable", "uint", "format: ip"] {
                assert!(!text.contains(foreign), "{foreign}\n{text}");
            }
        }
    }

    /// Other tools read the checked-in files. `cargo run -- crd` writes the same texts.
    #[test]
    fn the_checked_in_crds_are_up_to_date() {
        for kind in Kind::ALL {
            let (plural, text) = (kind.crd().spec.names.plural, kind.crd_yaml());
            let path = format!("{}/crds/portforward.dev_{plural}.yaml", env!("CARGO_MANIFEST_DIR"));
            if std::env::var_os("UPDATE_GOLDEN").is_some() {
                std::fs::write(&path, &text).unwrap();
            }
            assert!(std::fs::read_to_string(&path).unwrap_or_default() == text, "{path} is outdated; run: make generate");
        }
    }

    /// `kubectl explain` breaks lines itself, and keeps line breaks in the text.
    #[test]
    fn every_description_is_one_line_for_each_paragraph() {
        fn lines(value: &Value, found: &mut Vec<String>) {
            let inner = value.as_object().into_iter().flatten().map(|(_, inner)| inner);
            found.extend(value["description"].as_str().filter(|text| text.replace("\n\n", "").contains('\n')).map(str::to_owned));
            inner.chain(value.as_array().into_iter().flatten()).for_each(|inner| lines(inner, found));
        }
        let mut found = Vec::new();
        for kind in Kind::ALL {
            lines(&document(kind), &mut found);
        }
        assert!(found.is_empty(), "{}", found.join("\n---\n"));
    }

    /// The limits and descriptions that each part of the schema lacks, by its path.
    fn lacks(schema: &Value, path: &str, found: &mut Vec<String>) {
        let has = |field: &str| schema.get(field).is_some();
        let bounded = match schema["type"].as_str() {
            // A format is no bound: date-time allows any number of digits in a fraction of a second.
            Some("string") => has("maxLength") || has("enum"),
            Some("array") => has("maxItems") && has("x-kubernetes-list-type"),
            Some("integer") => has("minimum") && has("format"),
            Some("object") => has("properties") || has("maxProperties"),
            Some("boolean") => true,
            Some(_) | None => false,
        };
        if !bounded {
            found.push(format!("{path} has no bound"));
        }
        for (name, field) in schema["properties"].as_object().into_iter().flatten() {
            let path = format!("{path}.{name}");
            if field["description"].as_str().is_none_or(str::is_empty) {
                found.push(format!("{path} has no description"));
            }
            lacks(field, &path, found);
        }
        for inner in ["items", "additionalProperties"].into_iter().filter_map(|inner| schema.get(inner)) {
            lacks(inner, &format!("{path}[]"), found);
        }
    }

    #[test]
    fn every_field_is_explained_and_every_size_bounded() {
        let mut found = Vec::new();
        for kind in Kind::ALL {
            lacks(document(kind).pointer("/spec/versions/0/schema/openAPIV3Schema").unwrap(), kind.name(), &mut found);
        }
        assert!(found.is_empty(), "{}", found.join("\n"));
    }

    #[test]
    fn an_unseen_object_does_not_count_as_healthy() {
        let status =
            document(Kind::PortForward).pointer("/spec/versions/0/schema/openAPIV3Schema/properties/status").unwrap().clone();
        let seen = kube::core::cel::apply_defaults(&status, &serde_json::json!({}));
        let seen: crate::api::PortForwardStatus = serde_json::from_value(seen).unwrap();
        assert_eq!(seen.observed_generation, Some(-1));
        assert_eq!(seen.conditions.iter().map(|one| one.type_.as_str()).collect::<Vec<_>>(), ["Accepted", "Programmed", "Ready"]);
        for condition in seen.conditions {
            assert_eq!((condition.status.as_str(), condition.reason.as_str()), ("Unknown", "Pending"));
            assert_eq!(condition.observed_generation, None);
        }
    }
}
