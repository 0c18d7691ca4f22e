//! How threads wait: deadlines and slices, what they can sleep on, and wake-ups that outlive the
//! thread that owes them.

pub(crate) mod broadcast;
mod forms;
pub(crate) mod source;
mod waiter;
pub(crate) mod wake_on_death;

pub(crate) use self::forms::forms;
pub(crate) use self::waiter::{Ended, Waiter};
pub use self::waiter::{Wait, recheck_interval, set_recheck_interval};
