//! Reads the documentation of the values from their file: each value with its default and the text of the comment above it.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::Value;

use crate::helm::{CHART, read};

/// A value of the chart.
#[derive(Debug)]
pub(crate) struct Documented {
    /// Its keys from the top.
    pub(crate) path: Vec<String>,
    /// Its default.
    pub(crate) default: Value,
    /// The text of the comment above it.
    pub(crate) meaning: String,
}

/// Every value of the chart, in the order of the file. A key without a comment is a section.
pub(crate) fn documented() -> Vec<Documented> {
    let text = read(&format!("{CHART}/values.yaml"));
    let values: Value = serde_saphyr::from_str(&text).expect("the values are YAML");
    let mut found = Vec::new();
    let mut sections: Vec<(usize, String)> = Vec::new();
    let mut comment: Vec<&str> = Vec::new();
    // Lines that belong to a documented value are deeper than it, or are a list at the same depth.
    let mut within: Option<usize> = None;
    for line in text.lines() {
        let bare = line.trim_start();
        let indent = line.len() - bare.len();
        if let Some(said) = bare.strip_prefix("# ") {
            comment.push(said);
            continue;
        }
        if bare.is_empty() {
            assert!(comment.is_empty(), "a comment belongs to nothing: {comment:?}");
            continue;
        }
        if within.is_some_and(|outer| indent > outer || bare.starts_with("- ")) {
            continue;
        }
        let (key, rest) = bare.split_once(':').unwrap_or_else(|| panic!("neither a key nor a comment: {line}"));
        sections.retain(|(outer, _)| *outer < indent);
        let path: Vec<String> = sections.iter().map(|(_, key)| key.clone()).chain([key.to_owned()]).collect();
        if comment.is_empty() {
            assert!(rest.is_empty(), "{}: no comment says what it means", path.join("."));
            sections.push((indent, key.to_owned()));
            within = None;
        } else {
            let pointer = format!("/{}", path.iter().map(|key| key.replace('/', "~1")).collect::<Vec<_>>().join("/"));
            let default = values.pointer(&pointer).unwrap_or_else(|| panic!("{pointer} is not there")).clone();
            found.push(Documented { path, default, meaning: std::mem::take(&mut comment).join(" ") });
            within = Some(indent);
        }
    }
    found
}

/// The values as a table of a page.
pub(crate) fn table() -> String {
    let mut text = "\n| value | default | meaning |\n|---|---|---|\n".to_owned();
    for Documented { path, default, meaning } in documented() {
        let _ = writeln!(text, "| `{}` | `{default}` | {} |", path.join("."), meaning.replace('|', "\\|"));
    }
    text + "\n"
}

/// The schema of the values with the texts of the comments, so that editors show them.
pub(crate) fn described(schema: &str) -> String {
    let mut schema: Value = serde_json::from_str(schema).expect("the schema is JSON");
    let mut told: BTreeMap<String, String> = BTreeMap::new();
    for Documented { path, meaning, .. } in documented() {
        let pointer = place(&schema, &path);
        let before = told.insert(pointer.clone(), meaning.clone());
        assert!(
            before.as_ref().is_none_or(|before| *before == meaning),
            "{}: share one definition, so say the same of both: {before:?} and {meaning:?}",
            path.join(".")
        );
        schema.pointer_mut(&pointer).expect("it was just found")["description"] = meaning.into();
    }
    serde_json::to_string_pretty(&schema).expect("a schema can be written") + "\n"
}

/// The position of a value in the schema, as a JSON pointer.
pub(crate) fn place(schema: &Value, path: &[String]) -> String {
    let mut pointer = String::new();
    for key in path {
        if let Some(definition) = schema.pointer(&pointer).and_then(|part| part["$ref"].as_str()) {
            definition.trim_start_matches('#').clone_into(&mut pointer);
        }
        pointer = format!("{pointer}/properties/{key}");
        assert!(schema.pointer(&pointer).is_some(), "the schema lacks {}", path.join("."));
    }
    pointer
}

/// A page with a table between two marks, with the table up to date.
pub(crate) fn page(page: &str) -> String {
    const BEGIN: &str = "<!-- The table is generated: make generate -->\n";
    const END: &str = "<!-- End of the table -->\n";
    let (before, rest) = page.split_once(BEGIN).expect("the page says where its table begins");
    let (_, after) = rest.split_once(END).expect("the page says where its table ends");
    format!("{before}{BEGIN}{}{END}{after}", table())
}
