//! Makes one write of status at the API server, and says what came of it.

use kube::core::ObjectMeta;
use kube::{Api, Client};
use serde_json::Value;

use super::trouble::is_about_one;
use super::{DEADLINE, leftovers, patches};
use crate::api::{PortForward, PortForwardStatus};
use crate::forward::ForwardKey;
use crate::status::Write;

/// An object, with the parts that its status depends on.
#[derive(Clone, Debug)]
pub(super) struct Subject {
    pub(super) metadata: ObjectMeta,
    pub(super) status: PortForwardStatus,
}

/// What came of a write.
#[derive(Debug)]
pub(super) enum Outcome {
    /// The object after the write.
    Written(Box<PortForward>),
    /// The object was replaced or has another version; the watch will show it.
    Overtaken,
    /// The API server did not do it.
    Failed(Box<dyn std::error::Error + Send + Sync>),
}

impl Outcome {
    /// Whether the next write would fail in the same way, whichever object it is about.
    pub(super) fn is_outage(&self) -> bool {
        match self {
            Self::Written(_) | Self::Overtaken => false,
            Self::Failed(error) => !is_about_one(&**error),
        }
    }
}

/// Writes the status of one object, as the agent of `node`.
pub(super) async fn perform(client: Client, node: &str, key: &ForwardKey, subject: &Subject, write: &Write) -> Outcome {
    let (manager, body): (String, Value) = match write {
        Write::Entry(entry) => (patches::entry_manager(node), patches::entry(&subject.metadata, Some(entry))),
        Write::Withdraw(node) => (patches::entry_manager(node), patches::entry(&subject.metadata, None)),
        Write::Summary(summary) => (patches::SUMMARY_MANAGER.to_owned(), patches::summary(&subject.metadata, summary)),
    };
    let api: Api<PortForward> = Api::namespaced(client, &key.namespace);
    let before = (&subject.metadata, &subject.status);
    match tokio::time::timeout(DEADLINE, leftovers::apply(&api, before, (&manager, write), &body)).await {
        Ok(Ok(object)) => Outcome::Written(Box::new(object)),
        Ok(Err(kube::Error::Api(status))) if status.is_conflict() || status.is_not_found() => Outcome::Overtaken,
        Ok(Err(error)) => Outcome::Failed(Box::new(error)),
        Err(late) => Outcome::Failed(Box::new(late)),
    }
}
