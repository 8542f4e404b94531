//! Whether the admission policy is in force that holds each agent to its own node: proved by a forged write, which it has to
//! refuse. The write is a dry run, so nothing changes whatever the answer is, and an agent's own rights are enough.

use k8s_openapi::api::authentication::v1::SelfSubjectReview;
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::json;
use tokio::time::timeout;

use super::DEADLINE;
use super::survey::SurveyError;

/// No node is called this: names of nodes come from hosts.
const FORGED: &str = "portforward-check-forged";
/// How the API server names what refused a write.
const REFUSED_BY: &str = "ValidatingAdmissionPolicy '";

/// What a forged write shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Guard {
    /// A policy of this name refused it.
    Armed(String),
    /// It was accepted, from this user.
    NotArmed(String),
    /// This user is no agent, so the policy does not hold for it.
    Unproven(String),
}

/// Tries to write the Lease of another node in the namespace of the agents.
///
/// # Errors
/// When the API server refuses for another reason, or does not answer.
pub async fn guard(client: Client, namespace: &str) -> Result<Guard, SurveyError> {
    let user = timeout(DEADLINE, whoami(client.clone())).await??;
    if !user.starts_with(&format!("system:serviceaccount:{namespace}:")) {
        return Ok(Guard::Unproven(user));
    }
    let lease = json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": FORGED},
        "spec": {"holderIdentity": FORGED},
    });
    let forged = PatchParams { dry_run: true, ..PatchParams::apply("portforward-check").force() };
    let leases: Api<Lease> = Api::namespaced(client, namespace);
    match timeout(DEADLINE, leases.patch(FORGED, &forged, &Patch::Apply(lease))).await? {
        Ok(_) => Ok(Guard::NotArmed(user)),
        Err(kube::Error::Api(status)) if status.message.contains(REFUSED_BY) => Ok(Guard::Armed(policy(&status.message))),
        Err(error) => Err(error.into()),
    }
}

/// Who the API server takes this for.
async fn whoami(client: Client) -> Result<String, kube::Error> {
    let reviews: Api<SelfSubjectReview> = Api::all(client);
    let review = reviews.create(&PostParams::default(), &SelfSubjectReview::default()).await?;
    let user = review.status.and_then(|status| status.user_info).and_then(|user| user.username);
    Ok(user.unwrap_or_default())
}

/// The name of the policy in what the API server says.
fn policy(message: &str) -> String {
    let after = message.split_once(REFUSED_BY).map_or("", |(_, after)| after);
    after.split('\'').next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_policy_is_named_as_the_api_server_names_it() {
        let said = "leases.coordination.k8s.io \"a\" is forbidden: ValidatingAdmissionPolicy 'corp-x' with binding 'b' denied \
                    request: the agent of node a may write only the Lease a";
        assert_eq!(policy(said), "corp-x");
    }
}
