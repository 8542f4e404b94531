//! Runs both versions of Helm with a chart of forwards.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::bed::netns::output;
use crate::fleet::{Fleet, LINES, manifest};
use crate::plane::access::{ADMIN, Kubeconfig};
use crate::plane::programs;

/// A version of Helm.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Version {
    /// Version 4, which waits by kstatus.
    Four,
    /// Version 3, which knows only the kinds of Kubernetes itself.
    Three,
}

/// A chart that contains only forwards, and the user that installs it.
pub(crate) struct Chart {
    folder: TempDir,
    kubeconfig: Kubeconfig,
}

/// The result of a call.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// Whether it succeeded.
    pub(crate) done: bool,
    /// How long it took.
    pub(crate) took: Duration,
    /// Its output, from both streams.
    pub(crate) said: String,
}

impl Chart {
    /// A chart without forwards.
    pub(crate) fn new(fleet: &Fleet) -> Self {
        let folder = tempfile::Builder::new().prefix("pf-chart-").tempdir().expect("a temporary folder can be made");
        let file = |name: &str, text: &str| fs::write(folder.path().join(name), text).expect("the folder can be written");
        file("Chart.yaml", "apiVersion: v2\nname: lines\nversion: 0.1.0\n");
        fs::create_dir(folder.path().join("templates")).expect("the folder can be written");
        Self { folder, kubeconfig: fleet.plane.kubeconfig("helm", ADMIN) }
    }

    /// Sets the forwards of the chart, each a key and the content of its spec.
    pub(crate) fn set(&self, forwards: &[(&str, String)]) {
        let text = forwards.iter().fold(String::new(), |mut text, (key, spec)| {
            let _ = write!(text, "{}", manifest(key, spec));
            text
        });
        fs::write(self.path().join("templates/forwards.yaml"), text).expect("the folder can be written");
    }

    fn path(&self) -> PathBuf {
        self.folder.path().to_owned()
    }

    /// `helm upgrade --install RELEASE --wait`.
    pub(crate) fn upgrade(&self, fleet: &Fleet, version: Version, release: &str, timeout: Duration) -> Outcome {
        let chart = self.path();
        let timeout = format!("{}s", timeout.as_secs());
        let arguments = ["upgrade", "--install", release, &chart.to_string_lossy(), "--wait", "--timeout", &timeout];
        self.helm(fleet, version, &arguments)
    }

    /// Runs `helm uninstall RELEASE`; must succeed.
    #[track_caller]
    pub(crate) fn uninstall(&self, fleet: &Fleet, version: Version, release: &str) {
        let outcome = self.helm(fleet, version, &["uninstall", release, "--wait", "--timeout", "120s"]);
        assert!(outcome.done, "{outcome:#?}");
    }

    fn helm(&self, fleet: &Fleet, version: Version, arguments: &[&str]) -> Outcome {
        let program = match version {
            Version::Four => "helm",
            Version::Three => "helm3",
        };
        let mut command = fleet.plane.netns().command(programs::helm_folder().join(program));
        command.args(arguments).args(["--namespace", LINES]);
        command.env("KUBECONFIG", &self.kubeconfig.path).env("HOME", self.home()).stdin(Stdio::null());
        let began = Instant::now();
        let Output { status, stdout, stderr } = output(&mut command);
        let said = [stdout, stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
        Outcome { done: status.success(), took: began.elapsed(), said }
    }

    /// The folder of Helm's caches.
    fn home(&self) -> &Path {
        self.kubeconfig.path.parent().expect("a file is in a folder")
    }
}
