//! How many files this process may open.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Enough for every number of forwards: the agent opens a few dozen files at the same time.
const ENOUGH: u64 = 65_536;

/// Raises the limit for open files (`RLIMIT_NOFILE`, getrlimit(2)) to the hard limit, or to [`ENOUGH`] if that is lower.
/// Many systems start a process with 1,024.
pub(super) fn raise_limit() {
    let limit = getrlimit(Resource::Nofile);
    let wanted = limit.maximum.map_or(ENOUGH, |hard| hard.min(ENOUGH));
    if limit.current.is_some_and(|current| current < wanted) {
        // An unprivileged process may do this too. If it fails, the agent works with the limit that it has.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum: limit.maximum });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_soft_limit_is_raised_as_far_as_the_hard_one_and_never_lowered() {
        let before = getrlimit(Resource::Nofile);
        raise_limit();
        let after = getrlimit(Resource::Nofile);
        assert_eq!(after.maximum, before.maximum);
        let enough = before.maximum.map_or(ENOUGH, |hard| hard.min(ENOUGH));
        assert!(after.current.is_none_or(|current| current >= enough), "{after:?}");
    }
}
