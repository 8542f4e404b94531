//! Compares a document with the structural schema of the CRD: unknown and missing fields, types and enums.
//!
//! Lists all mistakes, not only the first one. Leaves lengths, patterns, ranges and CEL rules to `crate::forward`.

use std::sync::LazyLock;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use super::Kind;
use super::crd;
use super::decode::quoted;
use super::mistakes::{DecodeError, Mistakes};
use crate::similar;

static FORWARD: LazyLock<Value> = LazyLock::new(|| whole(Kind::PortForward));
static GRANT: LazyLock<Value> = LazyLock::new(|| whole(Kind::PortForwardGrant));

/// The schema of a whole object.
fn schema_of(kind: Kind) -> &'static Value {
    match kind {
        Kind::PortForward => &FORWARD,
        Kind::PortForwardGrant => &GRANT,
    }
}

/// Builds the schema of a whole object. Every reference is replaced by what it refers to.
fn whole(kind: Kind) -> Value {
    let text = json!({"type": "string"});
    let inline = SchemaSettings::openapi3().with(|settings| settings.inline_subschemas = true);
    let mut metadata = inline.into_generator().into_root_schema_for::<ObjectMeta>().to_value();
    metadata["required"] = json!(["name"]);
    let whole = crd::document(kind);
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
}

/// The result of a walk through a document.
#[derive(Debug)]
pub(super) struct Repaired {
    kind: Kind,
    /// All mistakes, in the order of the schema's walk: for each object its missing fields, then its fields.
    pub(super) mistakes: Mistakes<DecodeError>,
    /// The paths of the fields that were removed, added or replaced.
    pub(super) touched: Vec<String>,
}

impl Repaired {
    fn nothing(kind: Kind) -> Self {
        Self { kind, mistakes: Mistakes::default(), touched: Vec::new() }
    }
}

/// All structural mistakes of `document`, an object of this kind, which must contain no `null` in a field. Removes unknown fields, and puts a value
/// without meaning where a field is missing or wrong, so that the rest of the document can be decoded.
pub(super) fn repair(kind: Kind, document: &mut Value) -> Repaired {
    let mut found = Repaired::nothing(kind);
    value(schema_of(kind), document, "", &mut found);
    found
}

fn value(schema: &Value, value: &mut Value, path: &str, found: &mut Repaired) {
    let mistake = match (schema["type"].as_str(), &mut *value) {
        (Some("object"), Value::Object(fields)) => return object(schema, fields, path, found),
        (Some("array"), Value::Array(items)) => {
            for (index, item) in items.iter_mut().enumerate() {
                self::value(&schema["items"], item, &format!("{path}[{index}]"), found);
            }
            return;
        }
        (Some("string"), Value::String(text)) => string(schema, text, path),
        (Some("integer"), Value::Number(number)) if number.is_i64() => None,
        (Some("boolean"), Value::Bool(_)) | (None, _) => None,
        (Some("string"), _) if schema["enum"].is_array() => {
            Some(DecodeError::UnknownWord { path: path.to_owned(), found: described(value), accepted: either(&accepted(schema)) })
        }
        (Some(kind), _) => Some(DecodeError::Type { path: path.to_owned(), found: described(value), wanted: wanted(kind) }),
    };
    if let Some(mistake) = mistake {
        found.mistakes.push(mistake);
        found.touched.push(path.to_owned());
        *value = neutral(schema);
    }
}

/// A value that `schema` accepts and that means nothing.
fn neutral(schema: &Value) -> Value {
    match schema["type"].as_str() {
        Some("object") => {
            let required = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str);
            Value::Object(required.map(|name| (name.to_owned(), neutral(&schema["properties"][name]))).collect())
        }
        Some("array") => json!([]),
        Some("string") if schema["format"] == "date-time" => json!("1970-01-01T00:00:00Z"),
        Some("string") => schema["enum"].get(0).cloned().unwrap_or_else(|| json!("")),
        Some("integer") => json!(0),
        Some("boolean") => json!(false),
        Some(_) | None => Value::Null,
    }
}

fn object(schema: &Value, fields: &mut Map<String, Value>, path: &str, found: &mut Repaired) {
    let known: Vec<&str> = schema["properties"].as_object().into_iter().flatten().map(|(name, _)| name.as_str()).collect();
    let at = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
    let mut meant = Vec::new();
    let mut inside = Repaired::nothing(found.kind);
    let present: Vec<String> = fields.keys().cloned().collect();
    for name in &present {
        let Some(value) = fields.get_mut(name) else { continue };
        match (schema["properties"].get(name), schema.get("additionalProperties")) {
            (Some(schema), _) => self::value(schema, value, &at(name), &mut inside),
            // The name is free text, and a message may carry it only escaped.
            (None, Some(schema)) => self::value(schema, value, &format!("{path}[{}]", quoted(name)), &mut inside),
            // An object without a list of fields may have any.
            (None, None) if known.is_empty() => {}
            (None, None) => {
                let absent = known.iter().copied().filter(|known| !present.iter().any(|name| name == known));
                let likely = similar::most(name, absent, 1);
                let advice = advice(found.kind, name, &likely);
                meant.extend(likely);
                fields.remove(name);
                let name: String = name.chars().take(64).collect();
                let path = at(&name.escape_default().to_string());
                inside.touched.push(path.clone());
                inside.mistakes.push(DecodeError::UnknownField { path, advice });
            }
        }
    }
    let required = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str);
    for name in required.filter(|name| !present.iter().any(|present| present == name)) {
        fields.insert(name.to_owned(), neutral(&schema["properties"][name]));
        found.touched.push(at(name));
        // A required field under a misspelt name is one mistake, not two.
        if !meant.contains(&name) {
            found.mistakes.push(DecodeError::Missing { path: at(name) });
        }
    }
    found.mistakes.append(inside.mistakes);
    found.touched.append(&mut inside.touched);
}

/// What to do about the unknown field `name`; `likely` are fields with a similar name that can stand in its place.
fn advice(kind: Kind, name: &str, likely: &[&str]) -> String {
    if let Some(likely) = likely.first() {
        return format!("did you mean {likely}?");
    }
    match elsewhere(&schema_of(kind)["properties"]["spec"], name, "spec").as_slice() {
        [] => format!("correct its name or remove it (kubectl explain {} --recursive lists the fields)", kind.short()),
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

fn string(schema: &Value, text: &str, path: &str) -> Option<DecodeError> {
    let accepted = accepted(schema);
    if !accepted.is_empty() && !accepted.contains(&text) {
        let accepted = either(&accepted);
        return Some(DecodeError::UnknownWord { path: path.to_owned(), found: quoted(text), accepted });
    }
    let wanted = "a time, such as 2026-01-31T12:00:00Z";
    let is_time = schema["format"] != "date-time" || text.parse::<jiff::Timestamp>().is_ok();
    (!is_time).then(|| DecodeError::Type { path: path.to_owned(), found: quoted(text), wanted })
}

/// The words that `schema` accepts; empty if it accepts any text.
fn accepted(schema: &Value) -> Vec<&str> {
    schema["enum"].as_array().into_iter().flatten().filter_map(Value::as_str).collect()
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
        _ => "what kubectl explain --recursive shows for it",
    }
}
