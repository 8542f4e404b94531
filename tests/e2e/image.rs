//! The images for the tests on real nodes: the image of the agent from `make image`, and an image that holds the namespaces of
//! a pod.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use serde_json::json;
use sha2::{Digest, Sha256};

use crate::bed::netns::must;

/// The image of the agent, as the manifests name it.
pub(crate) const AGENT: &str = concat!("localhost/portforward-operator:", env!("CARGO_PKG_VERSION"));
/// The image that holds the namespaces of a pod.
pub(crate) const PAUSE: &str = "localhost/pause:e2e";

/// Both images, as archives that containerd can load.
pub(crate) fn archives() -> [PathBuf; 2] {
    static ARCHIVES: OnceLock<[PathBuf; 2]> = OnceLock::new();
    ARCHIVES.get_or_init(|| [agent(), pause()]).clone()
}

fn agent() -> PathBuf {
    let archive = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/image/portforward-operator.tar");
    assert!(archive.is_file(), "{} is not there: make image builds it", archive.display());
    archive
}

/// One static program in one layer (Docker image specification, version 1.2).
fn pause() -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("pause-{}", std::process::id()));
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(folder.join("root")).expect("the folder for temporary files can be written");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/e2e/pause.c");
    must(Command::new("cc").args(["-static", "-Os", "-o"]).arg(folder.join("root/pause")).arg(source));
    let tar = |from: &str, archive: &str, names: &[&str]| {
        must(Command::new("tar").current_dir(&folder).args(["-C", from, "-cf", archive]).args(names));
    };
    tar("root", "layer.tar", &["pause"]);
    let layer = fs::read(folder.join("layer.tar")).expect("tar has written it");
    let digest: String = Sha256::digest(&layer).iter().map(|byte| format!("{byte:02x}")).collect();
    let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    let config = json!({
        "architecture": architecture, "os": "linux", "config": {"Entrypoint": ["/pause"]},
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{digest}")]},
    });
    let manifest = json!([{"Config": "config.json", "RepoTags": [PAUSE], "Layers": ["layer.tar"]}]);
    fs::write(folder.join("config.json"), config.to_string()).expect("the folder can be written");
    fs::write(folder.join("manifest.json"), manifest.to_string()).expect("the folder can be written");
    tar(".", "pause.tar", &["manifest.json", "config.json", "layer.tar"]);
    folder.join("pause.tar")
}
