//! A look at the cluster from outside, with the rights of an agent: whether it serves forwards, and which agents live.
//! Writes nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::jiff::Timestamp;
use kube::api::ListParams;
use kube::{Api, Client};
use tokio::time::{Instant, sleep, timeout};

use super::leases::LABEL;
use super::{DEADLINE, RENEW_EVERY};
use crate::api::PortForward;

/// How long it takes at most to see that an agent lives: it renews its Lease in this time, and the write may take a while.
pub const PATIENCE: Duration = RENEW_EVERY.saturating_add(Duration::from_secs(5));
/// How often the Leases are looked at meanwhile.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Why a look failed.
#[derive(Debug, thiserror::Error)]
pub enum SurveyError {
    /// The definition is missing.
    #[error(
        "the API server does not serve PortForwards of this version; apply the CustomResourceDefinition: portforward-operator crd"
    )]
    Unserved,
    /// The rights are missing.
    #[error("the API server refuses it; bind the rights of an agent to whoever this is (deploy/base/rbac.yaml): {0}")]
    Denied(String),
    /// There is no answer.
    #[error("the API server did not answer within {} s", DEADLINE.as_secs())]
    Silent(#[from] tokio::time::error::Elapsed),
    /// Something else.
    #[error("the API server could not be asked")]
    Failed(#[source] kube::Error),
}

impl From<kube::Error> for SurveyError {
    fn from(error: kube::Error) -> Self {
        match error {
            kube::Error::Api(status) if status.code == 403 => Self::Denied(status.message),
            kube::Error::Api(status) if status.code == 404 => Self::Unserved,
            error => Self::Failed(error),
        }
    }
}

/// The agents, by the names of their nodes.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Agents {
    /// Those that renewed their Lease while this looked.
    pub live: BTreeSet<String>,
    /// Those that have a Lease and did not.
    pub silent: BTreeSet<String>,
}

/// How many forwards there are, in all namespaces.
///
/// # Errors
/// When the API server serves none, refuses, or does not answer.
pub async fn count_forwards(client: Client) -> Result<u64, SurveyError> {
    let api: Api<PortForward> = Api::all(client);
    let first = timeout(DEADLINE, api.list_metadata(&ListParams::default().limit(1))).await??;
    let more = first.metadata.remaining_item_count.unwrap_or_default();
    Ok(first.items.len() as u64 + u64::try_from(more).unwrap_or_default())
}

/// Which agents of `namespace` live. It takes until each has renewed its Lease, or [`PATIENCE`]: clocks of nodes need not agree,
/// so that the age of a Lease says nothing.
///
/// # Errors
/// When the API server refuses, or does not answer.
pub async fn agents(client: Client, namespace: &str) -> Result<Agents, SurveyError> {
    let api: Api<Lease> = Api::namespaced(client, namespace);
    let selector = ListParams::default().labels(&format!("{LABEL}=true"));
    let ends = Instant::now() + PATIENCE;
    let mut first: Option<BTreeMap<String, Option<Timestamp>>> = None;
    let mut agents = Agents::default();
    loop {
        let now = renewals(timeout(DEADLINE, api.list(&selector)).await??.items);
        let first = first.get_or_insert_with(|| now.clone());
        for (node, renewed) in now {
            if first.get(&node) == Some(&renewed) && !agents.live.contains(&node) {
                agents.silent.insert(node);
            } else {
                agents.silent.remove(&node);
                agents.live.insert(node);
            }
        }
        let all = agents.silent.is_empty() && !agents.live.is_empty();
        if all || Instant::now() >= ends {
            return Ok(agents);
        }
        sleep(LOOK_EVERY).await;
    }
}

/// When each node's agent last said that it lives.
fn renewals(leases: Vec<Lease>) -> BTreeMap<String, Option<Timestamp>> {
    let renewal = |lease: Lease| {
        let spec = lease.spec?;
        Some((spec.holder_identity?, spec.renew_time.map(|time| time.0)))
    };
    leases.into_iter().filter_map(renewal).collect()
}
