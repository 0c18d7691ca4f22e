//! The atomics of the shared state words: the standard library's own here, loom's under
//! `cfg(crossproc_loom)`.

pub use core::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};
