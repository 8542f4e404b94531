//! `crd`: prints the CRDs.

use super::Exit;
use super::exit::print;

pub(super) fn run() -> anyhow::Result<Exit> {
    print(&crate::api::crds_yaml())?;
    Ok(Exit::Done)
}
