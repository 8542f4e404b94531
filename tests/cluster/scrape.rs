//! Tests `/metrics` over HTTPS: only the holder of a token that the API server allows to get the URL can read it.

use std::process::Output;

use serde_json::json;

use crate::bed::agent::state_folder;
use crate::bed::netns::{must, output};
use crate::bed::wait::eventually;
use crate::fleet::Fleet;
use crate::plane::access::{AGENT, SYSTEM};
use crate::plane::http::Request;
use crate::plane::objects::PATIENCE;

const ADDRESS: &str = "127.0.0.1:10450";

/// The result of `curl`: the status, and the body or the error.
pub(crate) fn scrape(fleet: &Fleet, options: &[&str]) -> (String, String) {
    let mut curl = fleet.proxy(0).command("curl");
    curl.args(["--disable", "--silent", "--show-error", "--max-time", "30", "--write-out", "\n%{http_code}"]).args(options);
    let Output { stdout, stderr, .. } = output(&mut curl);
    let said = String::from_utf8_lossy(&stdout).into_owned();
    let (body, status) = said.rsplit_once('\n').unwrap_or(("", &said));
    (status.to_owned(), format!("{body}{}", String::from_utf8_lossy(&stderr)))
}

/// The same over HTTPS with a token, without checking the certificate of the server.
fn with_token(fleet: &Fleet, token: &str) -> (String, String) {
    let header = format!("Authorization: Bearer {token}");
    scrape(fleet, &["--insecure", "--header", &header, &format!("https://{ADDRESS}/metrics")])
}

/// A fleet with one agent that serves its metrics in this way and may check tokens.
fn secured(options: &[&str]) -> Fleet {
    let mut fleet = Fleet::without_agents(1);
    let asks = json!([
        {"apiGroups": ["authentication.k8s.io"], "resources": ["tokenreviews"], "verbs": ["create"]},
        {"apiGroups": ["authorization.k8s.io"], "resources": ["subjectaccessreviews"], "verbs": ["create"]},
    ]);
    allow(&fleet, "asks", &asks, AGENT);
    fleet.start_with(0, &[&["--metrics-secure"], options].concat());
    fleet
}

/// Gives these rights to a service account in the namespace of the agents.
fn allow(fleet: &Fleet, name: &str, rules: &serde_json::Value, account: &str) {
    let path = "/apis/rbac.authorization.k8s.io/v1";
    let role = json!({"metadata": {"name": name}, "rules": rules});
    fleet.plane.must(&Request::post(format!("{path}/clusterroles"), role));
    let binding = json!({
        "metadata": {"name": name},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name},
        "subjects": [{"kind": "ServiceAccount", "name": account, "namespace": SYSTEM}],
    });
    fleet.plane.must(&Request::post(format!("{path}/clusterrolebindings"), binding));
}

fn add_account(fleet: &Fleet, name: &str) -> String {
    let account = json!({"metadata": {"name": name}});
    fleet.plane.must(&Request::post(format!("/api/v1/namespaces/{SYSTEM}/serviceaccounts"), account));
    fleet.plane.token(SYSTEM, name, std::time::Duration::from_hours(1))
}

#[test]
fn metrics_over_https_are_for_holders_of_a_token_that_may_get_them() {
    let fleet = secured(&[]);
    let (reader, stranger) = (add_account(&fleet, "reader"), add_account(&fleet, "stranger"));
    let mut last = Default::default();
    let served = eventually(PATIENCE, || {
        last = with_token(&fleet, "nobody's");
        last.0 == "401"
    });
    assert!(served, "{last:?}");
    assert!(last.1.contains("does not know this token"), "{last:?}");
    let (status, said) = with_token(&fleet, &stranger);
    assert_eq!(status, "403", "{said}");
    assert!(said.contains("nonResourceURLs [/metrics]") && said.contains(":stranger"), "{said}");

    allow(&fleet, "reads", &json!([{"nonResourceURLs": ["/metrics"], "verbs": ["get"]}]), "reader");
    let read = eventually(PATIENCE, || {
        last = with_token(&fleet, &reader);
        last.0 == "200"
    });
    assert!(read && last.1.contains("portforward_build_info"), "{last:?}");

    let (status, said) = scrape(&fleet, &["--insecure", &format!("https://{ADDRESS}/metrics")]);
    assert!(status == "401" && said.contains("Authorization: Bearer"), "{status} {said}");
    let (status, said) = scrape(&fleet, &[&format!("http://{ADDRESS}/metrics")]);
    assert!(status != "200" && !said.contains("portforward_"), "{status} {said}");
    let socket = state_folder(fleet.proxy(0)).join("health.sock");
    let (status, said) = scrape(&fleet, &["--unix-socket", socket.to_str().unwrap(), "http://localhost/livez"]);
    assert!(status == "200" && said.trim() == "ok", "health asks for no token: {status} {said}");

    fleet.plane.kill();
    assert_eq!(with_token(&fleet, &reader).0, "200", "an answer counts for a minute");
    let (status, said) = with_token(&fleet, "another");
    assert!(status == "503" && said.contains("the API server cannot be reached"), "{status} {said}");
}

#[test]
fn a_certificate_from_files_is_the_one_that_is_shown_and_a_wrong_one_is_said_and_tried_again() {
    let folder = tempfile::tempdir().unwrap();
    let [certificate, key] = ["tls.crt", "tls.key"].map(|name| folder.path().join(name).to_str().unwrap().to_owned());
    let fleet = secured(&["--metrics-certificate", &certificate, "--metrics-key", &key]);
    let reader = add_account(&fleet, "reader");
    allow(&fleet, "reads", &json!([{"nonResourceURLs": ["/metrics"], "verbs": ["get"]}]), "reader");
    fleet.agent(0).wait_log("the certificate or its key cannot be used");
    let mut made = fleet.proxy(0).command("openssl");
    made.args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=metrics", "-days", "2"]);
    made.args(["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", &key, "-out", &certificate]);
    must(&mut made);
    let header = format!("Authorization: Bearer {reader}");
    let mut last = Default::default();
    let verified = eventually(PATIENCE, || {
        last = scrape(&fleet, &["--cacert", &certificate, "--header", &header, &format!("https://{ADDRESS}/metrics")]);
        last.0 == "200"
    });
    assert!(verified && last.1.contains("portforward_build_info"), "{last:?}");
}

/// A user of the node who guesses tokens must not load the API server, nor keep out a scraper that was allowed before.
#[test]
fn guessed_tokens_reach_the_api_server_at_a_limited_rate_and_a_known_one_does_not_wait() {
    let fleet = secured(&[]);
    let reader = add_account(&fleet, "reader");
    allow(&fleet, "reads", &json!([{"nonResourceURLs": ["/metrics"], "verbs": ["get"]}]), "reader");
    let mut last = Default::default();
    let read = eventually(PATIENCE, || {
        last = with_token(&fleet, &reader);
        last.0 == "200"
    });
    assert!(read, "{last:?}");
    let guess = |number: u32| {
        format!(
            "url = \"https://{ADDRESS}/metrics\"\nheader = \"Authorization: Bearer guess-{number}\"\ninsecure\noutput = \"/dev/null\"\nwrite-out = \"%{{http_code}}\\n\"\nmax-time = 30\n"
        )
    };
    let guesses: Vec<String> = (0..30).map(guess).collect();
    let file = fleet.proxy(0).files().join("guesses");
    std::fs::write(&file, guesses.join("next\n")).unwrap();
    let mut curl = fleet.proxy(0).command("curl");
    let tried = output(
        curl.args(["--disable", "--silent", "--parallel", "--parallel-max", "30", "--parallel-immediate", "--config"]).arg(&file),
    );
    let statuses = String::from_utf8_lossy(&tried.stdout).into_owned();
    let count = |status: &str| statuses.lines().filter(|line| *line == status).count();
    assert!(count("401") >= 1 && count("503") >= 1 && count("200") == 0, "{statuses}");
    assert_eq!(with_token(&fleet, &reader).0, "200");
}
