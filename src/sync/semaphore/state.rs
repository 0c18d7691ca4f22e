//! The state machine of the semaphore.
//!
//! # Goal
//! Each released permit is acquired at most once. No waiter sleeps while there are permits, though
//! any participant may die or be stopped at any instruction.
//!
//! # The word
//! The word has 64 bits; the futex is the low half. Its TID bits are always 0. So the kernel wakes
//! one sleeper when a thread dies that has the word as its robust list's pending entry
//! (`crossproc_sys::robust`).
//!
//! | bits | name | meaning |
//! |---|---|---|
//! | 0-29 | | always 0 |
//! | 30 | `AVAILABLE` | the value is not 0: changes the futex, so that no waiter falls asleep then |
//! | 31 | `WAITERS` | a waiter may be asleep |
//! | 32 | `WATCHED` | set beside `WAITERS`: since all were last woken, a watcher went to sleep, which waits for other things too (`wait_any::source`) |
//! | 33-63 | value | the number of permits |
//!
//! `acquire` takes one from the value, `release` adds to it; `AVAILABLE` follows in the same
//! exchange. A waiter adds `WAITERS` to a value of 0, and sleeps while the futex is `WAITERS`
//! alone. A watcher adds both flags, and sleeps while *both* halves are as it left them.
//!
//! # Why no wake-up is lost
//! It is the lock's argument (`lock::state`). The releaser and the sleepers have the word pending.
//! `WAITERS` is kept until a wake found no sleeper. It stays if the word has changed since: threads
//! that have gone to sleep meanwhile would be known to the releaser alone, which may be stopped. A
//! thread that was woken leaves the flag behind, also when it gives up.
//!
//! The semaphore adds one step. There may be several permits, and one of the wake-ups for them may
//! be the kernel's for a dead releaser, which wakes only one. So a thread that was woken and leaves
//! permits behind wakes the next.
//!
//! A thread that is to wake some sleepers and finds `WATCHED` wakes all. A releaser takes the flag
//! out with its exchange, so that this is done once. Should the releaser die there, the kernel
//! wakes one sleeper; a watcher that then finds permits wakes all, too.
//!
//! A watcher sleeps on both halves because the low one alone could look the same again, after all
//! were woken and others have marked the word. Then a wake for one sleeper could be spent on the
//! watcher.
//!
//! # Memory ordering
//! `release` is Release, `acquire` is Acquire. All changes are exchanges and continue the release
//! sequence. So an acquirer is ordered after every release whose permit it could have got.

use crossproc_sys::atomic::AtomicU64;
use crossproc_sys::atomic::Ordering::{Acquire, Relaxed, Release};
use crossproc_sys::futex::{self, Awake};
use crossproc_sys::robust::Entry;

use crate::wait::source::{Armed, Source, WatchState, Words};
use crate::wait::wake_on_death::with_wake_on_death;
use crate::wait::{Ended, Wait, Waiter};

const AVAILABLE: u64 = 1 << 30;
const WAITERS: u64 = 1 << 31;
const WATCHED: u64 = 1 << 32;
const ONE: u64 = 1 << 33;

/// The largest number of permits that the word has room for.
pub(crate) const MAX: u32 = (1 << 31) - 1;

/// The semaphore's shared state, without the public methods.
#[derive(Debug)]
#[repr(transparent)]
pub(crate) struct RawSemaphore {
    word: AtomicU64,
}

/// The value would exceed its limit.
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

    /// Takes one permit, if there is one. Keeps the flags and adds `and`. Returns the new word.
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
        // Once this thread was woken, there may be other sleepers that only this thread knows of. A
        // sleep that ended otherwise took no wake-up from the others.
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
            // The thread spins also while others sleep: permits go to the first thread to ask. And
            // two threads that wait for each other in turns would otherwise never leave their
            // sleep.
            if waiter.spin(|| self.value() != 0) || (!marked && !self.mark(seen)) {
                continue;
            }
            // Expects the futex as it was seen, whatever a peer has put there: a sleep that always
            // failed would spin.
            let expected = (seen | WAITERS) as u32;
            if waiter.sleep(|until| futex::wait(&self.word, expected, until)) == Awake::Woken {
                kept = WAITERS;
            }
        }
    }

    fn mark(&self, seen: u64) -> bool {
        // Relaxed: the flag orders nothing.
        self.word.compare_exchange(seen, seen | WAITERS, Relaxed, Relaxed).is_ok()
    }

    /// Adds permits, unless there would be more than `most`.
    #[inline]
    pub(crate) fn release(&self, count: u32, most: u32) -> Result<(), Overflow> {
        match self.add(count, most, WAITERS) {
            Ok(_) => Ok(()),
            Err(Some(overflow)) => Err(overflow),
            Err(None) => self.release_contended(count, most),
        }
    }

    /// Adds permits, takes `WATCHED` out if `unless` is 0, and returns the word before. Returns
    /// `Err(None)` if one of the bits in `unless` is set.
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
            // Never more than the word has room for, whatever bound a peer has written.
            if u64::from(value(seen)) + u64::from(count) > u64::from(most.min(MAX)) {
                return Err(Some(Overflow));
            }
            // `WATCHED` is never set without `WAITERS`, at which the other callers stop.
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
            // With no bits to stop at, the only error is the overflow.
            let before = self.add(count, most, 0).map_err(|_| Overflow)?;
            self.wake(after_add(before & !WATCHED, count), to_wake(before, count));
            Ok(())
        })
    }

    fn wake(&self, released: u64, count: u32) {
        if released & WAITERS == 0 || futex::wake(&self.word, count) != 0 {
            return;
        }
        // No thread was asleep. Relaxed: the flag orders nothing.
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
            // Relaxed: the flags order nothing. There may be other sleepers that only this thread
            // knows of.
            match self.word.compare_exchange_weak(seen, marked, Relaxed, Relaxed) {
                Ok(_) => return,
                Err(now) => seen = now,
            }
        }
        futex::wake(&self.word, u32::MAX);
    }
}

/// Returns how many sleepers to wake for `count` permits: all, if a watcher may sleep.
fn to_wake(word: u64, count: u32) -> u32 {
    if word & WATCHED == 0 { count } else { u32::MAX }
}

/// Returns what `take` makes of a word with permits.
#[inline]
fn after_take(seen: u64) -> u64 {
    if seen < 2 * ONE {
        keep_branch();
        // The only permit goes.
        seen & (ONE - 1) & !AVAILABLE
    } else {
        seen - ONE
    }
}

/// Returns what `add` makes of a word that has room for `count` more.
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

/// Makes the compiler emit a branch for an `if`. A branch is predicted, where a selection would
/// wait for the result of the last exchange: a nanosecond of five.
#[inline]
fn keep_branch() {
    core::hint::black_box(());
}

fn value(word: u64) -> u32 {
    (word / ONE) as u32
}
