//! A disk that does not answer: the agent still keeps the kernel in the desired state, and it writes the record when the disk
//! answers again.

use std::fs;

use crate::bed::agent::state_folder;
use crate::bed::disk::Disk;
use crate::bed::kernel::Variant;
use crate::bed::{Bed, EXTERNAL, SECOND_SERVER, SERVER};
use crate::metrics::page;
use crate::stage::{FILE, Manifest, SEED, Stage, by, servers, tcp, wait};

#[test]
fn a_disk_that_hangs_delays_no_kernel_and_gets_the_newest_record_afterwards() {
    let bed = Bed::new();
    let disk = Disk::at(state_folder(bed.proxy()));
    let stage = Stage::of(Variant::Nft, bed, &[(FILE, Manifest::seed())]);
    // Moved here so that it is dropped before the stage: an agent cannot end while its disk is frozen, and the files of a bed
    // cannot be removed while a disk is mounted there.
    let disk = disk;
    let _servers = servers(&stage.bed);
    stage.agent.wait_ready(SEED);
    let record = || fs::read_to_string(state_folder(stage.proxy()).join("record.json")).unwrap();
    let before = record();

    disk.freeze();
    stage.edit(&Manifest::seed().for_second_server());
    assert_eq!(tcp(&stage.bed), by(SECOND_SERVER, EXTERNAL));
    stage.edit(&Manifest::seed());
    stage.edit(&Manifest::seed().for_second_server());
    stage.proxy().iptables(Variant::Nft, "-t nat -F PF-PRE");
    wait("the damage is repaired", || tcp(&stage.bed) == by(SECOND_SERVER, EXTERNAL));
    assert_eq!(page(stage.proxy(), "/livez").status, 200);

    disk.thaw();
    let newest = |text: &str| text.contains(&SECOND_SERVER.to_string()) && !text.contains(&SERVER.to_string());
    wait("the newest state is recorded", || newest(&record()) && record() != before);
    let Stage { agent, .. } = stage;
    assert!(agent.stop().success());
}
