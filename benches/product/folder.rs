//! The memory of an agent with a folder of manifests, after changes.

use std::time::{Duration, Instant};

use crate::bed::agent::{Agent, AgentOptions, Manifests};
use crate::field::Field;
use crate::objects::{self, Side};
use crate::prober::probing_one;
use crate::run::Run;
use crate::shared::figures::Figures;
use crate::shared::process::memory;
use crate::shared::progress;
use crate::subject::OURS;

/// A change that takes longer ends the run.
const LONGEST: Duration = Duration::from_mins(2);

/// Changes one file this number of times.
pub(crate) fn measure(run: Run, figures: &mut Figures, changes: u32) {
    progress(&format!("a folder of {} manifests, {}", run.count, run.variant));
    let field = Field::new(run.shape);
    let (forwards, proxy) = (run.forwards(), field.bed.proxy());
    let manifests = Manifests::new(proxy);
    let middle = objects::middle(&forwards);
    let file = |index: usize| format!("{}.yaml", objects::name(index));
    // JSON is YAML.
    for (index, forward) in forwards.iter().enumerate() {
        manifests.put(&file(index), &objects::forward(index, forward).to_string());
    }
    let agent = Agent::start(proxy, &manifests, &AgentOptions::new(run.variant));
    let mut side = Side::First;
    let mut packets = Vec::new();
    probing_one(&field.bed.client, objects::forward_path(&forwards[middle]), || {
        let wait = |side: Side| {
            let upstream = side.upstream(&forwards[middle]);
            field.sink.wait(upstream, LONGEST).unwrap_or_else(|| panic!("packets never reached {upstream}"))
        };
        wait(side);
        for _ in 0..changes {
            side = side.other();
            let mut edited = forwards[middle];
            edited.upstream.set_ip(side.upstream(&forwards[middle]));
            field.sink.forget();
            manifests.put(&file(middle), &objects::forward(middle, &edited).to_string());
            let written = Instant::now();
            packets.push(wait(side).saturating_duration_since(written).as_secs_f64() * 1e3);
        }
    });
    run.note(figures, "folder: change: packet", OURS, "ms", packets);
    let (now, most) = memory(agent.id());
    run.note(figures, "folder: memory", OURS, "MiB", vec![now]);
    run.note(figures, "folder: memory: peak", OURS, "MiB", vec![most]);
}
