//! A stranger turns the kernel against the processes that share memory with it: by waits that make
//! wakes fail, by requeues, and by what a sandbox refuses. Wakes may then come late, by a slice.
//! Nobody panics, sleeps on, or spins.

#![allow(unsafe_code)]

use std::time::Duration;

use crossproc::process::{Builder, Child, Exit};
use crossproc::{
    Barrier, BoundedSemaphore, Condition, Event, Lock, Once, Permits, RLock, RwLock, Semaphore,
    Shm, shared,
};

#[path = "../forked/mod.rs"]
mod forked;
#[path = "../refused/mod.rs"]
mod refused;
mod sandboxes;
mod strangers;

/// How long a sleeper may take that only a slice wakes: some slices, on a busy machine.
const SOME_SLICES: Duration = Duration::from_secs(5);

shared! {
    struct All {
        event: Event,
        semaphore: Semaphore,
        bounded: BoundedSemaphore,
        lock: Lock<u64>,
        rlock: RLock<u64>,
        rwlock: RwLock<u64, 2>,
        permits: Permits<2>,
        condition: Condition,
        barrier: Barrier,
        once: Once,
    }
}

fn new() -> Shm<All> {
    let all = Shm::new(All {
        event: Event::new(),
        semaphore: Semaphore::new(0),
        bounded: BoundedSemaphore::new(1),
        lock: Lock::new(0),
        rlock: RLock::new(0),
        rwlock: RwLock::new(0),
        permits: Permits::new(),
        condition: Condition::new(),
        barrier: Barrier::new(2),
        once: Once::new(),
    })
    .unwrap();
    all.bounded.try_acquire().unwrap();
    all
}

/// Forks a child that dies with the test. Slices are as they are in any program.
fn fork<R: Exit>(body: impl FnOnce() -> R + Send) -> Child {
    // SAFETY: as in `forked::fork`.
    unsafe { Builder::new().daemon(true).fork_with_threads(body) }.expect("a child can be forked")
}
