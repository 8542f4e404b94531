//! Runs Helm on the chart: what it renders, as text and as objects.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use crate::plane::programs;

/// The folder of the chart, from the root of the repository.
pub(crate) const CHART: &str = "charts/portforward-operator";
/// The name of the release, of the chart and of most objects.
pub(crate) const NAME: &str = "portforward-operator";
/// The namespace of the release.
pub(crate) const NAMESPACE: &str = "portforward-system";
/// Every version of Kubernetes that the chart is tested with.
pub(crate) const VERSIONS: [&str; 5] = ["1.33", "1.34", "1.35", "1.36", "1.37"];

/// A version of Helm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Helm {
    /// Version 4.
    Four,
    /// Version 3.
    Three,
}

impl Helm {
    /// Both versions.
    pub(crate) const BOTH: [Self; 2] = [Self::Four, Self::Three];

    /// The program.
    pub(crate) fn program(self) -> std::path::PathBuf {
        programs::helm_folder().join(match self {
            Self::Four => "helm",
            Self::Three => "helm3",
        })
    }

    /// Runs it in the root of the repository with values on its input. The caller checks the result.
    pub(crate) fn run(self, arguments: &[&str], values: &Value) -> Output {
        let mut helm = Command::new(self.program());
        helm.current_dir(env!("CARGO_MANIFEST_DIR")).args(arguments);
        helm.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut helm = helm.spawn().expect("helm was found");
        // If Helm ends before it reads the values, its own message is more useful than the broken pipe.
        let _ = helm.stdin.take().expect("the input is piped").write_all(values.to_string().as_bytes());
        helm.wait_with_output().expect("helm can be waited for")
    }

    /// The render of a chart for a version of Kubernetes; `Err` with the message to the user if it is refused.
    pub(crate) fn template(self, chart: &str, version: &str, values: &Value) -> Result<String, String> {
        let version = format!("--kube-version={version}");
        let output = self.run(&["template", NAME, chart, "--namespace", NAMESPACE, &version, "--values", "-"], values);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
    }
}

/// The render of the chart by Helm 4 for the newest version; `Err` with the message to the user if it is refused.
pub(crate) fn try_render(values: &Value) -> Result<String, String> {
    Helm::Four.template(CHART, VERSIONS[VERSIONS.len() - 1], values)
}

/// The same; must succeed.
pub(crate) fn render(values: &Value) -> String {
    try_render(values).unwrap_or_else(|refusal| panic!("{values}\n{refusal}"))
}

/// The objects in a text.
pub(crate) fn objects(yaml: &str) -> Vec<Value> {
    let documents: Vec<Value> = serde_saphyr::from_multiple(yaml).unwrap_or_else(|error| panic!("{error}\n{yaml}"));
    documents.into_iter().filter(|document| !document.is_null()).collect()
}

/// The only object of a kind.
pub(crate) fn one<'a>(objects: &'a [Value], kind: &str) -> &'a Value {
    let found: Vec<&Value> = objects.iter().filter(|object| object["kind"] == kind).collect();
    assert_eq!(found.len(), 1, "{kind}: {found:#?}");
    found[0]
}

/// `Kind namespace/name` of each.
pub(crate) fn named(objects: &[Value]) -> Vec<String> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let named = |object: &Value| {
        let metadata = &object["metadata"];
        format!("{} {}/{}", text(&object["kind"]), text(&metadata["namespace"]), text(&metadata["name"]))
    };
    objects.iter().map(named).collect()
}

/// A file of the repository.
pub(crate) fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
