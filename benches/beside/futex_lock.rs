//! The least that a lock needs: a compare-exchange, a swap, and a futex for threads that must wait.

#![allow(unsafe_code)]

use core::cell::UnsafeCell;
use core::hint;
use core::sync::atomic::AtomicU32;
use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use crossproc::{Fingerprint, Plain, Shared};
use crossproc_sys::futex;

use super::mutual_exclusion::MutualExclusion;

const FREE: u32 = 0;
const HELD: u32 = 1;
/// Held, and a waiter may be asleep.
const WAITED_FOR: u32 = 2;

/// The number of times that a waiter looks before it sleeps, as in std's mutex.
const LOOKS: u32 = 100;

/// The mutex of Ulrich Drepper's "Futexes Are Tricky" (his third), as in std, on a futex that
/// processes share. A dead owner keeps it.
#[repr(C)]
pub(crate) struct FutexLock<T> {
    word: AtomicU32,
    value: UnsafeCell<T>,
}

// SAFETY: one thread at a time reaches the value, and it may be any thread.
unsafe impl<T: Send> Sync for FutexLock<T> {}

// SAFETY: an atomic, and plain data in an `UnsafeCell`; `repr(C)`, no pointers, nothing to drop.
unsafe impl<T: Plain> Shared for FutexLock<T> {
    fn layout(to: &mut Fingerprint) {
        to.name("FutexLock").plain::<T>();
    }
}

impl<T> FutexLock<T> {
    pub(crate) const fn new(value: T) -> Self {
        FutexLock { word: AtomicU32::new(FREE), value: UnsafeCell::new(value) }
    }

    #[cold]
    fn lock_contended(&self) {
        for _ in 0..LOOKS {
            if self.word.load(Relaxed) != HELD {
                break;
            }
            hint::spin_loop();
        }
        // Acquire: pairs with the Release in `with`.
        if self.word.compare_exchange(FREE, HELD, Acquire, Relaxed).is_ok() {
            return;
        }
        // Acquire: as above. A thread that has slept cannot know whether others still do.
        while self.word.swap(WAITED_FOR, Acquire) != FREE {
            futex::wait(&self.word, WAITED_FOR, None);
        }
    }
}

impl<T> MutualExclusion for FutexLock<T> {
    type Value = T;

    #[inline]
    fn with(&self, section: impl FnOnce(&mut T)) {
        // Acquire: pairs with the Release below.
        if self.word.compare_exchange(FREE, HELD, Acquire, Relaxed).is_err() {
            self.lock_contended();
        }
        // SAFETY: the thread that turned FREE into another value owns the data until it swaps FREE
        // back. The borrow ends before that.
        section(unsafe { &mut *self.value.get() });
        // Release: pairs with the Acquire above and in `lock_contended`.
        if self.word.swap(FREE, Release) == WAITED_FOR {
            futex::wake(&self.word, 1);
        }
    }
}
