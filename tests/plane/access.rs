//! Credentials for the API: tokens of service accounts, and kubeconfigs that contain them.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use super::{Plane, Resource};
use crate::bed::netns::must;

/// The namespace of the agents.
pub(crate) const SYSTEM: &str = "portforward-system";
/// The service account of the agents.
pub(crate) const AGENT: &str = "portforward-operator";
/// The same account, as the audit log and RBAC name it.
pub(crate) const AGENT_USER: &str = "system:serviceaccount:portforward-system:portforward-operator";
/// The issuer of the tokens, and also their audience.
pub(crate) const ISSUER: &str = "https://kubernetes.default.svc";
/// The administrator's token.
pub(crate) const ADMIN: &str = "admin-of-a-plane-in-a-namespace-of-its-own";

/// The token of a kubelet.
pub(crate) fn node_token(node: &str) -> String {
    format!("kubelet-of-{node}-in-a-namespace-of-its-own")
}

/// The static tokens of the API server: those of the administrator and of the kubelets.
pub(crate) fn tokens() -> String {
    let node = |index| format!("px{index}");
    let kubelet = |name: String| format!("{},system:node:{name},{name},system:nodes\n", node_token(&name));
    std::iter::once(format!("{ADMIN},admin,admin,system:masters\n")).chain((0..9).map(node).map(kubelet)).collect()
}

/// The API server accepts a token for this time after its expiry: the leeway of its JWT library.
const LEEWAY: Duration = Duration::from_mins(1);

/// A kubeconfig that refers to a separate token file, like the projected token of a pod.
#[derive(Clone, Debug)]
pub(crate) struct Kubeconfig {
    /// For `--kubeconfig` or `KUBECONFIG`.
    pub(crate) path: PathBuf,
    token_file: PathBuf,
}

impl Kubeconfig {
    /// Replaces the token. A client uses it when it reads the file again (kube-rs: within a minute).
    pub(crate) fn set_token(&self, token: &str) {
        let new = self.token_file.with_extension("new");
        fs::write(&new, token).expect("the plane's folder can be written");
        fs::rename(&new, &self.token_file).expect("a file can be renamed in its folder");
    }
}

impl Plane {
    /// A kubeconfig `name` with this token. It works on every proxy of the bed.
    pub(crate) fn kubeconfig(&self, name: &str, token: &str) -> Kubeconfig {
        let (path, token_file) = (self.file(&format!("{name}.kubeconfig")), self.file(&format!("{name}.token")));
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "plane",
            "clusters": [{"name": "plane", "cluster": {"server": super::URL, "certificate-authority": self.authority()}}],
            "users": [{"name": name, "user": {"tokenFile": token_file}}],
            "contexts": [{"name": "plane", "context": {"cluster": "plane", "user": name, "namespace": "default"}}],
        });
        fs::write(&path, config.to_string()).expect("the plane's folder can be written");
        let kubeconfig = Kubeconfig { path, token_file };
        kubeconfig.set_token(token);
        kubeconfig
    }

    /// A kubeconfig for the agent of an existing node, with a token that is valid for an hour.
    pub(crate) fn agent_kubeconfig(&self, node: &str) -> Kubeconfig {
        self.kubeconfig(&format!("agent-{node}"), &self.agent_token(node, Duration::from_hours(1)))
    }

    /// A token of the agents' service account that is bound to an existing node, made as by [`Plane::token`]. The API server
    /// refuses it when that Node object is deleted, or is replaced by another one with the same name.
    pub(crate) fn agent_token(&self, node: &str, valid_for: Duration) -> String {
        self.bound_token((SYSTEM, AGENT), node, valid_for)
    }

    /// The same for any service account, given by its namespace and name.
    pub(crate) fn bound_token(&self, (namespace, account): (&str, &str), node: &str, valid_for: Duration) -> String {
        let object = self.get(Resource::Nodes, node).unwrap_or_else(|| panic!("there is no node {node}"));
        let bound = json!({"name": node, "uid": object["metadata"]["uid"]});
        self.sign_token(namespace, account, Some(bound), valid_for)
    }

    /// A token of an existing service account, signed with the key of the plane. It is made here, because the API server
    /// issues no token for less than ten minutes. The API server accepts a token that it has seen before for up to 10 s
    /// longer, because it caches the result.
    pub(crate) fn token(&self, namespace: &str, account: &str, valid_for: Duration) -> String {
        self.sign_token(namespace, account, None, valid_for)
    }

    fn sign_token(&self, namespace: &str, account: &str, node: Option<Value>, valid_for: Duration) -> String {
        let account_key = format!("{namespace}/{account}");
        let object = self.get(Resource::ServiceAccounts, &account_key);
        let uid = object.unwrap_or_else(|| panic!("there is no service account {account_key}"))["metadata"]["uid"].clone();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is after 1970");
        let expires = (now + valid_for).saturating_sub(LEEWAY).as_secs();
        let begins = expires.min(now.as_secs()).saturating_sub(3600);
        let mut claims = json!({
            "iss": ISSUER, "aud": [ISSUER], "sub": format!("system:serviceaccount:{namespace}:{account}"),
            "iat": begins, "nbf": begins, "exp": expires,
            "kubernetes.io": {"namespace": namespace, "serviceaccount": {"name": account, "uid": uid}},
        });
        if let Some(node) = node {
            claims["kubernetes.io"]["node"] = node;
        }
        let signed = format!("{}.{}", base64url(br#"{"alg":"RS256"}"#), base64url(claims.to_string().as_bytes()));
        format!("{signed}.{}", base64url(&sign(&self.file("sa.key"), &signed)))
    }
}

/// Creates a key for the tokens of service accounts.
pub(crate) fn make_key(path: &Path) {
    must(Command::new("openssl").args(["genrsa", "-out"]).arg(path).arg("2048").stderr(Stdio::null()));
}

/// Signs with RS256 (RFC 7518, section 3.3).
fn sign(key: &Path, text: &str) -> Vec<u8> {
    let mut openssl = Command::new("openssl");
    openssl.args(["dgst", "-sha256", "-sign"]).arg(key).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut openssl = openssl.spawn().expect("openssl is installed");
    openssl.stdin.take().expect("the input is piped").write_all(text.as_bytes()).expect("openssl reads its input");
    let output = openssl.wait_with_output().expect("openssl can be waited for");
    assert!(output.status.success(), "openssl dgst: {}", output.status);
    output.stdout
}

/// Base 64 for URLs, without padding (RFC 4648, section 5).
fn base64url(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let digits = |chunk: &[u8]| {
        let bits = chunk.iter().chain([0; 3].iter()).take(3).fold(0_usize, |bits, byte| bits << 8 | usize::from(*byte));
        let all = [18, 12, 6, 0].map(|shift| char::from(DIGITS[bits >> shift & 63]));
        all.into_iter().take(chunk.len() + 1).collect::<String>()
    };
    bytes.chunks(3).map(digits).collect()
}
