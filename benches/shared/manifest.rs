//! A forward as an object of the API.

use serde_json::{Value, json};

use super::shapes::Forward;

/// The object of a forward.
pub(crate) fn object(name: &str, forward: &Forward) -> Value {
    let client =
        if forward.prefix == 32 { forward.client.to_string() } else { format!("{}/{}", forward.network(), forward.prefix) };
    let mut port = json!({
        "name": "one", "protocol": forward.transport.name().to_uppercase(), "port": forward.listen.port(),
        "targetPort": forward.upstream.port(),
    });
    if forward.ports > 1 {
        port["endPort"] = json!(forward.listen.port() + forward.ports - 1);
        port["targetEndPort"] = json!(forward.upstream.port());
    }
    json!({
        "apiVersion": "portforward.dev/v1alpha1", "kind": "PortForward", "metadata": {"name": name},
        "spec": {
            "client": {"addresses": [client]}, "internal": {"addresses": [forward.listen.ip()]},
            "external": {"addresses": [forward.external]}, "upstream": {"targets": [{"address": forward.upstream.ip()}]},
            "ports": [port],
        },
    })
}
