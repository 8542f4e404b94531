//! The finished CustomResourceDefinition.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;
use serde_json::Value;

use super::PortForward;

/// The CustomResourceDefinition of [`PortForward`], as a cluster should get it.
///
/// Use this, not `PortForward::crd()`: the derived one lets `null` stand for every optional field.
///
/// # Panics
/// Never: the definition is made of constants, and a test makes it.
#[must_use]
pub fn crd() -> CustomResourceDefinition {
    serde_json::from_value(document()).expect("the definition made here is one")
}

/// The text of [`crd`], as `kubectl apply` takes it.
///
/// # Panics
/// Never: the definition is made of constants, and a test makes it.
#[must_use]
pub fn crd_yaml() -> String {
    serde_saphyr::to_string(&document()).expect("a definition can be written as YAML")
}

fn document() -> Value {
    let mut document = serde_json::to_value(PortForward::crd()).expect("a definition can be written as JSON");
    tidy(&mut document);
    let status = document
        .pointer_mut("/spec/versions/0/schema/openAPIV3Schema/properties/status")
        .and_then(Value::as_object_mut)
        .expect("the definition has a status");
    // An object without a status gets an empty one, and that the defaults of its fields.
    status.insert("default".into(), serde_json::json!({}));
    document
}

/// Removes `nullable`, and writes whole numbers without a fraction.
fn tidy(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            if fields.get("nullable").is_some_and(Value::is_boolean) {
                fields.remove("nullable");
            }
            fields.values_mut().for_each(tidy);
        }
        Value::Array(items) => items.iter_mut().for_each(tidy),
        Value::Number(number) => {
            if let Some(whole) = number.as_f64().filter(|float| float.fract() == 0.0 && number.is_f64()) {
                #[allow(clippy::cast_possible_truncation, reason = "every number of the schema is a small whole one")]
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
                "reverse": {"ports": [{"name": "all", "protocol": "TCP", "port": 1, "targetPort": 80, "endPort": 65535}]},
            },
        });
        let object: PortForward = serde_json::from_value(text.clone()).unwrap();
        assert_eq!(serde_json::to_value(object).unwrap(), text);
    }

    #[test]
    fn the_definition_is_one_and_has_no_format_that_the_api_server_does_not_know() {
        let text = crd_yaml();
        assert_eq!(crd().spec.names.short_names.unwrap(), ["pf"]);
        for foreign in ["nullable", "uint", "format: ip"] {
            assert!(!text.contains(foreign), "{foreign}\n{text}");
        }
    }

    /// Other tools read the checked-in file; `cargo run -- crd` writes the same text.
    #[test]
    fn the_checked_in_definition_is_the_one_made_here() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/crds/portforward.dev_portforwards.yaml");
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(path, crd_yaml()).unwrap();
        }
        assert!(
            std::fs::read_to_string(path).unwrap_or_default() == crd_yaml(),
            "the checked-in definition is not the one made here; run: cargo run -- crd > crds/portforward.dev_portforwards.yaml"
        );
    }
}
