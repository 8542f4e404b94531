//! Where the programs of Kubernetes are: `hack/kubernetes.sh` knows, and builds them where it has to.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

/// The folder that holds `etcd`, `kube-apiserver` and `kubectl`.
pub(crate) fn folder() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| group("api"))
}

/// The folder that holds `helm` (version 4) and `helm3`.
pub(crate) fn helm_folder() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| group("helm"))
}

/// The folder that holds all of a cluster, `helm` and `kubelet` among them.
pub(crate) fn cluster_folder() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| group("cluster"))
}

/// Looks once per test program; what a build says goes to the terminal.
fn group(name: &str) -> PathBuf {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/hack/kubernetes.sh");
    let output = Command::new(script).arg(name).stdin(Stdio::null()).stderr(Stdio::inherit()).output();
    let output = output.unwrap_or_else(|error| panic!("{script}: {error}"));
    assert!(output.status.success(), "{script}: {}; it said above what is missing", output.status);
    PathBuf::from(String::from_utf8_lossy(&output.stdout).trim())
}
