//! Tests which modules may use which other modules.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

fn sources(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).expect("a folder of sources").map(|entry| entry.expect("an entry").path());
    entries.flat_map(|path| if path.is_dir() { sources(&path) } else { vec![path] }).collect()
}

/// Every line of `module` that contains one of `forbidden`, without tests and comments.
fn offences(module: &str, forbidden: &[&str]) -> Vec<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(module);
    let mut found = Vec::new();
    for path in sources(&folder).into_iter().filter(|path| !path.to_string_lossy().contains("tests")) {
        let text = fs::read_to_string(&path).expect("a source");
        let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
        let names = |line: &&str| !line.trim_start().starts_with("//") && forbidden.iter().any(|name| line.contains(name));
        found.extend(code.lines().filter(names).map(|line| format!("{}: {line}", path.display())));
    }
    found
}

/// The modules that `code` names, without comments.
fn named(code: &str) -> BTreeSet<String> {
    let lines = code.lines().filter(|line| !line.trim_start().starts_with("//"));
    let word = |text: &str| text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
    lines.flat_map(|line| line.split("crate::").skip(1)).map(word).collect()
}

/// The modules of `src`, and what each of them names.
fn arrows() -> BTreeMap<String, BTreeSet<String>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut arrows = BTreeMap::<String, BTreeSet<String>>::new();
    for path in sources(&root) {
        let place = path.strip_prefix(&root).expect("a file of src").with_extension("");
        let parts: Vec<String> = place.iter().map(|part| part.to_string_lossy().into_owned()).collect();
        if parts.iter().any(|part| part == "tests") || parts == ["lib"] || parts == ["main"] {
            continue;
        }
        let text = fs::read_to_string(&path).expect("a source");
        let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
        arrows.entry(parts[0].clone()).or_default().extend(named(code));
    }
    for (module, others) in &mut arrows {
        others.remove(module);
    }
    arrows
}

/// The layers that docs/architecture.md draws, from the top down.
fn layers() -> Vec<BTreeSet<String>> {
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/architecture.md")).expect("the page");
    let (_, drawn) = page.split_once("<!-- layers -->\n```text\n").expect("the page draws the layers");
    let drawn = drawn.split("```").next().unwrap_or_default();
    drawn.lines().map(|line| line.split_whitespace().map(str::to_owned).collect()).collect()
}

/// No module names one of its own layer or of a higher one, so there is no circle.
#[test]
fn every_arrow_between_modules_leads_down() {
    let (layers, arrows) = (layers(), arrows());
    let layer = |module: &str| layers.iter().position(|layer| layer.contains(module));
    let drawn: BTreeSet<&String> = layers.iter().flatten().collect();
    assert_eq!(drawn, arrows.keys().collect(), "docs/architecture.md draws the modules that exist");
    let up = arrows.iter().flat_map(|(from, others)| others.iter().map(move |to| (from.as_str(), to.as_str())));
    let up: Vec<_> = up.filter(|(from, to)| layer(to).is_none_or(|to| Some(to) <= layer(from))).collect();
    assert_eq!(up, [], "(from, to)");
}

#[test]
fn a_named_module_is_found_in_each_form() {
    let code = "use crate::model::{A, B};\n// crate::agent\nlet x = crate::status::F; fn f(_: crate::plan::G) {}";
    assert_eq!(named(code).iter().map(String::as_str).collect::<Vec<_>>(), ["model", "plan", "status"]);
    // The word after `crate::` is the module.
    assert_eq!(offences(".", &["crate::{"]), Vec::<String>::new());
}

#[test]
fn the_dataplane_knows_nothing_of_kubernetes() {
    for module in ["dataplane", "netlink", "model"] {
        let foreign = ["crate::api", "crate::plan", "crate::source", "crate::cluster", "kube::", "k8s_openapi"];
        assert_eq!(offences(module, &foreign), Vec::<String>::new(), "{module}");
    }
}

/// Every backend is known to the kernel side only, and to the options by which a person chooses one.
#[test]
fn no_module_outside_the_kernel_side_names_a_backend() {
    let named = offences(".", &["dataplane::iptables", "iptables::", "Variant"]);
    let known = ["/dataplane/", "/node/firewall/", "/node/mod.rs", "/cli/options.rs", "/cli/render.rs"];
    let elsewhere: Vec<_> = named.into_iter().filter(|line| !known.iter().any(|place| line.contains(place))).collect();
    assert_eq!(elsewhere, Vec::<String>::new());
}

#[test]
fn planning_and_judging_do_no_io_read_no_clock_and_log_nothing() {
    for module in ["plan", "status", "forward", "grant"] {
        let effects = [
            "tracing",
            "std::fs",
            "std::process",
            "tokio",
            "Timestamp::now",
            "Instant",
            "SystemTime",
            "println!",
            "crate::cluster",
        ];
        assert_eq!(offences(module, &effects), Vec::<String>::new(), "{module}");
    }
}

/// A task without supervision could end unnoticed.
#[test]
fn every_task_is_supervised() {
    let spawns = offences(".", &["tokio::spawn", "task::spawn(", "JoinSet", "thread::spawn"]);
    let elsewhere: Vec<_> = spawns.into_iter().filter(|line| !line.contains("/supervise.rs: ")).collect();
    assert_eq!(elsewhere, Vec::<String>::new());
}

#[test]
fn the_model_imports_the_standard_library_networks_and_containers() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/model");
    let own = sources(&folder).into_iter().filter_map(|path| Some(format!("{}::", path.file_stem()?.to_string_lossy())));
    let known: Vec<String> =
        own.chain(["std::", "super::", "ipnet", "imbl::", "arrayvec::", "crate::model"].map(str::to_owned)).collect();
    let foreign = offences("model", &["use "]).into_iter().filter(|line| {
        let used = line.rsplit("use ").next().unwrap_or_default();
        !known.iter().any(|known| used.starts_with(known.as_str()))
    });
    assert_eq!(foreign.collect::<Vec<_>>(), Vec::<String>::new());
}
