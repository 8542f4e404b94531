//! Tests `check`, which `helm test` runs with the rights of an agent.

use std::process::Output;

use crate::bed::netns::output;
use crate::bed::wait::eventually;
use crate::fleet::{Fleet, WEB, bed, web};
use crate::plane::objects::PATIENCE;
use crate::plane::{Plane, deployed};

impl Fleet {
    /// Runs `check` on a node with the token of its agent. Returns whether it succeeds, and its lines.
    fn check(&self, node: usize, options: &[&str]) -> (bool, Vec<String>) {
        let mut check = self.proxy(node).command(env!("CARGO_BIN_EXE_portforward-operator"));
        check.arg("check").arg("--kubeconfig").arg(&self.kubeconfigs[node].path).args(options);
        let Output { status, stdout, stderr } = output(&mut check);
        assert!(stderr.is_empty(), "{}", String::from_utf8_lossy(&stderr));
        let lines = String::from_utf8_lossy(&stdout);
        (status.success(), lines.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect())
    }
}

#[test]
fn it_succeeds_where_all_is_well_and_names_the_agents_that_are_silent() {
    let mut fleet = Fleet::new(2);
    fleet.apply(WEB, &web());
    fleet.plane.wait_ready(WEB);
    let well = |agents: &str| {
        let url = crate::plane::URL;
        vec![
            format!("ok forwards {url}/ serves PortForwards and has 1 of them"),
            format!("ok agents {agents}"),
            "ok policy admission policy: in force; portforward-operator refused a forged Lease".to_owned(),
        ]
    };
    assert_eq!(fleet.check(0, &[]), (true, well("2 live: px0, px1")));
    fleet.kill(1);
    assert_eq!(fleet.check(0, &[]), (true, well("1 live: px0; no renewed Lease from px1")));
}

#[test]
fn it_fails_without_agents_without_the_definition_without_rights_and_without_an_answer() {
    let bed = bed(1);
    let plane = Plane::bare(&bed);
    plane.apply(&deployed::list(&deployed::access()));
    let fleet = Fleet::on(bed, plane);
    // The API server refuses until it has read the access rules.
    let mut last = Vec::new();
    let says = |fleet: &Fleet, options: &[&str], wanted: [&str; 3], last: &mut Vec<String>| {
        let (done, lines) = fleet.check(0, options);
        last.clone_from(&lines);
        !done && lines.len() == 3 && lines.iter().zip(wanted).all(|(line, wanted)| line.contains(wanted))
    };
    let unserved = [
        "failed forwards",
        "failed agents no live agent in namespace portforward-system; give the namespace",
        "ok policy admission policy: in force",
    ];
    assert!(eventually(PATIENCE, || says(&fleet, &[], unserved, &mut last)), "{last:#?}");
    assert!(last[0].contains("does not serve PortForwards"), "{last:#?}");

    fleet.plane.install();
    let elsewhere = [
        "ok forwards",
        "failed agents the namespace wrong does not exist or has no agent; system:serviceaccount:portforward-system:portforward-operator belongs to the namespace portforward-system: give --namespace portforward-system",
        "note policy admission policy: not checked",
    ];
    assert!(says(&fleet, &["--namespace=wrong"], elsewhere, &mut last), "{last:#?}");
    let admin = fleet.plane.kubeconfig("admin", crate::plane::access::ADMIN);
    let mut check = fleet.proxy(0).command(env!("CARGO_BIN_EXE_portforward-operator"));
    let said = output(check.args(["check", "--namespace=wrong", "--kubeconfig"]).arg(&admin.path));
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    assert!(said.contains("the namespace wrong does not exist; give the namespace of the agents with --namespace"), "{said}");
    // A kubelet has no right to read the Leases of the agents.
    let kubelet = fleet.plane.kubeconfig("kubelet", &crate::plane::access::node_token("px0"));
    let mut check = fleet.proxy(0).command(env!("CARGO_BIN_EXE_portforward-operator"));
    let said = output(check.args(["check", "--kubeconfig"]).arg(&kubelet.path));
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    assert!(said.contains("the API server refuses the request; bind the rights of an agent"), "{said}");

    fleet.plane.kill();
    let silent = [
        "failed forwards",
        "failed agents the request to the API server failed",
        "failed policy the request to the API server failed",
    ];
    assert!(says(&fleet, &[], silent, &mut last), "{last:#?}");
}

#[test]
fn it_proves_that_the_admission_policy_is_in_force_and_fails_where_it_is_not() {
    let fleet = Fleet::new(1);
    let policy = |fleet: &Fleet, options: &[&str]| {
        let (done, lines) = fleet.check(0, options);
        (done, lines.into_iter().find(|line| line.contains("admission policy")).expect("it says so"))
    };
    // The policy does not restrict an administrator, so this is no proof.
    let admin = fleet.plane.kubeconfig("admin", crate::plane::access::ADMIN);
    let mut check = fleet.proxy(0).command(env!("CARGO_BIN_EXE_portforward-operator"));
    let said = output(check.arg("check").arg("--kubeconfig").arg(&admin.path));
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    assert!(said.contains("admission policy: not checked; admin is not an agent of namespace portforward-system"), "{said}");

    // The forged Lease was never created.
    assert!(policy(&fleet, &[]).0);
    let leases = fleet.plane.list(crate::plane::Resource::Leases);
    assert!(leases.iter().all(|lease| lease["metadata"]["name"] != "portforward-check-forged"), "{leases:#?}");

    let disarm = ["label", "clusterrolebinding", "portforward-operator", "portforward.dev/agents-"];
    assert!(fleet.plane.kubectl(disarm).status.success());
    let not_armed =
        || policy(&fleet, &["--admission-policy=optional"]).1.starts_with("note policy admission policy: not in force");
    assert!(eventually(PATIENCE, not_armed));
    let (done, said) = policy(&fleet, &[]);
    assert!(!done && said.starts_with("failed policy admission policy: not in force; system:serviceaccount:"), "{said}");
    assert!(said.contains("portforward.dev/agents=true") && said.contains("admissionPolicy.enabled"), "{said}");
    assert!(policy(&fleet, &["--admission-policy=optional"]).0);
}
