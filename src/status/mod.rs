//! The status of each forward: conditions and their reasons, from the plan and the state that was read back.
//!
//! Pure: no I/O, no clock, no log; the time is an argument.

mod condition;
mod contest;
mod grants;
mod here;
mod judge;
mod judgement;
mod outcome;
mod summary;
mod unfollowed;
mod writes;

#[cfg(test)]
mod tests;

pub use condition::{Circumstance, Judged, Reason, State, Type};
pub use contest::{Contest, Ruling};
pub use grants::{Census, Usable, census, grant_status};
pub use here::here;
pub use judge::{judge, leave, unknown_form};
pub use judgement::{Judgement, Judgements, Standing};
pub use outcome::Outcome;
pub use summary::{merge, node_status, summary};
pub use unfollowed::{is_left_to, unfollowed};
pub(crate) use writes::says_ready;
pub use writes::{SETTLE, View, Write};
