//! A word that many sleep on and one wakes all of them, though it may die on the way: what event,
//! condition and barrier have in common.
//!
//! # The word
//! 64 bits; the futex is the low half. Its TID bits are always 0, which makes the kernel wake one
//! sleeper when a thread dies that has the word as its robust list's pending entry
//! (`crossproc_sys::robust`).
//!
//! | bits | name | meaning |
//! |---|---|---|
//! | 0-29 | | always 0 |
//! | 30 | | the primitive's own. It changes when sleepers are to look again: kernels before 5.16 compare the low half alone |
//! | 31 | `WAITERS` | since all were last woken, someone went to sleep |
//! | 32 | `WAKING` | those who slept when all were last to be woken may not have been yet |
//! | 33 | `SEVERAL` | beside `WAITERS`: perhaps more than one |
//! | 34-63 | | the primitive's own. Those in `ROUND` change whenever all are to be woken |
//!
//! Whoever changes the word so that all are to look again exchanges `WAITERS` and `SEVERAL` for
//! `WAKING`, wakes all, and takes `WAKING` out. For `WAITERS` alone it wakes and has done: the
//! kernel can do that for it. A waiter adds `WAITERS`, or, if that is there already, `SEVERAL`, and
//! sleeps while *both* halves are as it saw them: the low half alone may look the same after
//! several changes, and whoever was stopped, or interrupted, in the kernel would be put to sleep on
//! that by its restart of the call.
//!
//! # Why no wake-up is lost
//! *Invariant: while someone sleeps who need not, `WAKING` is set, and a thread is awake that will
//! wake all, or dies trying, which wakes one.* Waker and sleepers have the word pending. If the
//! waker dies after its exchange, the kernel wakes one sleeper, who finds `WAKING` and does the
//! waker's work before it looks for itself; if it dies before that, the next one is woken.
//! Whoever finds `WAKING` after a sleep, or while waking, does that work: it can be done twice.
//! `WAKING` is taken out only while the round is the one whose sleepers were woken, lest a waker
//! that was stopped for long undo a later one's.

use crossproc_sys::atomic::Ordering::{Acquire, Relaxed};
use crossproc_sys::atomic::{AtomicU64, Ordering};
use crossproc_sys::futex::{self, Awake};

use crate::wait::wake_on_death::with_wake_on_death;
use crate::wait::{Ended, Waiter};

pub(crate) const WAITERS: u64 = 1 << 31;
pub(crate) const WAKING: u64 = 1 << 32;
const SEVERAL: u64 = 1 << 33;

/// The word. `ROUND`: the bits that tell apart whose sleepers are being woken.
#[derive(Debug)]
#[repr(transparent)]
pub(crate) struct Broadcast<const ROUND: u64> {
    word: AtomicU64,
}

impl<const ROUND: u64> Broadcast<ROUND> {
    pub(crate) const fn new() -> Self {
        Broadcast { word: AtomicU64::new(0) }
    }

    #[inline]
    pub(crate) fn word(&self) -> &AtomicU64 {
        &self.word
    }

    /// Makes `next(seen)` of the word, unless that is an error, and has all who sleep look at it.
    /// What it was before. Pending, or it may lose its wake-ups with its thread.
    pub(crate) fn change<E>(
        &self,
        order: Ordering,
        next: impl Fn(u64) -> Result<u64, E>,
    ) -> Result<u64, E> {
        // Relaxed, also on failure: `next` decides on the exchanged value; what it leads to is
        // ordered by the exchange.
        let mut seen = self.word.load(Relaxed);
        loop {
            let after = next(seen)?;
            let after =
                if seen & SEVERAL == 0 { after } else { after | WAKING } & !(WAITERS | SEVERAL);
            match self.word.compare_exchange_weak(seen, after, order, Relaxed) {
                Ok(_) => {
                    if after & WAKING == 0 && seen & WAITERS != 0 {
                        futex::wake(&self.word, u32::MAX);
                    } else {
                        self.finish_waking(after);
                    }
                    return Ok(seen);
                }
                Err(now) => seen = now,
            }
        }
    }

    /// Wakes all if `seen` has `WAKING`, and takes it out unless all were to be woken again since.
    /// For whoever changes the word, or has slept; pending.
    pub(crate) fn finish_waking(&self, seen: u64) {
        if seen & WAKING == 0 {
            return;
        }
        futex::wake(&self.word, u32::MAX);
        let mut now = seen;
        // Relaxed: the flag orders nothing.
        while now & WAKING != 0 && now & ROUND == seen & ROUND {
            match self.word.compare_exchange_weak(now, now & !WAKING, Relaxed, Relaxed) {
                Ok(_) => return,
                Err(other) => now = other,
            }
        }
    }

    /// Sleeps until `look` sees in the word what it waits for, or the waiter's time is over.
    pub(crate) fn wait<R>(
        &self,
        waiter: &mut Waiter,
        look: impl Fn(u64) -> Option<R>,
    ) -> Result<R, Ended> {
        with_wake_on_death(&self.word, || self.wait_pending(waiter, None, |seen, _| look(seen)))
    }

    /// Says that somebody is going to sleep, for whom the word was `seen`: what it is then.
    pub(crate) fn mark(&self, seen: u64) -> Result<u64, u64> {
        let marked = if seen & WAITERS == 0 { seen | WAITERS } else { seen | SEVERAL };
        // Relaxed: the flags order nothing.
        if marked == seen {
            Ok(seen)
        } else {
            self.word.compare_exchange(seen, marked, Relaxed, Relaxed).map(|_| marked)
        }
    }

    /// [`wait`](Broadcast::wait), where the word is pending already. `marked`: what it was when
    /// this thread [marked](Broadcast::mark) it, if it has. `look` is also told how the last sleep
    /// ended, if there was one, and on what word.
    pub(crate) fn wait_pending<R>(
        &self,
        waiter: &mut Waiter,
        mut marked: Option<u64>,
        look: impl Fn(u64, Option<(Awake, u64)>) -> Option<R>,
    ) -> Result<R, Ended> {
        let mut awake = None;
        loop {
            // Acquire: pairs with the exchange in `change`.
            let seen = self.word.load(Acquire);
            if awake.is_some() {
                self.finish_waking(seen);
            }
            if let Some(result) = look(seen, awake) {
                return Ok(result);
            }
            waiter.check()?;
            if seen & WAITERS == 0
                && awake.is_none()
                && waiter.spin(|| look(self.word.load(Relaxed), None).is_some())
            {
                // Loads again, with Acquire, before it returns.
                continue;
            }
            // If nothing has changed since, the mark is this thread's own.
            let expected = if marked == Some(seen) { Ok(seen) } else { self.mark(seen) };
            let Ok(expected) = expected else { continue };
            marked = Some(expected);
            awake = Some((
                waiter.sleep(|until| futex::wait_whole(&self.word, expected, until)),
                expected,
            ));
        }
    }
}
