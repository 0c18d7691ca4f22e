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
//! `notify_all` adds one to `all` and wakes all waiters, as [`Broadcast`] does it. So does `notify`
//! where `SEVERAL` is not set: it is the same for one sleeper, and takes the mark out, so that the
//! next wait begins with looks again. Beside several sleepers `notify` adds one to `some`, and lets
//! the kernel wake one. If the kernel woke none, all sleepers are awake. Waiters that are between
//! two slices at that moment are told by adding one to `all`, which also takes the marks out.
//! `notify(n)` does so up to `n` times, until all were told.
//!
//! The kernel may wake a waiter that has begun *after* the notification, and so finds nothing
//! changed. The waiter for which the wake-up was meant may have queued behind it since. So the
//! woken waiter tells all, if anything is owed (see below), and goes on waiting. If it notified one
//! more, that could be one that has begun after that again, and so on without end.
//!
//! # Process death
//! Waiters and notifiers keep the word pending while they sleep and wake. So the kernel wakes
//! another waiter for one that was woken and dies, and a waiter for a notifier that dies before it
//! wakes.
//!
//! The kernel tells nobody if a waiter that was woken dies *while it waits for the lock*, which is
//! what it has pending then. Nor does it if it wakes for the dead while the others are between two
//! sleeps, nor if a thread is only stopped. Therefore a notifier counts in `owed` before it adds to
//! `some`. A waiter that was woken settles one when it has the lock. A sleeper looks at the end of
//! each slice, if `some` has changed since it began. If it finds the lock free at two of these
//! looks, something owed, and no change of `owed` between them, it returns. It is then as if it had
//! been woken: it settles one when it has the lock, and if it dies before that, the next one finds
//! it. Where others are notified more often than twice a slice, it is found when they pause.
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
//! Who tells all settles what was counted before, since all who could have it are told.
//!
//! `owed` does not know whose it is. A waiter may settle another's: one that was woken and told as
//! well, or that was passed over and goes on. It has the lock then, and sees what the other's
//! notifier changed before. So nothing is lost, if all that wait at the same time wait for the same
//! lock and the same change. A waiter that was told, and not woken, settles nothing. If the wake-up
//! was for it, and found nobody, one is owed to nobody, and a sleeper returns for nothing.
//!
//! | bits of `owed` | name | meaning |
//! |---|---|---|
//! | 0-15 | settled | how many of those counted have the lock, or are not owed any more, modulo 2^16 |
//! | 16-31 | counted | how many notifications of `some` there were, modulo 2^16 |
//!
//! The difference is what is owed: notifications whose waiters do not have the lock yet, or died
//! before they had it. Who finds one that was left adds one to both, so that no other finds it.
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

use crossproc_sys::atomic::Ordering::{Acquire, Relaxed, Release};
use crossproc_sys::atomic::{AtomicU32, Ordering};
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

/// The condition's shared state, without the public methods.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct RawCondition {
    state: Broadcast<ALL>,
    /// An [`Owed`]. Relaxed where nothing else is said: it is looked at long after.
    owed: AtomicU32,
    _padding: u32,
}

// The layout is a part of the ABI: see `docs/layout.md`.
const _: () = assert!(offset_of!(RawCondition, owed) == 8 && size_of::<RawCondition>() == 16);

/// The notifications that are owed: see the top.
#[derive(Debug, Clone, Copy)]
struct Owed {
    counted: u16,
    settled: u16,
}

impl Owed {
    fn of(word: u32) -> Self {
        Owed { counted: (word >> 16) as u16, settled: word as u16 }
    }

    fn word(self) -> u32 {
        u32::from(self.counted) << 16 | u32::from(self.settled)
    }

    fn number(self) -> u16 {
        self.counted.wrapping_sub(self.settled)
    }

    /// `None`: there is no room. What exceeds that is not found if it is left.
    fn count(self) -> Option<Self> {
        let counted = self.counted.wrapping_add(1);
        (self.number() != u16::MAX).then_some(Owed { counted, ..self })
    }

    /// `None`: nothing is owed.
    fn settle(self) -> Option<Self> {
        let settled = self.settled.wrapping_add(1);
        (self.number() != 0).then_some(Owed { settled, ..self })
    }

    /// Settles all of the first `counted`. `None`: they are.
    fn settle_up_to(self, counted: u16) -> Option<Self> {
        let left = counted.wrapping_sub(self.settled);
        (left != 0 && left <= self.number()).then_some(Owed { settled: counted, ..self })
    }
}

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
                if matches!(awake, Some((Awake::Woken, _))) && self.owed().number() != 0 {
                    let told = |seen| after_all(seen, TURN) | LOOKING;
                    let before = self.tell_all(told);
                    // This thread's own telling does not count; what came in between does.
                    if (before ^ begun_in.get()) & (SOME | ALL) == 0 {
                        begun_in.set(told(before));
                    }
                }
                None
            }
            changed if changed & ALL != 0 => {
                notified(changed & SOME != 0 && matches!(awake, Some((Awake::Woken, _))))
            }
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
            self.change_owed(Relaxed, Owed::settle);
        }
    }

    fn owed(&self) -> Owed {
        // Acquire: what tells all comes after it.
        Owed::of(self.owed.load(Acquire))
    }

    /// Changes what is owed, unless `next` returns `None`.
    fn change_owed(&self, order: Ordering, next: impl Fn(Owed) -> Option<Owed>) {
        let mut seen = self.owed.load(Relaxed);
        while let Some(next) = next(Owed::of(seen)) {
            match self.owed.compare_exchange_weak(seen, next.word(), order, Relaxed) {
                Ok(_) => return,
                Err(now) => seen = now,
            }
        }
    }

    /// Returns whether anything is owed, and was at the last look, `before`, with no change since.
    /// Notes that it was found. For a sleeper that finds the lock free.
    fn find_left(&self, before: &Cell<u32>) -> bool {
        let seen = self.owed.load(Relaxed);
        let Owed { counted, settled } = Owed::of(seen);
        let found = Owed { counted: counted.wrapping_add(1), settled: settled.wrapping_add(1) };
        seen == before.replace(seen)
            && counted != settled
            && self.owed.compare_exchange(seen, found.word(), Relaxed, Relaxed).is_ok()
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
            with_wake_on_death(self.state.word(), || self.tell_all(|seen| after_all(seen, TURN)));
        }
    }

    #[cold]
    fn notify_contended(&self, count: u32) {
        // One by one. So each is counted before its waiter can settle it, and none is counted that
        // nobody has.
        with_wake_on_death(self.state.word(), || (0..count).all(|_| self.notify_pending()));
    }

    /// Notifies one, with the word pending already. Returns whether one was asleep; otherwise all
    /// were told.
    fn notify_pending(&self) -> bool {
        let one_at_most =
            |seen| if seen & SEVERAL == 0 { Ok(after_all(seen, TURN)) } else { Err(()) };
        if self.try_tell_all(one_at_most).is_ok() {
            return false;
        }
        self.change_owed(Relaxed, Owed::count);
        let mut seen = self.state.word().load(Relaxed);
        // Release: pairs with the Acquire in `wait_pending`. A waiter that begins after this, and
        // is woken, sees that something is owed.
        while let Err(now) =
            self.state.word().compare_exchange_weak(seen, after_some(seen), Release, Relaxed)
        {
            seen = now;
        }
        // If the kernel refuses, nothing tells whether one was woken. Then all must find out by
        // themselves.
        let is_woken = futex::try_wake(self.state.word(), 1) == Some(1);
        if !is_woken {
            // `TURN` has changed already.
            self.tell_all(|seen| after_all(seen, 0));
        }
        is_woken
    }

    /// Makes all waiters return that have begun before. Returns what the word was.
    fn tell_all(&self, next: impl Fn(u64) -> u64) -> u64 {
        let Ok(before) = self.try_tell_all(|seen| Ok::<_, Infallible>(next(seen)));
        before
    }

    /// The same, unless `next` refuses.
    fn try_tell_all<E>(&self, next: impl Fn(u64) -> Result<u64, E>) -> Result<u64, E> {
        let Owed { counted, .. } = self.owed();
        let before = self.state.change(Relaxed, next)?;
        // Release: after the exchange that has told all.
        self.change_owed(Release, |owed| owed.settle_up_to(counted));
        Ok(before)
    }
}

fn after_some(seen: u64) -> u64 {
    (seen & !(SOME | LOOKING) | seen.wrapping_add(ONE_SOME) & SOME) ^ TURN
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
        condition.change_owed(Relaxed, Owed::count);
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
        condition.change_owed(Relaxed, Owed::count);
        assert!(!condition.find_left(&look));
        condition.has_lock(OWING);
        assert!(!condition.find_left(&look));
        condition.has_lock(OWING);
        condition.has_lock(Notified { is_owed: false });
        assert_eq!(condition.owed().number(), 0);
    }

    #[test]
    fn what_was_counted_is_settled_once_all_are_told() {
        let condition = owing();
        condition.tell_all(|seen| after_all(seen, TURN));
        assert_eq!(condition.owed().number(), 0);
        let five = Owed { counted: 2, settled: 2_u16.wrapping_sub(5) };
        assert_eq!(five.number(), 5);
        // Not what has come since.
        assert_eq!(five.settle_up_to(1).unwrap().number(), 1);
        assert_eq!(five.settle_up_to(2).unwrap().number(), 0);
        // Waiters may have settled some of it meanwhile, or all, and what came after it.
        assert_eq!(five.settle().unwrap().settle_up_to(1).unwrap().number(), 1);
        assert!(five.settle_up_to(five.settled).is_none());
        assert!(five.settle_up_to(five.settled.wrapping_sub(1)).is_none());
    }

    #[test]
    fn no_more_is_counted_than_there_is_room_for() {
        let full = Owed { counted: 9, settled: 10 };
        assert_eq!(full.number(), u16::MAX);
        assert!(full.count().is_none());
        assert_eq!(full.settle().unwrap().number(), u16::MAX - 1);
        let none = Owed { counted: 9, settled: 9 };
        assert!(none.settle().is_none());
        assert_eq!(none.count().unwrap().number(), 1);
    }
}
