//! Follows one resource: a list in pages, then a watch with a short timeout, again and again.

use std::fmt::Debug;

use futures::{StreamExt, TryStreamExt};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Resource};
use serde::de::DeserializeOwned;

use super::trouble::Trouble;

/// How long the server keeps a watch open, in seconds: a connection that died silently is noticed soon after.
const WATCH_SECS: u32 = 25;
/// How many objects one page of a list holds.
const PAGE: u32 = 500;

/// Follows what `api` and `config` select and hands each event to `take`; never ends. Errors do not end it either: they are said
/// once, and tried again with a backoff that is this resource's own.
pub(super) async fn follow<K>(what: &'static str, api: Api<K>, config: watcher::Config, mut take: impl FnMut(Event<K>))
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let config = config.timeout(WATCH_SECS).page_size(PAGE);
    let mut events = watcher(api, config).default_backoff().boxed();
    let mut trouble = Trouble::new(what);
    loop {
        match events.try_next().await {
            Ok(Some(event)) => {
                trouble.worked();
                take(event);
            }
            Ok(None) => return,
            Err(error) => trouble.failed(&error),
        }
    }
}
