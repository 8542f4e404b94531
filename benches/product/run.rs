//! One run: a variant of iptables, a shape and a number of forwards, with the peers beside it.

use std::time::Duration;

use crate::api::Api;
use crate::bed::kernel::Variant;
use crate::bed::wait::eventually;
use crate::field::Field;
use crate::kube_proxy::Mode;
use crate::objects;
use crate::rounds::Rounds;
use crate::shared::figures::{Figure, Figures};
use crate::shared::process::memory;
use crate::shared::progress;
use crate::shared::shapes::{Forward, Shape, Transport};
use crate::subject::{OURS, Program, Subject, peer};
use crate::{heal, load, start};

/// How long an agent may write after all statuses are written.
const SETTLED: Duration = Duration::from_mins(3);

/// How long an agent is observed that has nothing to do.
const IDLE: Duration = Duration::from_mins(1);

/// The set of a run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Run {
    /// What holds the rules.
    pub(crate) variant: Variant,
    /// The shape of the set.
    pub(crate) shape: Shape,
    /// The number of forwards.
    pub(crate) count: u32,
}

impl Run {
    /// The forwards.
    pub(crate) fn forwards(self) -> Vec<Forward> {
        self.shape.forwards(self.count, Transport::Tcp)
    }

    /// Notes a figure.
    pub(crate) fn note(self, figures: &mut Figures, what: &str, of: &str, unit: &str, values: Vec<f64>) {
        let (what, of, unit) = (what.to_owned(), of.to_owned(), unit.to_owned());
        let (run, shape, forwards) = (self.variant.to_string(), self.shape.to_string(), self.count);
        figures.note(Figure { what, run, of, shape, forwards, unit, values });
    }

    /// The modes of kube-proxy beside which the agent is measured. In iptables mode, one sync of 10,000 Services takes ten
    /// seconds and more, so it is measured in one run only.
    fn peers(self, rounds: &Rounds) -> Vec<Mode> {
        let is_wanted = |mode: &Mode| match mode {
            Mode::Nftables => true,
            Mode::Iptables => {
                rounds.is_long() && (self.count <= 1_000 && self.variant != Variant::Nftables || self.variant == Variant::Nft)
            }
        };
        let modes = Mode::ALL.into_iter().filter(is_wanted);
        if self.shape == Shape::OwnPort { modes.collect() } else { Vec::new() }
    }

    /// Measures starts, changes, idleness and memory.
    pub(crate) fn measure(self, figures: &mut Figures, rounds: &Rounds) {
        progress(&format!("{} x {}, {}: making hosts and an API server", self.count, self.shape, self.variant));
        let field = Field::new(self.shape);
        field.plane.netns().run(|| self.measure_in(&field, figures, rounds));
    }

    fn measure_in(self, field: &Field, figures: &mut Figures, rounds: &Rounds) {
        let (api, forwards) = (field.api(), self.forwards());
        let middle = objects::middle(&forwards);
        let modes = self.peers(rounds);
        Field::create_forwards(&api, &forwards);
        if !modes.is_empty() {
            Field::create_services(&api, &forwards);
        }
        let (agent, taken) = start::agent(field, self.variant, &forwards);
        let mut subjects = vec![Subject::agent(agent, &forwards, middle)];
        self.note_start(figures, &subjects[0].name, taken);
        for mode in modes {
            let (kube_proxy, taken) = start::kube_proxy(field, mode.own_node(), mode, self.variant, &forwards);
            self.note_start(figures, &peer(mode), taken);
            let subject = Subject::kube_proxy(kube_proxy, mode, &forwards, middle);
            subject.end();
            subjects.push(subject);
        }
        self.note_rest(field, figures, rounds, &subjects[0]);
        self.note_changes(field, &api, figures, rounds, &mut subjects);
        if self.count >= 1_000 {
            self.note_load(field, &api, figures, rounds, &subjects[0]);
        }
        if self.count == 1_000 {
            let gaps = heal::flushes(field, self.variant, &subjects[0], rounds.flushes);
            let gaps = gaps.iter().map(|gap| gap.as_secs_f64() * 1e3).collect();
            self.note(figures, "flush: until the first new flow", OURS, "ms", gaps);
        }
    }

    /// Flows that are lost during changes, and the memory after them.
    fn note_load(self, field: &Field, api: &Api, figures: &mut Figures, rounds: &Rounds, ours: &Subject) {
        progress(&format!("{} changes under load", rounds.under_load));
        let flows = load::change_under_load(field, api, rounds.under_load);
        self.note(figures, "load: flows sent", OURS, "flows", vec![flows.sent.into()]);
        self.note(figures, "load: flows lost", OURS, "flows", vec![flows.lost.into()]);
        let each = flows.time.as_secs_f64() * 1e3 / f64::from(rounds.under_load);
        self.note(figures, "load: time of a change", OURS, "ms", vec![each]);
        let (now, most) = memory(ours.id());
        self.note(figures, "memory after changes", OURS, "MiB", vec![now]);
        self.note(figures, "memory after changes: peak", OURS, "MiB", vec![most]);
    }

    fn note_start(self, figures: &mut Figures, of: &str, taken: start::Taken) {
        let mut note = |what: &str, time: Duration| self.note(figures, what, of, "s", vec![time.as_secs_f64()]);
        note("start: all forwards work", taken.packet);
        if let Some(list) = taken.list {
            note("start: list answered", list);
            note("start: all forwards work, from the list", taken.packet.saturating_sub(list));
        }
        if let Some(status) = taken.status {
            note("start: all statuses written", status);
        }
    }

    /// The CPUs and the writes of an agent that has nothing to do. The renewal of its lease does not count.
    fn note_rest(self, field: &Field, figures: &mut Figures, rounds: &Rounds, ours: &Subject) {
        let calls = || field.plane.audit_of(crate::plane::access::AGENT_USER, 0);
        let writes = || calls().iter().filter(|call| call.writes() && call.resource != "leases").count();
        // Events are written after the statuses.
        let mut before = writes();
        let settled = eventually(SETTLED, || {
            std::thread::sleep(Duration::from_secs(3));
            let last = std::mem::replace(&mut before, writes());
            last == before
        });
        assert!(settled, "the agent still writes after {} s without changes", SETTLED.as_secs());
        // Long enough for several comparisons of the whole kernel.
        let cpus = ours.idle(if rounds.is_long() && self.count > 1_000 { IDLE } else { IDLE / 6 });
        let written = u32::try_from(writes() - before).expect("few writes");
        self.note(figures, "at rest: CPU", &ours.name, "%", vec![cpus * 100.0]);
        self.note(figures, "at rest: writes", &ours.name, "calls", vec![written.into()]);
    }

    fn note_changes(self, field: &Field, api: &Api, figures: &mut Figures, rounds: &Rounds, subjects: &mut [Subject]) {
        let mut results: Vec<[Vec<f64>; 3]> = subjects.iter().map(|_| Default::default()).collect();
        for block in 1..=rounds.blocks {
            for (subject, [packets, statuses, cpus]) in subjects.iter_mut().zip(&mut results) {
                let is_slow = matches!(subject.program, Program::KubeProxy(_, Mode::Iptables)) && self.count > 1_000;
                if is_slow && block > 1 {
                    continue;
                }
                progress(&format!("changes, block {block} of {}: {}", rounds.blocks, subject.name));
                let (taken, cpu) = subject.changes(field, api, if is_slow { 2 } else { rounds.changes });
                let millis = |time: Duration| time.as_secs_f64() * 1e3;
                packets.extend(taken.iter().map(|taken| millis(taken.packet)));
                statuses.extend(taken.iter().filter_map(|taken| taken.status).map(millis));
                cpus.push(millis(cpu));
            }
        }
        for (subject, [packets, statuses, cpus]) in subjects.iter().zip(results) {
            self.note(figures, "change: packet", &subject.name, "ms", packets);
            if !statuses.is_empty() {
                self.note(figures, "change: status", &subject.name, "ms", statuses);
            }
            self.note(figures, "change: CPU", &subject.name, "ms", cpus);
            let (now, most) = memory(subject.id());
            self.note(figures, "memory", &subject.name, "MiB", vec![now]);
            self.note(figures, "memory: peak", &subject.name, "MiB", vec![most]);
        }
    }
}
