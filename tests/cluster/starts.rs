//! Tests every order of starting the agent, the API server and the CRD.

use crate::bed::SERVER;
use crate::bed::agent::state_folder;
use crate::bed::disk::Disk;
use crate::bed::kernel::Variant;
use crate::bed::wait::eventually;
use crate::fleet::{Fleet, REFUSED, WEB, bed, spec, web};
use crate::plane::objects::PATIENCE;
use crate::plane::{Plane, Resource, deployed};

#[track_caller]
fn complains_once(fleet: &Fleet, text: &str) {
    assert!(eventually(PATIENCE, || !fleet.agent(0).complaints().is_empty()), "no word of it");
    let said = fleet.agent(0).complaints();
    assert!(said.len() == 1 && said[0].contains(text), "{said:#?}");
}

#[test]
fn an_agent_that_is_there_before_the_definition_waits_for_it() {
    let bed = bed(1);
    let plane = Plane::bare(&bed);
    plane.apply(&deployed::list(&deployed::access()));
    let mut fleet = Fleet::on(bed, plane);
    fleet.start(0);
    complains_once(&fleet, "the API server refuses this");
    fleet.plane.install();
    fleet.apply(WEB, &web());
    fleet.plane.wait_condition(WEB, "Ready", "True", "Ready");
    fleet.reaches(80, SERVER, 80);
    complains_once(&fleet, "the API server refuses this");
}

#[test]
fn an_agent_that_is_there_before_the_api_server_waits_for_it() {
    let mut fleet = Fleet::without_agents(1);
    fleet.apply(WEB, &web());
    fleet.plane.stop();
    fleet.start(0);
    complains_once(&fleet, "the API server cannot be used");
    assert_eq!(fleet.ask(80), REFUSED);
    fleet.plane.start();
    fleet.plane.wait_condition(WEB, "Ready", "True", "Ready");
    fleet.reaches(80, SERVER, 80);
    complains_once(&fleet, "the API server cannot be used");
}

#[test]
fn a_node_that_boots_without_an_api_server_serves_what_its_record_holds() {
    let mut fleet = Fleet::new(1);
    fleet.apply(WEB, &web());
    fleet.apply("lines/other", &spec(82, SERVER, 82));
    fleet.plane.wait_ready(WEB);
    fleet.plane.wait_ready("lines/other");
    fleet.kill(0);
    fleet.plane.delete(Resource::Forwards, "lines/other");
    fleet.plane.stop();
    // As after a reboot.
    fleet.flush(0);
    fleet.proxy(0).conntrack_delete("-p tcp");

    fleet.start(0);
    fleet.wait_reaches(80, SERVER, 80);
    fleet.reaches(82, SERVER, 82);
    complains_once(&fleet, "the API server cannot be used");
    fleet.plane.start();
    // A forward that was deleted while the agent was stopped is removed now.
    fleet.wait_ask(82, REFUSED);
    fleet.reaches(80, SERVER, 80);
    assert!(!fleet.holds(0, "dport 82"));
    fleet.apply(WEB, &spec(81, SERVER, 81));
    fleet.plane.wait_condition(WEB, "Ready", "True", "Ready");
    fleet.reaches(81, SERVER, 81);
    complains_once(&fleet, "the API server cannot be used");
}

/// The disk is full, so the record stays old. Then the agent restarts without the API server.
#[test]
fn an_outdated_record_is_not_restored_over_newer_rules_while_the_api_server_is_away() {
    let mut fleet = Fleet::without_agents(1);
    let disk = Disk::at(state_folder(fleet.proxy(0)));
    fleet.apply(WEB, &web());
    fleet.apply("lines/other", &spec(82, SERVER, 82));
    fleet.start(0);
    fleet.plane.wait_condition(WEB, "Ready", "True", "Ready");
    fleet.plane.wait_condition("lines/other", "Ready", "True", "Ready");
    disk.fill();
    fleet.apply(WEB, &spec(81, SERVER, 81));
    fleet.plane.delete(Resource::Forwards, "lines/other");
    fleet.wait_holds(0, "dport 82", false);
    fleet.plane.wait_condition(WEB, "Ready", "True", "Ready");
    fleet.agent(0).wait_log("the record cannot be written");
    let before = fleet.proxy(0).our_rules(Variant::Nft);
    fleet.kill(0);
    fleet.plane.stop();

    fleet.start(0);
    fleet.agent(0).wait_log("newer than the record");
    assert_eq!(fleet.proxy(0).our_rules(Variant::Nft), before);
    fleet.reaches(81, SERVER, 81);
    assert_eq!((fleet.ask(80), fleet.ask(82)), (REFUSED, REFUSED));

    fleet.plane.start();
    fleet.apply(WEB, &web());
    fleet.wait_reaches(80, SERVER, 80);
    disk.clear();
    fleet.agent(0).wait_log("the record can be written again");
    fleet.kill(0);
    fleet.plane.kill();
    fleet.flush(0);
    fleet.start(0);
    fleet.wait_reaches(80, SERVER, 80);
    assert_eq!((fleet.ask(81), fleet.ask(82)), (REFUSED, REFUSED));
}
