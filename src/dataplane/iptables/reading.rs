//! Reads what the kernel holds, as little as will do: where only our chains are asked for, and where their counters.
//!
//! What the programs cannot print of other programs' rules costs nothing of ours: each chain of ours is asked for by itself,
//! and a built-in chain that cannot be printed is read as far as it concerns us.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::Instant;

use super::counters::Counting;
use super::listing::{self, Outline};
use super::program::{self, LOCK_WAIT_SECS, ProgramError, Ran};
use super::saved::Builtin;
use super::{ChainName, Iptables, Memory, RulesError, SavedTable, Stage, Table, Tables, Variant, choose};
use crate::model::Translation;
use crate::netlink::NetlinkError;

/// How often the chains of ours are looked for by name, to find those that somebody else made. Between, only the chains that
/// were there last are read: the names of everybody's chains are many on a node of Kubernetes.
const AUDIT_INTERVAL: Duration = Duration::from_mins(10);

/// What stands for a rule that cannot be printed.
const UNPRINTABLE: &str = "a rule that iptables cannot print (see nft list ruleset)";
/// What stands for a jump to our chains that is there in another form than ours.
const ALTERED_JUMP: &str = "a rule that iptables cannot print";

impl Iptables {
    /// The translations whose DNAT is in the kernel; none where it cannot be read.
    pub async fn translated(&self) -> Vec<Translation> {
        self.read_whole(Table::Nat).await.map_or_else(|_| Vec::new(), |table| table.translations())
    }

    /// Our chains and the built-in ones, of every table that can be read.
    pub(super) async fn read_all(&self, memory: &mut Memory) -> Tables {
        let mut tables = Tables::new();
        for table in Table::ALL {
            let read = self.read(table, memory).await;
            match &read {
                Ok(saved) => drop(memory.seen.insert(table, saved.chains.keys().cloned().collect())),
                Err(_) => drop(memory.seen.remove(&table)),
            }
            tables.insert(table, read);
        }
        tables
    }

    async fn read(&self, table: Table, memory: &mut Memory) -> Result<SavedTable, RulesError> {
        let audited = memory.audited.get(&table).is_some_and(|audited| audited.elapsed() < AUDIT_INTERVAL);
        if let (true, Variant::Nft, Some(seen)) = (audited, self.variant, memory.seen.get(&table))
            && let Ok(saved) = self.read_chains(table, seen).await
        {
            return Ok(saved);
        }
        memory.audited.insert(table, Instant::now());
        self.read_whole(table).await
    }

    /// A table, with every chain of ours that is in it.
    pub(super) async fn read_whole(&self, table: Table) -> Result<SavedTable, RulesError> {
        match self.variant {
            Variant::Nft => self.read_nft(table).await,
            // The mere question would make the table.
            Variant::Legacy if !choose::legacy_may_hold(table.name()) => Ok(SavedTable::default()),
            Variant::Legacy => self.read_legacy(table).await,
        }
    }

    async fn read_nft(&self, table: Table) -> Result<SavedTable, RulesError> {
        let Some(names) = our_chains(table).await? else { return Ok(SavedTable::default()) };
        match self.read_chains(table, &names).await {
            Err(ProgramError::Refused { .. }) => self.read_singly(table, &names).await,
            read => Ok(read?),
        }
    }

    async fn read_legacy(&self, table: Table) -> Result<SavedTable, RulesError> {
        let counters = match (self.counting, table) {
            (Counting::On, Table::Nat) => &["-c"][..],
            (Counting::Off, Table::Filter | Table::Nat) | (Counting::On, Table::Filter) => &[],
        };
        let Ran { printed, ended } =
            program::try_run(self.variant.save(), &[&["-t", table.name()], counters].concat(), "").await?;
        match ended {
            // The names of all chains come before the first rule.
            Err(ProgramError::Refused { .. }) if printed.contains(':') => {
                let names = SavedTable::parse(&printed).chains.into_keys().collect();
                self.read_singly(table, &names).await
            }
            Err(error) => Err(error.into()),
            Ok(()) => Ok(SavedTable::parse(&printed)),
        }
    }

    /// The built-in chains and exactly the chains `ours`, by one program.
    async fn read_chains(&self, table: Table, ours: &BTreeSet<ChainName>) -> Result<SavedTable, ProgramError> {
        let builtins = stages(table).map(|stage| stage.builtin().to_owned());
        let ours = ours.iter().rev().map(|chain| format!("{chain}{}", self.with_counters(table, chain)));
        let list: String = builtins.chain(ours).map(|chain| format!("-S {chain}\n")).collect();
        let text = format!("*{}\n{list}COMMIT\n", table.name());
        let printed = program::run(self.variant.restore(), &["--noflush", "-w", LOCK_WAIT_SECS], &text).await?;
        Ok(SavedTable::parse(&printed))
    }

    /// The same where something in the table cannot be printed: each chain by itself.
    async fn read_singly(&self, table: Table, ours: &BTreeSet<ChainName>) -> Result<SavedTable, RulesError> {
        let mut printed = String::new();
        let mut unprintable = Vec::new();
        for chain in ours {
            let text = match self.with_counters(table, chain) {
                "" => self.print(&["-t", table.name(), "-S", chain.as_str()]).await?,
                _ => self.print(&["-t", table.name(), "-v", "-S", chain.as_str()]).await?,
            };
            match text {
                Some(text) => printed += &text,
                None => unprintable.push(chain),
            }
        }
        let mut saved = SavedTable::parse(&printed);
        let still = if unprintable.is_empty() { None } else { self.names(table).await? };
        for chain in unprintable.into_iter().filter(|chain| still.as_ref().is_none_or(|still| still.contains(*chain))) {
            // Somebody wrote into it what cannot be printed: it is there, and not as we write it.
            saved.chains.insert(chain.clone(), vec![Err(UNPRINTABLE.to_owned())]);
        }
        for stage in stages(table) {
            if let Some(builtin) = self.read_builtin(stage).await? {
                saved.builtins.insert(stage.builtin().to_owned(), builtin);
            }
        }
        Ok(saved)
    }

    /// The names of our chains, where the kernel tells them without the rules.
    async fn names(&self, table: Table) -> Result<Option<BTreeSet<ChainName>>, RulesError> {
        match self.variant {
            Variant::Nft => Ok(Some(our_chains(table).await?.unwrap_or_default())),
            Variant::Legacy => Ok(None),
        }
    }

    async fn read_builtin(&self, stage: Stage) -> Result<Option<Builtin>, RulesError> {
        if let Some(text) = self.print(&["-t", stage.table().name(), "-S", stage.builtin()]).await? {
            return Ok(SavedTable::parse(&text).builtins.remove(stage.builtin()));
        }
        match self.variant {
            Variant::Nft => match listing::outline(stage).await.map_err(|error| unlisted(&error))? {
                Some(outline) => Ok(Some(self.outlined(stage, outline).await?)),
                None => Ok(None),
            },
            Variant::Legacy => self.read_by_number(stage).await.map(Some),
        }
    }

    /// Which rules jump to our chain the kernel tells; whether one is the jump as we write it, its program does.
    async fn outlined(&self, stage: Stage, Outline { drops, jumps }: Outline) -> Result<Builtin, RulesError> {
        let check: Vec<&str> =
            ["-t", stage.table().name(), "-C", stage.builtin()].into_iter().chain(stage.jump().split(' ')).collect();
        let root = stage.root();
        let jump = match self.print(&check).await? {
            Some(_) => stage.jump().to_owned(),
            None => format!("{ALTERED_JUMP} -j {root}"),
        };
        let text = |to: Option<String>| if to.as_deref() == Some(root.as_str()) { jump.clone() } else { UNPRINTABLE.to_owned() };
        let policy = if drops { "DROP" } else { "ACCEPT" };
        Ok(Builtin { policy: policy.to_owned(), rules: jumps.into_iter().map(text).collect() })
    }

    /// Reads a built-in chain rule by rule, which only the older xtables allows where one of them cannot be printed.
    async fn read_by_number(&self, stage: Stage) -> Result<Builtin, RulesError> {
        let (table, chain) = (stage.table().name(), stage.builtin());
        // The policy is printed before the rules.
        let Ran { printed, .. } = program::try_run(self.variant.command(), &["-t", table, "-S", chain], "").await?;
        let mut builtin = SavedTable::parse(&printed).builtins.remove(chain).unwrap_or_default();
        builtin.rules.clear();
        for number in 1_usize.. {
            match self.print(&["-t", table, "-S", chain, &number.to_string()]).await? {
                Some(text) if text.trim().is_empty() => break,
                Some(text) => builtin.rules.extend(text.trim().strip_prefix(&format!("-A {chain} ")).map(str::to_owned)),
                None => builtin.rules.push(UNPRINTABLE.to_owned()),
            }
        }
        Ok(builtin)
    }

    /// What the program for single rules prints; `None` where it refuses.
    async fn print(&self, arguments: &[&str]) -> Result<Option<String>, ProgramError> {
        let arguments = [&["-w", LOCK_WAIT_SECS], arguments].concat();
        let Ran { printed, ended } = program::try_run(self.variant.command(), &arguments, "").await?;
        match ended {
            Ok(()) => Ok(Some(printed)),
            Err(error) if error.is_transient() => Err(error),
            Err(_) => Ok(None),
        }
    }

    /// What asks for the counters of a chain besides its rules: only those of PREROUTING say how many connections began.
    fn with_counters(&self, table: Table, chain: &ChainName) -> &'static str {
        match (self.counting, table) {
            (Counting::On, Table::Nat) if !Stage::Postrouting.is_of(chain) => " -v",
            (Counting::Off | Counting::On, Table::Filter | Table::Nat) => "",
        }
    }
}

fn stages(table: Table) -> impl Iterator<Item = Stage> {
    Stage::ALL.into_iter().filter(move |stage| stage.table() == table)
}

async fn our_chains(table: Table) -> Result<Option<BTreeSet<ChainName>>, RulesError> {
    Ok(listing::our_chains(table).await.map_err(|error| unlisted(&error))?.map(|names| names.into_iter().collect()))
}

fn unlisted(error: &NetlinkError) -> RulesError {
    let causes = std::iter::successors(std::error::Error::source(error), |cause| cause.source());
    let error = causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"));
    RulesError::Unlisted { error }
}
