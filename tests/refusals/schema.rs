//! Validates an object with the schema as the API server does, for the keywords that this schema uses.

use std::collections::BTreeSet;

use regex::Regex;
use serde_json::Value;

/// The errors of `value`, each with its path. Empty if the schema accepts it.
pub(crate) fn complaints(schema: &Value, value: &Value, path: &str) -> Vec<String> {
    let mut found = Vec::new();
    match (schema["type"].as_str().unwrap(), value) {
        ("object", Value::Object(_)) => object(schema, value, path, &mut found),
        ("array", Value::Array(items)) => array(schema, items, path, &mut found),
        ("string", Value::String(text)) => string(schema, text, path, &mut found),
        ("integer", Value::Number(number)) => {
            let low = schema["minimum"].as_i64().unwrap_or(i64::MIN);
            let high = schema["maximum"].as_i64().unwrap_or(i64::MAX);
            if !number.as_i64().is_some_and(|number| (low..=high).contains(&number)) {
                found.push(format!("{path}: not a whole number from {low} to {high}"));
            }
        }
        ("boolean", Value::Bool(_)) => {}
        (kind, _) => found.push(format!("{path}: not of type {kind}")),
    }
    if schema["enum"].as_array().is_some_and(|words| !words.contains(value)) {
        found.push(format!("{path}: not in the enum"));
    }
    found
}

fn object(schema: &Value, value: &Value, path: &str, found: &mut Vec<String>) {
    let fields = value.as_object().unwrap();
    for field in schema["required"].as_array().into_iter().flatten() {
        if !fields.contains_key(field.as_str().unwrap()) {
            found.push(format!("{path}: {field} is required"));
        }
    }
    if schema["maxProperties"].as_u64().is_some_and(|most| fields.len() as u64 > most) {
        found.push(format!("{path}: too many properties"));
    }
    for (name, value) in fields {
        let path = format!("{path}.{name}");
        match (schema["properties"].get(name), schema.get("additionalProperties")) {
            (Some(schema), _) | (None, Some(schema)) => found.extend(complaints(schema, value, &path)),
            (None, None) => found.push(format!("{path}: unknown field")),
        }
    }
}

fn array(schema: &Value, items: &[Value], path: &str, found: &mut Vec<String>) {
    let most = schema["maxItems"].as_u64().unwrap();
    if !(schema["minItems"].as_u64().unwrap_or(0)..=most).contains(&(items.len() as u64)) {
        found.push(format!("{path}: too few or too many items"));
    }
    let key = |item: &Value| match schema["x-kubernetes-list-type"].as_str().unwrap() {
        "set" => Some(item.to_string()),
        "map" => Some(
            schema["x-kubernetes-list-map-keys"]
                .as_array()
                .unwrap()
                .iter()
                .map(|key| item[key.as_str().unwrap()].to_string())
                .collect(),
        ),
        _ => None,
    };
    let keys: Vec<String> = items.iter().filter_map(key).collect();
    if keys.iter().collect::<BTreeSet<_>>().len() < keys.len() {
        found.push(format!("{path}: duplicate value"));
    }
    for (index, item) in items.iter().enumerate() {
        found.extend(complaints(&schema["items"], item, &format!("{path}[{index}]")));
    }
}

fn string(schema: &Value, text: &str, path: &str, found: &mut Vec<String>) {
    let length = text.chars().count() as u64;
    if length < schema["minLength"].as_u64().unwrap_or(0) || schema["maxLength"].as_u64().is_some_and(|most| length > most) {
        found.push(format!("{path}: too short or too long"));
    }
    if schema["pattern"].as_str().is_some_and(|pattern| !Regex::new(pattern).unwrap().is_match(text)) {
        found.push(format!("{path}: does not match the pattern"));
    }
}
