//! Who is measured: the agent, or kube-proxy in one of its modes, with the object that is changed.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::api::{Api, Kind};
use crate::bed::agent::Agent;
use crate::field::Field;
use crate::kube_proxy::{KubeProxy, Mode};
use crate::objects::{self, Side};
use crate::prober::{Path, probing_one};
use crate::shared::process::cpu;
use crate::shared::shapes::Forward;

/// The name of the agent in figures.
pub(crate) const OURS: &str = "ours";
/// A change that takes longer ends the run.
const LONGEST: Duration = Duration::from_mins(5);
/// The time between two changes. It is longer than the interval of 1 s between two syncs of kube-proxy, so that no change waits
/// for it.
const PACE: Duration = Duration::from_millis(1_300);
/// The time over which the CPU time without changes is measured.
const IDLE: Duration = Duration::from_secs(3);

/// The program that follows the changes.
#[derive(Debug)]
pub(crate) enum Program {
    /// The agent.
    Agent(Agent),
    /// kube-proxy.
    KubeProxy(KubeProxy, Mode),
}

/// A program, and the one object of many that is changed.
pub(crate) struct Subject {
    /// The name in figures.
    pub(crate) name: String,
    /// The program.
    pub(crate) program: Program,
    object: String,
    forward: Forward,
    path: Path,
    side: Side,
}

/// What one change took.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Taken {
    /// From the answer of the API server to the first new connection at the new upstream.
    pub(crate) packet: Duration,
    /// From the answer until the status says so, if the program writes one.
    pub(crate) status: Option<Duration>,
}

impl Subject {
    /// The agent, with the forward at this index of its set.
    pub(crate) fn agent(agent: Agent, forwards: &[Forward], index: usize) -> Self {
        let (object, forward) = (objects::name(index), forwards[index]);
        let path = objects::forward_path(&forward);
        Self { name: OURS.to_owned(), program: Program::Agent(agent), object, forward, path, side: Side::First }
    }

    /// kube-proxy, with the Service at this index.
    pub(crate) fn kube_proxy(kube_proxy: KubeProxy, mode: Mode, forwards: &[Forward], index: usize) -> Self {
        let (object, forward) = (objects::name(index), forwards[index]);
        let (program, path) = (Program::KubeProxy(kube_proxy, mode), objects::service_path(index));
        Self { name: peer(mode), program, object, forward, path, side: Side::First }
    }

    /// The process id of the program.
    pub(crate) fn id(&self) -> u32 {
        match &self.program {
            Program::Agent(agent) => agent.id(),
            Program::KubeProxy(kube_proxy, _) => kube_proxy.id(),
        }
    }

    /// How a client reaches the object.
    pub(crate) const fn path(&self) -> Path {
        self.path
    }

    /// The upstream of the object now.
    pub(crate) fn upstream(&self) -> Ipv4Addr {
        self.side.upstream(&self.forward)
    }

    /// Changes the object once, and waits until packets and the status follow.
    pub(crate) fn change(&mut self, field: &Field, api: &Api) -> Taken {
        self.side = self.side.other();
        let (kind, change) = match self.program {
            Program::Agent(_) => (Kind::Forward, objects::forward_change(&self.forward, self.side)),
            Program::KubeProxy(..) => (Kind::Slice, objects::slice_change(&self.forward, self.side)),
        };
        let (generation, answered, packet) = self.send(field, api, kind, &change);
        let status = match &self.program {
            Program::Agent(_) => Some(api.wait_ready(&self.object, generation, LONGEST).saturating_duration_since(answered)),
            Program::KubeProxy(kube_proxy, _) => {
                kube_proxy.wait_quiet(LONGEST);
                None
            }
        };
        Taken { packet, status }
    }

    fn send(&self, field: &Field, api: &Api, kind: Kind, change: &Value) -> (Option<i64>, Instant, Duration) {
        let wanted = self.upstream();
        probing_one(&field.bed.client, self.path, || {
            field.sink.forget();
            let (object, answered) = api.change(kind, &self.object, change);
            let arrived = field.sink.wait(wanted, LONGEST);
            let arrived = arrived.unwrap_or_else(|| panic!("{}: {} never led to {wanted}", self.name, self.object));
            (object.metadata.generation, answered, arrived.saturating_duration_since(answered))
        })
    }

    /// Changes the object this number of times after a first change that does not count. Returns what each took, and the CPU
    /// time of a change.
    pub(crate) fn changes(&mut self, field: &Field, api: &Api, count: u32) -> (Vec<Taken>, Duration) {
        self.begin(field);
        self.change(field, api);
        std::thread::sleep(PACE);
        let idle = self.idle(IDLE);
        let (before, begun) = (cpu(self.id()), Instant::now());
        let mut taken = Vec::new();
        for _ in 0..count {
            let started = Instant::now();
            taken.push(self.change(field, api));
            std::thread::sleep(PACE.saturating_sub(started.elapsed()));
        }
        let used = cpu(self.id()).saturating_sub(before).saturating_sub(begun.elapsed().mul_f64(idle));
        self.end();
        (taken, used / count)
    }

    /// The CPUs that the program uses during this time without changes.
    pub(crate) fn idle(&self, time: Duration) -> f64 {
        let (before, begun) = (cpu(self.id()), Instant::now());
        std::thread::sleep(time);
        cpu(self.id()).saturating_sub(before).div_duration_f64(begun.elapsed())
    }

    /// Lets the program run, and leads the packets through its node.
    pub(crate) fn begin(&self, field: &Field) {
        match &self.program {
            Program::Agent(_) => {}
            Program::KubeProxy(kube_proxy, mode) => {
                field.lead_services_through(mode.own_node());
                kube_proxy.thaw();
            }
        }
    }

    /// Stops kube-proxy. The agent has nothing to do while only Services change.
    pub(crate) fn end(&self) {
        if let Program::KubeProxy(kube_proxy, _) = &self.program {
            kube_proxy.freeze();
        }
    }
}

/// The name of a kube-proxy in figures.
pub(crate) fn peer(mode: Mode) -> String {
    format!("kube-proxy {}", mode.name())
}
