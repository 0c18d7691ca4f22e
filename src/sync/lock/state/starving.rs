//! Fairness: a waiter that has lost too often gets the lock.
//!
//! A free lock goes to the first thread to come. A waiter that was woken, or saw the lock free,
//! [`MAX_LOSSES`] times, and found it taken each time, writes its TID into a second word,
//! `starving`. From then on a thread that finds the lock free and marked yields to the starving
//! waiter. So that waiter gets the lock after the owners of that moment, at most one for each other
//! thread. `WAITERS` stays set for that time, so no thread passes by the fast path.
//!
//! `starving` is a hint and excludes no thread. A thread that has yielded for [`STAND_BACK`] takes
//! the lock all the same, and takes the hint out, because the starving waiter may be dead or
//! stopped. `try_lock` does not yield, nor does a waiter whose time is over.

use crossproc_sys::atomic::Ordering::Relaxed;
use crossproc_sys::futex::{self, Awake, MAX_LOSSES};
use crossproc_sys::robust::Thread;

use super::{RawLock, owner};
use crate::wait::Waiter;

/// The time for which others yield to a starving waiter, in nanoseconds: what a wake-up may take on
/// a busy machine.
const STAND_BACK: u64 = 10_000_000;
/// In `starving`: a thread yields to the starving waiter, and must be woken.
pub(super) const STOOD_BACK: u32 = 1 << 31;

impl RawLock {
    /// Returns whether another waiter starves.
    pub(super) fn is_starving_other(&self, thread: &Thread) -> bool {
        let starving = owner(self.starving().load(Relaxed));
        starving != 0 && starving != thread.tid()
    }

    /// Announces that this thread starves, if it has lost often enough and no other thread starves.
    pub(super) fn starve(&self, thread: &Thread, losses: u32) {
        if losses >= MAX_LOSSES {
            let _ = self.starving().compare_exchange(0, thread.tid(), Relaxed, Relaxed);
        }
    }

    pub(super) fn starve_no_more(&self, thread: &Thread, losses: u32) {
        if losses >= MAX_LOSSES {
            self.feed(thread.tid());
        }
    }

    /// Stops other threads from yielding to the thread `starving`.
    fn feed(&self, starving: u32) {
        let mut seen = self.starving().load(Relaxed);
        while owner(seen) == starving {
            match self.starving().compare_exchange_weak(seen, 0, Relaxed, Relaxed) {
                Ok(_) if seen & STOOD_BACK != 0 => {
                    futex::wake(self.starving(), u32::MAX);
                    return;
                }
                Ok(_) => return,
                Err(now) => seen = now,
            }
        }
    }

    /// Leaves a free lock to the starving waiter, for a while.
    pub(super) fn stand_back(&self, thread: &Thread, kept: u32, waiter: &mut Waiter) {
        let seen = self.starving().load(Relaxed);
        if matches!(owner(seen), 0) || owner(seen) == thread.tid() {
            return;
        }
        if kept != 0 {
            // The wake-up that this thread took may be what the starving waiter sleeps for.
            self.wake_one();
        }
        let marked = seen | STOOD_BACK;
        if seen != marked
            && self.starving().compare_exchange(seen, marked, Relaxed, Relaxed).is_err()
        {
            return;
        }
        let mut was_in_vain = false;
        let deadline = waiter.until();
        // This sleep is short enough to do without slices.
        waiter.sleep(|_| {
            match futex::wait_briefly(self.starving(), marked, STAND_BACK, deadline) {
                None => {
                    was_in_vain = true;
                    Awake::Changed
                }
                Some(Awake::TimedOut) => Awake::Changed,
                Some(awake) => awake,
            }
        });
        if was_in_vain {
            self.feed(owner(seen));
        }
    }
}
