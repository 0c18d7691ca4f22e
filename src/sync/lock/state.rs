//! The state machine of the robust lock.
//!
//! # Goal
//! The lock gives mutual exclusion between threads of any processes. An owner or a waiter may die,
//! or be stopped, at any instruction. The next owner learns of an owner's death, and no waiter
//! sleeps on a free lock.
//!
//! # The word
//! | bits | name | meaning |
//! |---|---|---|
//! | 0-29 | TID | the owner, 0: free |
//! | 30 | `OWNER_DIED` | an owner died, and nobody has declared the data whole since |
//! | 31 | `WAITERS` | a waiter may be asleep: kept until it is known that none is |
//!
//! | word | TID 0 | TID t |
//! |---|---|---|
//! | plain | free | held, no waiters |
//! | `WAITERS` | free, a waiter was woken or is being woken | held, the unlocker wakes |
//! | `OWNER_DIED` | free, the next owner gets `OwnerDied` | held by an owner that was told of the death and has not recovered |
//!
//! The writers are:
//! - A locker puts its TID in the place of 0 and keeps the flags.
//! - A waiter adds `WAITERS`.
//! - The owner takes its TID out. It takes `OWNER_DIED` out when it declares the data whole.
//! - The kernel turns a dead owner's TID into `OWNER_DIED`.
//!
//! # Why no wake-up is lost
//! *Invariant: while a waiter sleeps, either `WAITERS` is set, or a thread is awake that will set
//! it, wake another one, or die trying, which wakes another one.*
//!
//! A locker or unlocker has the word as its list's pending entry, from before its first look to the
//! end. So
//! - if a waiter is killed after it was woken, and before it took the lock, the kernel finds TID 0
//!   and wakes the next;
//! - if an owner is killed after it stored the free word, and before it woke a waiter, the kernel
//!   does the same;
//! - if an owner is killed before that, the kernel stores `OWNER_DIED`, keeps `WAITERS` and wakes
//!   one.
//!
//! Therefore an unlock *keeps* `WAITERS`. (The usual way is to store 0 and wake. It loses the
//! second sleeper when the first is killed between waking up and marking the word again.)
//!
//! An unlock clears the flag only after a wake that found no sleeper. It does so by an exchange
//! that succeeds only on the word as the unlock left it. After that it wakes once more, for a
//! waiter that went to sleep in between. A waiter that was woken takes the lock with `WAITERS`, and
//! puts the flag back when it gives up: that last exchange may have made other sleepers invisible.
//!
//! # What is left to slices
//! The exchange that clears the flag may find the word as its thread left it, though others have
//! slept, locked and unlocked since. The second wake mends that, and so does a thread that was
//! woken in between. Suppose that *both* die at that point, and a newcomer locks before the kernel
//! looks at the word for the second of them. Then nobody finds the other sleepers. In full:
//! - T0 unlocks, wakes nobody, and stops before it clears.
//! - W1, which was about to sleep, locks; W2 sleeps; W1 unlocks, and stops before it wakes.
//! - T0 clears and dies, W1 dies.
//! - T3 has locked meanwhile, and unlocks a word without `WAITERS`. W2 sleeps on, for a slice.
//!
//! A thread that is *stopped* between freeing a lock and waking has the same effect while it is
//! stopped, and the same cure.
//!
//! # Fairness, and watchers
//! A waiter that loses too often is let in first: [`starving`]. A thread may wait for an owner's
//! death alone: [`watchers`].
//!
//! # Memory ordering
//! The exchange that takes the lock is Acquire, the one that frees it is Release. Exchanges by
//! waiters are part of the release sequence. The kernel's own exchange, a full barrier in the dead
//! thread's context, orders a dead owner's writes.

use crossproc_sys::atomic::Ordering::{Acquire, Relaxed, Release};
use crossproc_sys::atomic::{AtomicU32, Ordering};
use crossproc_sys::futex::{self, Awake, MAX_LOSSES, Watch};
use crossproc_sys::robust::{
    self, Holding, NoSlot, OWNER_DIED, RobustWord, Slot, TID_MASK, Thread, WAITERS,
};

use crate::wait::{Ended, Wait, Waiter};

mod starving;
mod watchers;

/// The shared part of the lock, without its data.
///
/// It is no larger than its entry in the robust list: what a lock protects should lie in the same
/// cache line. The spare words of the entry are [`starving`](RawLock::starving) and
/// [`watchers`](RawLock::watchers).
#[derive(Debug, Default)]
#[repr(C)]
pub(crate) struct RawLock {
    robust: RobustWord,
}

/// A lock that was acquired.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Locked {
    /// The thread that holds it.
    pub(crate) tid: u32,
    pub(crate) owner_died: bool,
}

/// The reason why a lock was not acquired.
#[derive(Debug)]
pub(crate) enum LockRefused {
    Deadlock,
    WouldBlock,
    TimedOut,
    Interrupted,
    TooManyHeld,
    Unavailable(robust::Error),
}

impl From<NoSlot> for LockRefused {
    fn from(none: NoSlot) -> Self {
        match none {
            NoSlot::Held => LockRefused::Deadlock,
            NoSlot::TooMany => LockRefused::TooManyHeld,
            NoSlot::Unavailable(error) => LockRefused::Unavailable(error),
        }
    }
}

impl From<Ended> for LockRefused {
    fn from(ended: Ended) -> Self {
        match ended {
            Ended::TimedOut => LockRefused::TimedOut,
            Ended::Interrupted => LockRefused::Interrupted,
        }
    }
}

impl RawLock {
    pub(crate) const fn new() -> Self {
        RawLock { robust: RobustWord::new() }
    }

    /// Bits 0-29: the TID of a starving waiter, 0: none; bit 31:
    /// [`STOOD_BACK`](starving::STOOD_BACK). Relaxed everywhere: it is a hint.
    fn starving(&self) -> &AtomicU32 {
        &self.robust.spare()[0]
    }

    /// The note of the watchers for an owner's death: see [`watchers`].
    fn watchers(&self) -> &AtomicU32 {
        &self.robust.spare()[1]
    }

    /// Takes the lock if the word is 0 (free, data whole, no `WAITERS`) and the thread is set up.
    /// Returns the TID under which it is held. As in all forms that take the lock, it is held by a
    /// guard until [`hold`](RawLock::hold) says otherwise.
    #[inline]
    pub(crate) fn lock_uncontended(&self) -> Option<u32> {
        let (thread, slot) = robust::at_hand().or_else(|| self.slot_beside_others())?;
        let word = self.robust.word();
        thread.begin(word);
        // Acquire: pairs with the Release exchanges of `unlock`.
        let is_acquired = word.compare_exchange(0, thread.tid(), Acquire, Relaxed).is_ok();
        if is_acquired {
            thread.link(slot, &self.robust, Holding::BY_GUARD);
        }
        thread.end();
        is_acquired.then(|| thread.tid())
    }

    /// Returns a slot of a thread that is set up and holds, or has held, something else besides.
    #[cold]
    fn slot_beside_others(&self) -> Option<(&'static Thread, Slot<'static>)> {
        let thread = robust::ready()?;
        Some((thread, thread.slot_for(&self.robust)?))
    }

    /// Takes the lock if it is free, whatever [`lock_uncontended`](RawLock::lock_uncontended)
    /// found.
    #[cold]
    pub(crate) fn try_lock_contended(&self) -> Result<Locked, LockRefused> {
        self.acquire(|lock, thread| {
            let held = |word| {
                if owner(word) == thread.tid() {
                    LockRefused::Deadlock
                } else {
                    LockRefused::WouldBlock
                }
            };
            lock.take_free(thread, 0, |_| true).map_err(held)
        })
    }

    /// Takes the lock, and waits as long as `wait` allows, whatever
    /// [`lock_uncontended`](RawLock::lock_uncontended) found.
    #[cold]
    pub(crate) fn lock_contended(&self, wait: Wait) -> Result<Locked, LockRefused> {
        self.acquire(|lock, thread| lock.wait_and_take(thread, &mut Waiter::new(wait)))
    }

    /// Frees the lock that the calling thread holds, and returns how it was held. Takes the lock
    /// out of the thread's list even if a peer has scribbled on the word.
    pub(crate) fn release_whole(&self) -> Holding {
        let Some((tid, holding)) = self.holding() else { return Holding::BY_GUARD };
        self.unlock(tid);
        holding
    }

    /// Takes the lock that [`release_whole`](RawLock::release_whole) has freed, and holds it as
    /// before. Waits as long as it takes. Returns whether an owner died.
    pub(crate) fn relock(&self, holding: Holding) -> bool {
        let owner_died = self.lock_uncontended().is_none() && self.relock_contended();
        self.hold(holding);
        owner_died
    }

    fn relock_contended(&self) -> bool {
        let relocked = self.acquire(|lock, thread| {
            match lock.wait_and_take(thread, &mut Waiter::new(Wait::FOREVER)) {
                // A peer has scribbled on the word: no other thread has the lock.
                Err(LockRefused::Deadlock) => Ok(Locked { tid: thread.tid(), owner_died: true }),
                result => result,
            }
        });
        // The thread is set up, and the slot that it used before is free. So an error, too, is the
        // work of a peer that scribbles.
        relocked.map_or(true, |acquired| acquired.owner_died)
    }

    /// Runs `take` as an acquisition: with a slot ready, and the word pending.
    fn acquire(
        &self,
        take: impl FnOnce(&Self, &Thread) -> Result<Locked, LockRefused>,
    ) -> Result<Locked, LockRefused> {
        let thread = robust::current().map_err(LockRefused::Unavailable)?;
        let slot = thread.slot_for(&self.robust).ok_or_else(|| thread.no_slot(&self.robust))?;
        thread.begin(self.robust.word());
        let acquired = take(self, thread);
        if acquired.is_ok() {
            thread.link(slot, &self.robust, Holding::BY_GUARD);
        }
        thread.end();
        acquired
    }

    /// Exchanges TID 0 for the thread's, keeps the flags and adds `and`, if `may` allows that for
    /// the word at that time. Otherwise returns the word.
    fn take_free(
        &self,
        thread: &Thread,
        and: u32,
        may: impl Fn(u32) -> bool,
    ) -> Result<Locked, u32> {
        let word = self.robust.word();
        let mut seen = word.load(Relaxed);
        while owner(seen) == 0 && may(seen) {
            // Acquire: pairs with the Release exchanges of `unlock`.
            match word.compare_exchange_weak(seen, seen | thread.tid() | and, Acquire, Relaxed) {
                Ok(_) => {
                    return Ok(Locked { tid: thread.tid(), owner_died: seen & OWNER_DIED != 0 });
                }
                Err(now) => seen = now,
            }
        }
        Err(seen)
    }

    fn wait_and_take(&self, thread: &Thread, waiter: &mut Waiter) -> Result<Locked, LockRefused> {
        let word = self.robust.word();
        // Once this thread was woken, there may be sleepers that only this thread knows of. A sleep
        // that ended otherwise took no wake-up from the others.
        let mut kept = 0;
        // How often this thread was woken, or saw the lock free, in vain.
        let mut losses = 0;
        let mut had_chance = false;
        loop {
            let is_over = waiter.check();
            let may =
                |seen| is_over.is_err() || seen & WAITERS == 0 || !self.is_starving_other(thread);
            let seen = match self.take_free(thread, kept, may) {
                Ok(acquired) => {
                    self.starve_no_more(thread, losses);
                    return Ok(acquired);
                }
                Err(seen) => seen,
            };
            if owner(seen) == thread.tid() {
                return Err(LockRefused::Deadlock);
            }
            if let Err(ended) = is_over {
                match self.give_up(kept) {
                    true => {
                        self.starve_no_more(thread, losses);
                        return Err(ended.into());
                    }
                    false => continue,
                }
            }
            if owner(seen) == 0 {
                self.stand_back(thread, kept, waiter);
                continue;
            }
            if core::mem::take(&mut had_chance) {
                losses += 1;
                self.starve(thread, losses);
            }
            // Before each sleep, also while others sleep: a mark costs the owner a system call. But
            // to one that starves the others yield only once the word is marked.
            if losses < MAX_LOSSES && waiter.pause(|| owner(word.load(Relaxed)) == 0) {
                had_chance = true;
                continue;
            }
            let seen = word.load(Relaxed);
            if owner(seen) == 0
                || seen & WAITERS == 0
                    && word.compare_exchange(seen, seen | WAITERS, Relaxed, Relaxed).is_err()
            {
                continue;
            }
            had_chance =
                waiter.sleep(|until| futex::wait(word, seen | WAITERS, until)) == Awake::Woken;
            if had_chance {
                kept = WAITERS;
            }
        }
    }

    /// Leaves the flag for other waiters that may still be asleep. Returns false if the lock has
    /// become free.
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

    /// Frees the lock that the thread `tid` has acquired. `OWNER_DIED` stays if nobody took it out.
    /// Does nothing in another thread: a guard that was carried into a forked child must not free
    /// what its parent holds, nor what the child has acquired since.
    #[inline]
    pub(crate) fn unlock(&self, tid: u32) {
        let Some(thread) = robust::of(tid) else { return };
        let word = self.robust.word();
        thread.begin(word);
        // Release: pairs with the Acquire exchanges of `lock_uncontended` and `take_free`.
        if thread.unlink(&self.robust) && word.compare_exchange(tid, 0, Release, Relaxed).is_err() {
            self.unlock_contended(thread);
        }
        thread.end();
    }

    /// Frees the lock if the calling thread holds it, and returns whether it did.
    pub(crate) fn release(&self) -> bool {
        let tid = self.owned_by();
        if let Some(tid) = tid {
            self.unlock(tid);
        }
        tid.is_some()
    }

    #[cold]
    fn unlock_contended(&self, thread: &Thread) {
        let word = self.robust.word();
        let mut seen = word.load(Relaxed);
        // This comes before the lock is free. If this thread dies after that, a watcher must know
        // that the lock was unlocked.
        let is_watched = owner(seen) == thread.tid() && self.take_note_out();
        let freed = loop {
            // The owner differs only if a peer has scribbled on the word. It is then not this
            // thread's to free.
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
        if freed & WAITERS == 0 {
            return;
        }
        let woken = if is_watched { futex::wake(word, u32::MAX) } else { self.wake_one() };
        if woken != 0 || self.starving().load(Relaxed) != 0 {
            return;
        }
        // No waiter was asleep, and none starves. Relaxed: the flag orders nothing.
        if word.compare_exchange(freed, freed & !WAITERS, Relaxed, Relaxed).is_ok() {
            self.wake_one();
        }
    }

    /// Wakes one sleeper, or all if that one may have been a watcher. Returns how many.
    fn wake_one(&self) -> u32 {
        let woken = futex::wake(self.robust.word(), 1);
        // A watcher leaves its note before it sleeps. The kernel's queue, in which the wake found
        // it, is between that and this look.
        if self.take_note_out() { woken + futex::wake(self.robust.word(), u32::MAX) } else { woken }
    }

    /// Declares the data whole: takes `OWNER_DIED` out. For the owner only.
    pub(crate) fn recover(&self) {
        // Relaxed: the Release in `unlock` publishes it to the next owner, and to no other thread.
        self.robust.word().fetch_and(!OWNER_DIED, Relaxed);
    }

    /// Returns whether `OWNER_DIED` is set. Stable for the owner, a hint for any other thread.
    pub(crate) fn is_inconsistent(&self) -> bool {
        self.robust.word().load(Relaxed) & OWNER_DIED != 0
    }

    /// Returns whether an owner has died, and nobody has declared the data whole since. For threads
    /// that do not own the lock, whether another does or none.
    ///
    /// Acquire: pairs with the kernel's exchange, so that the caller sees what the dead owner did.
    pub(crate) fn has_lost_owner(&self) -> bool {
        self.robust.word().load(Acquire) & OWNER_DIED != 0
    }

    /// Returns the calling thread's TID if it holds the lock, by the thread's own list, which no
    /// peer can change. Stable: only this thread can change the answer.
    #[inline]
    pub(crate) fn owned_by(&self) -> Option<u32> {
        robust::ready().filter(|thread| self.slot(thread).is_some()).map(Thread::tid)
    }

    /// Returns whether the calling thread holds the lock.
    #[inline]
    pub(crate) fn is_owned(&self) -> bool {
        self.owned_by().is_some()
    }

    /// Returns the calling thread's TID and how it holds the lock, if it does.
    #[inline]
    pub(crate) fn holding(&self) -> Option<(u32, Holding)> {
        let thread = robust::ready()?;
        Some((thread.tid(), self.slot(thread)?.holding()))
    }

    /// Returns the slot on which the lock hangs, if `thread`, which must be the calling one, holds
    /// it.
    #[inline]
    pub(crate) fn slot<'a>(&self, thread: &'a Thread) -> Option<Slot<'a>> {
        thread.slot_of(&self.robust).filter(|_| thread.is_held_still(&self.robust))
    }

    /// Notes how the calling thread, which owns the lock, holds it.
    #[inline]
    pub(crate) fn hold(&self, holding: Holding) {
        if let Some(slot) = robust::ready().and_then(|thread| self.slot(thread)) {
            slot.hold(holding);
        }
    }

    /// Marks the data as possibly half written, as after a death. A guard does this last if it was
    /// taken while its thread did not panic, and is dropped while the thread panics. Does nothing
    /// if `tid` is another thread's.
    #[cold]
    pub(crate) fn abandon(&self, tid: u32) {
        if self.owned_by() == Some(tid) {
            self.spoil();
        }
    }

    /// Does what [`recover`](RawLock::recover) does, if there is something to recover from.
    #[inline]
    pub(crate) fn recover_if_inconsistent(&self) {
        if self.is_inconsistent() {
            self.recover();
        }
    }

    /// Makes the next owner learn of a death, though this owner only gives up. For the owner only.
    pub(crate) fn spoil(&self) {
        // Relaxed: as in `recover`.
        self.robust.word().fetch_or(OWNER_DIED, Relaxed);
    }

    /// Returns whether the lock has an owner. For callers that do not take the lock, but must keep
    /// out of its owner's way. An `order` of Acquire, at least, pairs with the Release exchanges of
    /// `unlock`.
    #[inline]
    pub(crate) fn has_owner(&self, order: Ordering) -> bool {
        owner(self.robust.word().load(order)) != 0
    }

    /// Returns the word, for a caller that sleeps, on other words too, until the lock's owner
    /// changes. Returns `None` if there is no owner.
    pub(crate) fn watch(&self) -> Option<Watch<'_>> {
        let word = self.robust.word();
        let mut seen = word.load(Relaxed);
        while owner(seen) != 0 {
            if seen & WAITERS != 0 {
                return Some(Watch::new(word, seen));
            }
            // Relaxed: the flag orders nothing.
            match word.compare_exchange_weak(seen, seen | WAITERS, Relaxed, Relaxed) {
                Ok(_) => return Some(Watch::new(word, seen | WAITERS)),
                Err(now) => seen = now,
            }
        }
        None
    }

    /// Waits until the lock is free, without taking it. Any number of threads may do that: each
    /// that was woken wakes the next.
    #[cold]
    pub(crate) fn wait_until_free(&self, waiter: &mut Waiter) -> Result<(), LockRefused> {
        let thread = robust::current().map_err(LockRefused::Unavailable)?;
        thread.begin(self.robust.word());
        let result = self.wait_pending_until_free(thread, waiter);
        thread.end();
        result
    }

    fn wait_pending_until_free(
        &self,
        thread: &Thread,
        waiter: &mut Waiter,
    ) -> Result<(), LockRefused> {
        let word = self.robust.word();
        let mut kept = 0;
        loop {
            let seen = word.load(Relaxed);
            if owner(seen) == 0 {
                if kept != 0 {
                    self.wake_one();
                }
                return Ok(());
            }
            if owner(seen) == thread.tid() {
                return Err(LockRefused::Deadlock);
            }
            if let Err(ended) = waiter.check() {
                match self.give_up(kept) {
                    true => return Err(ended.into()),
                    false => continue,
                }
            }
            if seen & WAITERS == 0 {
                let spun = waiter.spin(|| owner(word.load(Relaxed)) == 0);
                if spun || word.compare_exchange(seen, seen | WAITERS, Relaxed, Relaxed).is_err() {
                    continue;
                }
            }
            kept = WAITERS;
            waiter.sleep(|until| futex::wait(word, seen | WAITERS, until));
        }
    }

    /// Returns the owner's TID. It is a hint: it may be stale already.
    pub(crate) fn owner(&self) -> Option<u32> {
        Some(owner(self.robust.word().load(Relaxed))).filter(|&tid| tid != 0)
    }
}

fn owner(word: u32) -> u32 {
    word & TID_MASK
}
