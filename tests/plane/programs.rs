//! The folders with the programs of Kubernetes. `hack/kubernetes.sh` prints them, and builds programs that are missing.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

/// The folder with `etcd`, `kube-apiserver` and `kubectl`.
pub(crate) fn folder() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| group("api"))
}

/// The folder with `helm` (version 4) and `helm3`.
pub(crate) fn helm_folder() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| group("helm"))
}

/// The folder with all programs of a cluster, including `helm` and `kubelet`.
pub(crate) fn cluster_folder() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| group("cluster"))
}

/// The folder of a group of programs. Each test program asks for it once. The output of a build goes to the terminal.
fn group(name: &str) -> PathBuf {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/hack/kubernetes.sh");
    let output = Command::new(script).arg(name).stdin(Stdio::null()).stderr(Stdio::inherit()).output();
    let output = output.unwrap_or_else(|error| panic!("{script}: {error}"));
    assert!(output.status.success(), "{script}: {}; its output above shows what is missing", output.status);
    PathBuf::from(String::from_utf8_lossy(&output.stdout).trim())
}
