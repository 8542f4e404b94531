//! Tests an installation by the flat file.

use crate::cluster::{Cluster, SEED};

#[test]
fn the_seeds_forward_serves_and_goes() {
    let cluster = Cluster::new();
    cluster.must_kubectl(&format!("apply -f {}/deploy/install.yaml", env!("CARGO_MANIFEST_DIR")));
    cluster.wait_rollout();
    cluster.serve_seed();
    // The objects of the cluster equal the file: the API server defaults, converts or prunes no field.
    let file = format!("{}/deploy/install.yaml", env!("CARGO_MANIFEST_DIR"));
    cluster.must_kubectl(&format!("diff -f {file}"));
    cluster.must_kubectl(&format!("apply --server-side -f {file}"));
    cluster.must_kubectl(&format!("diff --server-side -f {file}"));
    cluster.must_kubectl("delete --namespace leased-lines pf/bank-a-web");
    assert!(cluster.plane.forward(SEED).is_none());
    let gone = || !cluster.nodes[0].run(&cluster.bed, "iptables-nft-save").contains("-A PF-");
    assert!(crate::bed::wait::eventually(crate::cluster::PATIENCE, gone));
}
