//! Tests that large objects of one user cost the agents nothing.

use std::fs;

use serde_json::{Value, json};

use crate::bed::SERVER;
use crate::bed::agent::state_folder;
use crate::bed::wait::eventually;
use crate::fleet::{Fleet, LINES, REFUSED, WEB, spec, web};
use crate::plane::Resource;
use crate::plane::http::{Request, Response};
use crate::plane::objects::PATIENCE;

/// The number of large objects. All of them together have 100 MiB of annotations.
const OBJECTS: usize = 400;
/// The size of an annotation in bytes. The API server accepts 256 KiB for all annotations of an object.
const ANNOTATION: usize = 255_000;
/// The most memory of an agent (a debug build) with these objects, in MiB. With one copy of the annotations it would need more.
const MOST_MIB: u64 = 120;

/// A value of `/proc/PID/status` in MiB (`proc_pid_status(5)`).
fn memory_mib(fleet: &Fleet, field: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", fleet.agent(0).id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(field)).expect("the kernel reports it");
    let kib: u64 = line.trim_start_matches(':').trim().trim_end_matches(" kB").parse().unwrap();
    kib / 1024
}

fn disabled(number: usize) -> Value {
    json!({
        "apiVersion": "portforward.dev/v1alpha1", "kind": "PortForward",
        "metadata": {"name": format!("large-{number:04}"), "annotations": {"large": "x".repeat(ANNOTATION)}},
        "spec": {
            "mode": "Disabled", "client": {"addresses": ["1.1.1.1"]}, "internal": {"addresses": ["192.168.0.2"]},
            "upstream": {"targets": [{"address": "3.3.3.3"}]}, "ports": [{"name": "a", "port": 1000 + number}],
        },
    })
}

fn fill(fleet: &Fleet, objects: usize) {
    let collection = Resource::Forwards.path(Some(LINES), None);
    for numbers in (0..objects).collect::<Vec<_>>().chunks(40) {
        let requests: Vec<Request> = numbers.iter().map(|number| Request::post(&*collection, disabled(*number))).collect();
        let answers = fleet.plane.send(&requests);
        assert!(answers.iter().all(Response::done), "{:?}", answers.iter().find(|answer| !answer.done()));
    }
}

/// A tenant creates many disabled objects with the largest annotations. The agent holds none of them, still writes its record,
/// and a restart without the API server does not roll the kernel back.
#[test]
fn large_annotations_of_one_tenant_cost_no_agent_its_memory_or_its_record() {
    let mut fleet = Fleet::new(1);
    fleet.apply(WEB, &web());
    fleet.plane.wait_condition(WEB, "Ready", "True", "Ready");
    let small = memory_mib(&fleet, "VmRSS");
    // The agent reads them from the watch first, and from lists after its restart.
    fill(&fleet, OBJECTS);
    let last = format!("{LINES}/large-{:04}", OBJECTS - 1);
    let told = || fleet.plane.condition(&last, "Ready").is_some_and(|(status, _)| status == "True");
    assert!(eventually(PATIENCE * 3, told), "the last object has no status");
    let watched = memory_mib(&fleet, "VmHWM");
    fleet.kill(0);
    fleet.start(0);
    fleet.apply(WEB, &spec(81, SERVER, 81));
    fleet.plane.wait_condition(WEB, "Ready", "True", "Ready");
    let listed = memory_mib(&fleet, "VmHWM");
    println!(
        "memory of the agent with {OBJECTS} objects of {ANNOTATION} bytes: {small} MiB without them, at most {watched} MiB from the watch and {listed} MiB from lists"
    );
    assert!(watched < MOST_MIB && listed < MOST_MIB, "{watched} MiB, {listed} MiB");

    let record = fs::metadata(state_folder(fleet.proxy(0)).join("record.json")).unwrap().len();
    assert!(record < OBJECTS as u64 * 2048, "{record} bytes");
    fleet.kill(0);
    fleet.plane.kill();
    let before = fleet.proxy(0).our_rules(crate::bed::kernel::Variant::Nft);
    fleet.start(0);
    // The agent repairs what the record holds, so it has applied the record.
    fleet.agent(0).wait_log("the API server cannot be used");
    fleet.flush(0);
    fleet.wait_reaches(81, SERVER, 81);
    assert_eq!(fleet.ask(80), REFUSED);
    assert_eq!(fleet.proxy(0).our_rules(crate::bed::kernel::Variant::Nft), before);
}
