//! The state machine of the robust lock.
//!
//! # Goal
//! Mutual exclusion between threads of any processes, where an owner or a waiter may die, or be stopped, at any instruction: the next one
//! learns of an owner's death, and no waiter sleeps on a free lock.
//!
//! # The word
//! | bits | name | meaning |
//! |---|---|---|
//! | 0-29 | TID | the owner, 0: free |
//! | 30 | `OWNER_DIED` | an owner died, and nobody has declared the data whole since |
//! | 31 | `WAITERS` | someone may be asleep: to be kept until that is known not to be so |
//!
//! | word | TID 0 | TID t |
//! |---|---|---|
//! | plain | free | held, nobody waits |
//! | `WAITERS` | free, someone was woken or is being woken | held, whoever unlocks wakes |
//! | `OWNER_DIED` | free, the next owner gets `OwnerDied` | held by one who got `OwnerDied` and has not recovered |
//!
//! Who writes: a locker puts its TID in the place of 0 and keeps the flags; a waiter adds `WAITERS`; the owner takes its TID out, and takes
//! `OWNER_DIED` out when it declares the data whole; the kernel turns a dead owner's TID into `OWNER_DIED`.
//!
//! # Why no wake-up is lost
//! *Invariant: while someone sleeps, either `WAITERS` is set, or a thread is awake that will set it, wake another one, or die trying, which
//! wakes another one.* From before its first look to the end, a locker or unlocker has the word as its list's pending entry. So
//! - a waiter that is killed after it was woken, and before it took the lock: the kernel finds TID 0 and wakes the next;
//! - an owner that is killed after it stored the free word, and before it woke anyone: the same;
//! - an owner that is killed before that: the kernel stores `OWNER_DIED`, keeps `WAITERS` and wakes one.
//!
//! Therefore an unlock *keeps* `WAITERS`. (Storing 0 and waking, the usual way, loses the second sleeper when the first is killed between
//! waking up and marking the word again.) It clears the flag only after a wake that found nobody, by an exchange that succeeds only on the word
//! as it left it, and wakes once more after that, for one who went to sleep in between. Whoever has slept takes the lock with `WAITERS`, and
//! puts it back when it gives up: others may sleep whom that last exchange made invisible.
//!
//! # What is left to slices
//! The exchange that clears the flag may find the word as its thread left it, though others have slept, locked and unlocked since. The second wake
//! mends that, and so does whoever was woken in between; if *both* die at that point, and a newcomer locks before the kernel looks at the word of the second, the other
//! sleepers are found by nobody. In full: T0 unlocks, wakes nobody, and stops before it clears. W1, that was about to sleep, locks; W2 sleeps; W1 unlocks, and
//! stops before it wakes. T0 clears and dies, W1 dies; T3 has locked meanwhile, and unlocks a word without `WAITERS`. W2 sleeps on, for a slice. A thread that is *stopped* between
//! freeing a lock and waking has the same effect for as long, and the same cure.
//!
//! # Memory ordering
//! The exchange that takes the lock is Acquire, the one that frees it Release; exchanges by waiters are part of the release sequence. A
//! dead owner's writes are ordered by the kernel's own exchange, a full barrier, in the dead thread's context.

use crossproc_sys::atomic::Ordering::{Acquire, Relaxed, Release};
use crossproc_sys::futex;
use crossproc_sys::robust::{self, OWNER_DIED, RobustWord, TID_MASK, Thread, WAITERS};

use crate::wait::Waiter;

/// The lock without its data: what is shared.
#[derive(Debug, Default)]
#[repr(transparent)]
pub(crate) struct RawLock {
    robust: RobustWord,
}

/// A lock that was acquired.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Acquired {
    /// The thread that holds it.
    pub(crate) tid: u32,
    pub(crate) owner_died: bool,
}

/// Why it was not.
#[derive(Debug)]
pub(crate) enum Refused {
    Deadlock,
    WouldBlock,
    TimedOut,
    TooManyHeld,
    Unavailable(robust::Error),
}

impl RawLock {
    pub(crate) const fn new() -> Self {
        RawLock { robust: RobustWord::new() }
    }

    /// Takes the lock if it is free and its data is whole, and the thread is set up: the TID under which it is held.
    #[inline]
    pub(crate) fn lock_uncontended(&self) -> Option<u32> {
        let thread = robust::ready()?;
        let slot = thread.free_slot()?;
        let word = self.robust.word();
        thread.begin(word);
        // Acquire: pairs with the Release exchanges of `unlock`.
        let is_acquired = word.compare_exchange(0, thread.tid(), Acquire, Relaxed).is_ok();
        if is_acquired {
            thread.link(slot, &self.robust);
        }
        thread.end();
        is_acquired.then(|| thread.tid())
    }

    /// Takes the lock if it is free, whatever [`lock_uncontended`](RawLock::lock_uncontended) found.
    #[cold]
    pub(crate) fn try_lock_contended(&self) -> Result<Acquired, Refused> {
        self.acquire(|lock, thread| {
            let held = |word| if owner(word) == thread.tid() { Refused::Deadlock } else { Refused::WouldBlock };
            lock.take_free(thread, 0).map_err(held)
        })
    }

    /// Takes the lock, waiting as long as the waiter lets it, whatever [`lock_uncontended`](RawLock::lock_uncontended) found.
    #[cold]
    pub(crate) fn lock_contended(&self, mut waiter: Waiter) -> Result<Acquired, Refused> {
        self.acquire(|lock, thread| lock.wait_and_take(thread, &mut waiter))
    }

    /// The frame of an acquisition by `take`.
    fn acquire(&self, take: impl FnOnce(&Self, &Thread) -> Result<Acquired, Refused>) -> Result<Acquired, Refused> {
        let thread = robust::current().map_err(Refused::Unavailable)?;
        let slot = thread.free_slot().ok_or(Refused::TooManyHeld)?;
        thread.begin(self.robust.word());
        let acquired = take(self, thread);
        if acquired.is_ok() {
            thread.link(slot, &self.robust);
        }
        thread.end();
        acquired
    }

    /// Exchanges TID 0 for the thread's, keeping the flags and adding `and`; or gives back a word with an owner in it.
    fn take_free(&self, thread: &Thread, and: u32) -> Result<Acquired, u32> {
        let word = self.robust.word();
        let mut seen = word.load(Relaxed);
        while owner(seen) == 0 {
            // Acquire: pairs with the Release exchanges of `unlock`.
            match word.compare_exchange_weak(seen, seen | thread.tid() | and, Acquire, Relaxed) {
                Ok(_) => return Ok(Acquired { tid: thread.tid(), owner_died: seen & OWNER_DIED != 0 }),
                Err(now) => seen = now,
            }
        }
        Err(seen)
    }

    fn wait_and_take(&self, thread: &Thread, waiter: &mut Waiter) -> Result<Acquired, Refused> {
        let word = self.robust.word();
        // Once this thread has slept, others may sleep whom nothing but this thread knows of.
        let mut kept = 0;
        loop {
            let seen = match self.take_free(thread, kept) {
                Ok(acquired) => return Ok(acquired),
                Err(seen) => seen,
            };
            if owner(seen) == thread.tid() {
                return Err(Refused::Deadlock);
            }
            if waiter.check().is_err() {
                match self.give_up(kept) {
                    true => return Err(Refused::TimedOut),
                    false => continue,
                }
            }
            if seen & WAITERS == 0 {
                // Only while nobody sleeps: a spinner would be ahead of them.
                let look = || {
                    let now = word.load(Relaxed);
                    owner(now) == 0 || now & WAITERS != 0
                };
                if waiter.spin(look) || word.compare_exchange(seen, seen | WAITERS, Relaxed, Relaxed).is_err() {
                    continue;
                }
            }
            kept = WAITERS;
            waiter.sleep(|until| futex::wait(word, seen | WAITERS, until));
        }
    }

    /// Leaves the flag for those who may be asleep still; false if the lock has become free.
    fn give_up(&self, kept: u32) -> bool {
        let word = self.robust.word();
        let mut seen = word.load(Relaxed);
        while owner(seen) != 0 {
            if seen & kept == kept {
                return true;
            }
            match word.compare_exchange_weak(seen, seen | kept, Relaxed, Relaxed) {
                Ok(_) => return true,
                Err(now) => seen = now,
            }
        }
        false
    }

    /// Frees the lock that the thread `tid` has acquired; `OWNER_DIED` stays if nobody took it out. Does nothing in another thread: a guard that was
    /// carried into a forked child must not free what its parent holds, nor what the child has acquired since.
    #[inline]
    pub(crate) fn unlock(&self, tid: u32) {
        // A thread that holds something is set up.
        let Some(thread) = robust::ready().filter(|thread| thread.tid() == tid) else { return };
        let word = self.robust.word();
        thread.begin(word);
        // Release: pairs with the Acquire exchanges of `lock_uncontended` and `take_free`.
        if thread.unlink(&self.robust) && word.compare_exchange(tid, 0, Release, Relaxed).is_err() {
            self.unlock_contended(thread);
        }
        thread.end();
    }

    #[cold]
    fn unlock_contended(&self, thread: &Thread) {
        let word = self.robust.word();
        let mut seen = word.load(Relaxed);
        let freed = loop {
            // Not so only if a peer has scribbled on the word: it is not this thread's to free.
            if owner(seen) != thread.tid() {
                return;
            }
            let freed = seen & !TID_MASK;
            // Release: pairs with the Acquire exchanges of `lock_uncontended` and `take_free`.
            match word.compare_exchange_weak(seen, freed, Release, Relaxed) {
                Ok(_) => break freed,
                Err(now) => seen = now,
            }
        };
        if freed & WAITERS == 0 || futex::wake(word, 1) != 0 {
            return;
        }
        // Nobody was asleep. Relaxed: the flag orders nothing.
        if word.compare_exchange(freed, freed & !WAITERS, Relaxed, Relaxed).is_ok() {
            futex::wake(word, 1);
        }
    }

    /// Declares the data whole: takes `OWNER_DIED` out. For the owner only.
    pub(crate) fn recover(&self) {
        // Relaxed: the Release in `unlock` publishes it, to the next owner and to nobody else.
        self.robust.word().fetch_and(!OWNER_DIED, Relaxed);
    }

    /// Whether `OWNER_DIED` stands in the word. Stable for the owner, a hint for anybody else.
    pub(crate) fn is_inconsistent(&self) -> bool {
        self.robust.word().load(Relaxed) & OWNER_DIED != 0
    }

    /// The owner's TID. A hint: it may be stale by now.
    pub(crate) fn owner(&self) -> Option<u32> {
        Some(owner(self.robust.word().load(Relaxed))).filter(|&tid| tid != 0)
    }
}

fn owner(word: u32) -> u32 {
    word & TID_MASK
}
