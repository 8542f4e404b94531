//! The rules of kstatus and `kubectl wait` for an object of an unknown kind. kstatus is the library sigs.k8s.io/cli-utils,
//! which Helm 4 and Flux contain. `tests/gitops` checks these rules with a real Helm and a real kubectl.

use serde_json::Value;

/// The result of kstatus for an existing object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kstatus {
    /// Continue to wait.
    InProgress,
    /// Waiting is useless.
    Failed,
    /// Done.
    Current,
    /// It is being deleted.
    Terminating,
}

fn conditions(object: &Value) -> impl Iterator<Item = &Value> {
    object["status"]["conditions"].as_array().into_iter().flatten()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// The result of kstatus, with its message. It checks deletion, then the generation (only at the top of the status), then its
/// own two conditions, then `Ready`. An object without a status is current.
pub(crate) fn kstatus(object: &Value) -> (Kstatus, String) {
    if object["metadata"]["deletionTimestamp"].as_str().is_some_and(|time| !time.is_empty()) {
        return (Kstatus::Terminating, "Resource scheduled for deletion".to_owned());
    }
    let generations = (object["metadata"]["generation"].as_i64(), object["status"]["observedGeneration"].as_i64());
    if let (Some(generation), Some(observed)) = generations
        && generation != observed
    {
        let message = format!("PortForward generation is {generation}, but latest observed generation is {observed}");
        return (Kstatus::InProgress, message);
    }
    let own = |condition: &&Value| {
        condition["status"] == "True" && (condition["type"] == "Reconciling" || condition["type"] == "Stalled")
    };
    if let Some(first) = conditions(object).find(own) {
        let said = if first["type"] == "Stalled" { Kstatus::Failed } else { Kstatus::InProgress };
        return (said, text(&first["message"]));
    }
    let known =
        |condition: &&Value| condition["type"] == "Ready" && ["True", "False", "Unknown"].contains(&&*text(&condition["status"]));
    match conditions(object).find(known) {
        Some(ready) if ready["status"] == "True" => (Kstatus::Current, "Resource is Ready".to_owned()),
        Some(ready) => (Kstatus::InProgress, text(&ready["message"])),
        None => (Kstatus::Current, "Resource is current".to_owned()),
    }
}

/// Whether `kubectl wait --for=condition=KIND` returns: the condition is true and is not about an older generation. The
/// generation is that of the condition, otherwise that of the status.
pub(crate) fn kubectl_wait(object: &Value, kind: &str) -> bool {
    let same = |condition: &&Value| text(&condition["type"]).eq_ignore_ascii_case(kind) && condition["status"].is_string();
    let Some(condition) = conditions(object).find(same) else { return false };
    let observed = condition["observedGeneration"].as_i64().or_else(|| object["status"]["observedGeneration"].as_i64());
    let old = match (object["metadata"]["generation"].as_i64(), observed) {
        (Some(generation), Some(observed)) => observed < generation,
        (None, _) | (_, None) => false,
    };
    !old && text(&condition["status"]).eq_ignore_ascii_case("True")
}
