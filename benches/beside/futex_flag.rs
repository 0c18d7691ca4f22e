//! The least that a flag with a waiter needs: one word, which is a futex.

#![allow(unsafe_code)]

use core::sync::atomic::AtomicU32;
use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use crossproc::{Fingerprint, Shared};
use crossproc_sys::futex::{self, Awake, Watch};

/// The crate's own way to spin and to sleep in slices, from its own source. So the rival does the
/// same, even if that changes.
#[path = "../../src/wait/waiter.rs"]
#[allow(dead_code, unreachable_pub, reason = "only its spinning and its slices are used here")]
mod wait;

use self::wait::{Wait, Waiter};

const UNSET: u32 = 0;
const SET: u32 = 1;
/// Unset, and a waiter may be asleep.
const WAITED_FOR: u32 = 2;

/// A flag that two threads set, wait for and clear in turns. It ignores dead threads, and loses a
/// wake-up that is cleared away too soon. What remains is the cost of the kernel and the cache
/// lines. If `SLICED`, that includes a time-out in the kernel for every sleep. If `WATCHED`, every
/// sleep is on two words, as that of an event's waiter is on both halves of its word.
#[repr(C)]
pub(crate) struct FutexFlag<const SLICED: bool, const WATCHED: bool = false> {
    word: AtomicU32,
    /// Never changes.
    other: AtomicU32,
}

// SAFETY: atomics; every value of them is valid.
unsafe impl<const SLICED: bool, const WATCHED: bool> Shared for FutexFlag<SLICED, WATCHED> {
    fn layout(to: &mut Fingerprint) {
        to.name("FutexFlag");
    }
}

impl<const SLICED: bool, const WATCHED: bool> FutexFlag<SLICED, WATCHED> {
    pub(crate) const fn new() -> Self {
        FutexFlag { word: AtomicU32::new(UNSET), other: AtomicU32::new(0) }
    }

    #[inline]
    pub(crate) fn set(&self) {
        // Release: pairs with the Acquire in `wait`.
        if self.word.swap(SET, Release) == WAITED_FOR {
            futex::wake(&self.word, u32::MAX);
        }
    }

    #[inline]
    pub(crate) fn clear(&self) {
        // Relaxed on failure: there was nothing to clear. Acquire: pairs with the Release in `set`.
        let _ = self.word.compare_exchange(SET, UNSET, Acquire, Relaxed);
    }

    #[inline]
    pub(crate) fn wait(&self) {
        // Acquire: pairs with the Release in `set`.
        if self.word.load(Acquire) != SET {
            self.wait_contended();
        }
    }

    #[cold]
    fn wait_contended(&self) {
        let mut waiter = Waiter::new(Wait::FOREVER);
        loop {
            // Acquire: pairs with the Release in `set`.
            let seen = self.word.load(Acquire);
            if seen == SET {
                return;
            }
            if seen == UNSET {
                // Relaxed, like the exchange: the loop loads again, with Acquire, before it
                // returns.
                let spun = waiter.spin(|| self.word.load(Relaxed) == SET);
                if spun || self.word.compare_exchange(UNSET, WAITED_FOR, Relaxed, Relaxed).is_err()
                {
                    continue;
                }
            }
            if SLICED {
                waiter.sleep(|until| self.sleep(until));
            } else {
                self.sleep(None);
            }
        }
    }

    fn sleep(&self, until: Option<u64>) -> Awake {
        if WATCHED {
            let words = [Watch::new(&self.word, WAITED_FOR), Watch::new(&self.other, 0)];
            futex::wait_any(&words, until).expect("the kernel can watch two words")
        } else {
            futex::wait(&self.word, WAITED_FOR, until)
        }
    }
}
