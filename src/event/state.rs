//! The state machine of the event.
//!
//! # Goal
//! `wait` returns once the event is set, or was set at any time since `wait` began, even if it was cleared at once. Any participant may die or be
//! stopped at any instruction without keeping a sleeper from that.
//!
//! # The word
//! 64 bits; the futex is the low half. Its TID bits are always 0, which makes the kernel wake one sleeper when a thread dies that
//! has the word as its robust list's pending entry (`crossproc_sys::robust`).
//!
//! | bits | name | meaning |
//! |---|---|---|
//! | 0-29 | | always 0 |
//! | 30 | `SET` | the event is set |
//! | 31 | `WAITERS` | since it was last set, someone went to sleep |
//! | 32 | `WAKING` | those who slept before it was last set may not all have been woken yet |
//! | 33-63 | generation | how often it was set, modulo 2^31 |
//!
//! `set` adds one to the generation and sets `SET`; if there were `WAITERS`, it exchanges them for `WAKING`, wakes all and takes `WAKING` out.
//! `clear` takes `SET` out and leaves the rest. A waiter adds `WAITERS` and sleeps while *both* halves are as it saw them: the low half alone looks the same
//! after a `set`, a `clear` and another one's wait, and whoever was stopped, or interrupted, in the kernel would be put to sleep on that by its restart of the call.
//!
//! # Why no wake-up is lost
//! *Invariant: while someone sleeps who need not, `WAKING` is set, and a thread is awake that will wake all, or dies trying, which wakes one.*
//! Setter and sleepers have the word pending. If the setter dies after its exchange, the kernel wakes one sleeper, who
//! finds `WAKING` and does the setter's work before it looks for itself; if it dies before that, the next one is woken.
//! Whoever finds `WAKING` after a sleep, or while setting, does that work: it can be done twice. `WAKING` is taken out only while
//! the generation is the one whose sleepers were woken, lest a setter that was stopped for long undo a later one's.
//!
//! # Overflow
//! A sleeper that is stopped while the event is set and cleared exactly 2^31 times sees nothing of it, and waits for the next time.
//!
//! # Memory ordering
//! `set` is Release also where it finds the event set; waiting and `is_set` are Acquire. All changes are exchanges, so they continue the release
//! sequence: who sees that a generation has passed is ordered after its `set`. `clear` is Acquire: a `set` that it undoes happened before it.

use crossproc_sys::atomic::AtomicU64;
use crossproc_sys::atomic::Ordering::{Acquire, Relaxed, Release};
use crossproc_sys::futex;
use crossproc_sys::robust;

use crate::wait::{TimedOut, Waiter};

const SET: u64 = 1 << 30;
const WAITERS: u64 = 1 << 31;
const WAKING: u64 = 1 << 32;
const ONE_GENERATION: u64 = 1 << 33;

/// The event without its methods for the public.
#[derive(Debug)]
#[repr(transparent)]
pub(crate) struct RawEvent {
    word: AtomicU64,
}

impl RawEvent {
    pub(crate) const fn new() -> Self {
        RawEvent { word: AtomicU64::new(0) }
    }

    #[inline]
    pub(crate) fn is_set(&self) -> bool {
        // Acquire: pairs with the Release in `set` and `set_contended`.
        self.word.load(Acquire) & SET != 0
    }

    #[inline]
    pub(crate) fn set(&self) {
        let mut seen = self.word.load(Relaxed);
        loop {
            if seen & (WAITERS | WAKING) != 0 {
                return self.set_contended();
            }
            // Release: pairs with the Acquire in `is_set`, `wait` and `clear`; for this one's sake also if the event is set already.
            match self.word.compare_exchange_weak(seen, after_set(seen), Release, Relaxed) {
                Ok(_) => return,
                Err(now) => seen = now,
            }
        }
    }

    #[cold]
    fn set_contended(&self) {
        // A thread without a list sets the event all the same: should it die in here, a slice wakes whom it did not.
        let thread = robust::current().ok();
        let before = thread.map(|thread| thread.begin_nested(&self.word));
        let mut seen = self.word.load(Relaxed);
        loop {
            // Release: as in `set`.
            match self.word.compare_exchange_weak(seen, after_set(seen), Release, Relaxed) {
                Ok(_) => break self.finish_waking(after_set(seen)),
                Err(now) => seen = now,
            }
        }
        if let (Some(thread), Some(before)) = (thread, before) {
            thread.end_nested(before);
        }
    }

    /// Wakes all if `seen` has `WAKING`, and takes it out unless there was another `set` since.
    fn finish_waking(&self, seen: u64) {
        if seen & WAKING == 0 {
            return;
        }
        futex::wake(&self.word, u32::MAX);
        let mut now = seen;
        // Relaxed: the flag orders nothing.
        while now & WAKING != 0 && generation(now) == generation(seen) {
            match self.word.compare_exchange_weak(now, now & !WAKING, Relaxed, Relaxed) {
                Ok(_) => return,
                Err(other) => now = other,
            }
        }
    }

    #[inline]
    pub(crate) fn clear(&self) {
        let mut seen = self.word.load(Relaxed);
        // Acquire: pairs with the Release in `set`. Also if there is nothing to clear: another `clear` has undone a `set` before it.
        while let Err(now) = self.word.compare_exchange_weak(seen, seen & !SET, Acquire, Relaxed) {
            seen = now;
        }
    }

    #[inline]
    pub(crate) fn wait(&self, waiter: impl FnOnce() -> Waiter) -> Result<(), TimedOut> {
        // Acquire: pairs with the Release in `set` and `set_contended`.
        let seen = self.word.load(Acquire);
        if seen & SET != 0 { Ok(()) } else { self.wait_contended(generation(seen), &mut waiter()) }
    }

    #[cold]
    fn wait_contended(&self, begun_in: u64, waiter: &mut Waiter) -> Result<(), TimedOut> {
        // A thread without a list waits all the same: should it die in here, a slice wakes whom it was to wake.
        let thread = robust::current().ok();
        let before = thread.map(|thread| thread.begin_nested(&self.word));
        let result = self.wait_pending(begun_in, waiter);
        if let (Some(thread), Some(before)) = (thread, before) {
            thread.end_nested(before);
        }
        result
    }

    fn wait_pending(&self, begun_in: u64, waiter: &mut Waiter) -> Result<(), TimedOut> {
        let passed = |seen: u64| seen & SET != 0 || generation(seen) != begun_in;
        let mut has_slept = false;
        loop {
            // Acquire: pairs with the Release in `set` and `set_contended`.
            let seen = self.word.load(Acquire);
            if has_slept {
                self.finish_waking(seen);
            }
            if passed(seen) {
                return Ok(());
            }
            waiter.check()?;
            if seen & WAITERS == 0 {
                // Relaxed, as the exchange: the loop loads again, with Acquire, before it returns.
                let spun = waiter.spin(|| passed(self.word.load(Relaxed)));
                if spun || self.word.compare_exchange(seen, seen | WAITERS, Relaxed, Relaxed).is_err() {
                    continue;
                }
            }
            has_slept = true;
            waiter.sleep(|until| futex::wait_whole(&self.word, seen | WAITERS, until));
        }
    }
}

fn generation(word: u64) -> u64 {
    word / ONE_GENERATION
}

/// What `set` makes of a word.
fn after_set(seen: u64) -> u64 {
    let woken = if seen & WAITERS != 0 { seen & !WAITERS | WAKING } else { seen };
    if seen & SET != 0 { woken } else { woken.wrapping_add(ONE_GENERATION) | SET }
}
