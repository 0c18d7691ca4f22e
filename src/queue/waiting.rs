//! How participants wait for each other: getters for items, putters for room.
//!
//! # Goal
//! Nobody sleeps while there is something for it, though any participant may die or be stopped at any instruction; without sleepers there is no system call.
//!
//! # How
//! Getters sleep on `tail`, which a put advances, putters on `head`. A sleeper marks that word with `WAITERS` first; whoever then advances it sees the mark in the same exchange. The mark stays until a wake has found fewer sleepers
//! than it would have woken; after it was taken out, all are woken who came since (as for the lock, see `lock::state`).
//!
//! The exchange on the entry comes before the counter is advanced, and a participant may die in between. So a sleeper also watches the *entry*: the one at `head`, which is empty while there is
//! nothing to get, and full while there is no room. And all watch the `roster`, the low bits of which are 0: everybody has it pending in every operation, so that the kernel wakes one sleeper when anybody dies in one
//! (`crossproc_sys::robust`). Who is woken through it does what the dead one may have left undone: it wakes one of either side, and then looks for itself.
//! Whoever has slept and leaves items, or room, behind wakes the next, because a wake may have been meant for several.
//!
//! # Why no wake-up is lost
//! *Invariant: while someone sleeps who need not, a thread is awake that will wake it, or dies trying, which wakes another one to do it.* The kernel takes a sleeper's words one after the other: it queues the sleeper on it and
//! compares it. The entry comes after the counter and the roster. An exchange before it is compared is seen in
//! it. After that, the exchange is by one who advances the counter next, and sees the mark, or who dies, and then the kernel wakes one through the roster; that one is a participant, too.
//!
//! # What is left to slices
//! Kernels before 5.16, which have no `futex_waitv`: there the counter alone is watched. Before 6.2 the kernel wakes nobody through the roster. A thread that is *stopped* between its exchange and its wake keeps a
//! sleeper waiting for as long, unless others operate.

use crossproc_sys::atomic::AtomicU64;
use crossproc_sys::atomic::Ordering::{Acquire, Relaxed};
use crossproc_sys::futex::{self, Awake, Watch};
use crossproc_sys::robust::Thread;

use super::exchange::{Refused, Ring, Which};
use super::ground::Ground;
use super::words::{CLOSED, CLOSING, FULL, INDEX, WAITERS, cycle, distance, position};
use crate::wait::{Ended, Waiter};

/// Who waits, or is woken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Getters,
    Putters,
}

/// Why a waiting operation came to nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failure {
    Refused(Refused),
    TimedOut,
    Interrupted,
}

impl From<Refused> for Failure {
    fn from(refused: Refused) -> Self {
        Failure::Refused(refused)
    }
}

impl From<Ended> for Failure {
    fn from(ended: Ended) -> Self {
        match ended {
            Ended::TimedOut => Failure::TimedOut,
            Ended::Interrupted => Failure::Interrupted,
        }
    }
}

impl Side {
    /// What they sleep on.
    fn word<'a>(self, ring: &'a Ring<'_>) -> &'a AtomicU64 {
        match self {
            Side::Getters => ring.tail(),
            Side::Putters => ring.head(),
        }
    }

    fn refusal(self) -> Refused {
        match self {
            Side::Getters => Refused::Empty,
            Side::Putters => Refused::Full,
        }
    }
}

/// The words that a sleeper watches.
pub(crate) struct Watches<'a, const N: usize> {
    words: [Option<Watch<'a>>; N],
    len: usize,
}

impl<'a, const N: usize> Watches<'a, N> {
    pub(crate) fn new() -> Self {
        Watches { words: [None; N], len: 0 }
    }

    /// Watches some more, if there is room for all of them.
    pub(crate) fn add<const M: usize>(&mut self, words: [Watch<'a>; M]) {
        if let Some(free) = self.words.get_mut(self.len..self.len + M) {
            free.iter_mut().zip(words).for_each(|(free, word)| *free = Some(word));
            self.len += M;
        }
    }
}

impl Ground {
    /// One operation on the items, whose wakes outlive the thread. `operate` gives the flags of the counter that it has advanced, and how many it put or got.
    #[inline]
    pub(crate) fn at_once(
        &self,
        thread: &Thread,
        side: Side,
        operate: impl FnOnce(&Ring<'_>) -> Result<(u64, usize), Refused>,
    ) -> Result<(), Refused> {
        thread.begin(&self.control().roster.0);
        let ring = self.ring(Which::Items);
        let result = operate(&ring);
        if let Ok((flags, count)) = result {
            if flags & WAITERS != 0 {
                self.wake_other_side(&ring, side, count);
            }
        }
        thread.end();
        result.map(|_| ())
    }

    /// The same, waiting as long as the waiter lets it.
    #[cold]
    pub(crate) fn waiting(
        &self,
        thread: &Thread,
        side: Side,
        waiter: &mut Waiter,
        mut operate: impl FnMut(&Ring<'_>) -> Result<(u64, usize), Refused>,
        mut sleep: impl FnMut(&Ring<'_>, &mut Waiter) -> bool,
    ) -> Result<(), Failure> {
        thread.begin(&self.control().roster.0);
        let ring = self.ring(Which::Items);
        let mut has_slept = false;
        let result = loop {
            match operate(&ring) {
                Ok((flags, count)) => {
                    if flags & WAITERS != 0 {
                        self.wake_other_side(&ring, side, count);
                    }
                    break Ok(());
                }
                Err(refused) if refused == side.refusal() => {}
                Err(refused) => break Err(refused.into()),
            }
            if let Err(ended) = waiter.check() {
                break Err(ended.into());
            }
            if !waiter.spin(|| self.obstacle(&ring, side, side.word(&ring).load(Relaxed)).is_none()) {
                has_slept |= sleep(&ring, waiter);
            }
        };
        if has_slept {
            self.pass_on(&ring, side, result.as_ref().err());
        }
        thread.end();
        result
    }

    #[cold]
    fn wake_other_side(&self, ring: &Ring<'_>, side: Side, count: usize) {
        let word = match side {
            Side::Getters => ring.head(),
            Side::Putters => ring.tail(),
        };
        wake(word, count as u32);
    }

    /// What whoever has slept does for the others: there may have been one wake for several of them.
    fn pass_on(&self, ring: &Ring<'_>, side: Side, failure: Option<&Failure>) {
        let word = side.word(ring);
        let seen = word.load(Acquire);
        match failure {
            Some(Failure::Refused(_)) => self.wake_all(ring),
            None if seen & WAITERS != 0 && self.obstacle(ring, side, seen).is_none() => wake(word, 1),
            _ => {}
        }
    }

    pub(crate) fn wake_all(&self, ring: &Ring<'_>) {
        wake(ring.tail(), u32::MAX);
        wake(ring.head(), u32::MAX);
    }

    /// Sleeps for a slice at most while there is nothing to do for this side. Whether it did sleep.
    pub(crate) fn sleep(&self, ring: &Ring<'_>, side: Side, waiter: &mut Waiter) -> bool {
        let roster = &self.control().roster.0;
        // Acquire: pairs with the Releases in `close` and `announce_member`.
        let in_roster = roster.load(Acquire);
        if in_roster & CLOSING != 0 {
            // Who closes it may have died, or stopped.
            self.close(ring);
            return false;
        }
        let word = side.word(ring);
        let Some(marked) = mark(word) else { return false };
        let Some((cell, entry)) = self.obstacle(ring, side, marked) else { return false };
        let mut watches = Watches::<6>::new();
        watches.add(Watch::whole(word, marked));
        let others = watches.len;
        watches.add(Watch::whole(roster, in_roster));
        // Behind the roster: see the top. Nobody is woken through it.
        watches.add([Watch::new(cell, entry as u32)]);
        if watches.sleep(waiter, word, marked) >= others {
            self.do_for_the_dead(ring);
        }
        true
    }

    /// For one who was woken because somebody has died in an operation: wakes whom that one may have been about to wake.
    pub(crate) fn do_for_the_dead(&self, ring: &Ring<'_>) {
        wake(ring.tail(), 1);
        wake(ring.head(), 1);
    }

    /// The entry that keeps this side from going on, and its word, if the counter that it waits for is `seen`.
    pub(crate) fn obstacle(&self, ring: &Ring<'_>, side: Side, seen: u64) -> Option<(&AtomicU64, u64)> {
        // Acquire, both: pair with the Release in `advance`, and of the exchanges. What is seen too late here the kernel sees.
        let (head, tail) = match side {
            Side::Getters => (ring.head().load(Acquire), seen),
            Side::Putters => (seen, ring.tail().load(Acquire)),
        };
        let at = ring.site(position(head)).ok()?;
        let cell = self.entry(at);
        let entry = cell.load(Acquire);
        let count = distance(position(tail), position(head), ring.len);
        let is_blocked = match side {
            Side::Getters => count == 0 && entry & !INDEX == cycle(head),
            Side::Putters => count >= ring.len as i64 && entry & !INDEX == cycle(head) | FULL,
        };
        (is_blocked && (head | tail) & CLOSED == 0).then_some((cell, entry))
    }

    /// Closes the queue for puts, and tells all who sleep.
    pub(crate) fn close_and_wake(&self, thread: &Thread) {
        thread.begin(&self.control().roster.0);
        let ring = self.ring(Which::Items);
        self.close(&ring);
        self.wake_all(&ring);
        thread.end();
    }
}

impl<const N: usize> Watches<'_, N> {
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Sleeps on all of them. Which one it was woken through; 0 if by none, or not as far as is known. `word` alone where the kernel cannot watch several.
    pub(crate) fn sleep(&self, waiter: &mut Waiter, word: &AtomicU64, seen: u64) -> usize {
        let mut woken_by = 0;
        let words: [Watch<'_>; N] = {
            let Some(first) = self.words[0] else { return 0 };
            core::array::from_fn(|index| self.words[index].unwrap_or(first))
        };
        waiter.sleep(|until| match futex::wait_any_of(&words[..self.len], until) {
            Some((awake, index)) => {
                woken_by = if awake == Awake::Woken { index } else { 0 };
                awake
            }
            None => futex::wait(word, seen as u32, until),
        });
        woken_by
    }
}

/// Says that somebody is going to sleep on the word: what it is then, unless it changes all the time.
pub(crate) fn mark(word: &AtomicU64) -> Option<u64> {
    let seen = word.load(Acquire);
    let marked = seen | WAITERS;
    // Relaxed: the mark orders nothing.
    (seen == marked || word.compare_exchange(seen, marked, Relaxed, Relaxed).is_ok()).then_some(marked)
}

/// Wakes `count` of those who sleep on a counter. If they are fewer the mark goes, and those who have come since are woken, too.
pub(crate) fn wake(word: &AtomicU64, count: u32) {
    if futex::wake(word, count) < count {
        let seen = word.load(Relaxed);
        // Relaxed: the mark orders nothing.
        if seen & WAITERS != 0 && word.compare_exchange(seen, seen & !WAITERS, Relaxed, Relaxed).is_ok() {
            futex::wake(word, u32::MAX);
        }
    }
}
