//! The plane's own promises: what the tests of an agent against an API server rest on.

mod bed;
mod plane;

use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use bed::netns::output;
use bed::wait::{eventually, until};
use bed::{Bed, Proxy};
use plane::access::{AGENT, AGENT_USER, Kubeconfig, SYSTEM};
use plane::http::Request;
use plane::objects::PATIENCE;
use plane::{Plane, Resource, proxy_address};
use serde_json::{Value, json};

const NAMESPACE: &str = "leased-lines";

/// A call from a proxy with the token of a kubeconfig: the status of HTTP and the answer, 0 where there is none.
fn ask(proxy: &Proxy, plane: &Plane, kubeconfig: &Kubeconfig, path: &str, seconds: u8) -> (u16, Value) {
    let token = std::fs::read_to_string(kubeconfig.path.with_extension("token")).unwrap();
    let mut curl = proxy.command("curl");
    curl.args(["--silent", "--max-time", &seconds.to_string(), "--write-out", "\n%{http_code}", "--cacert"]);
    curl.arg(plane.authority()).args(["--header", &format!("Authorization: Bearer {token}")]);
    let said = output(curl.arg(format!("{}{path}", plane::URL)));
    let text = String::from_utf8_lossy(&said.stdout).into_owned();
    let (body, status) = text.rsplit_once('\n').unwrap_or_default();
    (status.parse().unwrap_or(0), serde_json::from_str(body).unwrap_or_default())
}

/// A watch that has begun and goes on until its server ends.
fn proxy_watch(proxy: &Proxy, plane: &Plane, kubeconfig: &Kubeconfig) -> Child {
    let token = std::fs::read_to_string(kubeconfig.path.with_extension("token")).unwrap();
    let mut curl = proxy.command("curl");
    curl.args(["--silent", "--no-buffer", "--output", "/dev/null", "--cacert"]).arg(plane.authority());
    curl.args(["--header", &format!("Authorization: Bearer {token}")]);
    let before = plane.audit().len();
    let watch = curl.arg(format!("{}{}?watch=true&timeoutSeconds=300", plane::URL, forwards())).spawn().unwrap();
    assert!(eventually(PATIENCE, || plane.audit_of(AGENT_USER, before).iter().any(|call| call.verb == "watch")));
    watch
}

fn forward() -> String {
    include_str!("refusals/base.yaml").to_owned()
}

fn forwards() -> String {
    Resource::Forwards.path(None, None)
}

#[test]
fn a_proxy_reaches_it_with_the_rights_of_an_agent_and_the_audit_log_says_so() {
    let bed = Bed::new();
    let plane = Plane::new(&bed);
    plane.add_node("proxy", &json!({}));
    let agent = plane.agent_kubeconfig("proxy");
    let before = plane.audit().len();
    assert_eq!(ask(bed.proxy(), &plane, &agent, &forwards(), 60).0, 200);
    assert_eq!(ask(bed.proxy(), &plane, &agent, "/api/v1/secrets", 60).0, 403);
    let calls = plane.audit_of(AGENT_USER, before);
    assert_eq!(
        calls.iter().map(|call| (call.permission(), call.code)).collect::<Vec<_>>(),
        [("list portforward.dev/portforwards".to_owned(), 200), ("list secrets".to_owned(), 403),]
    );
    assert!(calls.iter().all(|call| call.source == Some(proxy_address(0).into()) && !call.writes()), "{calls:#?}");
}

#[test]
fn stopped_killed_frozen_and_back_it_has_its_objects() {
    let bed = Bed::new();
    let plane = Plane::new(&bed);
    plane.add_node("proxy", &json!({}));
    let agent = plane.agent_kubeconfig("proxy");
    let status = |seconds| ask(bed.proxy(), &plane, &agent, &forwards(), seconds).0;
    plane.add_namespace(NAMESPACE);
    plane.apply(&forward());
    let object = plane.forward("leased-lines/bank-a-web").unwrap();
    for end in [Plane::stop, Plane::kill] {
        let mut watch = proxy_watch(bed.proxy(), &plane, &agent);
        end(&plane);
        assert!(eventually(PATIENCE, || watch.try_wait().unwrap().is_some()), "the watch goes on without its server");
        assert_eq!(status(5), 0);
        plane.start();
        plane.wait_served();
        // With the authority and the tokens of before.
        assert!(eventually(PATIENCE, || status(60) == 200));
        assert_eq!(plane.forward("leased-lines/bank-a-web").unwrap(), object);
    }
    plane.freeze();
    assert_eq!(status(1), 0);
    plane.thaw();
    assert_eq!(status(60), 200);

    plane.delete_namespace(NAMESPACE);
    assert!(plane.forward("leased-lines/bank-a-web").is_none());
    plane.add_namespace(NAMESPACE);
}

#[test]
fn who_watches_from_a_state_that_was_compacted_away_gets_410() {
    let bed = Bed::new();
    let plane = Plane::new(&bed);
    plane.add_node("proxy", &json!({}));
    let agent = plane.agent_kubeconfig("proxy");
    let (_, list) = ask(bed.proxy(), &plane, &agent, &forwards(), 60);
    let version = list["metadata"]["resourceVersion"].as_str().unwrap();
    plane.stop();
    plane.compact();
    plane.start();
    plane.wait_served();
    let watch = format!("{}?watch=true&resourceVersion={version}&timeoutSeconds=5", forwards());
    let gone = until(PATIENCE, || Some(ask(bed.proxy(), &plane, &agent, &watch, 60)).filter(|(status, _)| *status != 0));
    let (status, body) = gone.unwrap();
    let code = if status == 200 { &body["object"]["code"] } else { &body["code"] };
    assert_eq!(code, 410, "{status} {body:#}");
}

#[test]
fn a_token_ends_in_its_time_and_another_takes_over() {
    let bed = Bed::new();
    let plane = Plane::new(&bed);
    plane.add_node("proxy", &json!({}));
    let brief = plane.kubeconfig("brief", "");
    let status = || ask(bed.proxy(), &plane, &brief, &forwards(), 60).0;
    // As brief as the machine lets it be used once.
    let passes = |power: u32| {
        brief.set_token(&plane.agent_token("proxy", Duration::from_secs(2_u64.pow(power))));
        status() == 200
    };
    assert!((1..8).any(passes));
    assert!(eventually(PATIENCE, || status() == 401), "an expired token still passes");
    brief.set_token(&plane.agent_token("proxy", Duration::from_mins(10)));
    assert_eq!(status(), 200);
    // What the API server itself gives is as good.
    let bound = ["--bound-object-kind", "Node", "--bound-object-name", "proxy"];
    let minted = plane.kubectl([&["create", "token", AGENT, "-n", SYSTEM, "--duration=10m"], &bound[..]].concat());
    brief.set_token(String::from_utf8_lossy(&minted.stdout).trim());
    assert_eq!(status(), 200);
    // Neither outlives its Node.
    plane.delete(Resource::Nodes, "proxy");
    assert!(eventually(PATIENCE, || status() == 401), "the token of a Node that is gone still passes");
    plane.add_node("proxy", &json!({}));
    assert_eq!(status(), 401, "another Node of the same name");
}

#[test]
fn without_the_definition_forwards_are_not_found_until_it_comes() {
    let bed = Bed::new();
    let plane = Plane::bare(&bed);
    assert_eq!(plane.send_one(&Request::get(forwards())).status, 404);
    plane.install();
    plane.add_node("proxy", &json!({"example.com/zone": "a"}));
    assert_eq!(plane.list(Resource::Forwards), Vec::<Value>::new());
    assert_eq!(plane.get(Resource::Nodes, "proxy").unwrap()["metadata"]["labels"]["example.com/zone"], "a");
}

/// Not a test of its own: what the next one kills.
#[test]
#[ignore = "run by another test, which kills it"]
fn stays_until_killed() {
    let plane = Plane::alone();
    println!("made {}", plane.netns().name());
    std::thread::park();
}

#[test]
fn a_killed_test_leaves_no_namespace_no_process_and_no_folder() {
    let program = std::env::current_exe().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new(program);
    command.args(["--ignored", "--exact", "--nocapture", "stays_until_killed"]).env("TMPDIR", folder.path());
    let log = std::fs::File::create(folder.path().join("out")).unwrap();
    let mut child = command.stdout(log).stderr(Stdio::null()).process_group(0).spawn().unwrap();
    let said = || std::fs::read_to_string(folder.path().join("out")).unwrap();
    assert!(eventually(PATIENCE, || said().contains("made ")), "{}", said());
    let text = said();
    let name = text.split("made ").nth(1).unwrap().lines().next().unwrap();
    let namespace = Path::new("/run/netns").join(name);
    let planes = || std::fs::read_dir(folder.path()).unwrap().filter(|entry| entry.as_ref().unwrap().path().is_dir()).count();
    assert!(namespace.exists() && planes() > 0);
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(eventually(PATIENCE, || !namespace.exists() && planes() == 0), "{name} is still there");
}
