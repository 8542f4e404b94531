//! The command line as it is used by scripts and people.

use std::fs;
use std::os::unix::fs::symlink;
use std::process::{Child, Command, Output, Stdio};

use portforward_operator::version;
use serde_json::{Value, json};

use crate::bed::Bed;
use crate::bed::agent::{PATIENCE, operator, state_folder};
use crate::bed::netns::output;
use crate::bed::wait::{eventually, until};
use crate::stage::{Manifest, SEED};

const PROGRAM: &str = env!("CARGO_BIN_EXE_portforward-operator");

fn run(arguments: &[&str]) -> Output {
    output(Command::new(PROGRAM).args(arguments).stdin(Stdio::null()))
}

fn text(output: &[u8]) -> String {
    String::from_utf8_lossy(output).into_owned()
}

/// Creates a file with this name in the temporary folder of the test.
fn file(folder: &tempfile::TempDir, name: &str, content: &str) -> String {
    let path = folder.path().join(name);
    fs::write(&path, content).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn help_teaches_every_command_and_the_exit_codes() {
    let help = text(&run(&["--help"]).stdout);
    for word in
        ["agent", "render", "restore", "cleanup", "status", "check", "crd", "completions", "man", "Exit status:", "  4  status:"]
    {
        assert!(help.contains(word), "{word}: {help}");
    }
    for (command, words) in [
        (
            "agent",
            &[
                "--manifests",
                "--status-file",
                "--set-ip-forward",
                "--iptables",
                "--reserved-ports",
                "--require-grants",
                "--forbidden-networks",
                "--max-translations",
                "--node-label",
                "--metrics-address",
                "--forward-metrics",
                "--forward-metrics-limit",
                "SIGTERM",
            ][..],
        ),
        ("render", &["--this-node", "examples/bank-a-web.yaml", "exit status is 3"]),
        ("restore", &["--state-dir", "boot"]),
        ("cleanup", &["--state-dir", "Stop the agent first"]),
        ("status", &["--state-dir", "-o, --output", "wide", "Exit status:", "  4  ", "takes no lock"]),
        ("health", &["live", "ready", "--state-dir", "Exit status:"]),
        ("check", &["--namespace", "Exit status:", "helm test"]),
        ("crd", &["CustomResourceDefinition"]),
        ("completions", &["bash", "zsh", "fish"]),
        ("man", &["man -l -"]),
    ] {
        let helped = run(&[command, "--help"]);
        assert!(helped.status.success());
        for word in words {
            assert!(text(&helped.stdout).contains(word), "{command}: {word}: {}", text(&helped.stdout));
        }
    }
    assert_eq!(text(&run(&["--version"]).stdout), format!("portforward-operator {}\n", *version::TEXT));
}

#[test]
fn exit_codes_are_as_the_help_says() {
    let folder = tempfile::tempdir().unwrap();
    let good = file(&folder, "good.yaml", &Manifest::seed().text());
    let refused = file(&folder, "refused.yaml", &Manifest::seed().with("/spec/ports/0/port", 0).text());
    let rival = file(&folder, "rival.yaml", &Manifest::seed().named("rival").text());
    let broken = file(&folder, "record.json", "{");
    let (state, fresh) = (folder.path().to_str().unwrap(), folder.path().join("fresh"));
    let fresh = fresh.to_str().unwrap();
    for (code, arguments) in [
        (0, &["crd"][..]),
        (0, &["render", &good]),
        (0, &["restore", "--node-name", "a", "--state-dir", fresh]),
        (1, &["render", "/does/not/exist.yaml"]),
        (1, &["restore", "--node-name", "a", "--state-dir", state]),
        (1, &["agent", "--node-name", "a", "--manifests", fresh, "--state-dir", &good]),
        (1, &["cleanup", "--node-name", "a", "--state-dir", &good]),
        (1, &["status", "--node-name", "a", "--state-dir", state]),
        (1, &["status", "--node-name", "a", "--state-dir", fresh]),
        (2, &[]),
        (2, &["agent", "--manifests", fresh, "--node-name", "Not A Name"]),
        (2, &["agent", "--manifests", fresh, "--iptables", "ipfw"]),
        (2, &["agent", "--manifests", fresh, "--reserved-ports", "0"]),
        (2, &["agent", "--manifests", fresh, "--forbidden-networks", "node"]),
        (2, &["agent", "--manifests", fresh, "--max-translations", "0"]),
        (2, &["agent", "--manifests", fresh, "--node-label", "zone"]),
        (2, &["agent", "--manifests", fresh, "--metrics-address", "localhost"]),
        (1, &["health", "live", "--state-dir", fresh]),
        (1, &["health", "ready", "--state-dir", state]),
        (2, &["health"]),
        (2, &["health", "well"]),
        (2, &["agent", "--manifests", fresh, "--forward-metrics", "bytes"]),
        (2, &["render"]),
        (1, &["check", "--kubeconfig", "/does/not/exist"]),
        (2, &["status", "-o", "xml"]),
        (2, &["completions"]),
        (2, &["crd", "--no-such-option"]),
        (3, &["render", &refused]),
        (3, &["render", &good, &rival]),
    ] {
        let ended = run(arguments);
        assert_eq!(ended.status.code(), Some(code), "{arguments:?}: {ended:?}");
        assert_eq!(ended.stderr.is_empty(), code == 0 && arguments[0] != "restore", "{arguments:?}: {ended:?}");
    }
    let shown = run(&["render", &good, &refused]);
    assert!(text(&shown.stdout).contains("3.3.3.3:80"), "the other forwards are shown: {shown:?}");
    assert!(text(&shown.stderr).contains("refused.yaml") && text(&shown.stderr).contains("spec.ports[0].port"), "{shown:?}");
    drop(broken);
}

#[test]
fn a_reader_that_leaves_early_gets_no_complaint() {
    let folder = tempfile::tempdir().unwrap();
    let good = file(&folder, "good.yaml", &Manifest::seed().text());
    let refused = file(&folder, "refused.yaml", &Manifest::seed().with("/spec/ports/0/port", 0).text());
    let state = folder.path().join("fresh");
    for arguments in [&["crd"][..], &["render", &good], &["--help"], &["completions", "bash"], &["man"], &["status", "--help"]] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let ended = output(Command::new(PROGRAM).args(arguments).stdout(writer));
        assert!(ended.status.success() && ended.stderr.is_empty(), "{arguments:?}: {ended:?}");
    }
    // The exit status is the same if nothing reads the output and the log.
    for (code, arguments) in [
        (3, &["render", &refused][..]),
        (0, &["restore", "--node-name", "a", "--state-dir", state.to_str().unwrap()]),
        (1, &["status", "--node-name", "a", "--state-dir", state.to_str().unwrap()]),
    ] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let ended = Command::new(PROGRAM).args(arguments).stderr(writer).stdout(Stdio::null()).status().unwrap();
        assert_eq!(ended.code(), Some(code), "{arguments:?}");
    }
}

#[test]
fn logs_are_json_on_request_and_in_a_pod() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().to_str().unwrap();
    let arguments = ["restore", "--node-name", "a", "--state-dir", state];
    let restore = || {
        let mut command = Command::new(PROGRAM);
        command.args(arguments);
        command
    };
    for command in [
        restore().arg("--log-format=json"),
        restore().env("PORTFORWARD_LOG_FORMAT", "json"),
        restore().env("KUBERNETES_SERVICE_HOST", "10.96.0.1"),
    ] {
        let logged = text(&output(command).stderr);
        let lines: Vec<Value> = logged.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert!(
            lines.iter().any(|line| line["level"] == "INFO" && line["state"] == state && line["message"].is_string()),
            "{logged}"
        );
    }
    let plain = text(&output(&mut restore()).stderr);
    assert!(plain.contains("no record") && !plain.contains('{') && !plain.contains('\u{1b}'), "{plain}");
    let quiet = output(restore().arg("--log=error"));
    assert!(quiet.status.success() && quiet.stderr.is_empty(), "{quiet:?}");
}

#[test]
fn crd_prints_what_the_folder_crds_holds() {
    let files = [
        include_str!("../../crds/portforward.dev_portforwards.yaml"),
        include_str!("../../crds/portforward.dev_portforwardgrants.yaml"),
    ];
    assert_eq!(text(&run(&["crd"]).stdout), files.join("---\n"));
}

/// A process that is killed when this is dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn without_iptables_the_agent_says_so_lives_on_and_works_once_it_is_there() {
    let bed = Bed::new();
    let files = bed.proxy().files();
    let (bin, manifests, status) = (files.join("bin"), files.join("manifests"), files.join("status.json"));
    fs::create_dir(&bin).unwrap();
    fs::create_dir(&manifests).unwrap();
    fs::write(manifests.join("seed.yaml"), Manifest::seed().text()).unwrap();
    let mut command = bed.proxy().command("env");
    command.arg(format!("PATH={}", bin.display())).args([
        PROGRAM,
        "agent",
        "--node-name",
        "proxy",
        "--iptables",
        "nft",
        "--manifests",
    ]);
    command.arg(&manifests).arg("--state-dir").arg(state_folder(bed.proxy())).arg("--status-file").arg(&status);
    let mut agent = Running(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
    let ready = || {
        let report: Value = serde_json::from_slice(&fs::read(&status).ok()?).ok()?;
        let item = report["items"].as_array()?.iter().find(|item| item["metadata"]["name"] == "seed")?.clone();
        item["status"]["conditions"].as_array()?.iter().find(|each| each["type"] == "Ready").cloned()
    };
    let told = until(PATIENCE, || ready().filter(|ready| ready["status"] == "False")).expect(SEED);
    assert_eq!(told["reason"], json!("ApplyFailed"));
    let message = told["message"].as_str().unwrap();
    assert!(message.contains("is not installed on this node; install the package iptables"), "{message}");
    assert!(agent.0.try_wait().unwrap().is_none(), "the agent still runs");

    for program in ["iptables-nft", "iptables-nft-save", "iptables-nft-restore"] {
        let found = ["/usr/sbin", "/sbin"].map(|folder| std::path::Path::new(folder).join(program));
        symlink(found.iter().find(|path| path.exists()).expect("iptables is installed"), bin.join(program)).unwrap();
    }
    assert!(eventually(PATIENCE, || ready().is_some_and(|ready| ready["status"] == "True")), "{:?}", ready());
}

#[test]
fn without_any_iptables_a_choice_cannot_be_made_and_the_message_says_what_to_install() {
    let bed = Bed::new();
    let state = state_folder(bed.proxy());
    let program = [PROGRAM, "agent", "--node-name", "proxy", "--manifests", "/none", "--state-dir", state.to_str().unwrap()];
    let ended = output(bed.proxy().command("env").arg("PATH=/none").args(program));
    assert_eq!(ended.status.code(), Some(1));
    assert!(text(&ended.stderr).contains("install the package iptables"), "{ended:?}");
    // When the programs are available, the variant is chosen.
    assert!(operator(bed.proxy(), ["cleanup", "--node-name", "proxy", "--state-dir", state.to_str().unwrap()]).status.success());
}
