//! Tests with real files and a real watcher. Every wait has a time limit and ends with the event that it waits for.

mod grants;
mod hostile;
mod reading;
mod watching;
mod writing;

use super::*;
use crate::source::Sourced;

fn manifest(name: &str, upstream: &str) -> String {
    format!(
        "apiVersion: portforward.dev/v1alpha1
kind: PortForward
metadata: {{name: {name}}}
spec:
  client: {{addresses: [1.1.1.1]}}
  internal: {{addresses: [192.168.0.2]}}
  upstream: {{targets: [{{address: {upstream}}}]}}
  ports: [{{name: http, port: 80}}]
"
    )
}

const CHECK: Check = Check {
    forward: check,
    grant: |decoded| decoded.map_err(|errors| errors.as_slice().iter().map(ToString::to_string).collect()),
};

/// Refuses one upstream, so that the tests can distinguish a refusal from an error in the text.
fn check(decoded: Result<PortForward, DecodeErrors>) -> Result<PortForward, Vec<String>> {
    let object = decoded.map_err(|errors| errors.as_slice().iter().map(ToString::to_string).collect::<Vec<_>>())?;
    assert_ne!(object.spec.upstream.targets[0].address, "255.255.255.255", "a fault of the check");
    if object.spec.upstream.targets[0].address == "0.0.0.0" { Err(vec!["spec.upstream: is nowhere".into()]) } else { Ok(object) }
}

/// The object at this place in the order of the names.
fn nth(snapshot: &Snapshot, place: usize) -> &Sourced {
    snapshot.forwards.iter().nth(place).unwrap()
}

/// The objects in force: name, upstream, generation.
fn in_force(snapshot: &Snapshot) -> Vec<(String, String, i64)> {
    let show = |sourced: &Sourced| {
        let (meta, spec) = (&sourced.object.metadata, &sourced.object.spec);
        (meta.name.clone().unwrap(), spec.upstream.targets[0].address.clone(), meta.generation.unwrap())
    };
    snapshot.forwards.iter().map(show).collect()
}

fn forward(name: &str, upstream: &str, generation: i64) -> (String, String, i64) {
    (name.into(), upstream.into(), generation)
}

fn error(snapshot: &Snapshot, file: &str) -> String {
    let report = snapshot.files.iter().find(|report| report.path == Path::new(file)).unwrap();
    report.error.clone().unwrap_or_default()
}
