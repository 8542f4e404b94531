//! Grants in a folder: the same rules for files as for forwards.

use super::reading::Folder;
use super::*;
use crate::source::SourcedGrant;

fn grant(name: &str, client: &str) -> String {
    format!(
        "apiVersion: portforward.dev/v1alpha1
kind: PortForwardGrant
metadata: {{name: {name}, namespace: ignored}}
spec:
  namespaces: [default]
  clients: [{client}]
  listen: [{{cidrs: [192.168.0.2]}}]
  upstreams: [{{cidrs: [3.3.3.3]}}]
"
    )
}

/// The grants in force: name, client, generation.
fn granted(snapshot: &Snapshot) -> Vec<(String, String, i64)> {
    let show = |sourced: &SourcedGrant| {
        let (meta, spec) = (&sourced.object.metadata, &sourced.object.spec);
        assert_eq!(meta.namespace, None);
        (meta.name.clone().unwrap(), spec.clients.join(" "), meta.generation.unwrap())
    };
    snapshot.grants.as_ref().unwrap().grants.iter().map(show).collect()
}

#[test]
fn a_file_may_hold_grants_and_keeps_its_last_good_content_as_a_whole() {
    let mut folder = Folder::new();
    assert_eq!(granted(&folder.read()), [], "no grant is known, which is not the same as an unread folder");
    folder.write("a.yaml", [grant("a", "1.1.1.1"), manifest("web", "3.3.3.3")].join("---\n"));
    folder.write("b.yaml", grant("b", "1.1.1.2"));
    let snapshot = folder.read();
    assert_eq!(granted(&snapshot), [forward("a", "1.1.1.1", 1), forward("b", "1.1.1.2", 1)]);
    assert_eq!(in_force(&snapshot), [forward("web", "3.3.3.3", 1)]);
    folder.write("a.yaml", [grant("a", "1.1.1.9"), manifest("web", "0.0.0.0")].join("---\n"));
    folder.write("b.yaml", grant("b", "1.1.1.3"));
    let snapshot = folder.read();
    assert_eq!(granted(&snapshot), [forward("a", "1.1.1.1", 1), forward("b", "1.1.1.3", 2)], "a file is one unit");
    folder.write("b.yaml", grant("b", "[]").replace("clients", "client"));
    let snapshot = folder.read();
    assert!(error(&snapshot, "b.yaml").contains("spec.client: there is no such field"), "{}", error(&snapshot, "b.yaml"));
    assert_eq!(granted(&snapshot)[1], forward("b", "1.1.1.3", 2));
    folder.remove("b.yaml");
    assert_eq!(granted(&folder.read()), [forward("a", "1.1.1.1", 1)]);
}

#[test]
fn a_grant_is_in_force_from_one_file() {
    let mut folder = Folder::new();
    folder.write("a.yaml", grant("a", "1.1.1.1"));
    folder.write("b.yaml", [grant("a", "0.0.0.0/1"), manifest("web", "3.3.3.3")].join("---\n"));
    let snapshot = folder.read();
    assert_eq!((granted(&snapshot), in_force(&snapshot)), (vec![forward("a", "1.1.1.1", 1)], Vec::new()));
    assert_eq!(error(&snapshot, "b.yaml"), "the grant a is in force from a.yaml already; remove one of them");
    folder.write("b.yaml", [grant("c", "1.1.1.1"), grant("c", "1.1.1.2")].join("---\n"));
    assert!(error(&folder.read(), "b.yaml").contains("is in this file twice"));
}

#[test]
fn the_record_gives_a_broken_file_the_last_good_content_of_its_grants() {
    let mut folder = Folder::new();
    folder.write("a.yaml", grant("a", "1.1.1.1"));
    folder.read();
    folder.write("a.yaml", grant("a", "1.1.1.2"));
    let before = folder.read();
    folder.contents = Contents::remembering(&before.forwards).with_grants(before.grants.as_deref());
    folder.write("a.yaml", "{");
    assert_eq!(granted(&folder.read()), [forward("a", "1.1.1.2", 2)]);
    folder.write("a.yaml", grant("a", "1.1.1.3"));
    assert_eq!(granted(&folder.read()), [forward("a", "1.1.1.3", 3)]);
}
