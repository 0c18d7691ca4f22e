//! The state machine of the semaphore.
//!
//! # Goal
//! Of the permits that were released, each is acquired once at most. Nobody sleeps while there are
//! permits, though any participant may die or be stopped at any instruction.
//!
//! # The word
//! 64 bits; the futex is the low half. Its TID bits are always 0, which makes the kernel wake one
//! sleeper when a thread dies that has the word as its robust list's pending entry
//! (`crossproc_sys::robust`).
//!
//! | bits | name | meaning |
//! |---|---|---|
//! | 0-29 | | always 0 |
//! | 30 | `AVAILABLE` | the value is not 0: it makes the futex tell a sleeper so |
//! | 31 | `WAITERS` | someone may be asleep |
//! | 32 | `WATCHED` | beside `WAITERS`: since all were last woken, someone went to sleep who waits for other things, too (`wait_any::source`) |
//! | 33-63 | value | how many permits there are |
//!
//! `acquire` takes one from the value, `release` adds to it; `AVAILABLE` follows in the same
//! exchange. A waiter adds `WAITERS` to a value of 0, and sleeps while the futex is `WAITERS`
//! alone. A watcher adds both flags, and sleeps while *both* halves are as it has left them.
//!
//! # Why no wake-up is lost
//! It is the lock's argument (`lock::state`): releaser and sleepers have the word pending,
//! `WAITERS` is kept until a wake found nobody, whoever has slept leaves the flag behind, also when
//! it gives up. What a semaphore adds: there may be several permits and one of the wake-ups for
//! them may be the kernel's for a dead releaser, which is one only. So whoever has slept and leaves
//! permits behind wakes the next.
//!
//! Whoever would wake some and finds `WATCHED` wakes all, and a releaser takes it out with its
//! exchange, so that this is done once. Should it die there, the kernel wakes one: a watcher that
//! finds permits then wakes all, too. It sleeps on both halves because the low one alone would look
//! the same after all were woken and others have marked the word again, when one wake for one
//! sleeper would be the watcher's.
//!
//! # Memory ordering
//! `release` is Release, `acquire` Acquire; all changes are exchanges and continue the release
//! sequence, so an acquirer is ordered after every release whose permit could have been the one it
//! got.

use crossproc_sys::atomic::AtomicU64;
use crossproc_sys::atomic::Ordering::{Acquire, Relaxed, Release};
use crossproc_sys::futex;
use crossproc_sys::robust::Entry;

use crate::wait::source::{Armed, Source, WatchState, Words};
use crate::wait::wake_on_death::with_wake_on_death;
use crate::wait::{Ended, Wait, Waiter};

const AVAILABLE: u64 = 1 << 30;
const WAITERS: u64 = 1 << 31;
const WATCHED: u64 = 1 << 32;
const ONE: u64 = 1 << 33;

/// The most permits that the word has room for.
pub(crate) const MAX: u32 = (1 << 31) - 1;

/// The semaphore without its methods for the public.
#[derive(Debug)]
#[repr(transparent)]
pub(crate) struct RawSemaphore {
    word: AtomicU64,
}

/// The value would be more than it may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Overflow;

impl RawSemaphore {
    pub(crate) const fn new(value: u32) -> Self {
        assert!(value <= MAX, "a semaphore has 2^31 - 1 permits at the most");
        let available = if value == 0 { 0 } else { AVAILABLE };
        RawSemaphore { word: AtomicU64::new((value as u64 * ONE) | available) }
    }

    pub(crate) fn value(&self) -> u32 {
        value(self.word.load(Relaxed))
    }

    #[inline]
    pub(crate) fn try_acquire(&self) -> bool {
        self.take(0).is_some()
    }

    /// Takes one permit, keeping the flags and adding `and`, if there is one: what the word is
    /// then.
    #[inline]
    fn take(&self, and: u64) -> Option<u64> {
        let mut seen = self.word.load(Relaxed);
        while value(seen) != 0 {
            let left = after_take(seen) | and;
            // Acquire: pairs with the Release in `add`.
            match self.word.compare_exchange_weak(seen, left, Acquire, Relaxed) {
                Ok(_) => return Some(left),
                Err(now) => seen = now,
            }
        }
        None
    }

    #[inline]
    pub(crate) fn acquire(&self, wait: impl FnOnce() -> Wait) -> Result<(), Ended> {
        if self.try_acquire() { Ok(()) } else { self.acquire_contended(wait()) }
    }

    #[cold]
    fn acquire_contended(&self, wait: Wait) -> Result<(), Ended> {
        with_wake_on_death(&self.word, || self.acquire_pending(&mut Waiter::new(wait)))
    }

    fn acquire_pending(&self, waiter: &mut Waiter) -> Result<(), Ended> {
        // Once this thread has slept, others may sleep whom nothing but this thread knows of.
        let mut kept = 0;
        loop {
            if let Some(left) = self.take(kept) {
                if kept != 0 && value(left) != 0 {
                    futex::wake(&self.word, to_wake(left, 1));
                }
                return Ok(());
            }
            let seen = self.word.load(Relaxed);
            if value(seen) != 0 {
                continue;
            }
            let marked = seen & WAITERS != 0;
            if let Err(ended) = waiter.check() {
                if marked || kept == 0 || self.mark(seen) {
                    return Err(ended);
                }
                continue;
            }
            // Also while others sleep: permits are for whoever comes first, and two that wait for
            // each other in turns would never find out of their sleep.
            if waiter.spin(|| self.value() != 0) || (!marked && !self.mark(seen)) {
                continue;
            }
            kept = WAITERS;
            // The futex as it was seen, whatever a peer has put there: a sleep that always failed
            // would spin.
            waiter.sleep(|until| futex::wait(&self.word, (seen | WAITERS) as u32, until));
        }
    }

    fn mark(&self, seen: u64) -> bool {
        // Relaxed: the flag orders nothing.
        self.word.compare_exchange(seen, seen | WAITERS, Relaxed, Relaxed).is_ok()
    }

    /// Adds permits, if there are not more than `most` then.
    #[inline]
    pub(crate) fn release(&self, count: u32, most: u32) -> Result<(), Overflow> {
        match self.add(count, most, WAITERS) {
            Ok(_) => Ok(()),
            Err(Some(overflow)) => Err(overflow),
            Err(None) => self.release_contended(count, most),
        }
    }

    /// Adds permits, and takes `WATCHED` out: what the word was before. `Err(None)` if one of the
    /// bits `unless` is set.
    #[inline]
    fn add(&self, count: u32, most: u32, unless: u64) -> Result<u64, Option<Overflow>> {
        let mut seen = self.word.load(Relaxed);
        loop {
            if count == 0 {
                return Ok(seen);
            }
            if seen & unless != 0 {
                return Err(None);
            }
            // Not more than there is room for, whatever a peer has written for a bound.
            if u64::from(value(seen)) + u64::from(count) > u64::from(most.min(MAX)) {
                return Err(Some(Overflow));
            }
            // There is no `WATCHED` without `WAITERS`.
            let more = if unless == 0 {
                after_add(seen & !WATCHED, count)
            } else {
                after_add(seen, count)
            };
            // Release: pairs with the Acquire in `take` and `look`.
            match self.word.compare_exchange_weak(seen, more, Release, Relaxed) {
                Ok(_) => return Ok(seen),
                Err(now) => seen = now,
            }
        }
    }

    #[cold]
    fn release_contended(&self, count: u32, most: u32) -> Result<(), Overflow> {
        with_wake_on_death(&self.word, || {
            // Without bits to stop at, the only error is the overflow.
            let before = self.add(count, most, 0).map_err(|_| Overflow)?;
            self.wake(after_add(before & !WATCHED, count), to_wake(before, count));
            Ok(())
        })
    }

    fn wake(&self, released: u64, count: u32) {
        if released & WAITERS == 0 || futex::wake(&self.word, count) != 0 {
            return;
        }
        // Nobody was asleep. Relaxed: the flag orders nothing.
        if self.word.compare_exchange(released, released & !WAITERS, Relaxed, Relaxed).is_ok() {
            futex::wake(&self.word, count);
        }
    }
}

impl Source for RawSemaphore {
    fn key(&self) -> usize {
        core::ptr::from_ref(&self.word).addr()
    }

    fn look(&self, _: &WatchState) -> bool {
        // Acquire: pairs with the Release in `add`.
        value(self.word.load(Acquire)) != 0
    }

    fn words(&self) -> usize {
        2
    }

    fn arm<'a>(&'a self, _: &mut WatchState, words: &mut Words<'a, '_>) -> Armed {
        let seen = self.word.load(Relaxed);
        let marked = seen | WAITERS | WATCHED;
        // Relaxed: the flags order nothing.
        if value(seen) != 0
            || (seen != marked
                && self.word.compare_exchange(seen, marked, Relaxed, Relaxed).is_err())
        {
            return Armed::Again;
        }
        words.add_whole(&self.word, marked);
        Armed::Asleep
    }

    fn pend(&self, entry: &Entry) {
        entry.begin(&self.word);
    }

    fn awake(&self, _: &mut WatchState) {
        let mut seen = self.word.load(Relaxed);
        while value(seen) == 0 {
            let marked = seen | WAITERS | WATCHED;
            if seen == marked {
                return;
            }
            // Relaxed: the flags order nothing. Others may be asleep whom nothing but this thread
            // knows of.
            match self.word.compare_exchange_weak(seen, marked, Relaxed, Relaxed) {
                Ok(_) => return,
                Err(now) => seen = now,
            }
        }
        futex::wake(&self.word, u32::MAX);
    }
}

/// How many to wake of `count` that are meant.
fn to_wake(word: u64, count: u32) -> u32 {
    if word & WATCHED == 0 { count } else { u32::MAX }
}

/// What `take` makes of a word with permits.
#[inline]
fn after_take(seen: u64) -> u64 {
    if seen < 2 * ONE {
        keep_branch();
        // The one that there is goes.
        seen & (ONE - 1) & !AVAILABLE
    } else {
        seen - ONE
    }
}

/// What `add` makes of a word that has room for as many.
#[inline]
fn after_add(seen: u64, count: u32) -> u64 {
    let more = u64::from(count) * ONE;
    if seen & AVAILABLE == 0 {
        keep_branch();
        seen + (more + AVAILABLE)
    } else {
        seen + more
    }
}

/// Has the compiler make a branch of an `if`, which is predicted, where a selection would wait for
/// the word to come out of the last exchange: a nanosecond of five.
#[inline]
fn keep_branch() {
    core::hint::black_box(());
}

fn value(word: u64) -> u32 {
    (word / ONE) as u32
}
