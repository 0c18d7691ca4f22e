//! The state machine of the condition.
//!
//! # Goal
//! A notification wakes as many as it says of those that had begun to wait before it, and no more of those asleep. It does so though its notifier, or whoever was woken
//! by it, dies or is stopped at any instruction.
//!
//! # The word
//! | bits | name | meaning |
//! |---|---|---|
//! | 30 | `TURN` | changes with every notification |
//! | 31, 32 | `WAITERS`, `WAKING` | [`Broadcast`]'s |
//! | 33-47 | some | how often some were to be woken, modulo 2^15 |
//! | 48-63 | all | how often all were to be woken, modulo 2^16 |
//!
//! A waiter sets `WAITERS` and reads the word while it has the lock, frees the lock, and sleeps. It returns when `all` has changed since; or when it was woken and `some` has changed since. The end
//! of a slice is neither, so it does not show.
//!
//! `notify_all` adds one to `all` and wakes everybody, as [`Broadcast`] does it. `notify(n)` adds one to `some`, and lets the kernel wake `n`. If these were fewer than `n`, then all who slept are
//! awake; but some may not sleep *yet*, or not at this moment, between two slices. They are told by adding one to `all`, which also takes `WAITERS` out. So whoever does not sleep misses nothing, and whoever
//! sleeps is woken by its own notification alone. Without `WAITERS` there is nobody to notify, and nothing to do.
//!
//! # Those that die
//! Waiters and notifiers have the word pending while they sleep and wake, so the kernel wakes another one for one who was woken and dies, and one for a notifier that dies before it wakes.
//! A waiter that was woken and dies *while it waits for the lock* has the lock pending instead. Therefore it adds one to `owed` before, and takes it away when it has the lock; a sleeper that finds
//! something owed at the ends of two slices in a row, and that `some` has changed since it began, takes it and returns. If the other one was not dead but that slow, it is a wake-up too many.
//! What is left to slices is this alone. A waiter that dies after that has died with the lock: the next owner is told.
//!
//! # Overflow
//! A waiter that is stopped between its look and its sleep while exactly 2^15 or 2^16 notifications take place may miss them.
//!
//! # Memory ordering
//! None: the lock that is held around what is waited for orders it, and also `WAITERS`: a notifier that has had the lock after a waiter sees its flag.

use core::cell::Cell;
use core::convert::Infallible;

use crossproc_sys::atomic::AtomicU32;
use crossproc_sys::atomic::Ordering::Relaxed;
use crossproc_sys::futex::{self, Awake};

use crate::broadcast::{Broadcast, WAITERS, WAKING};
use crate::pending::while_pending;
use crate::wait::{Ended, Wait, Waiter};

const TURN: u64 = 1 << 30;
const ONE_SOME: u64 = 1 << 33;
const ONE_ALL: u64 = 1 << 48;
const ALL: u64 = !(ONE_ALL - 1);
const SOME: u64 = (ONE_ALL - 1) & !(ONE_SOME - 1);

/// The condition without its methods for the public.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct RawCondition {
    state: Broadcast<ALL>,
    /// How many were woken and do not have the lock yet, or died before they had it.
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
        let mut seen = self.state.word().load(Relaxed);
        while seen & WAITERS == 0 {
            match self.state.word().compare_exchange_weak(seen, seen | WAITERS, Relaxed, Relaxed) {
                Ok(_) => break,
                Err(now) => seen = now,
            }
        }
        Begun(seen)
    }

    /// Waits, without the lock.
    pub(crate) fn sleep(&self, begun: Begun, wait: Wait) -> Result<Notified, Ended> {
        let was_owed = Cell::new(false);
        let is_notified = |seen: u64, awake| match (seen ^ begun.0) & (SOME | ALL) {
            0 => false,
            changed if changed & ALL != 0 => true,
            _ => match awake {
                Some(Awake::Woken) => true,
                Some(Awake::TimedOut) => was_owed.replace(self.owed.load(Relaxed) != 0) && self.take_owed(),
                _ => false,
            },
        };
        while_pending(self.state.word(), || {
            self.state.wait_pending(&mut Waiter::new(wait), |seen, awake| is_notified(seen, awake).then_some(()))?;
            self.owed.fetch_add(1, Relaxed);
            Ok(Notified)
        })
    }

    /// Whoever was notified has the lock again.
    pub(crate) fn has_lock(&self, _: Notified) {
        self.take_owed();
    }

    /// Takes one from what is owed, if there is anything.
    fn take_owed(&self) -> bool {
        let mut seen = self.owed.load(Relaxed);
        while seen != 0 {
            match self.owed.compare_exchange_weak(seen, seen - 1, Relaxed, Relaxed) {
                Ok(_) => return true,
                Err(now) => seen = now,
            }
        }
        false
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
            while_pending(self.state.word(), || self.wake_all());
        }
    }

    #[cold]
    fn notify_contended(&self, count: u32) {
        while_pending(self.state.word(), || {
            let mut seen = self.state.word().load(Relaxed);
            while let Err(now) = self.state.word().compare_exchange_weak(seen, after_some(seen), Relaxed, Relaxed) {
                seen = now;
            }
            if futex::wake(self.state.word(), count) < count {
                self.wake_all();
            }
        });
    }

    fn wake_all(&self) {
        let Ok(_) = self.state.change(Relaxed, |seen| Ok::<_, Infallible>(after_all(seen)));
    }
}

fn after_some(seen: u64) -> u64 {
    (seen & !SOME | seen.wrapping_add(ONE_SOME) & SOME) ^ TURN
}

fn after_all(seen: u64) -> u64 {
    seen.wrapping_add(ONE_ALL) ^ TURN
}
