//! The clock of the models. It is the real one except in an exploration, where a deadline may have
//! passed whenever a thread looks. See [`model`](crate::model).

#[path = "../clock.rs"]
#[allow(unreachable_pub, reason = "it is public in the real world")]
mod real;

use crate::model::explorer;

pub(crate) use real::timespec;

/// As in the real module.
#[must_use]
pub fn now() -> u64 {
    if explorer::is_active() { explorer::now() } else { real::now() }
}
