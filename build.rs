//! Sets `PORTFORWARD_COMMIT` to the commit of the git checkout, for `--version` and the metrics.
//!
//! A value in the environment takes precedence: the build of the image sets it. Without git, without a checkout, or in a folder
//! inside another checkout, the commit stays unknown. Uncommitted changes are not reported.

use std::process::Command;

/// The output of a git command in this folder; `None` if git fails or prints nothing.
fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok().filter(|output| output.status.success())?;
    let text = String::from_utf8(output.stdout).ok()?.trim().to_owned();
    (!text.is_empty()).then_some(text)
}

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=PORTFORWARD_COMMIT");
    // The prefix is the path of this folder in its checkout: not empty if the checkout is that of another project.
    let given = std::env::var_os("PORTFORWARD_COMMIT").is_some_and(|commit| !commit.is_empty());
    if given || git(&["rev-parse", "--show-prefix"]).is_some() {
        return;
    }
    let Some(commit) = git(&["rev-parse", "--short=12", "HEAD"]) else { return };
    println!("cargo::rustc-env=PORTFORWARD_COMMIT={commit}");
    // Every commit and every checkout appends to the log of HEAD. In a worktree, it is outside of `.git`.
    if let Some(log) = git(&["rev-parse", "--git-path", "logs/HEAD"]) {
        println!("cargo::rerun-if-changed={log}");
    }
}
