//! Examines the cluster with the rights of an agent, for `check`: whether it serves PortForwards, and which agents live. Writes
//! nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::jiff::Timestamp;
use kube::api::ListParams;
use kube::{Api, Client};
use tokio::time::{Instant, sleep, timeout};

use super::guard::whoami;
use super::leases::LABEL;
use super::{DEADLINE, RENEW_EVERY};
use crate::api::PortForward;

/// The longest time until a live agent is seen: it renews its Lease in this time, and the write takes a moment.
pub const PATIENCE: Duration = RENEW_EVERY.saturating_add(Duration::from_secs(5));
/// The interval at which the Leases are read in the meantime.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Why the examination failed.
#[derive(Debug, thiserror::Error)]
pub enum SurveyError {
    /// The CRD is missing.
    #[error(
        "the API server does not serve PortForwards of this version; apply the CRD: portforward-operator crd | kubectl apply --server-side -f -"
    )]
    Unserved,
    /// The namespace does not exist.
    #[error("the namespace {0} does not exist; give the namespace of the agents with --namespace")]
    NoNamespace(String),
    /// The user is a service account of another namespace and has no rights in this one.
    #[error(
        "the namespace {namespace} does not exist or has no agent; {user} belongs to the namespace {own}: give --namespace {own}"
    )]
    OtherNamespace {
        /// The namespace.
        namespace: String,
        /// The user.
        user: String,
        /// The namespace of the user.
        own: String,
    },
    /// The rights are missing.
    #[error("the API server refuses the request; bind the rights of an agent to this user (deploy/base/rbac.yaml): {0}")]
    Denied(String),
    /// The API server did not answer.
    #[error("the API server did not answer within {} s", DEADLINE.as_secs())]
    Silent(#[from] tokio::time::error::Elapsed),
    /// Another error.
    #[error("the request to the API server failed")]
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
    /// Those that renewed their Lease during the examination.
    pub live: BTreeSet<String>,
    /// Those that have a Lease and did not renew it.
    pub silent: BTreeSet<String>,
}

/// The number of forwards in all namespaces.
///
/// # Errors
/// When the API server serves no PortForwards, refuses, or does not answer.
pub async fn count_forwards(client: Client) -> Result<u64, SurveyError> {
    let api: Api<PortForward> = Api::all(client);
    let first = timeout(DEADLINE, api.list_metadata(&ListParams::default().limit(1))).await??;
    let more = first.metadata.remaining_item_count.unwrap_or_default();
    Ok(first.items.len() as u64 + u64::try_from(more).unwrap_or_default())
}

/// Which agents of `namespace` live. Takes until each has renewed its Lease, at most [`PATIENCE`]. The clocks of nodes may
/// differ, so the age of a Lease says nothing.
///
/// # Errors
/// When the namespace does not exist, or the API server refuses or does not answer.
pub async fn agents(client: Client, namespace: &str) -> Result<Agents, SurveyError> {
    let api: Api<Lease> = Api::namespaced(client.clone(), namespace);
    let selector = ListParams::default().labels(&format!("{LABEL}=true"));
    let ends = Instant::now() + PATIENCE;
    let mut first: Option<BTreeMap<String, Option<Timestamp>>> = None;
    let mut agents = Agents::default();
    loop {
        let now = match timeout(DEADLINE, api.list(&selector)).await?.map_err(SurveyError::from) {
            Ok(leases) => renewals(leases.items),
            Err(SurveyError::Denied(message)) => return Err(denied(client, namespace, message).await?),
            Err(error) => return Err(error),
        };
        if first.is_none() && now.is_empty() && is_missing(client.clone(), namespace).await? {
            return Err(SurveyError::NoNamespace(namespace.to_owned()));
        }
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

/// Why the API server refuses to list the Leases of `namespace`: without rights, it does not say whether the namespace exists.
async fn denied(client: Client, namespace: &str, message: String) -> Result<SurveyError, SurveyError> {
    if is_missing(client.clone(), namespace).await? {
        return Ok(SurveyError::NoNamespace(namespace.to_owned()));
    }
    let user = timeout(DEADLINE, whoami(client)).await??;
    let own = user.strip_prefix("system:serviceaccount:").and_then(|account| account.split(':').next()).map(str::to_owned);
    Ok(match own.filter(|own| own != namespace) {
        Some(own) => SurveyError::OtherNamespace { namespace: namespace.to_owned(), user, own },
        None => SurveyError::Denied(message),
    })
}

/// Whether the API server says that `namespace` does not exist. A user without the right to read it gets no answer.
async fn is_missing(client: Client, namespace: &str) -> Result<bool, SurveyError> {
    match timeout(DEADLINE, Api::<Namespace>::all(client).get_metadata_opt(namespace)).await? {
        Ok(found) => Ok(found.is_none()),
        Err(kube::Error::Api(status)) if status.code == 403 => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// The last renewal time of each node's agent.
fn renewals(leases: Vec<Lease>) -> BTreeMap<String, Option<Timestamp>> {
    let renewal = |lease: Lease| {
        let spec = lease.spec?;
        Some((spec.holder_identity?, spec.renew_time.map(|time| time.0)))
    };
    leases.into_iter().filter_map(renewal).collect()
}
