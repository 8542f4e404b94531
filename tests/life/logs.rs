//! The log of the agent: one line for each change, with stable keys, and no line if nothing changes.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::process::{Child, Stdio};

use serde_json::Value;

use crate::bed::agent::{Manifests, state_folder};
use crate::bed::kernel::Variant;
use crate::bed::wait::eventually;
use crate::bed::{Bed, Proxy};
use crate::exposition::value;
use crate::metrics::page;
use crate::stage::{FILE, Manifest, SOON};

const PROGRAM: &str = env!("CARGO_BIN_EXE_portforward-operator");

/// An agent that logs JSON. It is killed at the end of its test.
struct Logging(Child);

impl Logging {
    /// Starts it with the example forward. It uses legacy, with which it compares the kernel every second.
    fn start(proxy: &Proxy, variant: Variant) -> Self {
        let manifests = Manifests::new(proxy);
        manifests.put(FILE, &Manifest::seed().text());
        let mut agent = proxy.command(PROGRAM);
        agent.args(["agent", "--node-name", "proxy", "--log-format=json", "--iptables", &variant.to_string(), "--manifests"]);
        agent.arg(manifests.folder()).arg("--state-dir").arg(state_folder(proxy));
        agent.stdout(Stdio::null()).stderr(File::create(proxy.files().join("log.json")).unwrap());
        Self(agent.spawn().unwrap())
    }
}

impl Drop for Logging {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn lines(proxy: &Proxy) -> Vec<Value> {
    let text = fs::read_to_string(proxy.files().join("log.json")).unwrap();
    let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
    whole.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
}

/// The keys that the page on metrics documents.
fn documented() -> BTreeSet<String> {
    let page = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/metrics.md")).unwrap();
    let logs = page.split("## Logs\n").nth(1).expect("the page has a section on logs");
    let of_a_row = |line: &str| line.strip_prefix("| `")?.split(" |").next().map(|cell| cell.replace(['`', ' '], ""));
    logs.lines().filter_map(of_a_row).flat_map(|cell| cell.split(',').map(str::to_owned).collect::<Vec<_>>()).collect()
}

#[test]
fn lines_are_json_with_the_keys_that_the_page_promises_and_a_sync_without_news_says_nothing() {
    let bed = Bed::new();
    let proxy = bed.proxy();
    let _agent = Logging::start(proxy, Variant::Legacy);
    let ready = || lines(proxy).iter().any(|line| line["forward"] == "lines/seed" && line["reason"] == "Ready");
    assert!(eventually(3 * SOON, ready), "{:#?}", lines(proxy));
    proxy.iptables(Variant::Legacy, "-t nat -F PF-PRE");
    assert!(eventually(3 * SOON, || lines(proxy).iter().any(|line| line["repairs"] == 1)), "{:#?}", lines(proxy));

    let syncs = || value(&page(proxy, "/metrics").text, "portforward_sync_duration_seconds_count{outcome=\"unchanged\"}");
    let before = syncs();
    assert!(eventually(SOON, || syncs() > before), "the sync with the repair has ended");
    let said = lines(proxy);
    for line in &said {
        for key in ["timestamp", "level", "message", "target"] {
            assert!(line[key].is_string(), "{key}: {line}");
        }
        assert!(
            line["timestamp"].as_str().unwrap().ends_with('Z') && line["target"].as_str().unwrap().starts_with("portforward_")
        );
    }
    let has = |key: &str| said.iter().any(|line| line.get(key).is_some());
    let missing: Vec<String> = documented().into_iter().filter(|key| !has(key)).collect();
    assert_eq!(missing, ["cause", "error", "part"], "only a failure has these keys");

    let before = syncs();
    assert!(eventually(6 * SOON, || syncs() >= before + 3.0), "the agent continues to compare");
    assert_eq!(lines(proxy), said);
}
