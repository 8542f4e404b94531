//! Which version of the program this is, and which state of its source it was built from.

/// The version, as in `Cargo.toml`.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
/// The commit, where the build was told (environment variable `PORTFORWARD_COMMIT`).
pub const COMMIT: Option<&str> = option_env!("PORTFORWARD_COMMIT");
