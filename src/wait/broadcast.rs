//! A word that many threads sleep on, and one thread wakes all of them, though it may die on the
//! way. Event, condition and barrier are built on it.
//!
//! # The word
//! The word has 64 bits; the futex is the low half. Its TID bits are always 0. So the kernel wakes
//! one sleeper when a thread dies that has the word as its robust list's pending entry
//! (`crossproc_sys::robust`).
//!
//! | bits | name | meaning |
//! |---|---|---|
//! | 0-29 | | always 0 |
//! | 30 | | the primitive's own. It changes when sleepers must look again: kernels before 5.16 compare the low half alone |
//! | 31 | `WAITERS` | a thread went to sleep since all were last woken |
//! | 32 | `WAKING` | all were to be woken, and some of those that slept then may not have been yet |
//! | 33 | `SEVERAL` | beside `WAITERS`: there may be more than one sleeper |
//! | 34-63 | | the primitive's own. Those in `ROUND` change whenever all must be woken |
//!
//! A thread that changes the word so that all must look again exchanges `WAITERS` and `SEVERAL` for
//! `WAKING`, wakes all, and takes `WAKING` out. For `WAITERS` alone it wakes and is done: the
//! kernel can do that for it. A waiter adds `WAITERS`, or `SEVERAL` if `WAITERS` is there already.
//!
//! The waiter sleeps while *both* halves are as it saw them: the low half alone may look the same
//! after several changes. With that half alone, a thread that was stopped or interrupted in the
//! kernel would be put to sleep when its call is restarted.
//!
//! # Why no wake-up is lost
//! *Invariant: while threads sleep that need not, a thread is awake that will wake all of them. If
//! it dies on the way, one of them is woken.* `WAKING` is set then, unless the waker found
//! `WAITERS` alone, and so one sleeper.
//!
//! Waker and sleepers have the word pending. If the waker dies after its exchange, the kernel wakes
//! one sleeper. That sleeper finds `WAKING` and does the waker's work before it looks for itself.
//! If it dies before that, the kernel wakes the next one. A thread that finds `WAKING` after a
//! sleep, or while waking, does that work: it can be done twice. `WAKING` is taken out only while
//! the round is the one whose sleepers were woken. Otherwise a waker that was stopped for long
//! could undo a later waker's `WAKING`.

use crossproc_sys::atomic::Ordering::{Acquire, Relaxed};
use crossproc_sys::atomic::{AtomicU64, Ordering};
use crossproc_sys::futex::{self, Awake};

use crate::wait::wake_on_death::with_wake_on_death;
use crate::wait::{Ended, Waiter};

pub(crate) const WAITERS: u64 = 1 << 31;
pub(crate) const WAKING: u64 = 1 << 32;
pub(crate) const SEVERAL: u64 = 1 << 33;

/// The word. The bits in `ROUND` tell whose sleepers are being woken.
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

    /// Replaces the word by its `next`, unless that is an error, and makes all sleepers look at it.
    /// Returns what the word was before. The word must be pending, or its wake-ups may be lost with
    /// the thread.
    pub(crate) fn change<E>(
        &self,
        order: Ordering,
        next: impl Fn(u64) -> Result<u64, E>,
    ) -> Result<u64, E> {
        // Relaxed, also on failure: `next` decides on the value that is exchanged, and the exchange
        // orders what that leads to.
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

    /// Wakes all if `seen` has `WAKING`, and takes it out unless all had to be woken again since.
    /// For threads that change the word, or have slept. The word must be pending.
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
        with_wake_on_death(&self.word, || self.wait_pending(waiter, |seen, _| look(seen)))
    }

    /// Announces that a thread that has seen `seen` in the word is going to sleep. Returns what the
    /// word is then, or as an error what it has changed to.
    pub(crate) fn mark(&self, seen: u64) -> Result<u64, u64> {
        let marked = if seen & WAITERS == 0 { seen | WAITERS } else { seen | SEVERAL };
        // Relaxed: the flags order nothing.
        if marked == seen {
            Ok(seen)
        } else {
            self.word.compare_exchange(seen, marked, Relaxed, Relaxed).map(|_| marked)
        }
    }

    /// [`wait`](Broadcast::wait), where the word is pending already. `look` is also told how the
    /// last sleep ended, if there was one, and on what value of the word.
    pub(crate) fn wait_pending<R>(
        &self,
        waiter: &mut Waiter,
        look: impl Fn(u64, Option<(Awake, u64)>) -> Option<R>,
    ) -> Result<R, Ended> {
        let mut awake = None;
        let mut marked = None;
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
            // Beside sleepers, whoever changes the word has to wake them first.
            if seen & WAITERS == 0
                && awake.is_none()
                && waiter.spin(|| look(self.word.load(Relaxed), None).is_some())
            {
                // The loop loads again, with Acquire, before it returns.
                continue;
            }
            // If nothing has changed since, the mark is this thread's own.
            let expected = if marked == Some(seen) { Ok(seen) } else { self.mark(seen) };
            let Ok(expected) = expected else {
                // `look` has seen how the sleep ended. It may have changed the word for it itself,
                // and counts ends of slices.
                awake = awake.map(|(awake, since)| match awake {
                    Awake::Woken => (Awake::Changed, since),
                    Awake::TimedOut => (Awake::Interrupted, since),
                    _ => (awake, since),
                });
                continue;
            };
            marked = Some(expected);
            awake = Some((
                waiter.sleep(|until| futex::wait_whole(&self.word, expected, until)),
                expected,
            ));
        }
    }
}
