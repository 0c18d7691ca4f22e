//! The primitives. Each is a public type over a state machine, its `state`, which loom runs.

pub(crate) mod barrier;
pub(crate) mod condition;
pub(crate) mod error;
pub(crate) mod event;
#[cfg(feature = "tokio")]
mod futures;
pub(crate) mod lock;
pub(crate) mod once;
pub(crate) mod permits;
pub(crate) mod rlock;
pub(crate) mod rwlock;
pub(crate) mod semaphore;
mod tokens;
