//! Follows one resource: a list in pages, then a watch with a short timeout, again and again.

use std::error::Error;
use std::fmt::Debug;
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use futures::{StreamExt, TryStreamExt};
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Resource};
use serde::de::DeserializeOwned;

use super::trouble::Trouble;

/// How long the server keeps a watch open, in seconds: a connection that died silently is noticed soon after.
const WATCH_SECS: u32 = 25;
/// How many objects one page of a list holds.
const PAGE: u32 = 500;

/// How soon a resource is tried again that failed: at first, and at most; doubled each time, with jitter, so that agents
/// do not come back all at once.
pub(super) fn retries() -> ExponentialBackoff {
    let (first, most) = (Duration::from_millis(500), Duration::from_secs(10));
    ExponentialBuilder::default().with_min_delay(first).with_max_delay(most).with_jitter().without_max_times().build()
}

/// Follows what `api` and `config` select and hands each event to `take`; never ends. Errors do not end it either: they are said
/// once, and tried again with a backoff that is this resource's own.
pub(super) async fn follow<K>(trouble: Trouble, api: Api<K>, config: watcher::Config, take: impl FnMut(Event<K>))
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    follow_or(trouble, api, config, take, |_| {}).await;
}

/// The same, for who goes on without it: `failed` is told of each error.
pub(super) async fn follow_or<K>(
    mut trouble: Trouble,
    api: Api<K>,
    config: watcher::Config,
    mut take: impl FnMut(Event<K>),
    mut failed: impl FnMut(&(dyn Error + 'static)),
) where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let config = config.timeout(WATCH_SECS).page_size(PAGE);
    let mut events = watcher(api, config).boxed();
    let mut pauses = retries();
    loop {
        match events.try_next().await {
            Ok(Some(event)) => {
                match &event {
                    // The start of a try says nothing about its success.
                    Event::Init => {}
                    Event::InitApply(_) | Event::InitDone => trouble.worked(),
                    Event::Apply(_) | Event::Delete(_) => trouble.heard(),
                }
                if !matches!(event, Event::Init) {
                    pauses = retries();
                }
                take(event);
            }
            Ok(None) => return,
            Err(error) => {
                trouble.failed(&error);
                failed(&error);
                tokio::time::sleep(pauses.next().unwrap_or_default()).await;
            }
        }
    }
}
