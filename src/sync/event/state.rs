//! The state machine of the event.
//!
//! # Goal
//! `wait` returns once the event is set. It also returns if the event was set at any time since
//! `wait` began, even if it was cleared at once. Any participant may die or be stopped at any
//! instruction without keeping a sleeper from that: see [`Broadcast`].
//!
//! # The word
//! | bits | name | meaning |
//! |---|---|---|
//! | 30 | `SET` | the event is set |
//! | 31-33 | `WAITERS`, `WAKING`, `SEVERAL` | [`Broadcast`]'s |
//! | 34-63 | generation | how many times the event was set, modulo 2^30 |
//!
//! `set` adds one to the generation and sets `SET`. `clear` takes `SET` out and leaves the rest.
//!
//! A watcher (`wait_any::source`), which waits for other things too, does what every waiter does. A
//! `set` always wakes all sleepers, so a watcher that dies takes no other's wake-up with it.
//!
//! # Overflow
//! A sleeper that is stopped while the event is set and cleared exactly 2^30 times does not notice,
//! and waits for the next time.
//!
//! # Memory ordering
//! `set` is Release, also where it finds the event set. Waiting and `is_set` are Acquire. All
//! changes are exchanges, so they continue the release sequence: a thread that sees that a
//! generation has passed is ordered after its `set`. `clear` is Acquire: a `set` that it undoes
//! happened before it.

use core::convert::Infallible;

use crossproc_sys::atomic::Ordering::{Acquire, Relaxed, Release};
use crossproc_sys::robust::Entry;

use crate::wait::broadcast::{Broadcast, WAITERS, WAKING};
use crate::wait::source::{Armed, Source, WatchState, Words};
use crate::wait::wake_on_death::with_wake_on_death;
use crate::wait::{Ended, Wait, Waiter};

const SET: u64 = 1 << 30;
const ONE_GENERATION: u64 = 1 << 34;
const GENERATION: u64 = !(ONE_GENERATION - 1);

/// The event's shared state, without the public methods.
#[derive(Debug)]
#[repr(transparent)]
pub(crate) struct RawEvent {
    state: Broadcast<GENERATION>,
}

impl RawEvent {
    pub(crate) const fn new() -> Self {
        RawEvent { state: Broadcast::new() }
    }

    #[inline]
    pub(crate) fn is_set(&self) -> bool {
        // Acquire: pairs with the Release in `set` and `set_contended`.
        self.state.word().load(Acquire) & SET != 0
    }

    /// [`is_set`](RawEvent::is_set), without any order.
    pub(crate) fn looks_set(&self) -> bool {
        self.state.word().load(Relaxed) & SET != 0
    }

    #[inline]
    pub(crate) fn set(&self) {
        let mut seen = self.state.word().load(Relaxed);
        loop {
            if seen & (WAITERS | WAKING) != 0 {
                return self.set_contended();
            }
            // Release: pairs with the Acquire in `is_set`, `wait` and `clear`. That is why the
            // exchange is made even if the event is set already.
            match self.state.word().compare_exchange_weak(seen, after_set(seen), Release, Relaxed) {
                Ok(_) => return,
                Err(now) => seen = now,
            }
        }
    }

    #[cold]
    fn set_contended(&self) {
        // Release: as in `set`.
        let Ok(_) = with_wake_on_death(self.state.word(), || {
            self.state.change(Release, |seen| Ok::<_, Infallible>(after_set(seen)))
        });
    }

    #[inline]
    pub(crate) fn clear(&self) {
        let mut seen = self.state.word().load(Relaxed);
        // Acquire: pairs with the Release in `set`. Also if there is nothing to clear: then another
        // `clear` has undone a `set` before this one.
        while let Err(now) =
            self.state.word().compare_exchange_weak(seen, seen & !SET, Acquire, Relaxed)
        {
            seen = now;
        }
    }

    #[inline]
    pub(crate) fn wait(&self, wait: impl FnOnce() -> Wait) -> Result<(), Ended> {
        // Acquire: pairs with the Release in `set` and `set_contended`.
        let seen = self.state.word().load(Acquire);
        if seen & SET != 0 { Ok(()) } else { self.wait_contended(seen & GENERATION, wait()) }
    }

    #[cold]
    fn wait_contended(&self, begun_in: u64, wait: Wait) -> Result<(), Ended> {
        self.state.wait(&mut Waiter::new(wait), |seen| is_over(seen, begun_in).then_some(()))
    }
}

impl Source for RawEvent {
    fn key(&self) -> usize {
        core::ptr::from_ref(self.state.word()).addr()
    }

    fn is_for_all(&self) -> bool {
        true
    }

    fn begin(&self) -> WatchState {
        WatchState { begun: self.state.word().load(Relaxed) & GENERATION, ..WatchState::default() }
    }

    fn look(&self, state: &WatchState) -> bool {
        // Acquire: pairs with the Release in `set` and `set_contended`.
        is_over(self.state.word().load(Acquire), state.begun)
    }

    fn words(&self) -> usize {
        2
    }

    fn arm<'a>(&'a self, state: &mut WatchState, words: &mut Words<'a, '_>) -> Armed {
        let seen = self.state.word().load(Relaxed);
        if is_over(seen, state.begun) {
            return Armed::Again;
        }
        // If the word has not changed since the last mark, that mark is this thread's own.
        let marked = if seen & WAITERS != 0 && state.armed == seen {
            Ok(seen)
        } else {
            self.state.mark(seen)
        };
        let Ok(marked) = marked else { return Armed::Again };
        state.armed = marked;
        words.add_whole(self.state.word(), marked);
        Armed::Asleep
    }

    fn pend(&self, entry: &Entry) {
        entry.begin(self.state.word());
    }

    fn awake(&self, _: &mut WatchState) {
        self.state.finish_waking(self.state.word().load(Relaxed));
    }
}

/// Returns whether a wait that began in generation `begun_in` is over.
fn is_over(seen: u64, begun_in: u64) -> bool {
    seen & SET != 0 || seen & GENERATION != begun_in
}

/// Returns what `set` makes of a word.
fn after_set(seen: u64) -> u64 {
    if seen & SET != 0 { seen } else { seen.wrapping_add(ONE_GENERATION) | SET }
}
