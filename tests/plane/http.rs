//! Raw API calls, many over one connection, by `curl` in the plane's namespace.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::bed::netns::{Netns, output};

/// The time limit of one call, in seconds.
const LIMIT_SECS: u32 = 120;

/// One call.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    /// The HTTP method.
    pub(crate) method: &'static str,
    /// The path and the query, beginning with `/`.
    pub(crate) path: String,
    /// The body and its content type. A JSON string is sent as it is, so that a body can be what no JSON value is.
    pub(crate) body: Option<(&'static str, Value)>,
}

impl Request {
    /// Reads an object or a list.
    pub(crate) fn get(path: impl Into<String>) -> Self {
        Self { method: "GET", path: path.into(), body: None }
    }

    /// Deletes an object.
    pub(crate) fn delete(path: impl Into<String>) -> Self {
        Self { method: "DELETE", path: path.into(), body: None }
    }

    /// Creates an object, or sends another POST request.
    pub(crate) fn post(path: impl Into<String>, body: Value) -> Self {
        Self { method: "POST", path: path.into(), body: Some(("application/json", body)) }
    }

    /// Replaces an object.
    pub(crate) fn put(path: impl Into<String>, body: Value) -> Self {
        Self { method: "PUT", path: path.into(), body: Some(("application/json", body)) }
    }

    /// Changes the fields that are in the body (RFC 7386).
    pub(crate) fn merge(path: impl Into<String>, body: Value) -> Self {
        Self { method: "PATCH", path: path.into(), body: Some(("application/merge-patch+json", body)) }
    }

    /// Applies a list of operations (RFC 6902).
    pub(crate) fn json_patch(path: impl Into<String>, operations: Value) -> Self {
        Self { method: "PATCH", path: path.into(), body: Some(("application/json-patch+json", operations)) }
    }

    /// Server-side apply. The query names the field manager.
    pub(crate) fn apply(path: impl Into<String>, body: Value) -> Self {
        Self { method: "PATCH", path: path.into(), body: Some(("application/apply-patch+yaml", body)) }
    }
}

/// The answer to a call.
#[derive(Clone, Debug)]
pub(crate) struct Response {
    /// The HTTP status; 0 if there was no answer.
    pub(crate) status: u16,
    /// The body of the answer; null if it is not JSON.
    pub(crate) body: Value,
}

impl Response {
    /// Whether the call succeeded.
    pub(crate) fn done(&self) -> bool {
        (200..300).contains(&self.status)
    }
}

/// The server of the calls, and how it is reached.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Peer<'a> {
    /// The namespace of the client.
    pub(crate) netns: &'a Netns,
    /// For example `https://192.0.2.1:6443`.
    pub(crate) url: &'a str,
    /// The CA certificate of the server, and the token of the client.
    pub(crate) credentials: Option<(&'a Path, &'a str)>,
}

/// Sends the calls one after the other. Returns one answer for each, in the same order.
pub(crate) fn send(peer: Peer<'_>, requests: &[Request]) -> Vec<Response> {
    let folder = tempfile::Builder::new().prefix("pf-plane-http-").tempdir().expect("a temporary folder can be made");
    let file = |name: &str, index: usize| folder.path().join(format!("{name}-{index}"));
    let mut config = String::from("silent\n");
    for (index, request) in requests.iter().enumerate() {
        let Request { method, path, body } = request;
        let mut line = |text: std::fmt::Arguments<'_>| writeln!(config, "{text}").expect("text can grow");
        if index > 0 {
            line(format_args!("next"));
        }
        line(format_args!("url = \"{}{path}\"\nrequest = {method}\nmax-time = {LIMIT_SECS}", peer.url));
        line(format_args!("output = \"{}\"\nwrite-out = \"%{{http_code}}\\n\"", file("answer", index).display()));
        if let Some((authority, token)) = peer.credentials {
            line(format_args!("cacert = \"{}\"\nheader = \"Authorization: Bearer {token}\"", authority.display()));
        }
        if let Some((kind, body)) = body {
            let file = file("body", index);
            let text = body.as_str().map_or_else(|| body.to_string(), str::to_owned);
            fs::write(&file, text).expect("the folder can be written");
            line(format_args!("header = \"Content-Type: {kind}\"\ndata-binary = \"@{}\"", file.display()));
        }
    }
    let config_file = file("config", 0);
    fs::write(&config_file, config).expect("the folder can be written");
    // The exit status of curl is that of the last call only, so the status of each call is used.
    let said = output(peer.netns.command("curl").arg("--disable").arg("--config").arg(config_file));
    let statuses = String::from_utf8_lossy(&said.stdout);
    let mut statuses = statuses.lines();
    let mut answer = |index| {
        let status = statuses.next().and_then(|status| status.parse().ok()).unwrap_or(0);
        let body = fs::read(file("answer", index)).ok().and_then(|text| serde_json::from_slice(&text).ok());
        Response { status, body: body.unwrap_or_default() }
    };
    (0..requests.len()).map(&mut answer).collect()
}
