//! The pages tell the truth, as far as a program can see it: every reason and every dependency is explained, what is
//! shown is what the code makes, and links lead somewhere.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use portforward_operator::api;
use portforward_operator::dataplane::iptables::{Ruleset, Stage, Table, Variant, rewrite};
use portforward_operator::forward::Forward;
use portforward_operator::status::Reason;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

fn read(path: &str) -> String {
    fs::read_to_string(Path::new(ROOT).join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Every page, by its path from the root of the repository.
fn pages() -> Vec<PathBuf> {
    let mut found = vec!["README.md".into(), "CHANGELOG.md".into(), "CONTRIBUTING.md".into()];
    let mut folders = vec![PathBuf::from("docs")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(Path::new(ROOT).join(&folder)).unwrap() {
            let path = folder.join(entry.unwrap().file_name());
            if Path::new(ROOT).join(&path).is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "md") {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// The code of the headings of one level: what stands in backquotes behind the number signs.
fn headings(page: &str, level: &str) -> Vec<String> {
    let code = |line: &str| line.strip_prefix(level)?.strip_prefix(" `")?.strip_suffix('`').map(str::to_owned);
    page.lines().filter_map(code).collect()
}

/// The fenced blocks of one language.
fn blocks(page: &str, language: &str) -> Vec<String> {
    let begin = format!("```{language}\n");
    page.split(&begin).skip(1).map(|rest| rest.split("```").next().unwrap_or_default().to_owned()).collect()
}

fn assert_explained(page: &str, explained: &[String], wanted: &BTreeSet<String>) {
    let found: BTreeSet<String> = explained.iter().cloned().collect();
    let missing: Vec<&String> = wanted.difference(&found).collect();
    let unknown: Vec<&String> = found.difference(wanted).collect();
    assert!(missing.is_empty(), "{page} explains not: {missing:?}");
    assert!(unknown.is_empty(), "{page} explains what is not there: {unknown:?}");
    assert_eq!(found.len(), explained.len(), "{page} explains something twice");
}

#[test]
fn every_reason_is_explained_and_nothing_else() {
    let wanted = Reason::all().into_iter().map(|reason| reason.as_str().to_owned()).collect();
    assert_explained("docs/reasons.md", &headings(&read("docs/reasons.md"), "###"), &wanted);
}

#[test]
fn every_dependency_is_explained_and_nothing_else() {
    let manifest = read("Cargo.toml");
    let mut wanted = BTreeSet::new();
    let mut listed = false;
    for line in manifest.lines() {
        if line.starts_with('[') {
            listed = line.contains("dependencies]");
        } else if let Some((name, _)) = line.split_once('=').filter(|_| listed) {
            wanted.insert(name.trim().to_owned());
        }
    }
    assert!(wanted.len() > 20, "{wanted:?}");
    assert_explained("docs/dependencies.md", &headings(&read("docs/dependencies.md"), "###"), &wanted);
}

fn objects(text: &str) -> Vec<Forward> {
    let documents: Vec<serde_json::Value> = serde_saphyr::from_multiple(text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    let parse = |document| Forward::parse(&api::decode(document).unwrap_or_else(|error| panic!("{error}\n{text}")));
    documents.into_iter().map(|document| parse(document).unwrap_or_else(|error| panic!("{error}\n{text}"))).collect()
}

/// Every rule that a manifest becomes, with the jumps, as `iptables-save` shows them.
fn rules(manifest: &str) -> BTreeSet<String> {
    let translations: BTreeSet<_> = objects(manifest).iter().flat_map(Forward::translations).collect();
    let ruleset = Ruleset::of(&translations);
    let chains = |table| rewrite(Variant::Nft, table, ruleset.chains(table), ruleset.chains(table).keys());
    let texts: String = Table::ALL.into_iter().flat_map(chains).collect();
    let jumps = Stage::ALL.map(|stage| format!("-A {} {}", stage.builtin(), stage.jump()));
    texts.lines().filter(|line| line.starts_with("-A ")).map(str::to_owned).chain(jumps).collect()
}

#[test]
fn the_rules_on_the_pages_are_the_ones_that_the_example_becomes() {
    let made = rules(&read("examples/bank-a-web.yaml"));
    let shown = |page: &str| -> BTreeSet<String> {
        let lines = |block: String| block.lines().map(|line| line.trim().to_owned()).collect::<Vec<_>>();
        blocks(&read(page), "text").into_iter().flat_map(lines).filter(|line| line.starts_with("-A ")).collect()
    };
    assert_eq!(shown("docs/concepts.md"), made);
    let extra: Vec<String> = shown("README.md").difference(&made).cloned().collect();
    assert!(extra.is_empty(), "README.md shows other rules: {extra:#?}");
}

#[test]
fn every_manifest_on_the_pages_is_taken() {
    let mut count = 0;
    for page in pages() {
        for block in blocks(&read(page.to_str().unwrap()), "yaml") {
            if block.contains("kind: PortForward") {
                count += objects(&block).len();
            }
        }
    }
    assert!(count > 2, "{count}");
}

#[test]
fn every_link_between_the_pages_leads_somewhere() {
    let link = regex::Regex::new(r"\]\(([^)\s]+)\)").unwrap();
    let mut broken = Vec::new();
    for page in pages() {
        let text = read(page.to_str().unwrap());
        for target in link.captures_iter(&text).map(|found| found[1].to_owned()).filter(|target| !target.contains("://")) {
            let (file, anchor) = target.split_once('#').unwrap_or((&target, ""));
            let aimed = if file.is_empty() { page.clone() } else { page.parent().unwrap().join(file) };
            let there = Path::new(ROOT).join(&aimed);
            let found = there.exists() && (anchor.is_empty() || anchors(&fs::read_to_string(&there).unwrap()).contains(anchor));
            if !found {
                broken.push(format!("{}: {target}", page.display()));
            }
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}

/// The anchors that a page has, as code hosts make them of its headings.
fn anchors(page: &str) -> BTreeSet<String> {
    let slug = |heading: &str| -> String {
        let kept = heading.trim().to_lowercase();
        kept.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_')).collect::<String>().replace(' ', "-")
    };
    page.lines().filter(|line| line.starts_with('#')).map(|line| slug(line.trim_start_matches('#'))).collect()
}
