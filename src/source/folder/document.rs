//! From the text of a manifest file to its objects, all or none.
//!
//! Decides what YAML means here. Must not touch a disk.

use std::collections::BTreeSet;

use serde_json::Value;
use serde_saphyr::Options;

use crate::api::{self, PortForward};
use crate::source::key;

use super::Check;

/// The objects of one file. Several documents, `kind: List` and empty documents are fine; the text is YAML 1.2
/// (so `on` and `yes` are strings) or JSON, without duplicate keys.
///
/// The error is for people: which document, where in it, what is wrong.
pub(super) fn objects(text: &str, check: Check) -> Result<Vec<PortForward>, String> {
    let documents: Vec<Value> =
        serde_saphyr::from_multiple_with_options(text, options()).map_err(|error| line(&error.to_string()))?;
    let mut seen = BTreeSet::new();
    let mut objects = Vec::new();
    for (place, document) in flatten(documents)? {
        let who = described(&place, &document);
        let object = object(document, check).map_err(|error| format!("{who}: {error}"))?;
        if !seen.insert(key(&object)) {
            return Err(format!("{who}: is in this file twice; remove one of them"));
        }
        objects.push(object);
    }
    Ok(objects)
}

/// What a reader says of a text that may hold anything: one line, of bounded length.
fn line(message: &str) -> String {
    message.chars().take(512).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// One object, with nothing of what only an API server may say.
fn object(mut document: Value, check: Check) -> Result<PortForward, String> {
    if let Some(fields) = document.as_object_mut() {
        fields.remove("status");
    }
    let mut object = api::decode(document).map_err(|error| error.to_string())?;
    object.metadata = kube::core::ObjectMeta {
        name: object.metadata.name,
        namespace: object.metadata.namespace,
        labels: object.metadata.labels,
        annotations: object.metadata.annotations,
        ..Default::default()
    };
    check(&object)?;
    Ok(object)
}

/// Each object with its place in the file.
fn flatten(documents: Vec<Value>) -> Result<Vec<(String, Value)>, String> {
    let mut flat = Vec::new();
    for (document, number) in documents.into_iter().zip(1..) {
        let place = format!("document {number}");
        if !is_list(&document) {
            flat.push((place, document));
            continue;
        }
        match document {
            Value::Object(mut list) => match list.remove("items").unwrap_or_default() {
                Value::Array(items) => {
                    flat.extend(items.into_iter().zip(1..).map(|(item, index)| (format!("{place}, item {index}"), item)));
                }
                Value::Null => {}
                Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Object(_) => {
                    return Err(format!("{place}: items: is not a list"));
                }
            },
            other => flat.push((place, other)),
        }
    }
    Ok(flat)
}

fn is_list(document: &Value) -> bool {
    let word = |field| document.get(field).and_then(Value::as_str).unwrap_or_default();
    matches!((word("apiVersion"), word("kind")), ("v1", "List") | ("portforward.dev/v1alpha1", "PortForwardList"))
}

/// The place, and the name where there is one.
fn described(place: &str, document: &Value) -> String {
    let name = document.pointer("/metadata/name").and_then(Value::as_str);
    name.map_or_else(
        || place.to_owned(),
        |name| format!("{place} ({})", name.chars().take(253).collect::<String>().escape_debug()),
    )
}

/// YAML 1.2 without the surprises of older readers, and with room for ten thousand objects in a file.
fn options() -> Options {
    serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_documents: 50_000,
            max_nodes: 1_000_000,
            max_events: 2_500_000,
        },
        alias_limits: serde_saphyr::alias_limits! { max_total_replayed_events: 100_000 },
        strict_booleans: true,
        leading_zero_numbers_as_strings: true,
        underscored_numbers_as_strings: true,
        reject_unsupported_tags: true,
        with_snippet: false,
    }
}
