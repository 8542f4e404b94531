//! Holds the page on security to the tests that it names: each promise has one, and each of them exists.

use std::fs;
use std::path::{Path, PathBuf};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
const PAGE: &str = "docs/security.md";

fn read(path: impl AsRef<Path>) -> String {
    let path = Path::new(ROOT).join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Every Rust file in a folder, also in its subfolders.
fn sources(folder: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![Path::new(ROOT).join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()) {
            if entry.is_dir() {
                folders.push(entry);
            } else if entry.extension().is_some_and(|extension| extension == "rs") {
                found.push(entry);
            }
        }
    }
    found
}

/// Whether `text` runs the function `name` as a test, by itself or for each backend.
fn is_test(text: &str, name: &str) -> bool {
    let alone = regex::Regex::new(&format!(r"#\[(tokio::)?test[^\n]*\]\n(\s*#\[[^\n]*\n)*\s*(async )?fn {name}\(")).unwrap();
    let property = regex::Regex::new(&format!(r"(?s)proptest! \{{.*#\[test\]\s+fn {name}\(")).unwrap();
    let both = regex::Regex::new(&format!(r"on_(both_variants|all_backends)!\s*[\[{{][^\]}}]*\b{name}\b")).unwrap();
    [alone, property, both].iter().any(|form| form.is_match(text))
}

#[test]
fn every_promise_of_the_page_on_security_names_a_test_that_exists() {
    let page = read(PAGE);
    let named = regex::Regex::new(r"`((?:src|tests)/[a-z0-9_/]+\.rs)::([a-z0-9_]+)`").unwrap();
    let wrong: Vec<String> = named
        .captures_iter(&page)
        .filter(|found| !is_test(&read(&found[1]), &found[2]))
        .map(|found| format!("{}::{}", &found[1], &found[2]))
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
    let mut rows = 0;
    for table in page.split("\n\n").filter(|part| part.starts_with('|')) {
        let mut lines = table.lines();
        let tests = lines.next().unwrap_or_default().trim_end().ends_with("| test |");
        for row in lines.skip(1).filter(|_| tests) {
            let last = row.trim_end_matches(" |").rsplit(" | ").next().unwrap_or_default();
            assert!(named.is_match(last), "no test: {row}");
            rows += 1;
        }
    }
    assert!(rows > 60, "{rows} rows with tests");
}

#[test]
fn unsafe_code_is_in_two_files_only() {
    let is_unsafe = regex::Regex::new(r"unsafe \{|unsafe fn|unsafe impl|unsafe extern|allow\(unsafe_code").unwrap();
    let sources = sources("src");
    assert!(sources.len() > 100);
    let found: Vec<&PathBuf> = sources.iter().filter(|file| is_unsafe.is_match(&read(file))).collect();
    let known =
        ["src/dataplane/iptables/legacy/sockopt.rs", "src/source/folder/writers.rs"].map(|file| Path::new(ROOT).join(file));
    assert_eq!(found, known.each_ref());
    assert!(read("Cargo.toml").contains("unsafe_code = \"deny\""));
}
