//! Decides who may read the metrics: every user whom the API server authenticates by a token and allows to `get` the URL
//! `/metrics`.
//!
//! Asks with `TokenReview` and `SubjectAccessReview`, as the components of Kubernetes do for their metrics. An answer is
//! cached, so that neither frequent scrapes nor guessed tokens load the API server.

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

/// Asks the API server who may read the metrics.
pub struct Scrapers {
    client: Client,
    answers: Mutex<HashMap<[u8; 32], (Instant, Admission)>>,
    asking: Semaphore,
}

impl Scrapers {
    /// Uses `client` for the requests.
    #[must_use]
    pub fn new(client: Client) -> Self {
        Self { client, answers: Mutex::default(), asking: Semaphore::new(AT_ONCE) }
    }

    async fn judged(&self, token: &str) -> Admission {
        let digest: [u8; 32] = Sha256::digest(token).into();
        if let Some(answer) = self.remembered(&digest) {
            return answer;
        }
        let asked = async {
            // The semaphore is never closed, so this is never an error.
            let _turn = self.asking.acquire().await.ok();
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

    fn remembered(&self, digest: &[u8; 32]) -> Option<Admission> {
        let answers = self.answers();
        answers.get(digest).filter(|(until, _)| Instant::now() < *until).map(|(_, answer)| answer.clone())
    }

    fn remember(&self, digest: [u8; 32], answer: &Admission) {
        let (good, bad) = REMEMBERED;
        let now = Instant::now();
        let until = now + if *answer == Admission::Allowed { good } else { bad };
        let mut answers = self.answers();
        answers.retain(|_, (until, _)| now < *until);
        if answers.len() < MOST {
            answers.insert(digest, (until, answer.clone()));
        }
    }

    fn answers(&self) -> MutexGuard<'_, HashMap<[u8; 32], (Instant, Admission)>> {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }
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
