//! Measures the product through its own front door, from the API server to the packet: `make bench`, described in
//! `docs/performance.md`.
//!
//! A real etcd, API server and agent run in network namespaces, and beside them kube-proxy with as many Services that do the
//! same job. All have their turns in one run, so that other load on the machine affects all alike. Needs root.
//!
//! Arguments choose measures by name; without arguments, all are measured. `QUICK=1` measures less.

mod api;
#[path = "../../tests/bed/mod.rs"]
mod bed;
mod beside;
mod field;
mod folder;
mod heal;
mod kube_proxy;
mod load;
mod objects;
#[path = "../layout/packet.rs"]
mod packet;
#[path = "../../tests/plane/mod.rs"]
mod plane;
mod prober;
mod rounds;
mod run;
#[path = "../shared/mod.rs"]
mod shared;
mod sink;
mod start;
mod subject;

use std::process::ExitCode;

use bed::kernel::Variant;
// The module of packets names it so.
use bed::netns;
use rounds::Rounds;
use run::Run;
use shared::figures::Figures;
use shared::shapes::{MANY, Shape};
use shared::supervise;

/// What holds the rules of the agents.
const BACKENDS: [Variant; 3] = [Variant::Nft, Variant::Legacy, Variant::Nftables];

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Measure {
    /// Starts, changes and memory with different numbers of forwards, beside kube-proxy.
    Changes,
    /// Changes with 10,000 forwards of the other shapes.
    Shapes,
    /// Changes beside thousands of foreign Services.
    Beside,
    /// The memory of an agent with a folder of manifests.
    Folder,
}

impl Measure {
    const ALL: [Self; 4] = [Self::Changes, Self::Shapes, Self::Beside, Self::Folder];

    /// The name, as an argument.
    const fn name(self) -> &'static str {
        match self {
            Self::Changes => "changes",
            Self::Shapes => "shapes",
            Self::Beside => "beside",
            Self::Folder => "folder",
        }
    }

    fn run(self, rounds: &Rounds) {
        let mut figures = Figures::new(self.name());
        match self {
            Self::Changes => {
                for count in rounds.counts() {
                    for variant in BACKENDS {
                        Run { variant, shape: Shape::OwnPort, count }.measure(&mut figures, rounds);
                    }
                }
            }
            Self::Shapes => {
                for shape in Shape::ALL.into_iter().filter(|shape| *shape != Shape::OwnPort && rounds.is_long()) {
                    for variant in BACKENDS {
                        Run { variant, shape, count: MANY }.measure(&mut figures, rounds);
                    }
                }
            }
            Self::Beside => beside::measure(&mut figures, rounds, rounds.services),
            Self::Folder => {
                for count in rounds.counts().into_iter().filter(|count| *count >= 1_000) {
                    for variant in BACKENDS {
                        folder::measure(Run { variant, shape: Shape::OwnPort, count }, &mut figures, rounds.under_load);
                    }
                }
            }
        }
    }
}

fn main() -> ExitCode {
    supervise::run(measure, netns::remove_leftovers)
}

fn measure(names: &[String]) -> ExitCode {
    let unknown = names.iter().find(|name| Measure::ALL.iter().all(|measure| measure.name() != **name));
    if let Some(unknown) = unknown {
        eprintln!("there is no measure {unknown}; there are {}", Measure::ALL.map(Measure::name).join(", "));
        return ExitCode::from(2);
    }
    let rounds = Rounds::chosen();
    for measure in Measure::ALL {
        if names.is_empty() || names.iter().any(|name| name == measure.name()) {
            measure.run(&rounds);
        }
    }
    ExitCode::SUCCESS
}
