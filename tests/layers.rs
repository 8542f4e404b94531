//! Tests which modules may import which other modules.

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

#[test]
fn the_dataplane_knows_nothing_of_kubernetes() {
    for module in ["dataplane", "netlink", "model"] {
        let foreign = ["crate::api", "crate::plan", "crate::source", "crate::cluster", "kube::", "k8s_openapi"];
        assert_eq!(offences(module, &foreign), Vec::<String>::new(), "{module}");
    }
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
fn the_model_imports_the_standard_library_and_networks() {
    let foreign = offences("model", &["use "]).into_iter().filter(|line| {
        let used = line.rsplit("use ").next().unwrap_or_default();
        ![
            "std::",
            "super::",
            "ipnet",
            "desired::",
            "facts::",
            "firewall::",
            "interface::",
            "next_hop::",
            "nodes::",
            "ports::",
            "protocol::",
            "route::",
            "routing::",
            "target_ports::",
            "translation::",
            "crate::model",
        ]
        .iter()
        .any(|known| used.starts_with(known))
    });
    assert_eq!(foreign.collect::<Vec<_>>(), Vec::<String>::new());
}
