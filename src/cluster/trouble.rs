//! Says what does not work once, and that it works again once: an outage is one line, not one per try or per resource.

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tracing::{debug, info, warn};

/// Whether the API server can be reached, as all tasks together know it.
#[derive(Clone, Debug, Default)]
pub(super) struct Outage {
    /// Whether it was said.
    told: Arc<AtomicBool>,
    /// Whether the API server answered, be it with a refusal, when it was last asked.
    answers: Arc<AtomicBool>,
}

impl Outage {
    /// Whether the API server answered, be it with a refusal, when it was last asked.
    pub(super) fn is_over(&self) -> bool {
        self.answers.load(Ordering::Relaxed)
    }
}

/// Whether one thing works that the API server is asked for.
#[derive(Debug)]
pub(super) struct Trouble {
    what: &'static str,
    outage: Outage,
    denied: bool,
}

/// What an error means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Meaning {
    /// The API server cannot be reached, or does not know who asks: nothing works.
    Outage,
    /// It answers, and refuses this one thing.
    Denied,
    /// It has forgotten where a watch was; the list that follows makes up for it (410 Gone).
    Overtaken,
}

impl Trouble {
    /// Of `what`, which is taken to work.
    pub(super) const fn new(what: &'static str, outage: Outage) -> Self {
        Self { what, outage, denied: false }
    }

    /// It failed.
    pub(super) fn failed(&mut self, error: &(dyn Error + 'static)) {
        let what = self.what;
        let meaning = meaning(error);
        self.outage.answers.store(meaning != Meaning::Outage, Ordering::Relaxed);
        match meaning {
            Meaning::Outage if !self.outage.told.swap(true, Ordering::Relaxed) => {
                warn!(what, %error, "the API server cannot be used; trying again, and the kernel stays as it is");
            }
            Meaning::Denied if !self.denied => {
                self.denied = true;
                warn!(what, %error, "the API server refuses this; trying again, and the kernel stays as it is");
            }
            Meaning::Outage | Meaning::Denied | Meaning::Overtaken => debug!(what, %error, "failed again"),
        }
    }

    /// It worked.
    pub(super) fn worked(&mut self) {
        let what = self.what;
        self.outage.answers.store(true, Ordering::Relaxed);
        if self.outage.told.swap(false, Ordering::Relaxed) {
            info!("the API server can be used again");
        }
        if std::mem::take(&mut self.denied) {
            info!(what, "the API server allows this again");
        }
    }
}

fn meaning(error: &(dyn Error + 'static)) -> Meaning {
    let status = codes(error).next();
    match status {
        Some(410) => Meaning::Overtaken,
        None | Some(401 | 429 | 500..) => Meaning::Outage,
        Some(_) => Meaning::Denied,
    }
}

/// The HTTP status codes that the API server gave, of an error and what caused it.
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
        by_client.or_else(|| cause.downcast_ref::<kube::core::Status>().map(|status| status.code))
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
    fn a_refusal_is_told_from_an_outage() {
        for (code, expected) in [
            (401, Meaning::Outage),
            (403, Meaning::Denied),
            (404, Meaning::Denied),
            (410, Meaning::Overtaken),
            (503, Meaning::Outage),
        ] {
            assert_eq!(meaning(&api(code)), expected, "{code}");
            assert_eq!(meaning(&kube::runtime::watcher::Error::InitialListFailed(api(code))), expected, "{code} of a watcher");
        }
        assert_eq!(meaning(&std::io::Error::other("connection refused")), Meaning::Outage);
    }

    #[test]
    fn an_outage_is_one_for_all() {
        let outage = Outage::default();
        assert!(!outage.is_over(), "nobody has answered yet");
        let (mut a, mut b) = (Trouble::new("a", outage.clone()), Trouble::new("b", outage.clone()));
        a.failed(&api(503));
        b.failed(&api(503));
        assert!(outage.told.load(Ordering::Relaxed) && !outage.is_over() && !a.denied && !b.denied);
        b.worked();
        assert!(!outage.told.load(Ordering::Relaxed) && outage.is_over());
        b.failed(&api(403));
        assert!(b.denied && !outage.told.load(Ordering::Relaxed) && outage.is_over());
        a.failed(&api(503));
        b.failed(&api(403));
        assert!(outage.is_over(), "a refusal is an answer");
    }
}
