//! `status`: shows the state of each forward on this node, read from its kernel. Writes nothing and takes no lock.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;

use anyhow::bail;
use clap::{Args, ValueEnum};
use k8s_openapi::jiff::Timestamp;

use super::Exit;
use super::exit::print;
use super::logging::LogOptions;
use super::options::{BackendOptions, PolicyOptions, StateOptions, believed};
use super::screen::Screen;
use super::wide::details;
use crate::agent::{self, Memory, Synced};
use crate::api::PortForward;
use crate::dataplane::{Forwarding, Kernel};
use crate::forward::ForwardKey;
use crate::node::{NextHops, Observer, Patience};
use crate::publish::{Shown, list, table, table_within, wide_table};
use crate::record::{self, RecordError};
use crate::similar;
use crate::source::Snapshot;
use crate::status::{Judgement, Judgements, Standing, State, Type, here};
use crate::supervise::Tasks;

#[derive(Args, Debug)]
#[command(
    after_help = "Compares the kernel with the record of this node. Changes nothing and takes no lock, so it works with and without a running agent. Use the same --node-name, --state-dir, --backend, --iptables, --connmark, --reserved-ports, --forbidden-networks and --max-translations as the agent. Needs root, to read the record and the rules.\n\nIt shows this node only. For all nodes of a cluster: kubectl get pf --all-namespaces -o wide\n\nExit status:\n  0  every forward of this node is in the kernel as planned\n  1  the state could not be read; the message says why\n  4  some forwards are not in the kernel as planned (PROGRAMMED is not True)\n\nExamples:\n  portforward-operator status\n  portforward-operator status leased-lines/bank-a-web -o wide"
)]
pub(super) struct StatusOptions {
    /// Forwards to show, as NAMESPACE/NAME, or NAME in any namespace [default: all]
    #[arg(value_name = "FORWARD")]
    forwards: Vec<String>,
    /// Output format
    #[arg(short, long, value_enum, default_value_t = Output::Table, value_name = "FORMAT")]
    output: Output,
    #[command(flatten)]
    state: StateOptions,
    #[command(flatten)]
    backend: BackendOptions,
    #[command(flatten)]
    policy: PolicyOptions,
    #[command(flatten)]
    pub(super) log: LogOptions,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    /// One line for each forward
    Table,
    /// The table with ports and whole messages, then role, translations and routes of each forward, and the chains that differ
    Wide,
    /// A List of PortForwards with their status
    Json,
    /// The same List as YAML
    Yaml,
}

pub(super) async fn run(options: StatusOptions) -> anyhow::Result<Exit> {
    let node = options.state.node_name()?;
    let state_dir = options.state.state_dir;
    let Some(loaded) = record::load(&state_dir, &node).map_err(unreadable)? else {
        bail!(
            "{}: no record: nothing was applied completely on this node yet; start the agent, see its log, or give its --state-dir",
            state_dir.display()
        );
    };
    let memory = Memory::new(&node, Some(believed(&loaded))).holding(loaded.withheld());
    let snapshot = memory.snapshot().unwrap_or_default();
    let chosen = chosen(&options.forwards, &snapshot)?;
    let backend = options.backend.backend().await?;
    let policy = options.policy.policy().requiring_at_least(memory.required_grants());
    let kernel = Kernel::new(backend, Forwarding::Leave).marking(policy.connmark);
    let mut tasks = Tasks::default();
    let observer = Observer::default().beside(backend).asking(NextHops::ask(Patience::Exhaustive, &Arc::default(), &mut tasks));
    let seen = agent::inspect(&observer, &kernel, &policy, &memory, &snapshot).await?;
    let rules = &seen.applied.rules;
    if let Some(error) = rules.failure() {
        return Err(anyhow::Error::from(error.clone()).context("the rules cannot be read; run the command as root"));
    }
    let routes = seen.applied.routes.as_ref().map_err(|error| anyhow::anyhow!("{error}"))?;
    let objects = objects(&node, &snapshot, &chosen, &seen.judgements);
    let screen = Screen::of_stdout();
    print(&match options.output {
        Output::Table => screen.coloured(&screen.width.map_or_else(|| table(&objects), |width| table_within(&objects, width))),
        Output::Wide => {
            screen.coloured(&wide_table(&objects))
                + &details(&chosen, &seen.plan, &backend.layout(&seen.plan.desired.translations, policy.connmark), rules, routes)
        }
        Output::Json => serde_json::to_string_pretty(&list(&objects))? + "\n",
        Output::Yaml => serde_saphyr::to_string(&list(&objects))?,
    })?;
    Ok(verdict(&chosen, &seen))
}

fn unreadable(error: RecordError) -> anyhow::Error {
    match &error {
        RecordError::Io { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
            anyhow::Error::from(error).context("this user may not read the record; run the command as root")
        }
        RecordError::Io { .. }
        | RecordError::Untrusted { .. }
        | RecordError::TooLarge { .. }
        | RecordError::Damaged { .. }
        | RecordError::Version { .. }
        | RecordError::OtherNode { .. }
        | RecordError::Locked { .. }
        | RecordError::Unnoted(_)
        | RecordError::Stopped(_)
        | RecordError::Unwritable(_) => error.into(),
    }
}

/// The forwards with the given names; all forwards if no name is given.
fn chosen(names: &[String], snapshot: &Snapshot) -> anyhow::Result<BTreeSet<ForwardKey>> {
    let known: BTreeSet<ForwardKey> = snapshot.forwards.iter().map(|sourced| ForwardKey::of(&sourced.object)).collect();
    let mut chosen = BTreeSet::new();
    for name in names {
        let is_named = |key: &&ForwardKey| if name.contains('/') { key.to_string() == *name } else { key.name == *name };
        let found: Vec<ForwardKey> = known.iter().filter(is_named).cloned().collect();
        if found.is_empty() {
            bail!("{name}: the record of this node has no such forward{}", did_you_mean(name, &known));
        }
        chosen.extend(found);
    }
    Ok(if names.is_empty() { known } else { chosen })
}

/// The maximum number of names that are suggested for an unknown name.
const OFFERED: usize = 3;

/// The names that are most similar to `name`, for a message. If there are few names, all of them.
fn did_you_mean(name: &str, known: &BTreeSet<ForwardKey>) -> String {
    let likeness = |key: &ForwardKey| {
        if name.contains('/') { similar::likeness(name, &key.to_string()) } else { similar::likeness(name, &key.name) }
    };
    let offered = |key: &&ForwardKey| known.len() <= OFFERED || similar::is_alike(likeness(key));
    let mut alike: Vec<&ForwardKey> = known.iter().filter(offered).collect();
    alike.sort_by(|a, b| likeness(b).total_cmp(&likeness(a)));
    let names: Vec<String> = alike.into_iter().take(OFFERED).map(ToString::to_string).collect();
    match names.is_empty() {
        true if known.is_empty() => "; it has no forwards".to_owned(),
        true => format!("; portforward-operator status lists all {}", known.len()),
        false => format!("; did you mean {}?", names.join(" or ")),
    }
}

/// The chosen objects, each with its status on this node.
fn objects(node: &str, snapshot: &Snapshot, chosen: &BTreeSet<ForwardKey>, judgements: &Judgements) -> Vec<Shown> {
    let now = Timestamp::now();
    let shown = |object: &Arc<PortForward>| {
        let key = chosen.get(&ForwardKey::of(object))?;
        let status = judgements.get(key).map(|judgement| Arc::new(here(node, judgement, now)));
        Some(Shown { object: Arc::clone(object), status })
    };
    snapshot.forwards.iter().filter_map(|sourced| shown(&sourced.object)).collect()
}

/// Whether the kernel holds all chosen forwards that are carried here, and no withdrawn ones.
fn verdict(chosen: &BTreeSet<ForwardKey>, seen: &Synced) -> Exit {
    let holds = |judgement: &Arc<Judgement>| match judgement.standing {
        Standing::Carried | Standing::Withdrawn => {
            judgement.condition(Type::Programmed).is_some_and(|programmed| programmed.state == State::True)
        }
        Standing::Elsewhere | Standing::Refused | Standing::RefusedHere => true,
    };
    let all = chosen.iter().filter_map(|key| seen.judgements.get(key)).all(holds);
    if all { Exit::Done } else { Exit::NotProgrammed }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::json;

    use super::*;
    use crate::agent::Kept;
    use crate::api::decode;
    use crate::dataplane::conntrack::Purged;
    use crate::dataplane::routes::RoutesReport;
    use crate::dataplane::rules::{Place, RulesReport};
    use crate::dataplane::{Applied, Backend, Forwarded};
    use crate::model::Connmark;
    use crate::plan::{Candidate, InForce, Plan, assumed_facts, plan};
    use crate::source::Sourced;
    use crate::status::judge;

    fn object(namespace: &str, name: &str, port: u16) -> PortForward {
        decode(json!({
            "apiVersion": "portforward.dev/v1alpha1",
            "kind": "PortForward",
            "metadata": {"namespace": namespace, "name": name, "generation": 1},
            "spec": {
                "client": {"addresses": ["1.1.1.1"]},
                "internal": {"addresses": ["192.168.0.2"]},
                "upstream": {"targets": [{"address": "3.3.3.3"}]},
                "ports": [{"name": "http", "port": port}],
            },
        }))
        .unwrap()
    }

    fn place(table: &'static str, chain: &str) -> Place {
        Place { table, chain: chain.to_owned() }
    }

    fn snapshot(objects: impl IntoIterator<Item = PortForward>) -> Snapshot {
        let sourced = |object| Sourced::of(Arc::new(object), None);
        Snapshot { forwards: objects.into_iter().map(sourced).collect(), ..Snapshot::default() }
    }

    fn seen(snapshot: &Snapshot, rules: RulesReport) -> Synced {
        let candidates: Vec<Candidate> = snapshot.forwards.iter().map(|sourced| Candidate::of(&sourced.object)).collect();
        let facts = assumed_facts(BTreeMap::new(), &candidates);
        let plan: Plan = plan(&facts, &candidates, &crate::plan::Policy::default(), &InForce::default());
        let applied = Applied {
            rules,
            routes: Ok(RoutesReport::default()),
            conntrack: Ok(Purged::default()),
            forwarding: Ok(Forwarded::default()),
        };
        let judged = plan.verdicts.iter().map(|(key, verdict)| (key.clone(), Arc::new(judge(verdict, &applied))));
        let judgements = judged.collect();
        Synced { plan, applied, judgements, leaving: Vec::new(), kept: Kept::default() }
    }

    fn named(names: &[&str], snapshot: &Snapshot) -> Result<Vec<String>, String> {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let chosen = chosen(&names, snapshot).map_err(|error| error.to_string())?;
        Ok(chosen.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn a_name_without_namespace_is_searched_in_every_namespace() {
        let snapshot = snapshot([object("a", "web", 80), object("b", "log", 81), object("b", "web", 82)]);
        assert_eq!(named(&[], &snapshot).unwrap(), ["a/web", "b/log", "b/web"]);
        assert_eq!(named(&["web"], &snapshot).unwrap(), ["a/web", "b/web"]);
        assert_eq!(named(&["b/web", "b/web"], &snapshot).unwrap(), ["b/web"]);
        assert!(named(&["a/log"], &snapshot).unwrap_err().ends_with("did you mean b/log or a/web or b/web?"));
        assert!(named(&["web"], &Snapshot::default()).unwrap_err().ends_with("no such forward; it has no forwards"));
        assert_eq!(named(&[], &Snapshot::default()).unwrap(), [""; 0]);
    }

    #[test]
    fn of_many_names_only_similar_ones_are_suggested() {
        let many = (0..40).map(|number| object("lines", &format!("bank-{number}"), 1000 + number));
        let snapshot = snapshot(many.chain([object("lines", "payments", 80)]));
        assert!(named(&["paymnets"], &snapshot).unwrap_err().ends_with("did you mean lines/payments?"));
        assert!(named(&["zzz"], &snapshot).unwrap_err().ends_with("portforward-operator status lists all 41"));
    }

    #[test]
    fn the_exit_status_depends_on_the_chosen_forwards_that_are_carried_here() {
        let snapshot = snapshot([object("a", "loser", 80), object("a", "earlier", 80)]);
        let keys = |names: &[&str]| chosen(&names.iter().map(ToString::to_string).collect::<Vec<_>>(), &snapshot).unwrap();
        assert_eq!(verdict(&keys(&[]), &seen(&snapshot, RulesReport::default())), Exit::Done);
        let drifted = RulesReport { differing: vec![place("nat", "PF-PRE")], ..RulesReport::default() };
        let drifted = seen(&snapshot, drifted);
        assert_eq!(verdict(&keys(&[]), &drifted), Exit::NotProgrammed);
        assert_eq!(verdict(&keys(&["earlier"]), &drifted), Exit::NotProgrammed);
        assert_eq!(verdict(&keys(&["loser"]), &drifted), Exit::Done, "a conflict is not a drift");
    }

    #[test]
    fn wide_names_the_chains_that_are_not_as_planned() {
        let snapshot = snapshot([object("a", "loser", 80), object("a", "earlier", 80)]);
        let drifted = RulesReport { differing: vec![place("filter", "PF-FWD")], ..RulesReport::default() };
        let seen = seen(&snapshot, drifted.clone());
        let layout = Backend::default().layout(&seen.plan.desired.translations, Connmark::default());
        let text = details(&chosen(&[], &snapshot).unwrap(), &seen.plan, &layout, &drifted, &RoutesReport::default());
        let wanted = "
a/earlier: carried, Active
  translation TCP 1.1.1.1/32 → 192.168.0.2:80 → 3.3.3.3:80, source address of the outgoing interface
  chain       filter PF-FWD: not as planned
  chains      2 more as planned

a/loser: not carried
";
        assert_eq!(text, wanted);
    }
}
