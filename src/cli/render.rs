//! `render`: what manifests become, without touching anything.

use std::fmt::Write as _;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use clap::{Args, ValueEnum};

use super::Exit;
use super::agent::CHECK;
use super::exit::{complain, print, with_runtime};
use super::logging::LogOptions;
use super::options::{BackendChoice, PolicyOptions, label};
use crate::dataplane::Backend;
use crate::dataplane::iptables::Variant;
use crate::dataplane::routes::{METRIC, PROTOCOL};
use crate::grant::Grant;
use crate::model::{Facts, HostRoute};
use crate::node::Observer;
use crate::plan::{Acceptance, Candidate, Grants, InForce, Plan, Policy, RoutePlan, assumed_facts, is_assumed, plan};
use crate::source::folder::{self, Objects};

#[derive(Args, Debug)]
#[command(
    after_help = "Prints the rules in the format of iptables-restore --noflush, and the routes as comments.\n\nWithout --this-node, the plan is for a node that holds every internal and external address of the manifests.\n\nRefused and conflicting forwards are listed on standard error, and the exit status is 3.\n\nExample:\n  portforward-operator render examples/bank-a-web.yaml"
)]
pub(super) struct RenderOptions {
    /// Manifest files or folders, or - for standard input
    #[arg(required = true, value_name = "FILE|DIR|-")]
    manifests: Vec<PathBuf>,
    /// What holds the rules; for nftables, the table as nft -f takes it
    #[arg(long, value_enum, default_value_t = BackendChoice::Iptables, value_name = "BACKEND")]
    backend: BackendChoice,
    /// With --backend iptables: variant of the programs
    #[arg(long, value_enum, default_value_t = RenderVariant::Nft, value_name = "VARIANT")]
    iptables: RenderVariant,
    /// Plan for this node as it is now
    #[arg(long)]
    this_node: bool,
    /// Label of the node, for nodeSelector; repeat for several labels
    #[arg(long = "node-label", value_name = "KEY=VALUE", value_parser = label)]
    node_labels: Vec<(String, String)>,
    #[command(flatten)]
    policy: PolicyOptions,
    #[command(flatten)]
    pub(super) log: LogOptions,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum RenderVariant {
    Nft,
    Legacy,
}

pub(super) fn run(options: &RenderOptions) -> anyhow::Result<Exit> {
    let mut objects = Objects::default();
    let mut exit = Exit::Done;
    for manifests in &options.manifests {
        for (place, read) in read(manifests)? {
            match read {
                Ok(read) => {
                    objects.forwards.extend(read.forwards);
                    objects.grants.extend(read.grants);
                }
                Err(error) => {
                    error.lines().for_each(|line| complain(&format!("{place}: {line}")));
                    exit = Exit::Refused;
                }
            }
        }
    }
    let candidates: Vec<Candidate> = objects.forwards.iter().map(|object| Candidate::of(object)).collect();
    // A mistake in a grant was reported with its file.
    let grants = objects.grants.iter().filter_map(|grant| Grant::parse(grant).ok());
    let policy = Policy { grants: Grants::Read(grants.collect()), ..options.policy.policy() };
    let plan = plan(&facts(options, &candidates)?, &candidates, &policy, &InForce::default());
    if say_refused(&plan) {
        exit = Exit::Refused;
    }
    let backend = match (options.backend, options.iptables) {
        (BackendChoice::Nftables, _) => Backend::Nftables,
        (BackendChoice::Iptables, RenderVariant::Nft) => Backend::Iptables(Variant::Nft),
        (BackendChoice::Iptables, RenderVariant::Legacy) => Backend::Iptables(Variant::Legacy),
    };
    print(&(backend.render(&plan.desired.translations, policy.connmark) + &routes(&plan)))?;
    Ok(exit)
}

fn facts(options: &RenderOptions, candidates: &[Candidate]) -> anyhow::Result<Facts> {
    let labels = options.node_labels.iter().cloned().collect();
    if options.this_node {
        let mut facts = None;
        with_runtime(async {
            facts = Some(Observer::default().facts().await?);
            Ok(Exit::Done)
        })?;
        let facts = facts.context("the facts of this node were not read")?;
        Ok(Facts { labels, ..facts })
    } else {
        Ok(assumed_facts(labels, candidates))
    }
}

type Contents = Vec<(String, Result<Objects, String>)>;

/// What each file of `manifests` holds, or what is wrong with it.
fn read(manifests: &Path) -> anyhow::Result<Contents> {
    if manifests.is_dir() {
        let snapshot = folder::read(manifests, CHECK)?;
        let broken = snapshot.files.iter().filter_map(|file| Some((file.path.display().to_string(), Err(file.error.clone()?))));
        let forwards = snapshot.forwards.iter().map(|sourced| Arc::clone(&sourced.object)).collect();
        let grants = snapshot.grants.iter().flat_map(|set| &set.grants).map(|sourced| Arc::clone(&sourced.object));
        let objects = Objects { forwards, grants: grants.collect() };
        return Ok(broken.chain([(manifests.display().to_string(), Ok(objects))]).collect());
    }
    let mut text = Vec::new();
    if manifests == Path::new("-") {
        std::io::stdin().read_to_end(&mut text).context("standard input cannot be read")?;
    } else {
        text = std::fs::read(manifests).with_context(|| format!("{} cannot be read", manifests.display()))?;
    }
    Ok(vec![(manifests.display().to_string(), folder::objects(&text, CHECK))])
}

/// Says on standard error what is not carried and why; gives whether there was any.
fn say_refused(plan: &Plan) -> bool {
    let mut any = false;
    for (key, verdict) in &plan.verdicts {
        let said = match &verdict.acceptance {
            Acceptance::Refused(refusal) => format!("{}: {}", refusal.reason, refusal.message),
            Acceptance::RefusedHere(refusal) => format!("{}: {}", refusal.reason.as_str(), refusal.message),
            Acceptance::Conflict(conflict) => format!("Conflict: {}", conflict.message),
            Acceptance::Accepted if verdict.role.is_none() => {
                complain(&format!("{key}: this node is no candidate: its labels or addresses do not fit"));
                continue;
            }
            Acceptance::Accepted | Acceptance::Disabled => continue,
        };
        complain(&format!("{key}: {said}"));
        any = true;
    }
    any
}

/// The routes as `ip route` takes them, and those that are withheld, as comments.
fn routes(plan: &Plan) -> String {
    let mut text: String = plan.desired.routes.iter().map(route).collect();
    for withheld in plan.verdicts.values().flat_map(|verdict| &verdict.routes) {
        if let RoutePlan::Withheld(obstacle) = withheld {
            let _ = writeln!(text, "# {}: {}", obstacle.reason.as_str(), obstacle.message);
        }
    }
    text
}

fn route(HostRoute { destination, gateway, interface }: &HostRoute) -> String {
    let by = if is_assumed(interface) { String::new() } else { format!(" dev {interface}") };
    format!("# ip route add {destination} via {gateway}{by} proto {PROTOCOL} metric {METRIC}\n")
}
