//! The threads of this crate: those that sleep for futures and for `wait_any`, and those whose
//! robust lists cover a wait for several things.

#[cfg(feature = "tokio")]
mod descriptor;
pub(crate) mod driver;
#[cfg(feature = "tokio")]
mod line;
pub(crate) mod own_threads;
#[cfg_attr(crossproc_loom, path = "reactor/stand_in/model.rs")]
pub(crate) mod stand_in;

#[cfg(feature = "tokio")]
pub(crate) use self::descriptor::Descriptor;
#[cfg(feature = "tokio")]
pub(crate) use self::line::{Lead, Line, MOST_LOOKS};

/// Ends the threads that have nothing to do. Returns how many sleepers they are, or `None` if other
/// sleepers are needed.
pub(crate) fn end_idle() -> Option<usize> {
    own_threads::end_idle_of_others();
    let (sleepers, about_to_be_given_back) = driver::end_idle();
    let stand_ins = stand_in::end_idle(about_to_be_given_back);
    Some(sleepers? + stand_ins?)
}
