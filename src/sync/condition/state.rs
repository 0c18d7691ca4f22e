//! The state machine of the condition.
//!
//! # Goal
//! A notification wakes as many as it says of those that had begun to wait before it, and no more
//! of those asleep. It does so though its notifier, or whoever was woken by it, dies or is stopped
//! at any instruction.
//!
//! # The word
//! | bits | name | meaning |
//! |---|---|---|
//! | 30 | `TURN` | changes with every notification |
//! | 31-33 | `WAITERS`, `WAKING`, `SEVERAL` | [`Broadcast`]'s |
//! | 34-47 | some | how often some were to be woken, modulo 2^14 |
//! | 48-63 | all | how often all were to be woken, modulo 2^16 |
//!
//! A waiter marks the word and remembers it while it has the lock, frees the lock, and sleeps. It
//! returns when `all` has changed since; when it was woken and `some` has changed since; and when
//! it finds `some` changed while it was not asleep yet. The end of a slice is none of these, so it
//! does not show.
//!
//! `notify_all` adds one to `all` and wakes everybody, as [`Broadcast`] does it. `notify(n)` adds
//! one to `some`, and lets the kernel wake `n`. If these were fewer than `n`, then all who slept
//! are awake; those that are between two slices at that moment are told by adding one to `all`,
//! which also takes the marks out. If the kernel wakes one that has begun *after* the notification,
//! and so finds nothing changed, the one that it was meant for may have queued behind it since: it
//! notifies one more, and goes on waiting. (It may also have been woken for a waiter that died;
//! then one returns for nothing.) Without marks there is nobody to notify, and nothing to do.
//!
//! # Those that die
//! Waiters and notifiers have the word pending while they sleep and wake, so the kernel wakes
//! another one for one who was woken and dies, and one for a notifier that dies before it wakes. A
//! waiter that was woken and dies *while it waits for the lock* has the lock pending instead.
//! Therefore it adds one to `owed` before, and takes it away when it has the lock. A sleeper for
//! whom `some` has changed since it began looks at the end of each slice. If it finds the lock free
//! at two of them, and the same owed at both, it takes what is owed, and returns.
//!
//! It needs both looks. A lock that is free at one may have been freed a moment ago, after a long
//! time in which nobody could come for it: the waiter that is owed the notification is being woken.
//! The slice between the two looks is the time that this waiter has, counted from the first of them
//! and not from the notification. Looks that find the lock held in between are passed over; they
//! neither count nor start the time anew, so what a dead waiter left is found at a busy lock, too.
//! What is taken is what was compared: one that is owed since the look is not taken for the old
//! one.
//!
//! A waiter that is alive and does not run for a slice, though the lock is free, cannot be told
//! from a dead one. It is passed over: another returns beside it, for one notification.
//!
//! | bits of `owed` | meaning |
//! |---|---|
//! | 0-15 | how many were woken and do not have the lock yet, or died before they had it |
//! | 16-31 | how often that has changed, modulo 2^16 |
//!
//! What is left to slices is this alone, and those that are stopped when they were woken, or are
//! about to wake others. A waiter that dies after that has died with the lock: the next owner is
//! told.
//!
//! # Overflow
//! A waiter that is stopped between its look and its sleep while exactly 2^14 or 2^16 notifications
//! take place may miss them.
//!
//! # Memory ordering
//! None: the lock that is held around what is waited for orders it, and also `WAITERS`: a notifier
//! that has had the lock after a waiter sees its flag.

use core::cell::Cell;
use core::convert::Infallible;

use crossproc_sys::atomic::AtomicU32;
use crossproc_sys::atomic::Ordering::Relaxed;
use crossproc_sys::futex::{self, Awake};

use crate::wait::broadcast::{Broadcast, WAITERS, WAKING};
use crate::wait::wake_on_death::with_wake_on_death;
use crate::wait::{Ended, Wait, Waiter};

const TURN: u64 = 1 << 30;
const ONE_SOME: u64 = 1 << 34;
const ONE_ALL: u64 = 1 << 48;
const ALL: u64 = !(ONE_ALL - 1);
const SOME: u64 = (ONE_ALL - 1) & !(ONE_SOME - 1);

const OWED: u32 = 0xffff;
const ONE_CHANGE: u32 = 1 << 16;

/// The condition without its methods for the public.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct RawCondition {
    state: Broadcast<ALL>,
    /// Relaxed everywhere: it is looked at long after.
    owed: AtomicU32,
    _padding: u32,
}

/// The word as a waiter saw it when it began.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Begun(u64);

/// Whether a wait ended by a notification, which [`RawCondition::has_lock`] is to be told.
#[derive(Debug, Clone, Copy)]
#[must_use]
pub(crate) struct Notified;

impl RawCondition {
    pub(crate) const fn new() -> Self {
        RawCondition { state: Broadcast::new(), owed: AtomicU32::new(0), _padding: 0 }
    }

    /// Begins to wait, with the lock.
    pub(crate) fn begin(&self) -> Begun {
        loop {
            if let Ok(marked) = self.state.mark(self.state.word().load(Relaxed)) {
                return Begun(marked);
            }
        }
    }

    /// Waits, without the lock, of which the third says whether it is free.
    pub(crate) fn sleep(
        &self,
        begun: Begun,
        wait: Wait,
        is_free: impl Fn() -> bool,
    ) -> Result<Notified, Ended> {
        let begun_in = Cell::new(begun.0);
        let was_owed = Cell::new(0);
        let is_notified = |seen: u64, awake| match (seen ^ begun_in.get()) & (SOME | ALL) {
            0 => {
                if matches!(awake, Some((Awake::Woken, _))) {
                    let before = self.notify_pending(1);
                    // This one's own does not count; one that came in between does.
                    if (before ^ begun_in.get()) & (SOME | ALL) == 0 {
                        begun_in.set(after_some(before));
                    }
                }
                false
            }
            changed if changed & ALL != 0 => true,
            _ => match awake {
                None | Some((Awake::Woken, _)) => true,
                Some((Awake::Changed, since)) => (seen ^ since) & SOME != 0,
                // The same where the kernel lets nobody sleep on the word: no wake was for this
                // one.
                Some((Awake::TimedOut | Awake::Refused, _)) => {
                    is_free() && self.take_left(&was_owed)
                }
                Some((Awake::Interrupted, _)) => false,
            },
        };
        with_wake_on_death(self.state.word(), || {
            self.state.wait_pending(&mut Waiter::new(wait), Some(begun.0), |seen, awake| {
                is_notified(seen, awake).then_some(())
            })?;
            self.owed.fetch_add(ONE_CHANGE + 1, Relaxed);
            Ok(Notified)
        })
    }

    /// Whoever was notified has the lock again.
    pub(crate) fn has_lock(&self, _: Notified) {
        self.take_owed();
    }

    /// Takes one from what is owed, if there is anything.
    fn take_owed(&self) {
        let mut seen = self.owed.load(Relaxed);
        while seen & OWED != 0 {
            match self.owed.compare_exchange_weak(seen, one_less(seen), Relaxed, Relaxed) {
                Ok(_) => return,
                Err(now) => seen = now,
            }
        }
    }

    /// Takes one from what is owed, if that is the same as at the last look, `before`. For a
    /// sleeper that finds the lock free.
    fn take_left(&self, before: &Cell<u32>) -> bool {
        let owed = self.owed.load(Relaxed);
        owed == before.replace(owed)
            && owed & OWED != 0
            && self.owed.compare_exchange(owed, one_less(owed), Relaxed, Relaxed).is_ok()
    }

    #[inline]
    pub(crate) fn notify(&self, count: u32) {
        if count != 0 && self.state.word().load(Relaxed) & (WAITERS | WAKING) != 0 {
            self.notify_contended(count);
        }
    }

    #[inline]
    pub(crate) fn notify_all(&self) {
        if self.state.word().load(Relaxed) & (WAITERS | WAKING) != 0 {
            with_wake_on_death(self.state.word(), || self.wake_all(TURN));
        }
    }

    #[cold]
    fn notify_contended(&self, count: u32) {
        with_wake_on_death(self.state.word(), || self.notify_pending(count));
    }

    /// Notifies, with the word pending already: what the word was before.
    fn notify_pending(&self, count: u32) -> u64 {
        let mut seen = self.state.word().load(Relaxed);
        while let Err(now) =
            self.state.word().compare_exchange_weak(seen, after_some(seen), Relaxed, Relaxed)
        {
            seen = now;
        }
        // If the kernel refuses, nobody says whether `count` have been woken, and those who were
        // not are to find out by themselves.
        if futex::try_wake(self.state.word(), count).is_none_or(|woken| woken < count) {
            // `TURN` has changed already.
            self.wake_all(0);
        }
        seen
    }

    /// Has everybody return who has begun before.
    fn wake_all(&self, turn: u64) {
        let Ok(_) = self.state.change(Relaxed, |seen| Ok::<_, Infallible>(after_all(seen, turn)));
    }
}

fn after_some(seen: u64) -> u64 {
    (seen & !SOME | seen.wrapping_add(ONE_SOME) & SOME) ^ TURN
}

fn one_less(owed: u32) -> u32 {
    owed.wrapping_add(ONE_CHANGE) - 1
}

fn after_all(seen: u64, turn: u64) -> u64 {
    seen.wrapping_add(ONE_ALL) ^ turn
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A condition with one that was notified and waits for the lock.
    fn owing() -> RawCondition {
        let condition = RawCondition::new();
        condition.owed.fetch_add(ONE_CHANGE + 1, Relaxed);
        condition
    }

    #[test]
    fn what_is_owed_is_left_at_the_second_look_at_a_free_lock() {
        let condition = owing();
        let look = Cell::new(0);
        assert!(!condition.take_left(&look));
        assert!(condition.take_left(&look));
        // Once.
        assert!(!condition.take_left(&look));
        assert!(!condition.take_left(&look));
    }

    #[test]
    fn another_that_is_owed_it_has_its_time_too() {
        let condition = owing();
        let look = Cell::new(0);
        assert!(!condition.take_left(&look));
        condition.has_lock(Notified);
        condition.owed.fetch_add(ONE_CHANGE + 1, Relaxed);
        assert!(!condition.take_left(&look));
        condition.has_lock(Notified);
        assert!(!condition.take_left(&look));
    }
}
