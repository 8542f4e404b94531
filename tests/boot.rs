//! Tests the files for the boot of a host: two systemd units and a static pod. They use options that the program has, ask for
//! no more rights than it needs, and do what their comments say.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};
use serde_json::Value;

const PROGRAM: &str = env!("CARGO_BIN_EXE_portforward-operator");
const INSTALLED: &str = "/usr/local/sbin/portforward-operator";
const UNITS: [&str; 2] = ["portforward-restore.service", "portforward-operator.service"];
const POD: &str = "deploy/static-pod/portforward-restore.yaml";

fn read(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn unit(name: &str) -> String {
    read(&format!("deploy/systemd/{name}"))
}

/// The values of a setting in a unit, in order. Comments do not count.
fn settings<'a>(unit: &'a str, name: &str) -> Vec<&'a str> {
    unit.lines().filter_map(|line| line.split_once('=')).filter(|(key, _)| *key == name).map(|(_, value)| value).collect()
}

/// Asserts that the program accepts this command line: it prints the help only after it has accepted all words before `--help`.
fn assert_taken<'a>(words: impl IntoIterator<Item = &'a str>) {
    let words: Vec<&str> = words.into_iter().collect();
    let output = Command::new(PROGRAM).args(&words).arg("--help").output().unwrap();
    assert!(output.status.success(), "{words:?}: {output:?}");
}

#[test]
fn the_units_run_what_the_program_takes() {
    for (name, does) in UNITS.into_iter().zip(["restore --stay", "agent --manifests /etc/portforward"]) {
        let unit = unit(name);
        let [command] = settings(&unit, "ExecStart").try_into().unwrap();
        assert_eq!(command, format!("{INSTALLED} {does}"));
        assert_taken(command.split_whitespace().skip(1));
        assert_eq!(settings(&unit, "StateDirectory"), ["portforward-operator"], "below /var/lib, where the program looks");
        assert_eq!(settings(&unit, "WantedBy"), ["multi-user.target"]);
    }
}

#[test]
fn the_units_grant_what_is_needed_and_no_more() {
    for name in UNITS {
        let unit = unit(name);
        let granted: BTreeSet<&str> =
            settings(&unit, "CapabilityBoundingSet").into_iter().flat_map(str::split_whitespace).collect();
        assert_eq!(granted, BTreeSet::from(["CAP_NET_ADMIN", "CAP_NET_RAW"]), "{name}");
        for (setting, value) in [
            ("ProtectSystem", "strict"),
            ("NoNewPrivileges", "yes"),
            ("ProtectKernelModules", "yes"),
            ("SystemCallFilter", "@system-service"),
            ("StateDirectoryMode", "0700"),
            ("LimitNOFILE", "65536"),
            // A lock file that other users can open can be locked by them.
            ("UMask", "0077"),
            // Without the dash, systemd fails if a path is missing, also for the unit that would create it.
            ("ReadWritePaths", "-/run/xtables.lock"),
        ] {
            assert_eq!(settings(&unit, setting), [value], "{name}: {setting}");
        }
    }
}

/// A line that is down at boot delays every unit that waits for the network to be online.
#[test]
fn the_units_wait_for_no_line() {
    for name in UNITS {
        let unit = unit(name);
        for setting in ["After", "Wants", "Requires"] {
            assert!(settings(&unit, setting).iter().all(|value| !value.contains("online")), "{name}: {setting}");
        }
    }
    let restore = unit(UNITS[0]);
    assert_eq!(settings(&restore, "Before"), ["kubelet.service"]);
    assert_eq!(settings(&restore, "Type"), ["exec"], "a oneshot unit that keeps running would delay the kubelet forever");
}

/// The pages name the files without a copy of them. The program accepts the command lines that they put into a drop-in.
#[test]
fn what_the_pages_put_into_a_unit_is_taken() {
    let pages = ["docs/operations.md", "docs/reboot.md"].map(read);
    assert!(pages.iter().all(|page| !page.contains("[Unit]")), "a unit on a page is a copy of the file");
    let commands = pages.iter().flat_map(|page| settings(page, "ExecStart")).filter(|command| !command.is_empty());
    let commands: Vec<&str> = commands.collect();
    assert_eq!(commands.len(), 3, "{commands:?}");
    for command in commands {
        assert_taken(command.strip_prefix(INSTALLED).expect("the program").split_whitespace());
    }
}

/// Uses the tool of systemd, if it is installed.
#[test]
fn systemd_finds_nothing_wrong_with_the_units() {
    let folder = tempfile::tempdir().unwrap();
    let files = UNITS.map(|name| {
        let file = folder.path().join(name);
        fs::write(&file, unit(name).replace(INSTALLED, PROGRAM)).unwrap();
        file
    });
    let output = match Command::new("systemd-analyze").arg("verify").args(&files).output() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return,
        output => output.unwrap(),
    };
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && !said.contains("portforward"), "{said}");
}

fn pod() -> (Value, PodSpec) {
    let written: Value = serde_saphyr::from_str(&read(POD)).unwrap();
    let pod: Pod = serde_json::from_value(written.clone()).unwrap();
    assert_eq!(serde_json::to_value(&pod).unwrap(), written, "a field that Kubernetes does not know");
    (written, pod.spec.unwrap())
}

fn container() -> Container {
    let [container] = pod().1.containers.try_into().unwrap();
    container
}

#[test]
fn the_static_pod_restores_and_is_started_at_every_boot() {
    let (_, spec) = pod();
    assert_eq!(spec.restart_policy.as_deref(), Some("Always"));
    assert_eq!(spec.priority_class_name.as_deref(), Some("system-node-critical"));
    assert_eq!(spec.host_network, Some(true));
    let container = container();
    assert_eq!(container.image.unwrap(), format!("localhost/portforward-operator:{}", env!("CARGO_PKG_VERSION")));
    assert_eq!(container.image_pull_policy.as_deref(), Some("IfNotPresent"), "no registry is needed at a boot");
    let arguments = container.args.unwrap();
    assert_eq!(arguments, ["restore", "--stay"]);
    assert_taken(arguments.iter().map(String::as_str));
    let [node] = container.env.unwrap().try_into().unwrap();
    assert_eq!(node.name, "NODE_NAME", "the record is that of the node by its name in the cluster");
    assert_eq!(node.value_from.unwrap().field_ref.unwrap().field_path, "spec.nodeName");
}

/// A kubelet refuses a static pod that refers to an object of the API server.
#[test]
fn the_static_pod_needs_nothing_of_the_api_server() {
    let (written, spec) = pod();
    assert_eq!(spec.automount_service_account_token, Some(false));
    for word in ["secret", "configMap", "serviceAccount", "persistentVolumeClaim", "resourceClaims", "imagePullSecrets"] {
        assert!(!written.to_string().contains(&format!("\"{word}")), "{word}");
    }
}

#[test]
fn the_static_pod_has_the_rights_of_the_agent_and_no_more() {
    let (_, spec) = pod();
    assert_eq!((spec.host_pid, spec.host_ipc), (None, None));
    assert_eq!(spec.security_context.unwrap().seccomp_profile.unwrap().type_, "RuntimeDefault");
    let context = container().security_context.unwrap();
    assert_eq!((context.privileged, context.allow_privilege_escalation), (None, Some(false)));
    assert_eq!(context.read_only_root_filesystem, Some(true));
    let capabilities = context.capabilities.unwrap();
    assert_eq!(capabilities.drop.unwrap(), ["ALL"]);
    assert_eq!(capabilities.add.unwrap(), ["NET_ADMIN", "NET_RAW"]);
    let paths: Vec<String> = spec.volumes.unwrap().into_iter().map(|volume| volume.host_path.unwrap().path).collect();
    assert_eq!(paths, ["/var/lib/portforward-operator", "/run/xtables.lock"]);
}
