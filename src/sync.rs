//! The primitives. Each is a public type over a state machine, its `state`, which loom runs.

pub(crate) mod barrier;
pub(crate) mod condition;
pub(crate) mod error;
pub(crate) mod event;
pub(crate) mod lock;
pub(crate) mod once;
pub(crate) mod permits;
pub(crate) mod rlock;
pub(crate) mod rwlock;
pub(crate) mod semaphore;
mod slices;
mod tokens;

// Behind the types, whose pages of documentation follow the order of the modules.
#[cfg(feature = "tokio")]
mod futures;
