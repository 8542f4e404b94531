//! Follows one resource: lists it in pages, then watches it with a short timeout, and repeats this.

use std::error::Error;
use std::fmt::Debug;
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use futures::{StreamExt, TryStreamExt};
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Resource};
use serde::de::DeserializeOwned;

use super::trouble::Trouble;

/// How long the API server keeps a watch open, in seconds. The agent notices a dead connection soon after this time.
const WATCH_SECS: u32 = 25;
/// The number of objects in one page of a list, unless the caller sets it. The client holds the text of a whole page, twice for a moment, and one object
/// may have 1.5 MiB (the limit of etcd for a request).
const PAGE: u32 = 25;

/// The pauses between two tries of a resource that failed: 500 ms at first, doubled each time, at most 10 s, with jitter so
/// that the agents do not all return at the same moment.
pub(super) fn retries() -> ExponentialBackoff {
    let (first, most) = (Duration::from_millis(500), Duration::from_secs(10));
    ExponentialBuilder::default().with_min_delay(first).with_max_delay(most).with_jitter().without_max_times().build()
}

/// Follows the objects that `api` and `config` select and passes each event to `take`. Never ends, also not after an error: it
/// logs the error once and tries again with its own backoff.
pub(super) async fn follow<K>(trouble: Trouble, api: Api<K>, config: watcher::Config, take: impl FnMut(Event<K>))
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    follow_or(trouble, api, config, take, |_| {}).await;
}

/// Like [`follow`], for a caller that can continue without the resource: `failed` gets each error.
pub(super) async fn follow_or<K>(
    mut trouble: Trouble,
    api: Api<K>,
    config: watcher::Config,
    mut take: impl FnMut(Event<K>),
    mut failed: impl FnMut(&(dyn Error + 'static)),
) where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let page = if config.page_size == watcher::Config::default().page_size { PAGE } else { config.page_size.unwrap_or(PAGE) };
    let config = config.timeout(WATCH_SECS).page_size(page);
    let mut events = watcher(api, config).boxed();
    let mut pauses = retries();
    loop {
        match events.try_next().await {
            Ok(Some(event)) => {
                match &event {
                    // The start of a list is no answer yet.
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
