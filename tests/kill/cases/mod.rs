//! The cases: for each primitive, each operation in each state that makes a difference.

use core::sync::atomic::{AtomicU64, Ordering::SeqCst};
use core::time::Duration;

use crossproc::{Event, Lock, Semaphore};

use crate::harness::Subject;

mod barrier;
mod batches;
mod blocks;
mod bounded;
mod broadcast;
mod condition;
mod connection;
mod event;
mod joinable;
mod lock;
mod once;
mod permits;
mod queue;
mod queue_words;
mod rlock;
mod rwlock;
mod semaphore;
mod stopped_burials;
mod two_threads;
#[cfg(target_arch = "x86_64")]
mod visible;
mod wait_any;

pub(crate) fn all() -> Vec<Box<dyn Subject>> {
    [
        #[cfg(target_arch = "x86_64")]
        visible::cases(),
        lock::cases(),
        rlock::cases(),
        rwlock::cases(),
        once::cases(),
        event::cases(),
        semaphore::cases(),
        bounded::cases(),
        permits::cases(),
        condition::cases(),
        barrier::cases(),
        queue::cases(),
        batches::cases(),
        blocks::cases(),
        broadcast::cases(),
        joinable::cases(),
        connection::cases(),
        wait_any::cases(),
        two_threads::cases(),
        stopped_burials::cases(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// Mostly long enough to fall asleep in single steps. If not, the run has fewer points, and is as
/// good.
const EXPIRES: Duration = Duration::from_millis(10);

/// The reason for a sleeper in many cases: the process that was woken, or was about to wake it, is
/// stopped.
const WAKER_STOPPED: &str = "the stopped one has freed it and woken nobody yet, or was woken and \
    has not acted; the next to free it wakes";

/// Does what a thread does at its first operations only, so that no case is about that.
fn warm_up() {
    drop(Lock::new(0_u64).lock());
    let _ = Event::new().wait_timeout(Duration::from_micros(50));
    let _ = Semaphore::new(0).acquire_timeout(Duration::from_micros(50));
}

/// Returns the first 64 bits of a primitive, for what the public methods do not tell. The
/// primitive's module documents its word.
fn word<T>(primitive: &T) -> u64 {
    assert!(size_of::<T>() >= 8 && align_of::<T>() >= 8, "it begins with a word");
    // SAFETY: large and aligned enough, and it consists of atomics.
    unsafe { AtomicU64::from_ptr((&raw const *primitive).cast_mut().cast()) }.load(SeqCst)
}
