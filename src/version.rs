//! The version of the program, and the commit that it was built from.

use std::sync::LazyLock;

/// The version, as in `Cargo.toml`.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
/// The commit: the environment variable `PORTFORWARD_COMMIT` at build time, otherwise the commit of the git checkout
/// (`build.rs`); `None` without both.
pub const COMMIT: Option<&str> = option_env!("PORTFORWARD_COMMIT");
/// The output of `--version` after the program's name.
pub static TEXT: LazyLock<String> = LazyLock::new(|| text(COMMIT));

fn text(commit: Option<&str>) -> String {
    commit.map_or_else(|| VERSION.to_owned(), |commit| format!("{VERSION} (commit {commit})"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_known_commit_follows_the_version() {
        assert_eq!(text(Some("0a1b2c3d4e5f")), format!("{VERSION} (commit 0a1b2c3d4e5f)"));
        assert_eq!(text(None), VERSION);
    }
}
