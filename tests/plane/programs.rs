//! Where `etcd`, `kube-apiserver` and `kubectl` are: `hack/kubernetes.sh` knows, and builds them where it has to.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

/// The folder that holds the three programs. Looks once per test program; what a build says goes to the terminal.
pub(crate) fn folder() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/hack/kubernetes.sh");
        let output = Command::new(script).stdin(Stdio::null()).stderr(Stdio::inherit()).output();
        let output = output.unwrap_or_else(|error| panic!("{script}: {error}"));
        assert!(output.status.success(), "{script}: {}; it said above what is missing", output.status);
        PathBuf::from(String::from_utf8_lossy(&output.stdout).trim())
    })
}
