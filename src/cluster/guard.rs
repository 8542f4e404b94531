//! Checks whether the admission policy is in force that restricts each agent to its own node. It sends a forged write, which
//! the policy must refuse. The write is a dry run, so it changes nothing, and the rights of an agent are enough.

use k8s_openapi::api::authentication::v1::SelfSubjectReview;
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::json;
use tokio::time::timeout;

use super::DEADLINE;
use super::survey::SurveyError;

/// The name of a node that does not exist.
const FORGED: &str = "portforward-check-forged";
/// The words with which the API server names the policy that refused a write.
const REFUSED_BY: &str = "ValidatingAdmissionPolicy '";

/// The result of the forged write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Guard {
    /// The policy with this name refused it.
    Armed(String),
    /// The API server accepted it from this user.
    NotArmed(String),
    /// The policy does not apply to this user, because the user is not an agent.
    Unproven(String),
}

/// Tries to write the Lease of another node in the namespace of the agents.
///
/// # Errors
/// When the API server refuses for another reason or does not answer.
pub async fn guard(client: Client, namespace: &str) -> Result<Guard, SurveyError> {
    let user = timeout(DEADLINE, whoami(client.clone())).await??;
    if !user.starts_with(&format!("system:serviceaccount:{namespace}:")) {
        return Ok(Guard::Unproven(user));
    }
    let lease = json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": FORGED},
        "spec": {"holderIdentity": FORGED},
    });
    let forged = PatchParams { dry_run: true, ..PatchParams::apply(super::leases::MANAGER).force() };
    let leases: Api<Lease> = Api::namespaced(client, namespace);
    match timeout(DEADLINE, leases.patch(FORGED, &forged, &Patch::Apply(lease))).await? {
        Ok(_) => Ok(Guard::NotArmed(user)),
        Err(kube::Error::Api(status)) if status.message.contains(REFUSED_BY) => Ok(Guard::Armed(policy(&status.message))),
        Err(error) => Err(error.into()),
    }
}

/// The user as which the API server authenticates this client.
pub(super) async fn whoami(client: Client) -> Result<String, kube::Error> {
    let reviews: Api<SelfSubjectReview> = Api::all(client);
    let review = reviews.create(&PostParams::default(), &SelfSubjectReview::default()).await?;
    let user = review.status.and_then(|status| status.user_info).and_then(|user| user.username);
    Ok(user.unwrap_or_default())
}

/// The name of the policy in the message of the API server.
fn policy(message: &str) -> String {
    let after = message.split_once(REFUSED_BY).map_or("", |(_, after)| after);
    after.split('\'').next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::http::StatusCode;
    use axum::response::Response;
    use axum::routing::{patch, post};

    use super::*;
    use crate::cluster::tests::{client, object, refused};

    const AGENT: &str = "system:serviceaccount:lines:agent";

    /// The result for this user, if the API server answers the forged write like this.
    async fn tried(user: &'static str, answer: fn() -> Response) -> Result<Guard, SurveyError> {
        let review =
            move || async move { object(&json!({"metadata": {}, "spec": {}, "status": {"userInfo": {"username": user}}})) };
        let pages = Router::new()
            .route("/apis/authentication.k8s.io/v1/selfsubjectreviews", post(review))
            .route("/apis/coordination.k8s.io/v1/namespaces/lines/leases/{name}", patch(move || async move { answer() }));
        guard(client(pages).await, "lines").await
    }

    #[tokio::test]
    async fn only_a_refusal_by_a_policy_of_the_write_of_an_agent_proves_that_one_is_in_force() {
        let taken = || object(&json!({"metadata": {"name": FORGED}, "spec": {}}));
        let by_policy =
            || refused(StatusCode::FORBIDDEN, "Forbidden", "x is forbidden: ValidatingAdmissionPolicy 'p' with binding 'b'");
        let by_rbac =
            || refused(StatusCode::FORBIDDEN, "Forbidden", "x is forbidden: User \"y\" cannot patch resource \"leases\"");
        assert_eq!(tried(AGENT, by_policy).await.unwrap(), Guard::Armed("p".to_owned()));
        assert_eq!(tried(AGENT, taken).await.unwrap(), Guard::NotArmed(AGENT.to_owned()));
        assert!(tried(AGENT, by_rbac).await.is_err());
        for other in ["admin", "system:serviceaccount:other:agent"] {
            assert_eq!(tried(other, taken).await.unwrap(), Guard::Unproven(other.to_owned()));
        }
    }

    #[test]
    fn the_name_of_the_policy_is_read_from_the_message() {
        let said = "leases.coordination.k8s.io \"a\" is forbidden: ValidatingAdmissionPolicy 'corp-x' with binding 'b' denied \
                    request: the agent of node a may write only the Lease a";
        assert_eq!(policy(said), "corp-x");
    }
}
