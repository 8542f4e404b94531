//! Tests that the reference of each kind matches its CRD, field by field.
//!
//! After a change of the API types: run `UPDATE_GOLDEN=1 cargo test --test reference`, then read the difference of
//! `docs/reference.md` and `docs/reference-grants.md`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use portforward_operator::api::Kind;
use serde_json::Value;

const BEGIN: &str = "<!-- From here on it is generated: UPDATE_GOLDEN=1 cargo test --test reference -->\n";

/// The page of a kind.
fn page(kind: Kind) -> &'static str {
    match kind {
        Kind::PortForward => "docs/reference.md",
        Kind::PortForwardGrant => "docs/reference-grants.md",
    }
}

fn definition(kind: Kind) -> Value {
    // Parses the text and not the type, because the type has fractions in the numbers of the schema.
    serde_saphyr::from_str(&kind.crd_yaml()).expect("the definition is YAML")
}

/// The whole generated text.
fn reference(definition: &Value) -> String {
    let version = &definition["spec"]["versions"][0];
    let mut sections = Sections::default();
    for part in ["spec", "status"] {
        sections.object(part, &version["schema"]["openAPIV3Schema"]["properties"][part]);
    }
    format!("\n{}{}{}", names(&definition["spec"], version), sections.text, columns(version))
}

fn names(spec: &Value, version: &Value) -> String {
    let names = &spec["names"];
    let rows = [
        ("`apiVersion`", format!("{}/{}", words(&spec["group"]), words(&version["name"]))),
        ("`kind`", words(&names["kind"])),
        ("plural, singular", format!("{}, {}", words(&names["plural"]), words(&names["singular"]))),
        ("short name", words(&names["shortNames"])),
        ("scope", words(&spec["scope"])),
        ("subresources", version["subresources"].as_object().into_iter().flatten().map(|(name, _)| name.clone()).collect()),
    ];
    let mut text = "## Names\n\n| what | value |\n|---|---|\n".to_owned();
    for (what, value) in rows {
        let _ = writeln!(text, "| {what} | `{value}` |");
    }
    text + "\n"
}

/// The columns of `kubectl get`.
fn columns(version: &Value) -> String {
    let mut text = "## Columns of `kubectl get`\n\n| column | shown | value | meaning |\n|---|---|---|---|\n".to_owned();
    for column in entries(&version["additionalPrinterColumns"]) {
        let shown = if column["priority"].as_i64().is_some_and(|priority| priority > 0) { "with `-o wide`" } else { "always" };
        let (name, path, meaning) = (words(&column["name"]), words(&column["jsonPath"]), words(&column["description"]));
        let _ = writeln!(text, "| {} | {shown} | `{path}` | {meaning} |", name.to_uppercase());
    }
    text
}

/// The sections, one for each object of the schema. Objects that occur twice have one section.
#[derive(Default)]
struct Sections {
    text: String,
    /// The objects of lists that have a section, by their schema.
    written: BTreeMap<String, String>,
    /// The rules of a value that were listed, and their place.
    listed: BTreeMap<Vec<String>, String>,
}

impl Sections {
    fn object(&mut self, path: &str, schema: &Value) {
        let fields = schema["properties"].as_object().expect("an object of the schema has fields");
        let required = entries(&schema["required"]);
        let _ = write!(self.text, "## `{path}`\n\n");
        let meaning = sentence(schema);
        if !meaning.is_empty() {
            let _ = write!(self.text, "{meaning}\n\n");
        }
        self.text += "| field | type | default | limits | meaning |\n|---|---|---|---|---|\n";
        let mut inner = Vec::new();
        for (name, field) in fields {
            let path = format!("{path}.{name}");
            let kind = self.kind(&path, field, &mut inner);
            let default = if required.iter().any(|required| *required == name.as_str()) {
                "required".to_owned()
            } else {
                default(&field["default"])
            };
            let meaning = cell(&sentence(field));
            let _ = writeln!(self.text, "| `{name}` | {kind} | {default} | {} | {meaning} |", cell(&limits(field)));
        }
        self.text += "\n";
        self.rules(path, schema);
        self.defaults(fields);
        for (path, schema) in inner {
            self.object(&path, schema);
        }
    }

    /// The type of a field. An object, or the objects of a list, are added to the following sections.
    fn kind<'a>(&mut self, path: &str, schema: &'a Value, inner: &mut Vec<(String, &'a Value)>) -> String {
        match words(&schema["type"]).as_str() {
            "array" => {
                let item = self.kind(&format!("{path}[]"), &schema["items"], inner);
                let merged = match words(&schema["x-kubernetes-list-type"]).as_str() {
                    "map" => format!("by {}", words(&schema["x-kubernetes-list-map-keys"])),
                    other => other.to_owned(),
                };
                format!("list of {item}, {merged}")
            }
            "object" if schema["properties"].is_object() => {
                let key = schema.to_string();
                let section = self.written.entry(key).or_insert_with(|| {
                    inner.push((path.to_owned(), schema));
                    path.to_owned()
                });
                format!("[object](#{})", anchor(section))
            }
            "object" => format!("map of {}", words(&schema["additionalProperties"]["type"])),
            other => other.to_owned(),
        }
    }

    /// The messages of the API server for a value of this object that violates a rule.
    fn rules(&mut self, path: &str, schema: &Value) {
        let mut rows = Vec::new();
        for (name, field) in schema["properties"].as_object().into_iter().flatten() {
            let path = format!("{path}.{name}");
            if !field["properties"].is_object() {
                rows.extend(self.rows(&path, field));
            }
            if field["type"] == "array" && !field["items"]["properties"].is_object() {
                rows.extend(self.rows(&format!("{path}[]"), &field["items"]));
            }
        }
        rows.extend(self.rows(path, schema));
        if !rows.is_empty() {
            let _ = writeln!(self.text, "| refused | because |\n|---|---|\n{}", rows.concat());
        }
    }

    fn rows(&mut self, path: &str, schema: &Value) -> Vec<String> {
        let rules = entries(&schema["x-kubernetes-validations"]);
        if rules.is_empty() {
            return Vec::new();
        }
        let messages: Vec<String> = rules.iter().map(|rule| words(&rule["message"])).collect();
        if let Some(first) = self.listed.get(&messages) {
            return vec![format!("| `{path}` | as `{first}` |\n")];
        }
        let row =
            |(rule, message): (&&Value, &String)| format!("| `{path}{}` | {} |\n", words(&rule["fieldPath"]), cell(message));
        let rows = rules.iter().zip(&messages).map(row).collect();
        self.listed.insert(messages, path.to_owned());
        rows
    }

    /// The defaults that do not fit into a table.
    fn defaults(&mut self, fields: &serde_json::Map<String, Value>) {
        for (name, field) in fields.iter().filter(|(_, field)| field["default"].is_array()) {
            let yaml = serde_saphyr::to_string(&serde_json::json!({ name: field["default"] })).expect("a default is YAML");
            let _ = write!(self.text, "The default:\n\n```yaml\n{yaml}```\n\n");
        }
    }
}

fn default(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::Array(_) => "below".to_owned(),
        Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Object(_) => format!("`{}`", words(value)),
    }
}

/// The limits of a value in the schema: its size and form.
fn limits(schema: &Value) -> String {
    let mut found = Vec::new();
    let mut between = |least: &str, most: &str, what: &str| {
        let one = |end: &str| if end == "1" { what.trim_end_matches(['s']).replace("entrie", "entry") } else { what.to_owned() };
        match (words(&schema[least]).as_str(), words(&schema[most]).as_str()) {
            ("", "") => {}
            (least, "") => found.push(format!("at least {least}{}", one(least))),
            ("", most) => found.push(format!("at most {most}{}", one(most))),
            (least, most) if least == most => found.push(format!("exactly {most}{}", one(most))),
            (least, most) => found.push(format!("{least} to {most}{}", one(most))),
        }
    };
    between("minItems", "maxItems", " entries");
    between("minProperties", "maxProperties", " entries");
    between("minLength", "maxLength", " characters");
    between("minimum", "maximum", "");
    let named: Vec<String> = entries(&schema["enum"]).into_iter().map(|word| format!("`{}`", words(word))).collect();
    if let Some((last, others)) = named.split_last() {
        found.push(format!("{} or {last}", others.join(", ")));
    }
    match words(&schema["format"]).as_str() {
        "" | "int32" => {}
        format => found.push(format.to_owned()),
    }
    if let Some(pattern) = schema["pattern"].as_str() {
        found.push(format!("`{pattern}`"));
    }
    for inner in [&schema["items"], &schema["additionalProperties"]] {
        let inner = if inner.is_null() || inner["properties"].is_object() { String::new() } else { limits(inner) };
        if !inner.is_empty() {
            found.push(format!("each {inner}"));
        }
    }
    found.join("; ")
}

fn entries(value: &Value) -> Vec<&Value> {
    value.as_array().into_iter().flatten().collect()
}

/// A value as readable text: strings without quotes, and nothing for null.
fn words(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Array(entries) => entries.iter().map(words).collect::<Vec<_>>().join(", "),
        Value::Bool(_) | Value::Number(_) | Value::Object(_) => value.to_string(),
    }
}

fn sentence(schema: &Value) -> String {
    words(&schema["description"]).replace('\n', " ")
}

fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}

/// The anchor that code hosts derive from the heading of a section.
fn anchor(path: &str) -> String {
    path.to_lowercase().chars().filter(char::is_ascii_alphanumeric).collect()
}

#[test]
fn the_reference_says_what_the_definition_says() {
    for kind in Kind::ALL {
        let file = page(kind);
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
        let page = fs::read_to_string(&path).unwrap();
        let (before, _) = page.split_once(BEGIN).expect("the page says where the generated part begins");
        let wanted = format!("{before}{BEGIN}{}", reference(&definition(kind)));
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            fs::write(&path, &wanted).unwrap();
        } else {
            assert!(
                page == wanted,
                "{file} is not what the definition says; renew it: UPDATE_GOLDEN=1 cargo test --test reference"
            );
        }
    }
}

#[test]
fn every_field_of_the_definition_stands_in_the_reference() {
    fn paths(path: &str, schema: &Value, found: &mut Vec<(String, String)>) {
        for (name, field) in schema["properties"].as_object().into_iter().flatten() {
            found.push((path.to_owned(), name.clone()));
            paths(&format!("{path}.{name}"), field, found);
            if field["items"].is_object() {
                paths(&format!("{path}.{name}[]"), &field["items"], found);
            }
        }
    }
    // If the same objects occur a second time, their section is at the first place.
    let first = |path: &str| match path {
        "spec.reverse.ports[]" => "spec.ports[]".to_owned(),
        "spec.upstreams[]" => "spec.listen[]".to_owned(),
        "status.nodes[].conditions[]" => "status.conditions[]".to_owned(),
        path => path.to_owned(),
    };
    for kind in Kind::ALL {
        let definition = definition(kind);
        let made = reference(&definition);
        let mut fields = Vec::new();
        for part in ["spec", "status"] {
            paths(part, &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"][part], &mut fields);
        }
        assert!(fields.len() > 30, "{fields:?}");
        for (path, name) in fields {
            let heading = format!("## `{}`\n", first(&path));
            let section = made.split(&heading).nth(1).and_then(|rest| rest.split("\n## ").next());
            assert!(section.is_some_and(|section| section.contains(&format!("\n| `{name}` | "))), "{kind}: {path}.{name}");
        }
    }
}
