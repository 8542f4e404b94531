//! What a change of ours costs beside thousands of Services of kube-proxy in the same tables.

use crate::bed::kernel::Variant;
use crate::field::{AGENT_NODE, Field};
use crate::kube_proxy::Mode;
use crate::objects;
use crate::rounds::Rounds;
use crate::run::Run;
use crate::shared::figures::Figures;
use crate::shared::progress;
use crate::shared::shapes::{Shape, Transport};
use crate::start;
use crate::subject::{OURS, Subject};

/// The number of forwards of ours.
const OURS_COUNT: u32 = 10;

/// Measures changes first alone, then beside this number of Services.
pub(crate) fn measure(figures: &mut Figures, rounds: &Rounds, services: u32) {
    let run = Run { variant: Variant::Nft, shape: Shape::OwnPort, count: OURS_COUNT };
    progress(&format!("{OURS_COUNT} forwards beside {services} Services: making hosts and an API server"));
    let field = Field::new(run.shape);
    field.plane.netns().run(|| {
        let (api, forwards) = (field.api(), run.forwards());
        Field::create_forwards(&api, &forwards);
        let (agent, _) = start::agent(&field, run.variant, &forwards);
        let mut ours = Subject::agent(agent, &forwards, objects::middle(&forwards));
        let mut note = |what: &str, ours: &mut Subject| {
            progress(&format!("changes, {what}"));
            let (mut packets, mut cpus) = (Vec::new(), Vec::new());
            for _ in 0..rounds.blocks {
                let (taken, cpu) = ours.changes(&field, &api, rounds.changes);
                packets.extend(taken.iter().map(|taken| taken.packet.as_secs_f64() * 1e3));
                cpus.push(cpu.as_secs_f64() * 1e3);
            }
            run.note(figures, &format!("{what}: packet"), OURS, "ms", packets);
            run.note(figures, &format!("{what}: CPU"), OURS, "ms", cpus);
        };
        note("change alone", &mut ours);
        let foreign = Shape::OwnPort.forwards(services, Transport::Tcp);
        Field::create_services(&api, &foreign);
        let (kube_proxy, _) = start::kube_proxy(&field, AGENT_NODE, Mode::Iptables, run.variant, &foreign);
        note(&format!("change beside {services} Services"), &mut ours);
        drop(kube_proxy);
    });
}
