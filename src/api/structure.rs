//! Compares a document with the structural schema of the CRD: unknown and missing fields, types and enums.
//!
//! Lists all mistakes, not only the first one. Leaves lengths, patterns, ranges and CEL rules to `crate::forward`.

use std::sync::LazyLock;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use super::crd;
use super::decode::{DecodeError, quoted};
use crate::similar;

/// The schema of a whole object. Every reference is replaced by what it refers to.
static SCHEMA: LazyLock<Value> = LazyLock::new(|| {
    let text = json!({"type": "string"});
    let inline = SchemaSettings::openapi3().with(|settings| settings.inline_subschemas = true);
    let mut metadata = inline.into_generator().into_root_schema_for::<ObjectMeta>().to_value();
    metadata["required"] = json!(["name"]);
    let whole = crd::document();
    let part = |name: &str| {
        let path = format!("/spec/versions/0/schema/openAPIV3Schema/properties/{name}");
        whole.pointer(&path).cloned().unwrap_or_default()
    };
    json!({
        "type": "object",
        "required": ["metadata", "spec"],
        "properties": {
            "apiVersion": text, "kind": text, "metadata": metadata, "spec": part("spec"), "status": part("status"),
        },
    })
});

/// All structural mistakes of `document`, which must contain no `null` in a field, in the order of the schema's walk:
/// for each object its missing fields, then its fields.
pub(super) fn mistakes(document: &Value) -> Vec<DecodeError> {
    let mut found = Vec::new();
    value(&SCHEMA, document, "", &mut found);
    found
}

fn value(schema: &Value, value: &Value, path: &str, found: &mut Vec<DecodeError>) {
    match (schema["type"].as_str(), value) {
        (Some("object"), Value::Object(fields)) => object(schema, fields, path, found),
        (Some("array"), Value::Array(items)) => {
            for (index, item) in items.iter().enumerate() {
                self::value(&schema["items"], item, &format!("{path}[{index}]"), found);
            }
        }
        (Some("string"), Value::String(text)) => string(schema, text, path, found),
        (Some("integer"), Value::Number(number)) if number.is_i64() => {}
        (Some("boolean"), Value::Bool(_)) | (None, _) => {}
        (Some(kind), _) => {
            found.push(DecodeError::Type { path: path.to_owned(), found: described(value), wanted: wanted(kind) });
        }
    }
}

fn object(schema: &Value, fields: &Map<String, Value>, path: &str, found: &mut Vec<DecodeError>) {
    let known: Vec<&str> = schema["properties"].as_object().into_iter().flatten().map(|(name, _)| name.as_str()).collect();
    let at = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
    let mut meant = Vec::new();
    let mut unknown = Vec::new();
    for (name, value) in fields {
        match (schema["properties"].get(name), schema.get("additionalProperties")) {
            (Some(schema), _) => self::value(schema, value, &at(name), &mut unknown),
            // The name is free text, and a message may carry it only escaped.
            (None, Some(schema)) => self::value(schema, value, &format!("{path}[{}]", quoted(name)), &mut unknown),
            // An object without a list of fields may have any.
            (None, None) if known.is_empty() => {}
            (None, None) => {
                let absent = known.iter().copied().filter(|known| !fields.contains_key(*known));
                let likely = similar::most(name, absent, 1);
                let advice = advice(name, &likely);
                meant.extend(likely);
                let name: String = name.chars().take(64).collect();
                unknown.push(DecodeError::UnknownField { path: at(&name.escape_default().to_string()), advice });
            }
        }
    }
    let required = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str);
    // A required field under a misspelt name is one mistake, not two.
    let missing = required.filter(|name| !fields.contains_key(*name) && !meant.contains(name));
    found.extend(missing.map(|name| DecodeError::Missing { path: at(name) }));
    found.append(&mut unknown);
}

/// What to do about the unknown field `name`; `likely` are fields with a similar name that can stand in its place.
fn advice(name: &str, likely: &[&str]) -> String {
    if let Some(likely) = likely.first() {
        return format!("did you mean {likely}?");
    }
    match elsewhere(&SCHEMA["properties"]["spec"], name, "spec").as_slice() {
        [] => "correct its name or remove it (kubectl explain pf --recursive lists the fields)".to_owned(),
        places => format!("did you mean {}?", places.join(" or ")),
    }
}

/// The paths below `path` of the fields called `name`.
fn elsewhere(schema: &Value, name: &str, path: &str) -> Vec<String> {
    let mut places = Vec::new();
    for (field, schema) in schema["properties"].as_object().into_iter().flatten() {
        let path = format!("{path}.{field}");
        places.extend(elsewhere(schema, name, &path));
        places.extend(elsewhere(&schema["items"], name, &format!("{path}[]")));
        if field == name {
            places.push(path);
        }
    }
    places
}

fn string(schema: &Value, text: &str, path: &str, found: &mut Vec<DecodeError>) {
    let accepted: Vec<&str> = schema["enum"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    if !accepted.is_empty() && !accepted.contains(&text) {
        let accepted = either(&accepted);
        found.push(DecodeError::UnknownWord { path: path.to_owned(), found: quoted(text), accepted });
    }
    if schema["format"] == "date-time" && text.parse::<jiff::Timestamp>().is_err() {
        let wanted = "a time, such as 2026-01-31T12:00:00Z";
        found.push(DecodeError::Type { path: path.to_owned(), found: quoted(text), wanted });
    }
}

/// "a, b or c".
fn either(words: &[&str]) -> String {
    match words {
        [first @ .., last] if !first.is_empty() => format!("{} or {last}", first.join(", ")),
        words => words.concat(),
    }
}

/// A value of the wrong type, in the words of a manifest.
fn described(value: &Value) -> String {
    match value {
        Value::Null => "an empty entry".to_owned(),
        Value::Bool(flag) => format!("{flag} without quotes"),
        Value::Number(number) => number.to_string(),
        Value::String(text) => quoted(text),
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "a group of fields".to_owned(),
    }
}

/// What to write where the schema asks for the type `kind`.
fn wanted(kind: &str) -> &'static str {
    match kind {
        "object" => "its fields, each as name: value on a line of its own",
        "array" => "a list, each entry on a line of its own that begins with \"- \"",
        "string" => "text, in quotes where it looks like a number, true or false",
        "integer" => "a whole number without quotes",
        "boolean" => "true or false without quotes",
        _ => "what kubectl explain pf --recursive shows for it",
    }
}
