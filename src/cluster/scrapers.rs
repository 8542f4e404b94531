//! Decides who may read the metrics: every user whom the API server authenticates by a token and allows to `get` the URL
//! `/metrics`.
//!
//! Asks with `TokenReview` and `SubjectAccessReview`, as the components of Kubernetes do for their metrics. An answer is
//! cached, so that frequent scrapes do not load the API server. Unknown tokens are checked at a limited rate, so that
//! guessed tokens do not load it either, and a token that was allowed before does not wait for them.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus, UserInfo};
use k8s_openapi::api::authorization::v1::{NonResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use kube::api::PostParams;
use kube::{Api, Client};
use sha2::{Digest, Sha256};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};

use crate::metrics::{Admission, Gate};

/// The URL that the permission names.
const PATH: &str = "/metrics";
/// The time limit for an answer of the API server.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long an answer is cached: a permission, and a refusal.
const REMEMBERED: (Duration, Duration) = (Duration::from_mins(1), Duration::from_secs(10));
/// The maximum number of cached answers.
const MOST: usize = 256;
/// The number of tokens that are checked at the same time.
const AT_ONCE: usize = 2;
/// The average pause between two checks of unknown tokens.
const EVERY: Duration = Duration::from_millis(200);
/// How far the checks of unknown tokens may run ahead of this average: ten checks.
const AHEAD: Duration = Duration::from_secs(2);
/// For how long a token counts as known after it was last allowed. A bound token of Kubernetes is valid for an hour or more.
const KNOWN: Duration = Duration::from_hours(1);

/// Asks the API server who may read the metrics.
pub struct Scrapers {
    client: Client,
    answers: Mutex<HashMap<Fingerprint, (Instant, Admission)>>,
    /// The tokens that were allowed, and until when they count as known.
    known: Mutex<HashMap<Fingerprint, Instant>>,
    pace: Mutex<Pace>,
    /// The turns of unknown tokens and of known ones.
    turns: [Semaphore; 2],
}

/// The hash of a token. The tokens themselves are not kept.
type Fingerprint = [u8; 32];

/// Limits the rate of checks of unknown tokens (generic cell rate algorithm).
#[derive(Debug, Default)]
struct Pace {
    /// When the next check is due by the average rate.
    due: Option<Instant>,
}

impl Pace {
    /// Whether one more check may be made at the moment `now`.
    fn allows(&mut self, now: Instant) -> bool {
        let due = self.due.map_or(now, |due| due.max(now));
        let allowed = due + EVERY - now <= AHEAD;
        if allowed {
            self.due = Some(due + EVERY);
        }
        allowed
    }
}

impl Scrapers {
    /// Uses `client` for the requests.
    #[must_use]
    pub fn new(client: Client) -> Self {
        Self {
            client,
            answers: Mutex::default(),
            known: Mutex::default(),
            pace: Mutex::default(),
            turns: [Semaphore::new(AT_ONCE), Semaphore::new(AT_ONCE)],
        }
    }

    async fn judged(&self, token: &str) -> Admission {
        let digest: Fingerprint = Sha256::digest(token).into();
        if let Some(answer) = self.remembered(&digest) {
            return answer;
        }
        let is_known = self.is_known(&digest);
        if !is_known && !locked(&self.pace).allows(Instant::now()) {
            return Admission::Busy;
        }
        let asked = async {
            // The semaphore is never closed, so this is never an error.
            let _turn = self.turns[usize::from(is_known)].acquire().await.ok();
            match self.remembered(&digest) {
                Some(answer) => Ok(answer),
                None => self.ask(token).await,
            }
        };
        let answer = match timeout(PATIENCE, asked).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => return Admission::Unavailable { error: said(error) },
            Err(_) => return Admission::Unavailable { error: "the API server does not answer".to_owned() },
        };
        self.remember(digest, &answer);
        answer
    }

    async fn ask(&self, token: &str) -> kube::Result<Admission> {
        let spec = TokenReviewSpec { token: Some(token.to_owned()), audiences: None };
        let review = TokenReview { spec, ..TokenReview::default() };
        let review = Api::<TokenReview>::all(self.client.clone()).create(&PostParams::default(), &review).await?;
        let TokenReviewStatus { authenticated: Some(true), user: Some(user), .. } = review.status.unwrap_or_default() else {
            return Ok(Admission::Unknown);
        };
        let name = user.username.clone().unwrap_or_default();
        let review = SubjectAccessReview { spec: may_read(user), ..SubjectAccessReview::default() };
        let review = Api::<SubjectAccessReview>::all(self.client.clone()).create(&PostParams::default(), &review).await?;
        let allowed = review.status.is_some_and(|status| status.allowed);
        Ok(if allowed { Admission::Allowed } else { Admission::Forbidden { user: name } })
    }

    fn is_known(&self, digest: &Fingerprint) -> bool {
        locked(&self.known).get(digest).is_some_and(|until| Instant::now() < *until)
    }

    fn remembered(&self, digest: &Fingerprint) -> Option<Admission> {
        let answers = locked(&self.answers);
        answers.get(digest).filter(|(until, _)| Instant::now() < *until).map(|(_, answer)| answer.clone())
    }

    fn remember(&self, digest: Fingerprint, answer: &Admission) {
        let (good, bad) = REMEMBERED;
        let now = Instant::now();
        let until = now + if *answer == Admission::Allowed { good } else { bad };
        if *answer == Admission::Allowed {
            let mut known = locked(&self.known);
            known.retain(|_, until| now < *until);
            if known.len() < MOST {
                known.insert(digest, now + KNOWN);
            }
        }
        let mut answers = locked(&self.answers);
        answers.retain(|_, (until, _)| now < *until);
        if answers.len() < MOST {
            answers.insert(digest, (until, answer.clone()));
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Gate for Scrapers {
    fn admit<'a>(&'a self, token: &'a str) -> BoxFuture<'a, Admission> {
        self.judged(token).boxed()
    }
}

impl fmt::Debug for Scrapers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scrapers").finish_non_exhaustive()
    }
}

/// Why the API server gave no answer, for messages.
fn said(error: kube::Error) -> String {
    match error {
        kube::Error::Api(status) => format!("the API server refuses: {}", status.message),
        _ => "the API server cannot be reached".to_owned(),
    }
}

/// The request whether `user` may read the metrics.
fn may_read(user: UserInfo) -> SubjectAccessReviewSpec {
    let url = NonResourceAttributes { path: Some(PATH.to_owned()), verb: Some("get".to_owned()) };
    SubjectAccessReviewSpec {
        extra: user.extra,
        groups: user.groups,
        non_resource_attributes: Some(url),
        uid: user.uid,
        user: user.username,
        ..SubjectAccessReviewSpec::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guessed_tokens_are_checked_ten_at_once_and_then_five_in_a_second() {
        let (mut pace, start) = (Pace::default(), Instant::now());
        let mut allowed = |millis: u64| (0..1000).filter(|_| pace.allows(start + Duration::from_millis(millis))).count();
        assert_eq!([0, 199, 200, 1200, 60_000].map(&mut allowed), [10, 0, 1, 5, 10]);
    }
}
