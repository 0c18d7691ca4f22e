//! Explorations of the real primitives: `ci/explore.sh` runs them, with `--cfg crossproc_loom`.
//!
//! Each explores every interleaving of three or four threads, sequentially consistent, with kills
//! and time-outs. Each prints how many states there are. See `crossproc_sys::model::explorer`.

#![cfg(crossproc_loom)]
#![allow(unsafe_code)]

use std::time::Duration;

use crossproc::{Wait, set_recheck_interval};
use crossproc_sys::model::explorer::Exploration;

mod event;
mod explorer;
mod lock;
mod permits;
mod queue;
mod semaphore;

// The modules that the queue's state machine refers to: see `queue`.
#[allow(dead_code, unreachable_pub, reason = "part of it is used")]
#[path = "../../src/reactor"]
mod reactor {
    #[path = "stand_in/model.rs"]
    pub(crate) mod stand_in;
}
#[allow(dead_code, unreachable_pub, unused_imports, reason = "part of it is used")]
#[path = "../../src/sync"]
mod sync {
    pub(crate) mod lock {
        pub(crate) mod state;
    }
}
#[allow(dead_code, unreachable_pub, unused_imports, reason = "part of it is used")]
#[path = "../../src/wait"]
mod wait {
    pub(crate) mod source;
    mod waiter;

    pub(crate) use self::waiter::{Ended, Wait, Waiter, recheck_interval, set_recheck_interval};
}
#[allow(dead_code, unreachable_pub, reason = "part of it is used")]
#[path = "../../src/wait_any"]
mod wait_any {
    pub(crate) mod watching;
}

/// Returns a wait with a deadline, which passes when the exploration lets it.
fn in_time() -> Wait {
    Wait::timeout(Duration::from_secs(1_000_000))
}

/// Makes an exploration without slices.
fn explore<S, P: Clone + Eq + std::hash::Hash>(name: &str, shared: S) -> Exploration<S, P> {
    set_recheck_interval(None);
    Exploration::new(name, shared).solo(100)
}
