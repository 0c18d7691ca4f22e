//! Watchers: those that wait for an owner's death, along with other things.
//!
//! A watcher (`wait_any::source`) takes nothing. It sleeps on the word, free or not, until that is
//! `OWNER_DIED` without an owner. It leaves a note in a third word, `watchers`:
//!
//! | bits | name | meaning |
//! |---|---|---|
//! | 0 | `WATCHED` | since all were last woken, a watcher went to sleep |
//! | 1-31 | | how often `WATCHED` was taken out, modulo 2^31 |
//!
//! An unlocker takes the note out, and wakes all after it has freed the lock. It looks at the note
//! once more after it has woken one sleeper, for that may have been a watcher that came late.
//!
//! The kernel wakes only one: for the lock of a dead owner, or for a thread that died between
//! freeing the lock and waking. So a watcher that was woken and finds the lock free wakes all in
//! two cases:
//! - The word is not as it was when the watcher fell asleep.
//! - The note says that the lock was unlocked since.
//!
//! In no other case: on a free lock two watchers would wake each other for ever.

use crossproc_sys::atomic::Ordering::{Acquire, Relaxed};
use crossproc_sys::futex::{self, Watch};
use crossproc_sys::robust::{Entry, OWNER_DIED, WAITERS};

use super::{RawLock, owner};
use crate::wait::source::{Armed, Source, WatchState, Words};

/// In `watchers`: a watcher went to sleep since all were last woken.
const WATCHED: u32 = 1;
const ONE_WAKE: u32 = 2;

impl RawLock {
    /// Takes the note out, to say that all will be woken. Returns whether there may be a watcher.
    /// Relaxed: a watcher that comes meanwhile finds what it misses by comparing the words.
    pub(super) fn take_note_out(&self) -> bool {
        let mut seen = self.watchers().load(Relaxed);
        while seen & WATCHED != 0 {
            match self.watchers().compare_exchange_weak(
                seen,
                (seen & !WATCHED).wrapping_add(ONE_WAKE),
                Relaxed,
                Relaxed,
            ) {
                Ok(_) => return true,
                Err(now) => seen = now,
            }
        }
        false
    }
}

impl Source for RawLock {
    fn key(&self) -> usize {
        core::ptr::from_ref(self.robust.word()).addr()
    }

    fn look(&self, _: &WatchState) -> bool {
        // Acquire: pairs with the kernel's exchange for a dead owner.
        is_left(self.robust.word().load(Acquire))
    }

    fn words(&self) -> usize {
        2
    }

    fn arm<'a>(&'a self, state: &mut WatchState, words: &mut Words<'a, '_>) -> Armed {
        let word = self.robust.word();
        let seen = word.load(Relaxed);
        let marked = seen | WAITERS;
        // Relaxed: the flag orders nothing.
        if is_left(seen)
            || (seen != marked && word.compare_exchange(seen, marked, Relaxed, Relaxed).is_err())
        {
            return Armed::Again;
        }
        // Relaxed: this comes before the sleep, which compares it.
        let note = self.watchers().fetch_or(WATCHED, Relaxed) | WATCHED;
        *state = WatchState { armed: marked.into(), note: note.into(), ..*state };
        // The order matters: a thread that takes the note out wakes the sleepers on the word.
        words.add(Watch::new(word, marked));
        words.add(Watch::new(self.watchers(), note));
        Armed::Asleep
    }

    fn pend(&self, entry: &Entry) {
        entry.begin(self.robust.word());
    }

    fn has_owner(&self) -> bool {
        true
    }

    fn awake(&self, state: &mut WatchState) {
        // There may be sleepers that only this thread knows of.
        if self.give_up(WAITERS) {
            return;
        }
        let now = (self.robust.word().load(Relaxed), self.watchers().load(Relaxed) & !WATCHED);
        if now != (state.armed as u32, state.note as u32 & !WATCHED) {
            futex::wake(self.robust.word(), u32::MAX);
        }
    }
}

/// Returns whether an owner died, nobody has declared the data whole since, and the lock is free.
fn is_left(word: u32) -> bool {
    owner(word) == 0 && word & OWNER_DIED != 0
}
