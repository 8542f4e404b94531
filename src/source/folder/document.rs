//! From the text of a manifest file to its objects, all or none.
//!
//! Decides what YAML means here. Must not touch a disk.

use std::collections::BTreeSet;
use std::sync::Arc;

use kube::core::ObjectMeta;
use serde_json::Value;
use serde_saphyr::{MessageFormatter, Options, UserMessageFormatter};

use crate::api::{self, DecodeError, Kind, PortForward, PortForwardGrant};
use crate::bounded::Bounded;
use crate::forward::ForwardKey;

use super::{Check, Objects};

/// The largest number of mistakes that are reported for one file.
const MOST_LINES: usize = 50;

/// The objects of one file. Several documents, `kind: List` and empty documents are fine; the text is YAML 1.2
/// (so `on` and `yes` are strings) or JSON, without duplicate keys.
///
/// The error lists all mistakes for people, one a line: which document, where in it, what is wrong.
pub(super) fn objects(text: &str, check: Check) -> Result<Objects, String> {
    let documents: Vec<Value> = serde_saphyr::from_multiple_with_options(text, options()).map_err(|error| unreadable(&error))?;
    let (mut seen, mut seen_grants) = (BTreeSet::new(), BTreeSet::new());
    let mut objects = Objects::default();
    let mut mistakes = Bounded::<String, MOST_LINES>::default();
    for (place, document) in flatten(documents)? {
        let who = described(&place, &document);
        let read = match kind(&document) {
            Kind::PortForward => object(document, check).map(|object| {
                let new = seen.insert(ForwardKey::of(&object));
                objects.forwards.push(Arc::new(object));
                new
            }),
            Kind::PortForwardGrant => grant(document, check).map(|grant| {
                let new = seen_grants.insert(grant.metadata.name.clone());
                objects.grants.push(Arc::new(grant));
                new
            }),
        };
        match read {
            Ok(true) => {}
            Ok(false) => mistakes.push(format!("{who}: is in this file twice; remove one of them")),
            Err(errors) => errors.iter().for_each(|error| mistakes.push(format!("{who}: {error}"))),
        }
    }
    if mistakes.is_empty() {
        return Ok(objects);
    }
    Err(mistakes.into_vec(|count| DecodeError::More { count }.to_string()).join("\n"))
}

/// The text of a manifest.
///
/// # Errors
/// When the bytes are not UTF-8: where, and what to do.
pub(super) fn text(bytes: &[u8]) -> Result<&str, String> {
    str::from_utf8(bytes).map_err(|error| {
        let line = bytes[..error.valid_up_to()].split(|byte| *byte == b'\n').count();
        format!("line {line}: is not UTF-8 text; save the file as UTF-8")
    })
}

/// Why a text is not YAML: the place and the mistake, in one line of bounded length. The text may hold anything.
fn unreadable(error: &serde_saphyr::Error) -> String {
    use serde_saphyr::Error;
    let place = error.location().map_or(String::new(), |at| format!("line {}, column {}: ", at.line(), at.column()));
    let mut error = error;
    while let Error::AliasError { error: inner, .. } | Error::WithSnippet { error: inner, .. } = error {
        error = inner;
    }
    let what = match error {
        Error::DuplicateMappingKey { key: Some(key), .. } => format!("the field {key} is there twice; remove one of the two"),
        Error::DuplicateMappingKey { key: None, .. } => "a field is there twice; remove one of the two".to_owned(),
        Error::UnknownAnchor { .. } => "the alias refers to an anchor that is not defined above it".to_owned(),
        Error::Budget { .. }
        | Error::AliasReplayCounterOverflow { .. }
        | Error::AliasReplayLimitExceeded { .. }
        | Error::AliasExpansionLimitExceeded { .. }
        | Error::AliasReplayStackDepthExceeded { .. } => {
            "too large or too deeply nested for a manifest; write several smaller files, without aliases".to_owned()
        }
        Error::Unexpected { .. } => "a list or a group of fields is not accepted here; write text".to_owned(),
        other => format!("not valid YAML: {}", plain(&UserMessageFormatter.format_message(other))),
    };
    format!("{place}{what}").chars().take(512).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// What people need to know instead of the words of the YAML library that contain the first text. Other words stay as they are.
const PLAIN: [(&str, &str); 10] = [
    (
        "mapping values are not allowed",
        "a second \": \" in one line, or a wrong indentation; quote the text, or indent it like its neighbours",
    ),
    ("null is not allowed", "a field without a name; write name: value"),
    ("quoted scalar", "an unknown escape in double quotes; use single quotes, or write \\\\ for a backslash"),
    ("expected '-'", "an entry of a list or a field is expected; indent the line like its neighbours"),
    ("tabs disallowed", "a tab; indent with spaces"),
    ("did not find expected key", "a field is expected; write name: value, indented like its neighbours"),
    ("<document start>", "less indentation than the line above; indent it like its neighbours"),
    ("unsupported tag", "a word that begins with \"!\"; remove it, or quote the text"),
    ("recursion limit", "too deeply nested for a manifest; is a bracket missing?"),
    ("ecursive reference", "an alias inside what it refers to; write the value itself"),
];

fn plain(message: &str) -> &str {
    let known = PLAIN.iter().find(|(words, _)| message.contains(words));
    known.map_or(message, |(_, plain)| plain)
}

/// The kind as which a document is read. Another kind is a mistake of a forward.
fn kind(document: &Value) -> Kind {
    let kind = document.get("kind").and_then(Value::as_str);
    if kind == Some(Kind::PortForwardGrant.name()) { Kind::PortForwardGrant } else { Kind::PortForward }
}

/// One forward, without the fields that only an API server sets.
fn object(document: Value, check: Check) -> Result<PortForward, Vec<String>> {
    let mut object = (check.forward)(api::decode(without_status(document)))?;
    object.metadata = own(object.metadata);
    Ok(object)
}

/// One grant, without the fields that only an API server sets. It is in no namespace.
fn grant(document: Value, check: Check) -> Result<PortForwardGrant, Vec<String>> {
    let mut grant = (check.grant)(api::decode_grant(without_status(document)))?;
    grant.metadata = ObjectMeta { namespace: None, ..own(grant.metadata) };
    Ok(grant)
}

fn without_status(mut document: Value) -> Value {
    if let Some(fields) = document.as_object_mut() {
        fields.remove("status");
    }
    document
}

fn own(metadata: ObjectMeta) -> ObjectMeta {
    let ObjectMeta { name, namespace, labels, annotations, .. } = metadata;
    ObjectMeta { name, namespace, labels, annotations, ..ObjectMeta::default() }
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
    matches!(
        (word("apiVersion"), word("kind")),
        ("v1", "List") | ("portforward.dev/v1alpha1", "PortForwardList" | "PortForwardGrantList")
    )
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
