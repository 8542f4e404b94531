//! Uses real files; the tests create the untrusted ones.

mod hostile;

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;
use std::sync::Arc;

use proptest::prelude::*;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::api;
use crate::model::{Destination, FlowMatch, Nodes, PortRange, Protocol, Shift, SourceNat, TargetPorts, Translation};

use super::*;
use crate::source::{self, SourcedGrant};

const NODE: &str = "proxy-1";

fn object(name: &str) -> Value {
    json!({
        "apiVersion": "portforward.dev/v1alpha1",
        "kind": "PortForward",
        "metadata": {"name": name, "namespace": "leased-lines", "generation": 3},
        "spec": {
            "client": {"addresses": ["1.1.1.1"]},
            "internal": {"addresses": ["192.168.0.2"], "interface": "eth1", "gateways": ["192.168.0.1"]},
            "upstream": {"targets": [{"address": "3.3.3.3"}]},
            "ports": [{"name": "http", "protocol": "TCP", "port": 80, "endPort": 90}],
        },
    })
}

fn translation(interface: Option<&str>, ports: TargetPorts, source: SourceNat) -> Translation {
    Translation {
        flows: FlowMatch {
            protocol: Protocol::Udp,
            destination: "192.168.0.2".parse().unwrap(),
            ports: "80:90".parse::<PortRange>().unwrap(),
            source: "1.1.1.0/24".parse().unwrap(),
            interface: interface.map(|name| name.parse().unwrap()),
        },
        destination: Destination { address: "3.3.3.3".parse().unwrap(), ports },
        source,
    }
}

/// The text of a record.
fn rendered(record: &Record) -> Vec<u8> {
    content::render(record, &mut content::Rendered::default()).unwrap().bytes
}

fn grant(name: &str) -> SourcedGrant {
    let object = json!({
        "apiVersion": "portforward.dev/v1alpha1", "kind": "PortForwardGrant", "metadata": {"name": name, "generation": 2},
        "spec": {
            "namespaces": ["leased-lines"], "clients": ["1.1.1.0/24"],
            "listen": [{"cidrs": ["192.168.0.2"], "port": 80}], "upstreams": [{"cidrs": ["3.3.3.3"]}],
        },
    });
    SourcedGrant { object: Arc::new(api::decode_grant(object).unwrap()), origin: Some("grants.yaml".into()), trouble: None }
}

fn record() -> Record {
    let sourced =
        |name, origin: Option<&str>| Sourced::of(Arc::new(api::decode(object(name)).unwrap()), origin.map(PathBuf::from));
    let shifted = TargetPorts::Shifted(Shift::new("80:90".parse().unwrap(), "8080:8090".parse().unwrap()).unwrap());
    let in_force = [
        translation(Some("eth1"), TargetPorts::One(8080), SourceNat::Address("2.2.2.2".parse().unwrap())),
        translation(None, TargetPorts::Same, SourceNat::Masquerade),
        translation(None, shifted, SourceNat::Masquerade),
    ];
    Record {
        node: NODE.into(),
        labels: [("zone".to_owned(), "a".to_owned())].into(),
        api_servers: ["10.0.0.1".parse().unwrap(), "2001:db8::1".parse().unwrap()].into(),
        node_addresses: ["192.168.7.1".parse().unwrap()].into(),
        services: ["10.96.0.0/12".parse().unwrap()].into(),
        nodes: Arc::new(Nodes {
            addresses: ["192.168.7.1".parse().unwrap(), "fd00::7".parse().unwrap()].into(),
            pods: ["10.244.1.0/24".parse().unwrap()].into(),
        }),
        forwards: [sourced("a", Some("a.yaml")), sourced("b", None)].into_iter().collect(),
        grants: Some(Arc::new(GrantSet { grants: vec![grant("bank-a")], undecoded: Vec::new() })),
        grants_required: true,
        in_force: in_force.into_iter().collect(),
    }
}

/// The record with another forward in place of its first one.
fn with_first(record: &Record, change: impl FnOnce(&mut Sourced)) -> Record {
    let mut first = record.forwards.iter().next().unwrap().clone();
    change(&mut first);
    Record { forwards: record.forwards.iter().cloned().chain([first]).collect(), ..record.clone() }
}

/// A state directory with a record in it.
fn stored() -> (TempDir, PathBuf) {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("state");
    assert_eq!(store(&dir, &record()).unwrap(), Stored::Written);
    (parent, dir)
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

#[test]
fn the_texts_of_unchanged_objects_are_taken_over_and_the_whole_is_the_same() {
    let (mut kept, all) = (content::Rendered::default(), record());
    let fewer = Record { forwards: all.forwards.iter().skip(1).cloned().collect(), ..all.clone() };
    let changed = with_first(&all, |first| Arc::make_mut(&mut first.object).spec.description = Some("another".to_owned()));
    let moved = with_first(&all, |first| first.origin = Some("moved.yaml".into()));
    for record in [&all, &changed, &fewer, &changed, &all, &moved] {
        assert_eq!(content::render(record, &mut kept).unwrap().bytes, rendered(record));
    }
}

#[test]
fn what_was_stored_is_loaded_and_only_root_can_read_it() {
    let (_parent, dir) = stored();
    let loaded = load(&dir, NODE).unwrap().unwrap();
    assert_eq!((loaded.record, loaded.lost, loaded.outdated), (record(), Vec::new(), None));
    assert_eq!((mode(&dir), mode(&dir.join("record.json"))), (0o700, 0o600));
    assert_eq!(fs::read_dir(&dir).unwrap().count(), 1);
}

#[test]
fn no_record_is_no_error() {
    let parent = tempfile::tempdir().unwrap();
    assert_eq!(load(parent.path(), NODE).unwrap(), None);
    assert_eq!(load(&parent.path().join("no/such"), NODE).unwrap(), None);
}

#[test]
fn equal_content_is_not_written_again() {
    let (_parent, dir) = stored();
    let mut record = with_first(&record(), |first| {
        let status = api::PortForwardStatus { active_node: Some("x".into()), ..Default::default() };
        first.stored = Some(Arc::new(source::Stored { version: Some("8".into()), status: Some(status.clone()) }));
        let object = Arc::make_mut(&mut first.object);
        object.status = Some(status);
        object.metadata.resource_version = Some("8".into());
    });
    assert_eq!(store(&dir, &record).unwrap(), Stored::Unchanged);
    record.in_force.remove_max();
    assert_eq!(store(&dir, &record).unwrap(), Stored::Written);
    set_mode(&dir.join("record.json"), 0o644);
    assert_eq!(store(&dir, &record).unwrap(), Stored::Written);
    assert_eq!(mode(&dir.join("record.json")), 0o600);
}

#[test]
fn a_record_that_others_could_have_written_is_refused() {
    let (parent, dir) = stored();
    let path = dir.join("record.json");
    let refusal = |wanted: &str| {
        let error = load(&dir, NODE).unwrap_err();
        assert!(matches!(error, RecordError::Untrusted { .. }), "{error}");
        let text = error.to_string();
        assert!(text.contains("record.json: ") && text.contains(wanted) && text.contains("remove it"), "{text}");
    };
    set_mode(&path, 0o640);
    refusal("is accessible by other users (mode 640, expected 600)");
    set_mode(&path, 0o602);
    refusal("is accessible by other users (mode 602, expected 600)");
    set_mode(&path, 0o600);
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(&path, Some(12345), None).unwrap();
        refusal("belongs to user 12345");
    }
    let elsewhere = parent.path().join("elsewhere");
    fs::rename(&path, &elsewhere).unwrap();
    symlink(&elsewhere, &path).unwrap();
    refusal("is a symbolic link");
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    refusal("is not a regular file");
}

#[test]
fn a_directory_that_others_may_write_to_holds_no_record() {
    let (_parent, dir) = stored();
    set_mode(&dir, 0o770);
    let error = store(&dir, &record()).unwrap_err().to_string();
    assert!(error.contains("other users can write to this directory (mode 770)"), "{error}");
    assert!(lock(&dir, Purpose::Agent).is_err());
}

#[test]
fn a_record_that_is_too_large_is_refused() {
    let (_parent, dir) = stored();
    fs::File::options().write(true).open(dir.join("record.json")).unwrap().set_len(disk::MOST_BYTES + 1).unwrap();
    assert!(matches!(load(&dir, NODE).unwrap_err(), RecordError::TooLarge { most: disk::MOST_BYTES, .. }));
}

#[test]
fn a_record_of_another_node_or_format_is_refused() {
    let (_parent, dir) = stored();
    let error = load(&dir, "proxy-2").unwrap_err().to_string();
    assert!(error.contains("belongs to node proxy-1, but this is node proxy-2"), "{error}");
    let text = fs::read_to_string(dir.join("record.json")).unwrap();
    for format in ["0", "5"] {
        fs::write(dir.join("record.json"), text.replace("\"format\":4", &format!("\"format\":{format}"))).unwrap();
        let error = load(&dir, NODE).unwrap_err().to_string();
        assert!(error.contains(&format!("has format {format}, but this program reads formats up to 4")), "{error}");
    }
}

/// The older formats: a record that contains neither grants nor anything of a cluster is still written in the oldest format.
#[test]
fn a_record_with_less_is_of_an_older_format() {
    let without_networks = Record { services: BTreeSet::new(), nodes: Arc::default(), ..record() };
    let text = rendered(&without_networks);
    assert!(text.starts_with(b"{\"format\":4,"), "grants need the newest format");
    let without_grants = Record { grants: None, grants_required: false, ..without_networks };
    let without_addresses = Record { node_addresses: BTreeSet::new(), ..without_grants.clone() };
    let without_all = Record { api_servers: BTreeSet::new(), ..without_addresses.clone() };
    let older = [(without_grants, 3, "pods"), (without_addresses, 2, "nodeAddresses"), (without_all, 1, "apiServers")];
    for (record, format, absent) in older {
        let text = String::from_utf8(rendered(&record)).unwrap();
        assert!(text.starts_with(&format!("{{\"format\":{format},")) && !text.contains(absent), "{text}");
        let loaded = content::parse(Path::new("record.json"), text.as_bytes(), NODE).unwrap();
        assert_eq!((loaded.record, loaded.lost), (record, Vec::new()));
    }
}

/// A record with changed content and a matching checksum.
fn forged(change: impl FnOnce(&mut Value)) -> Loaded {
    let path = Path::new("record.json");
    let mut document: Value = serde_json::from_slice(&rendered(&record())).unwrap();
    change(&mut document["content"]);
    document["sha256"] = content::checksum(&document["content"]).into();
    content::parse(path, &serde_json::to_vec(&document).unwrap(), NODE).unwrap()
}

#[test]
fn what_is_wrong_with_a_text_is_said_in_plain_words() {
    for (text, wanted) in [
        ("", "(it ends too early)"),
        ("{\"format\":1", "(it ends too early)"),
        ("{\n  x", "(it is not JSON at line 2, column 3)"),
        ("[]", "(the format number is missing)"),
        ("{\"format\":1}", "(its fields are not those of its format)"),
        ("{\"format\":1,\"sha256\":\"\",\"content\":{}}", "(the checksum does not match)"),
    ] {
        let error = content::parse(Path::new("record.json"), text.as_bytes(), NODE).unwrap_err().to_string();
        assert!(error.contains(wanted), "{text}: {error}");
    }
    let loaded = forged(|content| content["inForce"][0]["more"] = json!(1));
    assert_eq!(loaded.lost, ["inForce[0]: its fields are not those of its format"]);
}

#[test]
fn an_entry_that_does_not_decode_costs_only_itself() {
    for (field, value) in [
        ("protocol", json!("SCTP")),
        ("address", json!("010.0.0.1")),
        ("address", json!("0.0.0.0")),
        ("address", json!("224.0.0.1")),
        ("address", json!("255.255.255.255")),
        ("address", json!("::1")),
        ("ports", json!("90:80")),
        ("ports", json!("0")),
        ("client", json!("1.1.1.1/24")),
        ("client", json!("1.1.1.1")),
        ("interface", json!("eth0\nCOMMIT")),
        ("toAddress", json!("3.3.3.3 -j ACCEPT")),
        ("toPort", json!(0)),
        ("toPort", json!(65536)),
        ("toPorts", json!("8080:8090")),
        ("asAddress", json!("")),
        ("more", json!(1)),
    ] {
        let loaded = forged(|content| content["inForce"][2][field] = value.clone());
        assert_eq!(loaded.record.in_force, record().in_force.without_max().1, "{field} {value}");
        assert_eq!(loaded.record.forwards, record().forwards);
        assert!(loaded.lost.len() == 1 && loaded.lost[0].starts_with("inForce[2]: "), "{:?}", loaded.lost);
    }
    for address in [json!("10.0.0.01"), json!("10.0.0.0/8"), json!(7), json!("")] {
        let loaded = forged(|content| content["apiServers"][0] = address.clone());
        assert_eq!(loaded.record.api_servers, BTreeSet::from(["2001:db8::1".parse().unwrap()]), "{address}");
        assert_eq!((loaded.record.forwards, loaded.record.in_force), (record().forwards, record().in_force));
        assert!(loaded.lost.len() == 1 && loaded.lost[0].starts_with("apiServers[0]: "), "{:?}", loaded.lost);
    }
    for (list, value) in [("services", json!("10.96.0.0/33")), ("nodes", json!("10.0.0.0/8")), ("pods", json!(7))] {
        let loaded = forged(|content| content[list][0] = value.clone());
        let mut rest = [record().services.len(), record().nodes.addresses.len(), record().nodes.pods.len()];
        rest[["services", "nodes", "pods"].iter().position(|name| *name == list).unwrap()] -= 1;
        let Record { services, nodes, .. } = loaded.record;
        assert_eq!([services.len(), nodes.addresses.len(), nodes.pods.len()], rest, "{list}");
        assert!(loaded.lost.len() == 1 && loaded.lost[0].starts_with(&format!("{list}[0]: ")), "{:?}", loaded.lost);
    }
    let loaded = forged(|content| content["forwards"][1]["object"]["spec"]["prot"] = 1.into());
    assert!(loaded.record.forwards.iter().eq(record().forwards.iter().take(1)));
    assert!(loaded.lost[0].starts_with("forwards[1]: ") && loaded.lost[0].contains("spec.prot"), "{:?}", loaded.lost);
    let loaded = forged(|content| content["grants"][0]["object"]["spec"]["client"] = 1.into());
    assert_eq!(loaded.record.grants, Some(Arc::default()), "no grant is left, and grants are still required");
    assert!(loaded.record.grants_required && loaded.lost[0].starts_with("grants[0]: "), "{:?}", loaded.lost);
}

#[test]
fn two_agents_exclude_each_other() {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("state");
    let held = lock(&dir, Purpose::Agent).unwrap();
    let error = lock(&dir, Purpose::Agent).unwrap_err().to_string();
    let names = format!("state/lock: an agent (process {}) holds the lock of this node", std::process::id());
    assert!(error.contains(&names), "{error}");
    drop(held);
    fs::write(dir.join("lock"), "4194304999 left by a crash").unwrap();
    drop(lock(&dir, Purpose::Restore).unwrap());
    assert!(fs::read_to_string(dir.join("lock")).unwrap().starts_with(&format!("{} restore pid:[", std::process::id())));
}

#[test]
fn who_holds_the_lock_is_named_as_far_as_it_is_known() {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("state");
    let _held = lock(&dir, Purpose::Cleanup).unwrap();
    let says = |text: &str| {
        fs::write(dir.join("lock"), text).unwrap();
        match lock(&dir, Purpose::Agent) {
            Err(RecordError::Locked { holder, .. }) => holder.to_string(),
            other => panic!("{other:?}"),
        }
    };
    let elsewhere = "restore (process 1 in another container or on the host)";
    assert_eq!(says("1 restore pid:[1]\n"), elsewhere);
    assert_eq!(says("77"), "another process (process 77 in another container or on the host)");
    for nothing in ["", "no words of ours \u{1b}[31m", &"x".repeat(1000)] {
        assert_eq!(says(nothing), "another process", "{nothing:?}");
    }
}

/// One change to some bytes.
#[derive(Clone, Debug)]
enum Damage {
    Flip(usize, u8),
    Insert(usize, u8),
    Remove(usize, usize),
    Truncate(usize),
    Repeat(usize, usize),
}

impl Damage {
    fn apply(&self, bytes: &mut Vec<u8>) {
        let place = |at: usize| at % bytes.len().max(1);
        let end = |at: usize, count: usize| (place(at) + count).min(bytes.len());
        match *self {
            Self::Flip(at, bits) => {
                let at = place(at);
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= bits;
                }
            }
            Self::Insert(at, byte) => bytes.insert(place(at), byte),
            Self::Remove(at, count) => drop(bytes.drain(place(at).min(bytes.len())..end(at, count))),
            Self::Truncate(at) => bytes.truncate(place(at)),
            Self::Repeat(at, count) => bytes.extend_from_within(place(at).min(bytes.len())..end(at, count)),
        }
    }
}

fn damage() -> impl Strategy<Value = Damage> {
    prop_oneof![
        (any::<usize>(), 1..=255u8).prop_map(|(at, bits)| Damage::Flip(at, bits)),
        (any::<usize>(), any::<u8>()).prop_map(|(at, byte)| Damage::Insert(at, byte)),
        (any::<usize>(), 1..64usize).prop_map(|(at, count)| Damage::Remove(at, count)),
        any::<usize>().prop_map(Damage::Truncate),
        (any::<usize>(), 1..64usize).prop_map(|(at, count)| Damage::Repeat(at, count)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn a_damaged_record_is_refused_or_reads_as_it_was(damages in prop::collection::vec(damage(), 1..4)) {
        let mut bytes = rendered(&record());
        for damage in &damages {
            damage.apply(&mut bytes);
        }
        if let Ok(loaded) = content::parse(Path::new("record.json"), &bytes, NODE) {
            prop_assert_eq!((loaded.record, loaded.lost), (record(), Vec::new()));
        }
    }

    #[test]
    fn any_bytes_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..512)) {
        prop_assert!(content::parse(Path::new("record.json"), &bytes, NODE).is_err());
    }
}
