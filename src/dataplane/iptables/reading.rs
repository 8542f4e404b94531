//! Reads the kernel's rules, as few as possible: only the operator's chains and their counters.
//!
//! Rules of other programs that iptables cannot print must not affect this. If a table cannot be printed, each chain of the
//! operator is read separately, and a built-in chain is read only as far as the operator needs it.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::Instant;

use super::listing::{self, Outline};
use super::program::{self, LOCK_WAIT_SECS, ProgramError, Ran};
use super::saved::Builtin;
use super::{ChainName, Failure, Iptables, Memory, SavedTable, Stage, Table, Tables, Variant, choose};
use crate::dataplane::rules::Counting;
use crate::model::Translation;
use crate::netlink::NetlinkError;
use crate::words::explained;

/// How often the operator's chains are searched by name, to find chains that another program created. In between, only the
/// chains of the last search are read, because a Kubernetes node has very many chains.
const AUDIT_INTERVAL: Duration = Duration::from_mins(10);

/// The placeholder for a rule that cannot be printed.
const UNPRINTABLE: &str = "a rule that iptables cannot print (see nft list ruleset)";
/// The placeholder for a jump to the operator's chains that differs from the one that the operator writes.
const ALTERED_JUMP: &str = "a rule that iptables cannot print";

impl Iptables {
    /// The translations with a DNAT rule in the kernel.
    ///
    /// # Errors
    /// When the table cannot be read.
    pub async fn translated(&self) -> Result<Vec<Translation>, Failure> {
        self.read_whole(Table::Nat).await.map(|table| table.translations())
    }

    /// The operator's chains and the built-in ones, of every table that can be read.
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

    async fn read(&self, table: Table, memory: &mut Memory) -> Result<SavedTable, Failure> {
        let audited = memory.audited.get(&table).is_some_and(|audited| audited.elapsed() < AUDIT_INTERVAL);
        if let (true, Variant::Nft, Some(seen)) = (audited, self.variant, memory.seen.get(&table))
            && let Ok(saved) = self.read_chains(table, seen).await
        {
            return Ok(saved);
        }
        memory.audited.insert(table, Instant::now());
        self.read_whole(table).await
    }

    /// A table, with all chains of the operator in it.
    pub(super) async fn read_whole(&self, table: Table) -> Result<SavedTable, Failure> {
        match self.variant {
            Variant::Nft => self.read_nft(table).await,
            // Reading the table would create it.
            Variant::Legacy if !choose::legacy_may_hold(table.name()) => Ok(SavedTable::default()),
            Variant::Legacy => self.read_legacy(table).await,
        }
    }

    async fn read_nft(&self, table: Table) -> Result<SavedTable, Failure> {
        let Some(names) = our_chains(table).await? else { return Ok(SavedTable::default()) };
        match self.read_chains(table, &names).await {
            Err(ProgramError::Refused { .. }) => self.read_singly(table, &names).await,
            read => Ok(read?),
        }
    }

    async fn read_legacy(&self, table: Table) -> Result<SavedTable, Failure> {
        let counters = match (self.counting, table) {
            (Counting::On, Table::Nat) => &["-c"][..],
            (Counting::Off, Table::Filter | Table::Nat) | (Counting::On, Table::Filter) => &[],
        };
        let Ran { printed, ended } =
            program::try_run(self.variant.save(), &[&["-t", table.name()], counters].concat(), "").await?;
        match ended {
            // The names of all chains are printed before the first rule.
            Err(ProgramError::Refused { .. }) if printed.contains(':') => {
                let names = SavedTable::parse(&printed).chains.into_keys().collect();
                self.read_singly(table, &names).await
            }
            Err(error) => Err(error.into()),
            Ok(()) => Ok(SavedTable::parse(&printed)),
        }
    }

    /// The built-in chains and exactly the chains `ours`, with one program.
    pub(super) async fn read_chains(&self, table: Table, ours: &BTreeSet<ChainName>) -> Result<SavedTable, ProgramError> {
        let builtins = stages(table).map(|stage| stage.builtin().to_owned());
        let ours = ours.iter().rev().map(|chain| format!("{chain}{}", self.with_counters(table, chain)));
        let list: String = builtins.chain(ours).map(|chain| format!("-S {chain}\n")).collect();
        let text = format!("*{}\n{list}COMMIT\n", table.name());
        let printed = program::run(self.variant.restore(), &["--noflush", "-w", LOCK_WAIT_SECS], &text).await?;
        Ok(SavedTable::parse(&printed))
    }

    /// As [`Self::read_chains`], if something in the table cannot be printed: each chain separately.
    async fn read_singly(&self, table: Table, ours: &BTreeSet<ChainName>) -> Result<SavedTable, Failure> {
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
            // Another program wrote a rule into it that cannot be printed. The chain exists, but not as the operator wrote
            // it.
            saved.chains.insert(chain.clone(), vec![Err(UNPRINTABLE.to_owned())]);
        }
        for stage in stages(table) {
            if let Some(builtin) = self.read_builtin(stage).await? {
                saved.builtins.insert(stage.builtin().to_owned(), builtin);
            }
        }
        Ok(saved)
    }

    /// The names of the operator's chains, if the kernel can list them without the rules.
    async fn names(&self, table: Table) -> Result<Option<BTreeSet<ChainName>>, Failure> {
        match self.variant {
            Variant::Nft => Ok(Some(our_chains(table).await?.unwrap_or_default())),
            Variant::Legacy => Ok(None),
        }
    }

    async fn read_builtin(&self, stage: Stage) -> Result<Option<Builtin>, Failure> {
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

    /// The kernel reports which rules jump to the operator's chain. The iptables program reports whether one of them is the
    /// jump as the operator writes it.
    async fn outlined(&self, stage: Stage, Outline { drops, jumps }: Outline) -> Result<Builtin, Failure> {
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

    /// Reads a built-in chain rule by rule. If a rule cannot be printed, this works with legacy xtables only.
    async fn read_by_number(&self, stage: Stage) -> Result<Builtin, Failure> {
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

    /// The output of the program for single rules; `None` if it exits with an error.
    async fn print(&self, arguments: &[&str]) -> Result<Option<String>, ProgramError> {
        let arguments = [&["-w", LOCK_WAIT_SECS], arguments].concat();
        let Ran { printed, ended } = program::try_run(self.variant.command(), &arguments, "").await?;
        match ended {
            Ok(()) => Ok(Some(printed)),
            Err(error) if error.is_transient() => Err(error),
            Err(_) => Ok(None),
        }
    }

    /// The option that adds counters to the rules of a chain. Only the counters of PREROUTING count connections.
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

async fn our_chains(table: Table) -> Result<Option<BTreeSet<ChainName>>, Failure> {
    Ok(listing::our_chains(table).await.map_err(|error| unlisted(&error))?.map(|names| names.into_iter().collect()))
}

pub(super) fn unlisted(error: &NetlinkError) -> Failure {
    Failure::Unlisted { error: explained(error) }
}
