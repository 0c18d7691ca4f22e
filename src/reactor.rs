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
