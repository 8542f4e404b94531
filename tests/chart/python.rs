//! Runs Python programs with the packages that `hack/python.sh` installs.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use serde_json::Value;

/// The folder of the packages.
fn packages() -> &'static PathBuf {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/hack/python.sh");
        let output = Command::new(script).stdin(Stdio::null()).stderr(Stdio::inherit()).output();
        let output = output.unwrap_or_else(|error| panic!("{script}: {error}"));
        assert!(output.status.success(), "{script}: {}; it said above what is missing", output.status);
        PathBuf::from(String::from_utf8_lossy(&output.stdout).trim())
    })
}

/// The JSON output of a program for a JSON input.
pub(crate) fn ask(program: &str, input: &Value) -> Value {
    let mut python = Command::new("python3");
    python.args(["-c", program]).env("PYTHONPATH", packages()).env("PYTHONDONTWRITEBYTECODE", "1");
    let mut python =
        python.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("python3 is installed");
    python.stdin.take().expect("the input is piped").write_all(input.to_string().as_bytes()).expect("it reads its input");
    let output = python.wait_with_output().expect("it can be waited for");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("it prints JSON")
}
