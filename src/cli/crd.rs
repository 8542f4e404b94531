//! `crd`: prints the CRD.

use super::Exit;
use super::exit::print;

pub(super) fn run() -> anyhow::Result<Exit> {
    print(&crate::api::crd_yaml())?;
    Ok(Exit::Done)
}
