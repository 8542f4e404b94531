//! A disk that does not answer: the agent still keeps the kernel in the desired state, and it writes the record when the disk
//! answers again.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use crate::bed::agent::state_folder;
use crate::bed::kernel::Variant;
use crate::bed::netns::must;
use crate::bed::{Bed, EXTERNAL, SECOND_SERVER, SERVER};
use crate::metrics::page;
use crate::stage::{FILE, Manifest, SEED, Stage, by, servers, tcp, wait};

/// A separate file system in a file, mounted at the state directory of a proxy. While it is frozen, writes to it hang
/// (`fsfreeze(8)`).
struct Disk {
    mount: PathBuf,
}

impl Disk {
    fn at(mount: PathBuf) -> Self {
        let image = mount.with_extension("image");
        fs::File::create(&image).unwrap().set_len(16 << 20).unwrap();
        must(Command::new("mkfs.ext4").arg("-q").arg(&image));
        fs::create_dir_all(&mount).unwrap();
        must(Command::new("mount").args(["-o", "loop"]).args([&image, &mount]));
        Self { mount }
    }

    fn freeze(&self) {
        must(Command::new("fsfreeze").arg("--freeze").arg(&self.mount));
    }

    fn thaw(&self) {
        must(Command::new("fsfreeze").arg("--unfreeze").arg(&self.mount));
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // If the test passed, the file system is thawed already.
        let _ = Command::new("fsfreeze").arg("--unfreeze").arg(&self.mount).output();
        let _ = Command::new("umount").arg("--lazy").arg(&self.mount).output();
    }
}

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
