//! The one rule by which FORWARD of iptables accepts flows that another backend translates.
//!
//! A packet passes every chain at a hook, so a rule that accepts it in one table cannot save it from a drop in another one. The rule
//! is needed only if FORWARD drops by its policy or has rules. It knows the flows by the connection mark.

use super::backend::told;
use super::{Failure, Iptables, Ruleset, Stage, Table, Variant, choose, listing, reading, scaffold};
use crate::dataplane::Look;
use crate::dataplane::rules::{Function, RulesReport};
use crate::model::{Connmark, Translations};

/// FORWARD of both variants.
#[derive(Debug)]
pub(in crate::dataplane) struct Accepting {
    mark: Connmark,
    variants: [Iptables; 2],
}

/// What iptables has of the operator.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Held {
    filter: bool,
    nat: bool,
}

impl Accepting {
    pub(in crate::dataplane) fn new(mark: Connmark) -> Self {
        Self { mark, variants: Variant::ALL.map(Iptables::new) }
    }

    /// Puts the rule where it is needed, before the flows are translated. Where iptables still translates for the operator, the rule is
    /// there already.
    pub(in crate::dataplane) async fn admit(&self, translations: &Translations) -> RulesReport {
        let mut report = RulesReport::default();
        for iptables in &self.variants {
            match state(iptables).await {
                Ok((true, Held { nat: false, .. })) => self.write(iptables, Some(translations), &mut report).await,
                Ok(_) => {}
                Err(failure) => fail(&failure, &mut report),
            }
        }
        report
    }

    /// Puts the rule where it is needed, and removes all other rules of the operator from iptables: another backend translates by now.
    /// What cannot be read stays as it is.
    pub(in crate::dataplane) async fn apply(&self, translations: &Translations) -> RulesReport {
        let mut report = RulesReport::default();
        for iptables in &self.variants {
            match wanted(iptables, translations).await {
                Ok(Some(accepted)) => self.write(iptables, accepted, &mut report).await,
                Ok(None) => {}
                Err(failure) => fail(&failure, &mut report),
            }
        }
        report
    }

    /// Reports what [`apply`](Self::apply) would find, and writes nothing.
    pub(in crate::dataplane) async fn inspect(&self, translations: &Translations) -> RulesReport {
        let mut report = RulesReport::default();
        for iptables in &self.variants {
            match wanted(iptables, translations).await {
                Ok(Some(accepted)) => {
                    add(told(iptables.inspect(&self.ruleset(accepted.is_some())).await, translations), &mut report);
                }
                Ok(None) => {}
                Err(failure) => fail(&failure, &mut report),
            }
        }
        report
    }

    /// Writes the rule for `accepted`, or removes it.
    async fn write(&self, iptables: &Iptables, accepted: Option<&Translations>, report: &mut RulesReport) {
        let applied = iptables.apply(&self.ruleset(accepted.is_some()), Look::Everything).await;
        let written = told(applied, accepted.unwrap_or(&Translations::new()));
        if iptables.variant() == Variant::Nft && accepted.is_none() && written.deleted > 0 {
            // Empty tables do no harm, and `cleanup` tries again.
            let _ = scaffold::remove().await;
        }
        add(written, report);
    }

    fn ruleset(&self, decides: bool) -> Ruleset {
        if decides { Ruleset::accepting(self.mark) } else { Ruleset::default() }
    }
}

/// Adds a report about iptables. It only accepts, so a failure concerns nothing else.
fn add(more: RulesReport, report: &mut RulesReport) {
    report.failed.extend(more.failure().map(|error| (Function::Filter, error.clone())));
    report.merge(RulesReport { failed: [].into(), ..more });
}

fn fail(failure: &Failure, report: &mut RulesReport) {
    report.failed.insert(Function::Filter, failure.told(Table::Filter));
}

/// What FORWARD should accept: `Some(None)` if the operator should have no rules there, and `None` if it needs none and has none.
async fn wanted<'a>(iptables: &Iptables, translations: &'a Translations) -> Result<Option<Option<&'a Translations>>, Failure> {
    let (decides, held) = state(iptables).await?;
    let accepted = Some(translations).filter(|all| decides && !all.is_empty());
    Ok((accepted.is_some() || held != Held::default()).then_some(accepted))
}

/// Whether FORWARD has a policy or rules of other programs that may stop a packet, and what there is of the operator.
async fn state(iptables: &Iptables) -> Result<(bool, Held), Failure> {
    match iptables.variant() {
        Variant::Nft => {
            let ours = Stage::Forward.root().to_string();
            let outline = listing::outline(Stage::Forward).await.map_err(|error| reading::unlisted(&error))?;
            let decides = outline.is_some_and(|chain| chain.drops || chain.jumps.iter().any(|to| to.as_deref() != Some(&ours)));
            let mut held = [false; 2];
            for (held, table) in held.iter_mut().zip(Table::ALL) {
                let chains = listing::our_chains(table).await.map_err(|error| reading::unlisted(&error))?;
                *held = chains.is_some_and(|chains| !chains.is_empty());
            }
            Ok((decides, Held { filter: held[0], nat: held[1] }))
        }
        Variant::Legacy => {
            let (mut decides, mut held) = (false, Held::default());
            if choose::legacy_tables().iter().any(|table| table == Table::Filter.name()) {
                let table = iptables.read_whole(Table::Filter).await?;
                let forward = table.builtins.get(Stage::Forward.builtin());
                let others = |rules: &[String]| rules.iter().any(|rule| rule != Stage::Forward.jump());
                decides = table.policy(Stage::Forward) == "DROP" || forward.is_some_and(|chain| others(&chain.rules));
                held.filter = !table.chains.is_empty();
            }
            if choose::legacy_tables().iter().any(|table| table == Table::Nat.name()) {
                held.nat = !iptables.read_whole(Table::Nat).await?.chains.is_empty();
            }
            Ok((decides, held))
        }
    }
}
