//! Tries every verb on every resource that the API server lists, as an agent. Exactly the rights in `docs/access.md` must be
//! allowed.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::OnceLock;

use serde_json::{Value, json};

use crate::plane::access::{AGENT_USER, SYSTEM};
use crate::plane::http::{Request, Response};
use crate::plane::{Resource, deployed};
use crate::{Agent, HOUR, LINES, NODE, plane, refusal};

/// A namespace (`None`: all namespaces), and `verb group/resource/subresource`.
type Right = (Option<String>, String);

/// The rights in the table of the page.
fn documented() -> BTreeSet<Right> {
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/access.md")).unwrap();
    let code = |cell: &str| cell.split('`').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>();
    let table = page.split("| where | resource | verbs | why |").nth(1).expect("the page has its table");
    let mut rights = BTreeSet::new();
    for row in table.lines().skip(2).take_while(|line| line.starts_with('|')) {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let namespace = code(cells[1]).first().cloned();
        assert!(namespace.is_some() || cells[1] == "everywhere", "{row}");
        let resource = code(cells[2]).into_iter().rev().collect::<Vec<_>>().join("/");
        rights.extend(code(cells[3]).into_iter().map(|verb| (namespace.clone(), format!("{verb} {resource}"))));
    }
    rights
}

#[test]
fn the_page_lists_what_an_installation_grants() {
    assert!(documented().len() > 10);
    assert_eq!(documented(), deployed::granted());
}

/// A resource in the lists of the API server.
#[derive(Clone, Debug)]
struct Listed {
    group: String,
    /// For example `/apis/apps/v1`.
    base: String,
    /// `resource` or `resource/subresource`.
    name: String,
    namespaced: bool,
}

impl Listed {
    /// `group/resource/subresource`.
    fn path(&self) -> String {
        if self.group.is_empty() { self.name.clone() } else { format!("{}/{}", self.group, self.name) }
    }
}

/// Every resource and subresource of every version of every group.
fn listed() -> Vec<Listed> {
    let groups = plane().must(&Request::get("/apis"));
    let versions = groups["groups"].as_array().unwrap().iter().flat_map(|group| {
        let name = group["name"].as_str().unwrap();
        let versions = group["versions"].as_array().unwrap();
        versions.iter().map(move |version| (name.to_owned(), format!("/apis/{}", version["groupVersion"].as_str().unwrap())))
    });
    let core = (String::new(), "/api/v1".to_owned());
    let mut all = Vec::new();
    for (group, base) in [core].into_iter().chain(versions) {
        let found = plane().must(&Request::get(&*base));
        all.extend(found["resources"].as_array().unwrap().iter().map(|resource| Listed {
            group: group.clone(),
            base: base.clone(),
            name: resource["name"].as_str().unwrap().to_owned(),
            namespaced: resource["namespaced"] == true,
        }));
    }
    all
}

/// One request to try.
#[derive(Debug)]
struct Try {
    namespace: Option<&'static str>,
    permission: String,
    request: Request,
}

/// Every verb on a resource, in the namespaces of the agents, of the API server and of the forwards, and in all namespaces.
fn tries(resource: &Listed) -> Vec<Try> {
    let namespaces: &[Option<&'static str>] =
        if resource.namespaced { &[Some(SYSTEM), Some("default"), Some(LINES), None] } else { &[None] };
    let (plural, subresource) =
        resource.name.split_once('/').map_or((&*resource.name, None), |(plural, sub)| (plural, Some(sub)));
    let mut all = Vec::new();
    for namespace in namespaces {
        let place = namespace.map(|namespace| format!("/namespaces/{namespace}")).unwrap_or_default();
        let collection = format!("{}{place}/{plural}", resource.base);
        let object = format!("{collection}/probe{}", subresource.map(|sub| format!("/{sub}")).unwrap_or_default());
        let made_at = if subresource.is_some() { &object } else { &collection };
        let mut requests = vec![("create", Request::post(made_at, json!({})))];
        if subresource.is_none() {
            requests.push(("list", Request::get(&collection)));
            requests.push(("watch", Request::get(format!("{collection}?watch=true&timeoutSeconds=1"))));
            requests.push(("deletecollection", Request::delete(&collection)));
        }
        // An object with a namespace exists only in it.
        if !resource.namespaced || namespace.is_some() {
            requests.push(("get", Request::get(&object)));
            requests.push(("update", Request::put(&object, json!({}))));
            requests.push(("patch", Request::merge(&object, json!({}))));
            requests.push(("delete", Request::delete(&object)));
        }
        let made = |(verb, request)| Try { namespace: *namespace, permission: format!("{verb} {}", resource.path()), request };
        all.extend(requests.into_iter().map(made));
    }
    all
}

/// The requests that an account is allowed to make. The API server checks this first, before anything else in a request.
fn allowed<'a>(tries: &'a [Try], token: &str) -> Vec<&'a Try> {
    let requests: Vec<Request> = tries.iter().map(|each| each.request.clone()).collect();
    let answers: Vec<Response> = requests.chunks(400).flat_map(|chunk| plane().send_as(token, chunk)).collect();
    let is_allowed = |(each, answer): &(&Try, Response)| {
        assert!(![0, 401, 429].contains(&answer.status), "{each:?}\n{answer:?}");
        let verb = each.permission.split(' ').next().unwrap();
        !(answer.status == 403 && refusal(answer).contains(&format!(" cannot {verb} resource ")))
    };
    tries.iter().zip(answers).filter(is_allowed).map(|(each, _)| each).collect()
}

#[test]
fn every_verb_on_every_resource_is_refused_but_those_of_the_page() {
    let resources = listed();
    assert!(resources.len() > 100 && resources.iter().any(|each| each.path() == "portforward.dev/portforwards/status"));
    let tries: Vec<Try> = resources.iter().flat_map(tries).collect();
    let page = documented();
    let is_listed = |each: &&Try| {
        let right = |namespace: Option<&str>| page.contains(&(namespace.map(str::to_owned), each.permission.clone()));
        right(None) || each.namespace.is_some_and(|namespace| right(Some(namespace)))
    };
    let text =
        |all: Vec<&Try>| all.iter().map(|each| format!("{} {}", each.request.method, each.request.path)).collect::<BTreeSet<_>>();

    let everybodys = allowed(&tries, &nobody());
    assert!(everybodys.iter().all(|each| !is_listed(each)), "the page lists what any account may: {everybodys:#?}");
    let listed = tries.iter().filter(is_listed).chain(everybodys).collect();
    assert_eq!(text(allowed(&tries, &plane().agent_token(NODE, HOUR))), text(listed));
}

/// A question to the API server about the rights of an agent.
fn review(attributes: &Value) -> Request {
    let groups = ["system:serviceaccounts", &format!("system:serviceaccounts:{SYSTEM}"), "system:authenticated"];
    let mut spec = json!({"user": AGENT_USER, "groups": groups});
    spec.as_object_mut().unwrap().extend(attributes.as_object().unwrap().clone());
    Request::post("/apis/authorization.k8s.io/v1/subjectaccessreviews", json!({"spec": spec}))
}

/// Verbs that are not separate calls, and resources that are in no list.
#[test]
fn no_agent_may_act_for_others_or_give_rights() {
    let mut resources: BTreeSet<(String, String)> = listed().into_iter().map(|each| (each.group, each.name)).collect();
    let virtual_ones = [
        ("", "users"),
        ("", "groups"),
        ("authentication.k8s.io", "uids"),
        ("authentication.k8s.io", "userextras"),
        ("authentication.k8s.io", "userextras/authentication.kubernetes.io/node-name"),
        ("certificates.k8s.io", "signers"),
        ("*", "*"),
    ];
    resources.extend(virtual_ones.map(|(group, name)| (group.to_owned(), name.to_owned())));
    let verbs = [
        "*",
        "impersonate",
        "bind",
        "escalate",
        "approve",
        "sign",
        "attest",
        "use",
        "proxy",
        "request-serviceaccounts-token-audience",
    ];
    let mut asked = Vec::new();
    for (group, name) in &resources {
        let (resource, subresource) = name.split_once('/').unwrap_or((name, ""));
        for verb in verbs {
            for namespace in [SYSTEM, ""] {
                let attributes = json!({"group": group, "resource": resource, "subresource": subresource, "verb": verb, "namespace": namespace});
                asked.push(review(&json!({"resourceAttributes": attributes})));
            }
        }
    }
    for path in ["/", "/metrics", "/logs/", "/debug/pprof/", "/configz", "/flagz", "/statusz"] {
        asked.push(review(&json!({"nonResourceAttributes": {"path": path, "verb": "get"}})));
    }
    // A right that the agent has. It shows that the questions are correct.
    let known = json!({"group": "portforward.dev", "resource": "portforwards", "subresource": "status", "verb": "patch", "namespace": LINES});
    asked.push(review(&json!({"resourceAttributes": known})));
    let answers: Vec<Response> = asked.chunks(400).flat_map(|chunk| plane().send(chunk)).collect();
    assert!(answers.iter().all(Response::done));
    let allowed: Vec<&Request> = asked
        .iter()
        .zip(&answers)
        .filter(|(_, answer)| answer.body["status"]["allowed"] == true)
        .map(|(asked, _)| asked)
        .collect();
    assert_eq!(allowed.len(), 1, "{allowed:#?}");
    assert!(allowed[0].body.as_ref().unwrap().1.to_string().contains("portforwards"), "{allowed:#?}");
}

/// The token of an account without any right. The API server allows its requests to every account.
fn nobody() -> String {
    static NOBODY: OnceLock<String> = OnceLock::new();
    let made = || {
        let accounts = Resource::ServiceAccounts.path(Some(LINES), None);
        plane().must(&Request::post(accounts, json!({"metadata": {"name": "nobody"}})));
        plane().token(LINES, "nobody", HOUR)
    };
    NOBODY.get_or_init(made).clone()
}

/// The rights in a namespace, as the API server reports them to the holder of a token.
fn summed_up(token: &str, namespace: &str) -> BTreeSet<String> {
    let path = "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews";
    let answer = plane().send_as(token, &[Request::post(path, json!({"spec": {"namespace": namespace}}))]).remove(0);
    assert!(answer.done(), "{answer:?}");
    let mut found = BTreeSet::new();
    for rule in answer.body["status"]["resourceRules"].as_array().unwrap() {
        let text = |text: &Value| text.as_str().unwrap().to_owned();
        let texts = |field: &str| rule[field].as_array().into_iter().flatten().map(text).collect::<Vec<_>>();
        let names: Vec<String> = texts("resourceNames").iter().map(|name| format!("/{name}")).collect();
        let names = if names.is_empty() { vec![String::new()] } else { names };
        for group in texts("apiGroups") {
            for resource in texts("resources") {
                let path = if group.is_empty() { resource } else { format!("{group}/{resource}") };
                for name in &names {
                    found.extend(texts("verbs").iter().map(|verb| format!("{verb} {path}{name}")));
                }
            }
        }
    }
    found
}

#[test]
fn an_agent_reads_the_endpoint_slice_of_the_api_servers_and_no_other() {
    let agent = Agent::of(plane(), NODE);
    for namespace in ["default", LINES] {
        let slices = Resource::EndpointSlices.path(Some(namespace), None);
        agent.does(&Request::get(format!("{slices}?fieldSelector=metadata.name%3Dkubernetes")));
        agent.unentitled(&Request::get(format!("{slices}?fieldSelector=metadata.name%3Dother")));
        agent.unentitled(&Request::get(format!("{slices}?labelSelector=kubernetes.io/service-name%3Dkubernetes")));
        agent.unentitled(&Request::get(format!("{slices}/kubernetes")));
    }
}

/// No right is given by a wildcard.
#[test]
fn the_rights_that_the_api_server_sums_up_are_those_of_the_page() {
    let agent = plane().agent_token(NODE, HOUR);
    for namespace in [SYSTEM, "default", LINES] {
        let given: BTreeSet<String> =
            summed_up(&agent, namespace).difference(&summed_up(&nobody(), namespace)).cloned().collect();
        let here = documented().into_iter().filter(|(place, _)| place.as_deref().is_none_or(|place| place == namespace));
        assert_eq!(given, here.map(|(_, right)| right).collect(), "{namespace}");
    }
}
