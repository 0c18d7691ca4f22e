//! The state machine of the condition.
//!
//! # Goal
//! A notification wakes as many as it says of the waiters that had begun to wait before it, and no
//! more of those asleep. It does so even if its notifier, or a waiter that it woke, dies or is
//! stopped at any instruction.
//!
//! # The word
//! | bits | name | meaning |
//! |---|---|---|
//! | 30 | `TURN` | changes with every notification |
//! | 31-33 | `WAITERS`, `WAKING`, `SEVERAL` | [`Broadcast`]'s |
//! | 34 | `LOOKING` | a thread began to wait since the last notification |
//! | 35-47 | some | how often some were to be woken, modulo 2^13 |
//! | 48-63 | all | how often all were to be woken, modulo 2^16 |
//!
//! A waiter sets `LOOKING`, unless there is a mark already, and remembers the word, while it holds
//! the lock. Then it frees the lock, looks for a while, and sleeps. A notifier that finds `LOOKING`
//! alone only changes the word: nobody sleeps. The waiter returns in three cases:
//! - `all` has changed since.
//! - The waiter was woken, and `some` has changed since.
//! - The waiter finds `some` changed while it was not asleep yet.
//!
//! The end of a slice is none of these, so the caller does not notice it.
//!
//! `notify_all` adds one to `all` and wakes all waiters, as [`Broadcast`] does it. So does
//! `notify(n)` where `SEVERAL` is not set: it is the same for one sleeper, and takes the mark out,
//! so that the next wait begins with looks again. Beside several sleepers `notify(n)` adds one to
//! `some`, and lets the kernel wake `n`. If the kernel woke fewer than `n`, all sleepers are
//! awake. Waiters that are between two slices at that moment are told by adding one to `all`, which
//! also takes the marks out.
//!
//! The kernel may wake a waiter that has begun *after* the notification, and so finds nothing
//! changed. The waiter for which the wake-up was meant may have queued behind it since. So the
//! woken waiter notifies one more, and goes on waiting. (It may also have been woken for a waiter
//! that died; then one returns for nothing.) Without marks there is no waiter to notify, and
//! nothing to do.
//!
//! # Process death
//! Waiters and notifiers keep the word pending while they sleep and wake. So the kernel wakes
//! another waiter for one that was woken and dies, and a waiter for a notifier that dies before it
//! wakes.
//!
//! The kernel tells nobody if a waiter that was woken dies *while it waits for the lock*, which is
//! what it has pending then. Nor does it if it wakes for the dead while the others are between two
//! sleeps, nor if a thread is only stopped. Therefore a notifier adds one to `owed` before it adds
//! to `some`, and, for a notification of more, the rest of those that the kernel woke after that.
//! A waiter that was woken takes one away when it has the lock. A sleeper looks at the end of each
//! slice, if `some` has changed since it began. If it finds the lock free at two of these looks,
//! and the same `owed` at both, it returns. It is then as if it had been woken: it takes one away
//! when it has the lock, and if it dies before that, the next one finds it.
//!
//! Both looks are needed. A lock that is free at one look may have been freed a moment ago, after a
//! long time in which no waiter could come for it. The waiter that is owed the notification is just
//! being woken. The slice between the two looks is the time that this waiter has. It counts from
//! the first look, and not from the notification.
//!
//! Looks that find the lock held in between are passed over; they neither count nor restart the
//! time. So what a dead waiter left is found at a busy lock, too. Whoever finds it changes `owed`,
//! so that only one does.
//!
//! A waiter that is alive and does not run for a slice, though the lock is free, cannot be told
//! from a dead one. It is passed over: another waiter returns as well, for the one notification.
//!
//! Who tells all forgives what was owed before, since all who could have it are told; unless `owed`
//! has changed meanwhile.
//!
//! `owed` does not know whose it is. So it may be more than what is owed: a wake-up that found a
//! waiter which `all` had told, or which had not begun, is nobody's. A sleeper returns for nothing
//! then. It may be less, too, and then a notification is lost with a waiter that dies: a stopped
//! waiter that was passed over goes on and takes what is another's, or waiters with several locks
//! use one condition at the same time. For both a waiter has to die between its wake-up and the
//! lock, besides.
//!
//! | bits of `owed` | meaning |
//! |---|---|
//! | 0-15 | the number of notifications of `some` whose waiters do not have the lock yet, or died before they had it |
//! | 16-31 | how often that has changed, or was found, modulo 2^16 |
//!
//! Only this is left to slices: such deaths, and threads that are stopped after they were woken, or
//! before they wake others. A waiter that dies later has died with the lock: the next owner is
//! told.
//!
//! # Overflow
//! A waiter that is stopped between its look and its sleep while exactly 2^13 or 2^16 notifications
//! take place may miss them.
//!
//! # Memory ordering
//! The condition provides none. The lock that is held around what is waited for orders that. It
//! also orders `LOOKING`: a notifier that has held the lock after a waiter sees the waiter's flag.

use core::cell::Cell;
use core::convert::Infallible;
use core::mem::offset_of;

use crossproc_sys::atomic::AtomicU32;
use crossproc_sys::atomic::Ordering::{Acquire, Relaxed, Release};
use crossproc_sys::futex::{self, Awake};

use crate::wait::broadcast::{Broadcast, SEVERAL, WAITERS, WAKING};
use crate::wait::wake_on_death::with_wake_on_death;
use crate::wait::{Ended, Wait, Waiter};

const TURN: u64 = 1 << 30;
const LOOKING: u64 = 1 << 34;
const ONE_SOME: u64 = 1 << 35;
const ONE_ALL: u64 = 1 << 48;
const ALL: u64 = !(ONE_ALL - 1);
const SOME: u64 = (ONE_ALL - 1) & !(ONE_SOME - 1);
/// A thread waits, or is to be woken.
const ANYBODY: u64 = WAITERS | WAKING | LOOKING;

const OWED: u32 = 0xffff;
const ONE_CHANGE: u32 = 1 << 16;

/// The condition's shared state, without the public methods.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct RawCondition {
    state: Broadcast<ALL>,
    /// The notifications that are owed: see the top. Relaxed where nothing else is said: it is
    /// looked at long after.
    owed: AtomicU32,
    _padding: u32,
}

// The layout is a part of the ABI: see `docs/layout.md`.
const _: () = assert!(offset_of!(RawCondition, owed) == 8 && size_of::<RawCondition>() == 16);

/// The word as a waiter saw it when its wait began.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Begun(u64);

/// Says that a wait ended by a notification. To be handed to [`RawCondition::has_lock`].
#[derive(Debug, Clone, Copy)]
#[must_use]
pub(crate) struct Notified {
    /// Whether it is one of those that are owed.
    is_owed: bool,
}

impl RawCondition {
    pub(crate) const fn new() -> Self {
        RawCondition { state: Broadcast::new(), owed: AtomicU32::new(0), _padding: 0 }
    }

    /// Begins a wait, with the lock held.
    pub(crate) fn begin(&self) -> Begun {
        let mut seen = self.state.word().load(Relaxed);
        while seen & (WAITERS | LOOKING) == 0 {
            let looking = seen | LOOKING;
            match self.state.word().compare_exchange_weak(seen, looking, Relaxed, Relaxed) {
                Ok(_) => return Begun(looking),
                Err(now) => seen = now,
            }
        }
        Begun(seen)
    }

    /// Waits, without the lock. `is_free` returns whether the lock is free.
    pub(crate) fn sleep(
        &self,
        begun: Begun,
        wait: Wait,
        is_free: impl Fn() -> bool,
    ) -> Result<Notified, Ended> {
        let begun_in = Cell::new(begun.0);
        let was_owed = Cell::new(0);
        let notified = |is_owed| Some(Notified { is_owed });
        let look = |seen: u64, awake| match (seen ^ begun_in.get()) & (SOME | ALL) {
            0 => {
                if matches!(awake, Some((Awake::Woken, _))) {
                    let (before, after) = self.notify_pending(1, LOOKING);
                    // This thread's own notification does not count; one that came in between does.
                    if (before ^ begun_in.get()) & (SOME | ALL) == 0 {
                        begun_in.set(after);
                    }
                }
                None
            }
            changed if changed & ALL != 0 => notified(false),
            _ => match awake {
                Some((Awake::Woken, _)) => notified(true),
                // It did not sleep, so no wake was for it.
                None => notified(false),
                Some((Awake::Changed, since)) if (seen ^ since) & SOME != 0 => notified(false),
                Some((Awake::Changed | Awake::Interrupted, _)) => None,
                // The same where the kernel lets no thread sleep on the word.
                Some((Awake::TimedOut | Awake::Refused, _)) => {
                    if is_free() && self.find_left(&was_owed) { notified(true) } else { None }
                }
            },
        };
        with_wake_on_death(self.state.word(), || {
            self.state.wait_pending(&mut Waiter::new(wait), look)
        })
    }

    /// Notes that a notified waiter has the lock again.
    pub(crate) fn has_lock(&self, notified: Notified) {
        if notified.is_owed {
            self.change_owed(|owed| owed.checked_sub(1));
        }
    }

    /// Changes the number that are owed, unless `next` returns `None`.
    fn change_owed(&self, next: impl Fn(u32) -> Option<u32>) {
        let mut seen = self.owed.load(Relaxed);
        while let Some(next) = next(seen & OWED) {
            match self.owed.compare_exchange_weak(seen, with_owed(seen, next), Relaxed, Relaxed) {
                Ok(_) => return,
                Err(now) => seen = now,
            }
        }
    }

    /// Returns whether anything is owed, and was at the last look, `before`, with no change since.
    /// Notes that it was found. For a sleeper that finds the lock free.
    fn find_left(&self, before: &Cell<u32>) -> bool {
        let seen = self.owed.load(Relaxed);
        let found = with_owed(seen, seen & OWED);
        seen == before.replace(seen)
            && seen & OWED != 0
            && self.owed.compare_exchange(seen, found, Relaxed, Relaxed).is_ok()
    }

    #[inline]
    pub(crate) fn notify(&self, count: u32) {
        if count != 0 && self.state.word().load(Relaxed) & ANYBODY != 0 {
            self.notify_contended(count);
        }
    }

    #[inline]
    pub(crate) fn notify_all(&self) {
        if self.state.word().load(Relaxed) & ANYBODY != 0 {
            with_wake_on_death(self.state.word(), || self.wake_all(TURN));
        }
    }

    #[cold]
    fn notify_contended(&self, count: u32) {
        with_wake_on_death(self.state.word(), || self.notify_pending(count, 0));
    }

    /// Notifies, with the word pending already. `still` is `LOOKING` if this thread goes on
    /// waiting, so that it can be notified before it marks the word again. Returns the word before,
    /// and what it was made.
    fn notify_pending(&self, count: u32, still: u64) -> (u64, u64) {
        let told = |seen| after_all(seen, TURN) | still;
        let one_at_most = |seen| if seen & SEVERAL == 0 { Ok(told(seen)) } else { Err(()) };
        let owed = self.owed_so_far();
        if let Ok(before) = self.state.change(Relaxed, one_at_most) {
            self.forgive(owed);
            return (before, told(before));
        }
        // As many at most as there is room for: what exceeds that is not found if it is left.
        self.change_owed(|owed| Some((owed + 1).min(OWED)));
        let mut seen = self.state.word().load(Relaxed);
        while let Err(now) =
            self.state.word().compare_exchange_weak(seen, after_some(seen), Relaxed, Relaxed)
        {
            seen = now;
        }
        let woken = futex::try_wake(self.state.word(), count);
        // If the kernel refuses, nothing tells whether `count` were woken. The waiters that were
        // not woken must find out by themselves.
        // `TURN` has changed already.
        let are_all_told = woken.is_none_or(|woken| woken < count) && self.wake_all(0);
        match woken.unwrap_or(0) {
            _ if are_all_told => {}
            0 => self.change_owed(|owed| owed.checked_sub(1)),
            1 => {}
            more => self.change_owed(|owed| Some(owed.saturating_add(more - 1).min(OWED))),
        }
        (seen, after_some(seen))
    }

    /// Makes all waiters return that have begun before. Returns whether nothing is owed any more.
    fn wake_all(&self, turn: u64) -> bool {
        let owed = self.owed_so_far();
        let Ok(_) = self.state.change(Relaxed, |seen| Ok::<_, Infallible>(after_all(seen, turn)));
        self.forgive(owed)
    }

    /// Returns what is owed before all are told.
    fn owed_so_far(&self) -> u32 {
        // Acquire: the exchange that tells all comes after it.
        self.owed.load(Acquire)
    }

    /// After all were told: nobody else is to have what was owed before that. Returns whether
    /// nothing is owed any more; if `owed` has changed meanwhile, it stays as it is, and may be too
    /// much.
    fn forgive(&self, owed: u32) -> bool {
        // Release: after the exchange that has told all.
        owed & OWED == 0
            || self.owed.compare_exchange(owed, with_owed(owed, 0), Release, Relaxed).is_ok()
    }
}

fn after_some(seen: u64) -> u64 {
    (seen & !(SOME | LOOKING) | seen.wrapping_add(ONE_SOME) & SOME) ^ TURN
}

/// Returns `owed` after one more change, by which so many are owed.
fn with_owed(owed: u32, count: u32) -> u32 {
    (owed & !OWED).wrapping_add(ONE_CHANGE) | count
}

fn after_all(seen: u64, turn: u64) -> u64 {
    (seen & !LOOKING).wrapping_add(ONE_ALL) ^ turn
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWING: Notified = Notified { is_owed: true };

    /// Returns a condition with one waiter that was notified and waits for the lock.
    fn owing() -> RawCondition {
        let condition = RawCondition::new();
        condition.change_owed(|owed| Some(owed + 1));
        condition
    }

    #[test]
    fn what_is_owed_is_found_at_the_second_look_at_a_free_lock() {
        let condition = owing();
        let look = Cell::new(0);
        assert!(!condition.find_left(&look));
        assert!(condition.find_left(&look));
        // Who has found it may die in turn, and has its time for the lock.
        assert!(!condition.find_left(&look));
        assert!(condition.find_left(&look));
        condition.has_lock(OWING);
        assert!(!condition.find_left(&look));
        assert!(!condition.find_left(&look));
    }

    #[test]
    fn one_of_several_sleepers_finds_it() {
        let condition = owing();
        let looks = [Cell::new(0), Cell::new(0)];
        assert!(looks.iter().all(|look| !condition.find_left(look)));
        assert!(condition.find_left(&looks[0]));
        assert!(!condition.find_left(&looks[1]));
    }

    #[test]
    fn another_that_is_owed_it_has_its_time_too() {
        let condition = owing();
        let look = Cell::new(0);
        assert!(!condition.find_left(&look));
        condition.has_lock(OWING);
        condition.change_owed(|owed| Some(owed + 1));
        assert!(!condition.find_left(&look));
        condition.has_lock(OWING);
        assert!(!condition.find_left(&look));
        condition.has_lock(OWING);
        condition.has_lock(Notified { is_owed: false });
        assert_eq!(condition.owed.load(Relaxed) & OWED, 0);
    }

    #[test]
    fn what_was_owed_is_forgiven_once_all_are_told() {
        let condition = owing();
        let before = condition.owed_so_far();
        assert!(condition.forgive(before));
        assert_eq!(condition.owed.load(Relaxed) & OWED, 0);
        // Not what has come since.
        let condition = owing();
        let before = condition.owed_so_far();
        condition.change_owed(|owed| Some(owed + 1));
        assert!(!condition.forgive(before));
        assert_eq!(condition.owed.load(Relaxed) & OWED, 2);
    }
}
