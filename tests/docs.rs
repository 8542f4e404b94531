//! Tests the pages: every reason, dependency and flag is explained, generated content is up to date, and links, paths and flags
//! exist.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use portforward_operator::api;
use portforward_operator::dataplane::iptables::{Ruleset, Stage, Table, Variant, rewrite};
use portforward_operator::forward::Forward;
use portforward_operator::grant::Grant;
use portforward_operator::model::Connmark;
use portforward_operator::status::Reason;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

fn read(path: &str) -> String {
    fs::read_to_string(Path::new(ROOT).join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Every page, by its path from the root of the repository.
fn pages() -> Vec<PathBuf> {
    files(&["", "docs", "charts", "deploy", "examples", "image"], "md")
}

/// The files in these folders whose names end like this, by path from the root of the repository. Of the root folder, only the
/// files directly in it.
fn files(folders: &[&str], extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders: Vec<PathBuf> = folders.iter().map(PathBuf::from).collect();
    while let Some(folder) = folders.pop() {
        let Ok(entries) = fs::read_dir(Path::new(ROOT).join(&folder)) else { continue };
        for entry in entries {
            let path = folder.join(entry.unwrap().file_name());
            if Path::new(ROOT).join(&path).is_dir() {
                if folder.as_os_str() != "" {
                    folders.push(path);
                }
            } else if path.extension().is_some_and(|found| found == extension) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// The code of a page: text in backquotes, and indented lines with their continuation lines (backslash).
fn code(page: &str) -> Vec<String> {
    let span = regex::Regex::new("`([^`]+)`").unwrap();
    let mut found = Vec::new();
    let mut fenced = false;
    for line in page.replace("\\\n", " ").lines() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        } else if fenced || line.starts_with("    ") {
            found.push(line.trim().to_owned());
        } else {
            found.extend(span.captures_iter(line).map(|span| span[1].to_owned()));
        }
    }
    found
}

/// The code of the headings of one level: the text in backquotes after the number signs.
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

/// Every rule that a manifest becomes, with the jumps, in the format of `iptables-save`.
fn rules(manifest: &str) -> BTreeSet<String> {
    let translations = objects(manifest).iter().flat_map(Forward::translations).collect();
    let ruleset = Ruleset::of(&translations, Connmark::default());
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
    let (mut count, mut grants) = (0, 0);
    for page in pages() {
        for block in blocks(&read(page.to_str().unwrap()), "yaml") {
            if !block.contains("kind: PortForward") {
                continue;
            }
            let documents: Vec<serde_json::Value> =
                serde_saphyr::from_multiple(&block).unwrap_or_else(|error| panic!("{}: {error}\n{block}", page.display()));
            // Other kinds may contain the name of our kind, for example a health check or an alert rule.
            if documents.iter().any(|document| document["kind"] == "PortForward") {
                count += objects(&block).len();
            }
            for document in documents.into_iter().filter(|document| document["kind"] == "PortForwardGrant") {
                let object = api::decode_grant(document).unwrap_or_else(|error| panic!("{}: {error}", page.display()));
                Grant::parse(&object).unwrap_or_else(|error| panic!("{}: {error}", page.display()));
                grants += 1;
            }
        }
    }
    assert!(count > 2 && grants > 0, "{count} {grants}");
}

#[test]
fn every_path_of_the_repository_that_a_page_names_is_there() {
    let path =
        regex::Regex::new(r"^(?:\./)?((?:charts|crds|demo|deploy|docs|examples|hack|image|src|tests)(?:/[\w./-]*)?)$").unwrap();
    let mut missing = Vec::new();
    let mut count = 0;
    // Decision records and the changelog may name files that no longer exist.
    for page in pages().into_iter().filter(|page| !page.starts_with("docs/adr") && *page != Path::new("CHANGELOG.md")) {
        for code in code(&read(page.to_str().unwrap())) {
            // A single word may have any meaning, for example `tests`.
            let words = code.split(|c: char| c.is_whitespace() || "'\"(),;:=[]".contains(c));
            let named =
                words.filter(|word| word.contains('/') || code.starts_with("kubectl ")).filter_map(|word| path.captures(word));
            for named in named.map(|named| named[1].trim_end_matches('.').to_owned()) {
                count += 1;
                if !Path::new(ROOT).join(&named).exists() {
                    missing.push(format!("{}: {named}: {code}", page.display()));
                }
            }
        }
    }
    assert!(count > 10, "{count}");
    assert!(missing.is_empty(), "{missing:#?}");
}

const PROGRAM: &str = env!("CARGO_BIN_EXE_portforward-operator");

/// The commands in the help of the program.
fn commands() -> Vec<String> {
    let help = Command::new(PROGRAM).arg("--help").output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    let list = help.split("\nCommands:\n").nth(1).and_then(|rest| rest.split("\n\n").next()).expect("the help lists commands");
    let name = regex::Regex::new(r"(?m)^  ([a-z]+) ").unwrap();
    let found: Vec<String> = name.captures_iter(list).map(|named| named[1].to_owned()).filter(|name| name != "help").collect();
    assert!(found.len() > 7, "{help}");
    found
}

/// The flags of a command, each with its environment variable, if it has one.
fn flags(command: &str) -> BTreeMap<String, Option<String>> {
    let help = Command::new(PROGRAM).args([command, "--help"]).output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    let flag = regex::Regex::new(r"^\s+(?:-\w, )?(--[a-z-]+)").unwrap();
    let variable = regex::Regex::new(r"\[env: ([A-Z_]+)=").unwrap();
    let mut found = BTreeMap::new();
    let mut last = None;
    for line in help.lines() {
        if let Some(named) = flag.captures(line) {
            last = Some(named[1].to_owned());
            found.insert(named[1].to_owned(), None);
        } else if let (Some(named), Some(flag)) = (variable.captures(line), &last) {
            found.insert(flag.clone(), Some(named[1].to_owned()));
        }
    }
    assert!(found.remove("--help").is_some(), "{command}: {help}");
    found
}

#[test]
fn every_flag_is_in_the_table_with_its_variable_and_no_other() {
    let page = read("docs/operations.md");
    let table =
        page.split("\n| flag |").nth(1).and_then(|rest| rest.split("\n\n").next()).expect("the page has a table of flags");
    let name = regex::Regex::new("^\\| `(--[a-z-]+)").unwrap();
    let rows = table.lines().filter_map(|line| Some((name.captures(line)?[1].to_owned(), line)));
    let explained: BTreeMap<String, &str> = rows.collect();
    let wanted: Vec<(String, Option<String>)> = commands().iter().flat_map(|command| flags(command)).collect();
    let names: BTreeSet<String> = wanted.iter().map(|(flag, _)| flag.clone()).collect();
    assert_explained("docs/operations.md", &explained.keys().cloned().collect::<Vec<_>>(), &names);
    for (flag, variable) in wanted {
        let Some(variable) = variable else { continue };
        assert!(explained[&flag].contains(&format!("`{variable}`")), "{flag} is also {variable}: {}", explained[&flag]);
    }
}

#[test]
fn every_flag_on_a_command_line_of_the_pages_is_one_of_that_command() {
    let commands = commands();
    let call = regex::Regex::new(&format!(r"(?:^|[\s/=])portforward-operator ({})\b([^|&;>#]*)", commands.join("|"))).unwrap();
    let flag = regex::Regex::new(r"(?:^|\s)(--[a-z][a-z-]*)").unwrap();
    let known: BTreeMap<String, BTreeMap<String, Option<String>>> =
        commands.iter().map(|command| (command.clone(), flags(command))).collect();
    let (mut unknown, mut count) = (Vec::new(), 0);
    for page in pages() {
        for code in code(&read(page.to_str().unwrap())) {
            for call in call.captures_iter(&code) {
                for named in flag.captures_iter(&call[2]) {
                    count += 1;
                    if &named[1] != "--help" && !known[&call[1]].contains_key(&named[1]) {
                        unknown.push(format!("{}: {}: {code}", page.display(), &named[1]));
                    }
                }
            }
        }
    }
    assert!(count > 10, "{count}");
    assert!(unknown.is_empty(), "{unknown:#?}");
}

#[test]
fn every_link_between_the_pages_leads_somewhere() {
    let link = regex::Regex::new(r"\]\(([^)\s]+)\)").unwrap();
    let span = regex::Regex::new("`[^`\n]+`").unwrap();
    let mut broken = Vec::new();
    for page in pages() {
        // A pattern in backquotes may look like a link.
        let text = span.replace_all(&read(page.to_str().unwrap()), "").into_owned();
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

#[test]
fn every_recipe_and_every_test_that_a_page_names_can_be_run() {
    let makefile = read("Makefile");
    let is_recipe = |name: &str| makefile.lines().any(|line| line.starts_with(&format!("{name}:")));
    let tests = Path::new(ROOT).join("tests");
    let is_test = |name: &str| tests.join(format!("{name}.rs")).exists() || tests.join(name).join("main.rs").exists();
    let recipe = regex::Regex::new(r"(?:^|\s)make ([a-z][a-z0-9-]*)").unwrap();
    let test = regex::Regex::new(r"--test ([a-z_]+)").unwrap();
    let mut missing = Vec::new();
    let mut count = 0;
    for page in pages().into_iter().filter(|page| !page.starts_with("docs/adr")) {
        for code in code(&read(page.to_str().unwrap())) {
            let recipes = recipe.captures_iter(&code).filter(|named| !is_recipe(&named[1]));
            let tests = test.captures_iter(&code).filter(|named| !is_test(&named[1]));
            missing.extend(recipes.chain(tests).map(|named| format!("{}: {}", page.display(), &named[0])));
            count += recipe.find_iter(&code).count() + test.find_iter(&code).count();
        }
    }
    assert!(count > 10, "{count}");
    assert!(missing.is_empty(), "{missing:#?}");
}

#[test]
fn program_chart_and_image_have_one_version() {
    let version = env!("CARGO_PKG_VERSION");
    let chart = read("charts/portforward-operator/Chart.yaml");
    for line in [format!("\nversion: {version}\n"), format!("\nappVersion: {version}\n")] {
        assert!(chart.contains(&line), "Chart.yaml has another version than {version} of Cargo.toml");
    }
    let image = regex::Regex::new(r"localhost/portforward-operator:([0-9][\w.-]*)").unwrap();
    let mut count = 0;
    // The changelog may name files that no longer exist.
    let pages = pages().into_iter().filter(|page| *page != Path::new("CHANGELOG.md"));
    for path in pages.chain(files(&["deploy", "charts"], "yaml")) {
        for named in image.captures_iter(&read(path.to_str().unwrap())) {
            count += 1;
            assert_eq!(named[1].trim_end_matches('.'), version, "{} names another image", path.display());
        }
    }
    assert!(count > 3, "{count}");
}

#[test]
fn what_kubectl_shows_on_the_pages_has_the_columns_of_the_definition() {
    for (kind, typical) in [(api::Kind::PortForward, "UPSTREAM"), (api::Kind::PortForwardGrant, "NAMESPACES")] {
        let definition = kind.crd();
        let columns = definition.spec.versions[0].additional_printer_columns.iter().flatten();
        let always = columns.filter(|column| column.priority.is_none_or(|priority| priority == 0));
        let wanted: Vec<String> =
            ["NAME".to_owned()].into_iter().chain(always.map(|column| column.name.to_uppercase())).collect();
        let mut count = 0;
        for page in pages() {
            for code in code(&read(page.to_str().unwrap())) {
                let shown: Vec<&str> = code.split_whitespace().collect();
                if shown.first() == Some(&"NAME") && shown.contains(&typical) {
                    count += 1;
                    assert_eq!(shown, wanted, "{}", page.display());
                }
            }
        }
        assert!(count > 0, "no page shows {kind}");
    }
}

#[test]
fn every_module_is_on_the_page_of_the_architecture() {
    let page = read("docs/architecture.md");
    let rows = page.lines().filter(|line| line.starts_with("| `"));
    let named: BTreeSet<String> = rows.flat_map(|row| code(row.split('|').nth(1).unwrap_or_default())).collect();
    let entries = fs::read_dir(Path::new(ROOT).join("src")).unwrap().map(|entry| entry.unwrap().path());
    let module = |path: PathBuf| path.file_stem().unwrap().to_string_lossy().into_owned();
    let modules: BTreeSet<String> = entries.map(module).filter(|name| !["lib", "main"].contains(&name.as_str())).collect();
    assert_eq!(named, modules);
}

/// The anchors of a page, as code hosts derive them from its headings.
fn anchors(page: &str) -> BTreeSet<String> {
    let slug = |heading: &str| -> String {
        let kept = heading.trim().to_lowercase();
        kept.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_')).collect::<String>().replace(' ', "-")
    };
    page.lines().filter(|line| line.starts_with('#')).map(|line| slug(line.trim_start_matches('#'))).collect()
}
