//! Logs a failure once and its end once: an outage is one line in the log, not one per try or per resource.

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tracing::{debug, info, warn};

/// Whether the API server can be reached. All tasks share it.
#[derive(Clone, Debug, Default)]
pub(super) struct Outage {
    /// Whether the outage was logged.
    told: Arc<AtomicBool>,
    /// Whether the API server answered the last request; a refusal is an answer.
    answers: Arc<AtomicBool>,
}

impl Outage {
    /// Whether the API server answered the last request; a refusal is an answer.
    pub(super) fn is_over(&self) -> bool {
        self.answers.load(Ordering::Relaxed)
    }
}

/// Whether one kind of request to the API server works.
#[derive(Debug)]
pub(super) struct Trouble {
    what: &'static str,
    outage: Outage,
    /// The number of consecutive refusals while the API server answered.
    refused: u32,
    /// The number of consecutive answers that ask to try again later.
    put_off: u32,
}

/// After this number of consecutive refusals, a warning is logged. A starting API server refuses until it has read the access
/// rules.
const REFUSED: u32 = 3;
/// After this number of consecutive answers to try again later, a warning is logged. A starting API server gives them for a few
/// seconds.
const PUT_OFF: u32 = 6;

/// The meaning of an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Meaning {
    /// The API server cannot be reached or does not authenticate the agent: nothing works.
    Outage,
    /// It answers and refuses this request.
    Denied,
    /// It asks the client to try again later (429 Too Many Requests).
    PutOff,
    /// The version at which a watch was to continue is too old; a new list follows (410 Gone).
    Overtaken,
}

impl Trouble {
    /// For requests for `what`, which count as working at first.
    pub(super) const fn new(what: &'static str, outage: Outage) -> Self {
        Self { what, outage, refused: 0, put_off: 0 }
    }

    /// Records that a request failed.
    pub(super) fn failed(&mut self, error: &(dyn Error + 'static)) {
        let what = self.what;
        let meaning = meaning(error);
        self.outage.answers.store(meaning != Meaning::Outage, Ordering::Relaxed);
        match meaning {
            Meaning::Outage if !self.outage.told.swap(true, Ordering::Relaxed) => {
                warn!(what, %error, "the API server cannot be used; trying again, and the kernel stays as it is");
            }
            Meaning::Denied if !self.outage.told.load(Ordering::Relaxed) => self.refuse(error),
            Meaning::PutOff => {
                self.put_off = self.put_off.saturating_add(1);
                if self.put_off == PUT_OFF {
                    warn!(what, %error, "the API server asks to try this later; trying again, and the kernel stays as it is");
                }
            }
            Meaning::Outage | Meaning::Denied | Meaning::Overtaken => debug!(what, %error, "failed again"),
        }
    }

    /// Records that the API server could not do this one request, although it answers others.
    pub(super) fn failed_one(&mut self, error: &(dyn Error + 'static)) {
        self.outage.answers.store(true, Ordering::Relaxed);
        if !self.outage.told.load(Ordering::Relaxed) {
            self.refuse(error);
        }
    }

    fn refuse(&mut self, error: &(dyn Error + 'static)) {
        let what = self.what;
        self.refused = self.refused.saturating_add(1);
        if self.refused == REFUSED {
            warn!(what, %error, "the API server refuses this; trying again, and the kernel stays as it is");
        } else {
            debug!(what, %error, "refused");
        }
    }

    /// Records that a request succeeded.
    pub(super) fn worked(&mut self) {
        self.outage.answers.store(true, Ordering::Relaxed);
        if self.outage.told.swap(false, Ordering::Relaxed) {
            info!("the API server can be used again");
        }
        self.heard();
    }

    /// Records an event of a watch. The watch may have started before the API server stopped answering new requests, as with an
    /// expired token. Therefore an event does not end an outage.
    pub(super) fn heard(&mut self) {
        let what = self.what;
        if std::mem::take(&mut self.refused) >= REFUSED {
            info!(what, "the API server allows this again");
        }
        if std::mem::take(&mut self.put_off) >= PUT_OFF {
            info!(what, "the API server answers this again");
        }
    }
}

/// Whether the API server answered with a refusal. A retry alone does not change this.
pub(super) fn is_refusal(error: &(dyn Error + 'static)) -> bool {
    meaning(error) == Meaning::Denied
}

/// Whether the error is about this one request, and another one may succeed. A tenant can cause a 500: with an object that is so
/// large that the store refuses its status.
pub(super) fn is_about_one(error: &(dyn Error + 'static)) -> bool {
    match codes(error).next() {
        None | Some(401 | 429 | 501..) => false,
        Some(_) => true,
    }
}

/// Whether the API server answered that it has no such resource (404), for example because it is older.
pub(super) fn is_absent(error: &(dyn Error + 'static)) -> bool {
    codes(error).next() == Some(404)
}

fn meaning(error: &(dyn Error + 'static)) -> Meaning {
    let status = codes(error).next();
    match status {
        Some(410) => Meaning::Overtaken,
        Some(429) => Meaning::PutOff,
        None | Some(401 | 500..) => Meaning::Outage,
        Some(_) => Meaning::Denied,
    }
}

/// How long the API server asks the client to wait (`retryAfterSeconds`, sent with 429 and 503), at most one minute.
pub(super) fn retry_after(error: &(dyn Error + 'static)) -> Duration {
    let seconds = match error.downcast_ref::<kube::Error>() {
        Some(kube::Error::Api(status)) => status.details.as_ref().map(|details| details.retry_after_seconds),
        Some(_) | None => None,
    };
    Duration::from_secs(seconds.unwrap_or(0).into()).min(Duration::from_mins(1))
}

/// The HTTP status codes of the API server in an error and its causes.
fn codes(error: &(dyn Error + 'static)) -> impl Iterator<Item = u16> {
    let mut next = Some(error);
    let causes = std::iter::from_fn(move || {
        let cause = next?;
        next = cause.source();
        Some(cause)
    });
    causes.filter_map(|cause| {
        let by_client = cause.downcast_ref::<kube::Error>().and_then(|error| match error {
            kube::Error::Api(status) => Some(status.code),
            _ => None,
        });
        // A watcher keeps an error event of the watch in a box, which is another type here.
        let in_a_watch = cause.downcast_ref::<Box<kube::core::Status>>().map(AsRef::as_ref);
        let by_server = cause.downcast_ref::<kube::core::Status>().or(in_a_watch);
        by_client.or_else(|| by_server.map(|status| status.code))
    })
}

#[cfg(test)]
mod tests {
    use kube::core::Status;

    use super::*;

    fn api(code: u16) -> kube::Error {
        kube::Error::Api(Box::new(Status { code, ..Status::default() }))
    }

    #[test]
    fn a_refusal_is_distinguished_from_an_outage() {
        for (code, expected) in [
            (401, Meaning::Outage),
            (403, Meaning::Denied),
            (404, Meaning::Denied),
            (410, Meaning::Overtaken),
            (429, Meaning::PutOff),
            (503, Meaning::Outage),
        ] {
            assert_eq!(meaning(&api(code)), expected, "{code}");
            assert_eq!(meaning(&kube::runtime::watcher::Error::InitialListFailed(api(code))), expected, "{code} of a watcher");
            let event = Box::new(Status { code, ..Status::default() });
            assert_eq!(meaning(&kube::runtime::watcher::Error::WatchError(event)), expected, "{code} in a watch");
        }
        assert_eq!(meaning(&std::io::Error::other("connection refused")), Meaning::Outage);
    }

    #[test]
    fn the_api_server_says_how_long_to_wait() {
        let busy = |retry_after_seconds: u32| {
            let details = serde_json::from_value(serde_json::json!({"retryAfterSeconds": retry_after_seconds})).unwrap();
            kube::Error::Api(Box::new(Status { code: 429, details: Some(details), ..Status::default() }))
        };
        for (says, waits) in [(0, 0), (7, 7), (3600, 60)] {
            assert_eq!(retry_after(&busy(says)), Duration::from_secs(waits));
        }
        assert_eq!(retry_after(&api(503)), Duration::ZERO);
        assert_eq!(retry_after(&std::io::Error::other("connection refused")), Duration::ZERO);
    }

    #[test]
    fn all_tasks_share_one_outage() {
        let outage = Outage::default();
        assert!(!outage.is_over(), "nobody has answered yet");
        let (mut a, mut b) = (Trouble::new("a", outage.clone()), Trouble::new("b", outage.clone()));
        a.failed(&api(503));
        b.failed(&api(503));
        assert!(outage.told.load(Ordering::Relaxed) && !outage.is_over() && a.refused + b.refused == 0);
        b.heard();
        assert!(outage.told.load(Ordering::Relaxed), "an open watch says nothing about new calls");
        b.worked();
        assert!(!outage.told.load(Ordering::Relaxed) && outage.is_over());
        a.failed(&api(503));
        b.failed(&api(403));
        assert_eq!(b.refused, 0, "the outage is not over");
        a.worked();
        b.failed(&api(403));
        assert!(b.refused == 1 && !outage.told.load(Ordering::Relaxed) && outage.is_over());
        b.worked();
        assert_eq!(b.refused, 0, "only refusals in a row count");
        a.failed(&api(503));
        b.failed(&api(403));
        assert!(outage.is_over(), "a refusal is an answer");
    }
}
