//! Tests what `helm upgrade --install --wait` waits for, and when it gives up.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use crate::bed::kernel::Variant;
use crate::bed::wait::eventually;
use crate::bed::{SECOND_SERVER, SERVER};
use crate::fleet::{Fleet, LINES, REFUSED, WEB, manifest, spec, web};
use crate::helm::{Chart, Outcome, Version};
use crate::plane::http::Request;
use crate::plane::objects::PATIENCE;
use crate::plane::{Resource, proxy_address};
use crate::rules::{Kstatus, kstatus};

/// A timeout that is expected to expire, after Helm has done everything else, also on a busy machine.
const SHORT: Duration = Duration::from_secs(10);
/// A timeout that is not expected to expire. A failure that is reported at once takes much less than half of it.
const LONG: Duration = Duration::from_mins(4);

/// Asserts that Helm failed, that its result for a forward is that of kstatus by our rules, and that it gave the reason.
#[track_caller]
fn failed(fleet: &Fleet, key: &str, outcome: &Outcome, said: Kstatus, why: &str) {
    let (by_rules, message) = kstatus(&fleet.plane.forward(key).unwrap());
    assert_eq!(by_rules, said);
    let line = format!("resource PortForward/{key} not ready. status: {said:?}, message: {message}");
    assert!(!outcome.done && outcome.said.contains(&line), "{outcome:#?} instead of {line}");
    assert!(message.contains(why), "{message}");
}

#[track_caller]
fn done(fleet: &Fleet, key: &str, outcome: &Outcome) {
    assert!(outcome.done, "{outcome:#?}");
    assert_eq!(kstatus(&fleet.plane.forward(key).unwrap()).0, Kstatus::Current);
}

#[track_caller]
fn at_once(outcome: &Outcome) {
    assert!(outcome.took < LONG / 2, "{outcome:#?}");
}

#[test]
fn helm_waits_for_an_agent_and_for_the_newest_spec_and_gives_up_at_once_on_what_cannot_work() {
    let mut fleet = Fleet::without_agents(1);
    let (chart, rival) = (Chart::new(&fleet), Chart::new(&fleet));

    // Without an agent, the forward does not count as working.
    chart.set(&[(WEB, web())]);
    let outcome = chart.upgrade(&fleet, Version::Four, "lines", SHORT);
    failed(&fleet, WEB, &outcome, Kstatus::InProgress, "latest observed generation is -1");
    assert!(outcome.took >= SHORT, "{outcome:#?}");

    // With an agent, Helm is done when traffic can flow.
    fleet.start(0);
    let outcome = chart.upgrade(&fleet, Version::Four, "lines", LONG);
    done(&fleet, WEB, &outcome);
    fleet.reaches(80, SERVER, 80);

    // A conflict with an older forward and a refusal by the agent are reported at once, with our message.
    rival.set(&[("lines/rival", spec(80, SECOND_SERVER, 80))]);
    let outcome = rival.upgrade(&fleet, Version::Four, "rival", LONG);
    failed(&fleet, "lines/rival", &outcome, Kstatus::Failed, WEB);
    at_once(&outcome);
    let own: Ipv4Addr = proxy_address(0);
    rival.set(&[("lines/rival", spec(81, own, 80))]);
    let outcome = rival.upgrade(&fleet, Version::Four, "rival", LONG);
    failed(&fleet, "lines/rival", &outcome, Kstatus::Failed, &own.to_string());
    at_once(&outcome);
    rival.uninstall(&fleet, Version::Four, "rival");

    // After a change of the spec, the status of the old spec does not count.
    fleet.kill(0);
    chart.set(&[(WEB, spec(81, SECOND_SERVER, 82))]);
    let outcome = chart.upgrade(&fleet, Version::Four, "lines", SHORT);
    failed(&fleet, WEB, &outcome, Kstatus::InProgress, "generation is 2, but latest observed generation is 1");
    fleet.start(0);
    let outcome = chart.upgrade(&fleet, Version::Four, "lines", LONG);
    done(&fleet, WEB, &outcome);
    fleet.reaches(81, SECOND_SERVER, 82);

    // Another name for the same forward: the new forward conflicts with the old one until Helm has deleted it.
    chart.set(&[("lines/renamed", spec(81, SECOND_SERVER, 82))]);
    let outcome = chart.upgrade(&fleet, Version::Four, "lines", LONG);
    done(&fleet, "lines/renamed", &outcome);
    assert_eq!(fleet.plane.forward(WEB), None);

    // Disabled: Helm does not wait for it.
    chart.set(&[("lines/renamed", format!("mode: Disabled, {}", spec(81, SECOND_SERVER, 82)))]);
    let outcome = chart.upgrade(&fleet, Version::Four, "lines", LONG);
    done(&fleet, "lines/renamed", &outcome);
    at_once(&outcome);
    assert_eq!(fleet.ask(81), REFUSED);

    chart.uninstall(&fleet, Version::Four, "lines");
    assert_eq!(fleet.plane.forward("lines/renamed"), None);
    assert!(eventually(PATIENCE, || fleet.proxy(0).our_rules(Variant::Nft).is_empty()));
}

/// How long a conflict lasts before the summary reports it (src/cluster/publisher.rs, `SETTLE`).
const SETTLE: Duration = Duration::from_secs(3);

/// Replaces a forward by another one that conflicts with it. Returns the time that this took, and what tools saw in the
/// meantime.
fn replaced(fleet: &Fleet, before: &str, after: &str) -> (Duration, Kstatus) {
    let begun = Instant::now();
    let object = serde_saphyr::from_str(&manifest(after, &web())).unwrap();
    fleet.plane.must(&Request::post(Resource::Forwards.path(Some(LINES), None), object));
    fleet.wait_entries(after, &["px0 Active Conflict"]);
    let told = kstatus(&fleet.plane.forward(after).unwrap()).0;
    fleet.plane.delete(Resource::Forwards, before);
    (begun.elapsed(), told)
}

/// The entry of the node shows the conflict at once. The summary, which tools read, shows it only if it lasts.
#[test]
fn a_conflict_that_is_soon_over_is_told_to_no_tool() {
    let fleet = Fleet::new(1);
    // By name, each would lose against the previous one, even if both were created in the same second.
    let names: Vec<String> = (10..30).map(|number| format!("lines/web-{number}")).collect();
    fleet.apply(&names[0], &web());
    fleet.plane.wait_condition(&names[0], "Ready", "True", "Ready");
    // On a machine that is too busy to be fast enough, the test shows nothing and tries again.
    let soon = names.windows(2).find_map(|pair| {
        let (took, told) = replaced(&fleet, &pair[0], &pair[1]);
        fleet.plane.wait_condition(&pair[1], "Ready", "True", "Ready");
        (took < SETTLE).then(|| (pair[1].clone(), told))
    });
    let (successor, told) = soon.expect("the machine is too busy to replace a forward within three seconds");
    assert_eq!(told, Kstatus::InProgress);
    let events = || fleet.events(&successor).into_iter().map(|(reason, _, _)| reason).collect::<Vec<_>>();
    assert!(eventually(PATIENCE, || !events().is_empty()));
    assert_eq!(events(), ["Ready"]);
}

/// Helm 3 knows no health of our kind. It is done as soon as the API server has the object.
#[test]
fn helm_3_does_not_wait_for_forwards() {
    let mut fleet = Fleet::without_agents(1);
    let chart = Chart::new(&fleet);
    chart.set(&[(WEB, web())]);
    let outcome = chart.upgrade(&fleet, Version::Three, "lines", LONG);
    assert!(outcome.done, "{outcome:#?}");
    at_once(&outcome);
    assert_eq!(kstatus(&fleet.plane.forward(WEB).unwrap()).0, Kstatus::InProgress, "no agent has seen it");
    let wait = ["wait", "--for=condition=Ready", "--timeout=1s", "-n", "lines", "pf/web"];
    assert!(!fleet.plane.kubectl(wait).status.success(), "kubectl knows better");

    fleet.start(0);
    let wait = ["wait", "--for=condition=Ready", "--timeout=120s", "-n", "lines", "pf/web"];
    assert!(fleet.plane.kubectl(wait).status.success(), "{:#?}", fleet.plane.forward(WEB));
    fleet.reaches(80, SERVER, 80);
    chart.set(&[(WEB, spec(81, SERVER, 81))]);
    assert!(chart.upgrade(&fleet, Version::Three, "lines", LONG).done);
    fleet.wait_reaches(81, SERVER, 81);
    chart.uninstall(&fleet, Version::Three, "lines");
    assert!(eventually(PATIENCE, || fleet.proxy(0).our_rules(Variant::Nft).is_empty()));
}
