//! The part of an object's metadata that the agent uses. Everything else is dropped as soon as an object is read, because each
//! agent holds all objects of the cluster in memory: the author of an object must not decide how much memory that takes.

use kube::core::ObjectMeta;

/// `metadata` without what no agent uses: labels, annotations, `managedFields`, owners and finalizers.
#[must_use]
pub fn used(metadata: ObjectMeta) -> ObjectMeta {
    let ObjectMeta { name, namespace, uid, generation, resource_version, creation_timestamp, deletion_timestamp, .. } = metadata;
    ObjectMeta {
        name,
        namespace,
        uid,
        generation,
        resource_version,
        creation_timestamp,
        deletion_timestamp,
        ..ObjectMeta::default()
    }
}
