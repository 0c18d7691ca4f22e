//! Explorations of the real primitives: `ci/explore.sh` runs them, with `--cfg crossproc_loom`.
//!
//! Each explores every interleaving of three or four threads, sequentially consistent, with kills
//! and time-outs. Each prints how many states there are. See `crossproc_sys::model::explorer`.

#![cfg(crossproc_loom)]
#![allow(unsafe_code)]

use std::time::Duration;

use crossproc::{Wait, set_recheck_interval};
use crossproc_sys::model::explorer::Exploration;

mod condition;
mod event;
mod explorer;
mod lock;
mod permits;
mod queue;
mod semaphore;

include!("../loom/machines.rs");

/// Returns a wait with a deadline, which passes when the exploration lets it.
fn in_time() -> Wait {
    Wait::timeout(Duration::from_secs(1_000_000))
}

/// Makes an exploration without slices.
fn explore<S, P: Clone + Eq + std::hash::Hash>(name: &str, shared: S) -> Exploration<S, P> {
    set_recheck_interval(None);
    Exploration::new(name, shared).solo(100)
}
