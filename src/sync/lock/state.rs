//! The state machine of the robust lock.
//!
//! # Goal
//! Mutual exclusion between threads of any processes, where an owner or a waiter may die, or be
//! stopped, at any instruction: the next one learns of an owner's death, and no waiter sleeps on a
//! free lock.
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
//! Who writes: a locker puts its TID in the place of 0 and keeps the flags; a waiter adds
//! `WAITERS`; the owner takes its TID out, and takes `OWNER_DIED` out when it declares the data
//! whole; the kernel turns a dead owner's TID into `OWNER_DIED`.
//!
//! # Why no wake-up is lost
//! *Invariant: while someone sleeps, either `WAITERS` is set, or a thread is awake that will set
//! it, wake another one, or die trying, which wakes another one.* From before its first look to the
//! end, a locker or unlocker has the word as its list's pending entry. So
//! - a waiter that is killed after it was woken, and before it took the lock: the kernel finds TID
//!   0 and wakes the next;
//! - an owner that is killed after it stored the free word, and before it woke anyone: the same;
//! - an owner that is killed before that: the kernel stores `OWNER_DIED`, keeps `WAITERS` and wakes
//!   one.
//!
//! Therefore an unlock *keeps* `WAITERS`. (Storing 0 and waking, the usual way, loses the second
//! sleeper when the first is killed between waking up and marking the word again.) It clears the
//! flag only after a wake that found nobody, by an exchange that succeeds only on the word
//! as it left it, and wakes once more after that, for one who went to sleep in between. Whoever has
//! slept takes the lock with `WAITERS`, and puts it back when it gives up: others may sleep whom
//! that last exchange made invisible.
//!
//! # Fairness
//! A free lock goes to whoever comes first. A waiter that was woken [`MAX_LOSSES`] times and found
//! the lock taken each time writes its TID into a second word, `starving`: from then on whoever
//! finds the lock free and marked stands back, so that the starving one has it after the owners
//! that it has now, one for each other thread at most. `WAITERS` is kept as long, so nobody passes
//! by the short way. It is a hint and excludes nobody: who has stood back for [`STAND_BACK`] takes
//! the lock all the same, and the hint out, because the starving one may be dead or stopped.
//! `try_lock` does not stand back, nor does one whose time is over.
//!
//! # What is left to slices
//! The exchange that clears the flag may find the word as its thread left it, though others have
//! slept, locked and unlocked since. The second wake mends that, and so does whoever was woken in
//! between; if *both* die at that point, and a newcomer locks before the kernel looks at the word
//! of the second, the other sleepers are found by nobody. In full: T0 unlocks, wakes nobody, and
//! stops before it clears. W1, that was about to sleep, locks; W2 sleeps; W1 unlocks, and
//! stops before it wakes. T0 clears and dies, W1 dies; T3 has locked meanwhile, and unlocks a word
//! without `WAITERS`. W2 sleeps on, for a slice. A thread that is *stopped* between freeing a lock
//! and waking has the same effect for as long, and the same cure.
//!
//! # Who watches for an owner's death
//! A watcher (`wait_any::source`) takes nothing: it sleeps on the word, free or not, until that is
//! `OWNER_DIED` without an owner. It leaves a note in a third word, `watchers`:
//!
//! | bits | name | meaning |
//! |---|---|---|
//! | 0 | `WATCHED` | since all were last woken, a watcher went to sleep |
//! | 1-31 | | how often that was taken out, modulo 2^31 |
//!
//! Whoever unlocks takes the note out, and wakes all after it has freed the lock; it looks once
//! more after it has woken one, for that may have been a watcher which came late. The kernel's wake
//! is for one: for a dead owner's lock, or for one that died between freeing it and waking. So a
//! watcher that was woken and finds the lock free wakes all, if the word is not as it was when it
//! fell asleep, or the lock was unlocked since, by the note. Not otherwise: on a lock that is
//! free two watchers would wake each other for ever.
//!
//! # Memory ordering
//! The exchange that takes the lock is Acquire, the one that frees it Release; exchanges by waiters
//! are part of the release sequence. A dead owner's writes are ordered by the kernel's own
//! exchange, a full barrier, in the dead thread's context.

use crossproc_sys::atomic::Ordering::{Acquire, Relaxed, Release};
use crossproc_sys::atomic::{AtomicU32, Ordering};
use crossproc_sys::futex::{self, Awake, MAX_LOSSES, Watch};
use crossproc_sys::robust::{
    self, Entry, Holding, NoSlot, OWNER_DIED, RobustWord, Slot, TID_MASK, Thread, WAITERS,
};

use crate::wait::source::{Armed, Source, WatchState, Words};
use crate::wait::{Ended, Wait, Waiter};

/// How long others stand back for a starving waiter, in nanoseconds: what a wake-up may take on a
/// busy machine.
const STAND_BACK: u64 = 10_000_000;
/// In `starving`: someone stands back, and is to be woken.
const STOOD_BACK: u32 = 1 << 31;
/// In `watchers`.
const WATCHED: u32 = 1;
const ONE_WAKE: u32 = 2;

/// The lock without its data: what is shared.
#[derive(Debug, Default)]
#[repr(C)]
pub(crate) struct RawLock {
    robust: RobustWord,
    /// Bits 0-29: the TID of a waiter that starves, 0: none; bit 31: [`STOOD_BACK`]. Relaxed
    /// everywhere: it is a hint.
    starving: AtomicU32,
    /// Who watches for an owner's death: see the top.
    watchers: AtomicU32,
}

/// A lock that was acquired.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Locked {
    /// The thread that holds it.
    pub(crate) tid: u32,
    pub(crate) owner_died: bool,
}

/// Why it was not.
#[derive(Debug)]
pub(crate) enum LockRefused {
    Deadlock,
    WouldBlock,
    TimedOut,
    Interrupted,
    TooDeep,
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
        RawLock {
            robust: RobustWord::new(),
            starving: AtomicU32::new(0),
            watchers: AtomicU32::new(0),
        }
    }

    /// Takes the lock if it is free and its data is whole, and the thread is set up: the TID under
    /// which it is held. As for all that take it, it is held by a guard, until
    /// [`hold`](RawLock::hold) says otherwise.
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

    /// A slot of a thread that is set up and holds, or has held, something else besides.
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

    /// Takes the lock, waiting as long as it may, whatever
    /// [`lock_uncontended`](RawLock::lock_uncontended) found.
    #[cold]
    pub(crate) fn lock_contended(&self, wait: Wait) -> Result<Locked, LockRefused> {
        self.acquire(|lock, thread| lock.wait_and_take(thread, &mut Waiter::new(wait)))
    }

    /// Frees the lock that the calling thread holds, and takes it out of its list even if a peer
    /// has scribbled on the word: how it was held.
    pub(crate) fn release_whole(&self) -> Holding {
        let Some((tid, holding)) = self.holding() else { return Holding::BY_GUARD };
        self.unlock(tid);
        holding
    }

    /// Takes the lock that [`release_whole`](RawLock::release_whole) has freed, and holds it as
    /// before. It waits as long as it takes. Whether an owner died.
    pub(crate) fn relock(&self, holding: Holding) -> bool {
        let owner_died = self.lock_uncontended().is_none() && self.relock_contended();
        self.hold(holding);
        owner_died
    }

    fn relock_contended(&self) -> bool {
        let relocked = self.acquire(|lock, thread| {
            match lock.wait_and_take(thread, &mut Waiter::new(Wait::FOREVER)) {
                // A peer has scribbled on the word: nobody else has the lock.
                Err(LockRefused::Deadlock) => Ok(Locked { tid: thread.tid(), owner_died: true }),
                result => result,
            }
        });
        // The thread is set up, and has the slot free that it used before: an error, too, is a
        // scribbling peer's doing.
        relocked.map_or(true, |acquired| acquired.owner_died)
    }

    /// The frame of an acquisition by `take`.
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

    /// Exchanges TID 0 for the thread's, keeping the flags and adding `and`, if the word as it is
    /// then `may` be taken; otherwise gives it back.
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
        // Once this thread has slept, others may sleep whom nothing but this thread knows of.
        let mut kept = 0;
        // How often this thread was woken in vain.
        let mut losses = 0;
        let mut was_woken = false;
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
            if core::mem::take(&mut was_woken) {
                losses += 1;
                self.starve(thread, losses);
            }
            if seen & WAITERS == 0 {
                // Only while nobody sleeps: a spinner would be ahead of them.
                let look = || {
                    let now = word.load(Relaxed);
                    owner(now) == 0 || now & WAITERS != 0
                };
                if waiter.spin(look)
                    || word.compare_exchange(seen, seen | WAITERS, Relaxed, Relaxed).is_err()
                {
                    continue;
                }
            }
            kept = WAITERS;
            was_woken =
                waiter.sleep(|until| futex::wait(word, seen | WAITERS, until)) == Awake::Woken;
        }
    }

    /// Whether another waiter starves.
    fn is_starving_other(&self, thread: &Thread) -> bool {
        let starving = owner(self.starving.load(Relaxed));
        starving != 0 && starving != thread.tid()
    }

    /// Says that this thread starves, if it has lost often enough and no other does.
    fn starve(&self, thread: &Thread, losses: u32) {
        if losses >= MAX_LOSSES {
            let _ = self.starving.compare_exchange(0, thread.tid(), Relaxed, Relaxed);
        }
    }

    fn starve_no_more(&self, thread: &Thread, losses: u32) {
        if losses >= MAX_LOSSES {
            self.feed(thread.tid());
        }
    }

    /// Lets nobody stand back for the thread `starving` any longer.
    fn feed(&self, starving: u32) {
        let mut seen = self.starving.load(Relaxed);
        while owner(seen) == starving {
            match self.starving.compare_exchange_weak(seen, 0, Relaxed, Relaxed) {
                Ok(_) if seen & STOOD_BACK != 0 => {
                    futex::wake(&self.starving, u32::MAX);
                    return;
                }
                Ok(_) => return,
                Err(now) => seen = now,
            }
        }
    }

    /// Leaves a free lock to the one that starves, for a while.
    fn stand_back(&self, thread: &Thread, kept: u32, waiter: &mut Waiter) {
        let seen = self.starving.load(Relaxed);
        if matches!(owner(seen), 0) || owner(seen) == thread.tid() {
            return;
        }
        if kept != 0 {
            // The wake-up that this thread has had may be what the starving one sleeps for.
            self.wake_one();
        }
        let marked = seen | STOOD_BACK;
        if seen != marked && self.starving.compare_exchange(seen, marked, Relaxed, Relaxed).is_err()
        {
            return;
        }
        let mut was_in_vain = false;
        let deadline = waiter.until();
        // It is short enough to do without slices.
        waiter.sleep(|_| match futex::wait_briefly(&self.starving, marked, STAND_BACK, deadline) {
            None => {
                was_in_vain = true;
                Awake::Changed
            }
            Some(Awake::TimedOut) => Awake::Changed,
            Some(awake) => awake,
        });
        if was_in_vain {
            self.feed(owner(seen));
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

    /// Frees the lock that the thread `tid` has acquired; `OWNER_DIED` stays if nobody took it out.
    /// Does nothing in another thread: a guard that was carried into a forked child must not
    /// free what its parent holds, nor what the child has acquired since.
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

    /// Frees the lock if the calling thread holds it, and says whether it did.
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
        // Before the lock is free: should this thread die after that, a watcher is to know that it
        // was unlocked.
        let is_watched = owner(seen) == thread.tid() && self.take_note_out();
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
        if freed & WAITERS == 0 {
            return;
        }
        let woken = if is_watched { futex::wake(word, u32::MAX) } else { self.wake_one() };
        if woken != 0 || self.starving.load(Relaxed) != 0 {
            return;
        }
        // Nobody was asleep, and nobody starves. Relaxed: the flag orders nothing.
        if word.compare_exchange(freed, freed & !WAITERS, Relaxed, Relaxed).is_ok() {
            self.wake_one();
        }
    }

    /// Wakes one; all, if one may have been a watcher: how many.
    fn wake_one(&self) -> u32 {
        let woken = futex::wake(self.robust.word(), 1);
        // A watcher leaves its note before it sleeps, and the kernel's queue, where it was found,
        // is between that and this.
        if self.take_note_out() { woken + futex::wake(self.robust.word(), u32::MAX) } else { woken }
    }

    /// Says that all are going to be woken. Whether there may be a watcher. Relaxed: what a watcher
    /// that comes meanwhile misses, it compares.
    fn take_note_out(&self) -> bool {
        let mut seen = self.watchers.load(Relaxed);
        while seen & WATCHED != 0 {
            match self.watchers.compare_exchange_weak(
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

    /// Declares the data whole: takes `OWNER_DIED` out. For the owner only.
    pub(crate) fn recover(&self) {
        // Relaxed: the Release in `unlock` publishes it, to the next owner and to nobody else.
        self.robust.word().fetch_and(!OWNER_DIED, Relaxed);
    }

    /// Whether `OWNER_DIED` stands in the word. Stable for the owner, a hint for anybody else.
    pub(crate) fn is_inconsistent(&self) -> bool {
        self.robust.word().load(Relaxed) & OWNER_DIED != 0
    }

    /// Whether an owner has died, and nobody has declared the data whole since: for those that do
    /// not own the lock, another may, or nobody. Acquire: pairs with the kernel's exchange, by
    /// which they see what the dead owner has done.
    pub(crate) fn has_lost_owner(&self) -> bool {
        self.robust.word().load(Acquire) & OWNER_DIED != 0
    }

    /// The calling thread's TID, if it holds the lock: by its own list, which no peer can change.
    /// Stable: only this thread can make it so, or not so.
    #[inline]
    pub(crate) fn owned_by(&self) -> Option<u32> {
        robust::ready().filter(|thread| self.slot(thread).is_some()).map(Thread::tid)
    }

    /// Whether the calling thread holds the lock.
    #[inline]
    pub(crate) fn is_owned(&self) -> bool {
        self.owned_by().is_some()
    }

    /// The calling thread's TID, and how it holds the lock, if it does.
    #[inline]
    pub(crate) fn holding(&self) -> Option<(u32, Holding)> {
        let thread = robust::ready()?;
        Some((thread.tid(), self.slot(thread)?.holding()))
    }

    /// Where the lock hangs, if this thread, which calls, holds it.
    #[inline]
    pub(crate) fn slot<'a>(&self, thread: &'a Thread) -> Option<Slot<'a>> {
        thread.slot_of(&self.robust).filter(|_| thread.is_held_still(&self.robust))
    }

    /// Notes how the calling thread, which has the lock, holds it.
    #[inline]
    pub(crate) fn hold(&self, holding: Holding) {
        if let Some(slot) = robust::ready().and_then(|thread| self.slot(thread)) {
            slot.hold(holding);
        }
    }

    /// What a guard does last that was taken while its thread did not panic, and is dropped while
    /// it does: the data may be half written, as after a death. Nothing if the thread `tid` is
    /// another one.
    #[cold]
    pub(crate) fn abandon(&self, tid: u32) {
        if self.owned_by() == Some(tid) {
            self.spoil();
        }
    }

    /// [`recover`](RawLock::recover), if there is something to recover from.
    #[inline]
    pub(crate) fn recover_if_inconsistent(&self) {
        if self.is_inconsistent() {
            self.recover();
        }
    }

    /// Makes the next owner learn of a death, though this one only gives up. For the owner only.
    pub(crate) fn spoil(&self) {
        // Relaxed: as in `recover`.
        self.robust.word().fetch_or(OWNER_DIED, Relaxed);
    }

    /// Whether anybody holds the lock: for those that are not to hold it, but to keep out of its
    /// owner's way. Acquire, at least, pairs with the Release exchanges of `unlock`.
    #[inline]
    pub(crate) fn has_owner(&self, order: Ordering) -> bool {
        owner(self.robust.word().load(order)) != 0
    }

    /// The word, for one who sleeps until the lock's owner is another, along with other things;
    /// `None` if there is no owner.
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

    /// Waits until nobody holds the lock, without taking it. Any number may do that: whoever was
    /// woken wakes the next.
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

    /// The owner's TID. A hint: it may be stale by now.
    pub(crate) fn owner(&self) -> Option<u32> {
        Some(owner(self.robust.word().load(Relaxed))).filter(|&tid| tid != 0)
    }
}

impl Source for RawLock {
    fn key(&self) -> usize {
        core::ptr::from_ref(self.robust.word()).addr()
    }

    fn look(&self, _: &WatchState) -> bool {
        // Acquire: pairs with the kernel's exchange for a dead owner.
        is_left(self.robust.word().load(Ordering::Acquire))
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
        // Relaxed: it is before the sleep, in which it is compared.
        let note = self.watchers.fetch_or(WATCHED, Relaxed) | WATCHED;
        *state = WatchState { armed: marked.into(), note: note.into(), ..*state };
        // In this order: whoever takes the note out wakes those who sleep on the word.
        words.add(Watch::new(word, marked));
        words.add(Watch::new(&self.watchers, note));
        Armed::Asleep
    }

    fn pend(&self, entry: &Entry) {
        entry.begin(self.robust.word());
    }

    fn has_owner(&self) -> bool {
        true
    }

    fn awake(&self, state: &mut WatchState) {
        // Others may be asleep whom nothing but this thread knows of.
        if self.give_up(WAITERS) {
            return;
        }
        let now = (self.robust.word().load(Relaxed), self.watchers.load(Relaxed) & !WATCHED);
        if now != (state.armed as u32, state.note as u32 & !WATCHED) {
            futex::wake(self.robust.word(), u32::MAX);
        }
    }
}

/// Whether an owner died and nobody has the lock since.
fn is_left(word: u32) -> bool {
    owner(word) == 0 && word & OWNER_DIED != 0
}

fn owner(word: u32) -> u32 {
    word & TID_MASK
}
