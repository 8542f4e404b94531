//! Writes the status of the grants. The first live agent by name does it, of those that follow all forwards if there are any.
//! An agent that follows only some of the forwards does not count them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams};
use kube::core::ObjectMeta;
use kube::{Api, Client, Resource};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tracing::debug;

use super::follow::retries;
use super::forwards::same_but_status;
use super::later::until;
use super::trouble::{Outage, Trouble, retry_after};
use super::{DEADLINE, Live};
use crate::api::{PortForwardGrant, PortForwardGrantStatus};
use crate::forward::Forward;
use crate::grant::Grant;
use crate::source::{GrantSet, Snapshot};
use crate::status::{Census, Usable, census, grant_status};

/// The field manager of the status of grants. All agents share it, so the next writer takes over without a conflict.
const MANAGER: &str = "portforward-grants";
/// The time that a change waits for further changes, so that many changes of forwards cause few writes.
const SETTLE: Duration = Duration::from_secs(1);

/// Whether an agent can count the forwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Counting {
    /// It follows all of them.
    All,
    /// It follows only those of its pool.
    Unknown,
}

/// The counts of one set of forwards and grants.
struct Counted {
    of: Arc<Snapshot>,
    census: BTreeMap<String, Census>,
}

/// One write that is due.
struct Due<'a> {
    metadata: &'a ObjectMeta,
    status: PortForwardGrantStatus,
}

/// Publishes the status of the grants in `snapshots` whenever it differs from the one that the API server holds. Runs until the
/// agent ends.
pub(super) async fn publish(
    client: Client,
    outage: Outage,
    node: String,
    counting: Counting,
    mut snapshots: watch::Receiver<Option<Arc<Snapshot>>>,
    mut live: watch::Receiver<Live>,
) {
    let api: Api<PortForwardGrant> = Api::all(client);
    let mut trouble = Trouble::new("the status of PortForwardGrants", outage);
    let mut counted: Option<Counted> = None;
    let mut pauses = retries();
    // The version of each grant for which a write changed nothing.
    let mut settled: BTreeMap<String, Option<String>> = BTreeMap::new();
    let mut retry: Option<Duration> = None;
    loop {
        let again = until(retry.map(|pause| Instant::now() + pause));
        let goes_on = tokio::select! {
            changed = snapshots.changed() => changed.is_ok(),
            changed = live.changed() => changed.is_ok(),
            () = again => true,
        };
        if !goes_on {
            return;
        }
        sleep(SETTLE).await;
        retry = None;
        let (snapshot, first) = (snapshots.borrow_and_update().clone(), first(&live.borrow_and_update()));
        let (Some(snapshot), Some(first)) = (snapshot, first) else { continue };
        let Some(grants) = snapshot.grants.clone().filter(|_| first == node) else { continue };
        let current = match counted.take().filter(|counted| same_but_status(&counted.of, &snapshot)) {
            Some(same) => same,
            None => count(&snapshot, &grants),
        };
        for Due { metadata, status } in due(&grants, &current.census, counting) {
            let name = metadata.name.clone().unwrap_or_default();
            if settled.get(&name) == Some(&metadata.resource_version) {
                continue;
            }
            match write(&api, &name, metadata, &status).await {
                Ok(version) => {
                    trouble.worked();
                    pauses = retries();
                    if version == metadata.resource_version {
                        debug!(grant = name, "a write of status changed nothing; another program may write it too");
                        settled.insert(name, version);
                    }
                }
                Err(error) => {
                    trouble.failed(&*error);
                    retry = pauses.next().map(|pause| pause.max(retry_after(&*error)));
                    break;
                }
            }
        }
        counted = Some(current);
    }
}

/// The node that writes.
fn first(live: &Live) -> Option<String> {
    live.as_ref().and_then(|live| live.counting.clone())
}

fn count(snapshot: &Arc<Snapshot>, grants: &GrantSet) -> Counted {
    let usable: Vec<Grant> = grants.grants.iter().filter_map(|sourced| Grant::parse(&sourced.object).ok()).collect();
    let forwards = snapshot.forwards.iter().filter_map(|sourced| Forward::parse(&sourced.object).ok());
    let forwards: Vec<Forward> = forwards.filter(Forward::is_in_force).collect();
    Counted { of: Arc::clone(snapshot), census: census(&usable, &forwards) }
}

/// The grants whose status is not as it should be.
fn due<'a>(grants: &'a GrantSet, census: &BTreeMap<String, Census>, counting: Counting) -> Vec<Due<'a>> {
    let now = Timestamp::now();
    let known = grants.grants.iter().map(|sourced| {
        let object = &sourced.object;
        let counted = || match counting {
            Counting::All => Some(census.get(object.metadata.name.as_deref().unwrap_or_default()).cloned().unwrap_or_default()),
            Counting::Unknown => None,
        };
        let usable = match (&sourced.trouble, Grant::parse(object)) {
            (_, Err(refusals)) => Usable::Refused(refusals.summary()),
            (Some(error), Ok(_)) => Usable::Outdated(counted(), error.clone()),
            (None, Ok(_)) => Usable::Yes(counted()),
        };
        (&object.metadata, object.status.as_ref(), usable)
    });
    let unknown = grants.undecoded.iter();
    let unknown = unknown.map(|it| (&it.metadata, it.status.as_ref(), Usable::Unknown(it.error.clone())));
    let due = |(metadata, before, usable): (&'a ObjectMeta, Option<&PortForwardGrantStatus>, Usable)| {
        let before = before.cloned().unwrap_or_default();
        let status = grant_status(&usable, metadata.generation.unwrap_or_default(), &before, now);
        (status != before).then_some(Due { metadata, status })
    };
    known.chain(unknown).filter_map(due).collect()
}

/// Writes one status. Returns the version of the object after it; no version if the object was changed or deleted meanwhile,
/// which the watch will show.
async fn write(
    api: &Api<PortForwardGrant>,
    name: &str,
    metadata: &ObjectMeta,
    status: &PortForwardGrantStatus,
) -> Result<Option<String>, Box<dyn std::error::Error + Send + Sync>> {
    let manager = PatchParams::apply(MANAGER).force();
    match timeout(DEADLINE, api.patch_status(name, &manager, &Patch::Apply(body(metadata, status)))).await {
        Ok(Ok(object)) => Ok(object.metadata.resource_version),
        Ok(Err(kube::Error::Api(status))) if status.is_conflict() || status.is_not_found() => Ok(None),
        Ok(Err(error)) => Err(Box::new(error)),
        Err(late) => Err(Box::new(late)),
    }
}

/// The body of server-side apply. With `uid` and `resourceVersion`, a write to another object or version fails.
fn body(metadata: &ObjectMeta, status: &PortForwardGrantStatus) -> Value {
    let ObjectMeta { name, uid, resource_version, .. } = metadata;
    json!({
        "apiVersion": PortForwardGrant::api_version(&()), "kind": PortForwardGrant::kind(&()),
        "metadata": {"name": name, "uid": uid, "resourceVersion": resource_version}, "status": status,
    })
}
