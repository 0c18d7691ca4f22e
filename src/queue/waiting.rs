//! How participants wait for each other: getters for items, putters for room.
//!
//! # Goal
//! Nobody sleeps while there is something for it, though any participant may die or be stopped at
//! any instruction; without sleepers there is no system call.
//!
//! # How
//! Getters sleep on `tail`, putters on `head`. A sleeper marks that word with `WAITERS` first, and
//! watches the *entry* that keeps it from going on: the one at `head`, which is empty while there
//! is nothing to get, or the one at `tail`, which is full while there is no room. Whoever exchanges
//! an entry looks for the mark afterwards, and wakes one. The mark stays until a wake has found
//! fewer sleepers than it would have woken; after it was taken out, all are woken who came since
//! (as for the lock, see `lock::state`).
//!
//! Between its exchange and its wake a participant may die. So all watch the `roster`, too, the low
//! bits of which are 0: everybody has it pending in every operation, so that the kernel wakes one
//! sleeper when anybody dies in one (`crossproc_sys::robust`), after it has marked the dead one's
//! token. Whoever has slept looks for dead participants, and whoever finds one first does what that
//! one may have left undone: it wakes all, and finishes a close that was begun. Then it settles the
//! rest, and says last that the dead one is buried ([`burying`](super::burying)). Whoever has slept
//! and leaves items, or room, behind wakes the next, because a wake may have been meant for
//! several.
//!
//! # Why no wake-up is lost
//! *Invariant: while someone sleeps who need not, a thread is awake that will wake it, or dies
//! trying, which wakes another one to do it.* The kernel takes a sleeper's words one after the
//! other: it queues the sleeper on one, compares it, and goes on to the next. The roster is the
//! first. So whoever dies before the sleeper is queued there has changed the words that are
//! compared after it, and whoever dies later wakes it, or another. An exchange before the entry is
//! compared is seen there. One after that is by a participant that then sees the mark, which was
//! there before (this is what SeqCst is for), or that dies.
//!
//! # Watchers
//! Who waits for other things, too (`wait_any::source`), marks the position like all others, and
//! leaves a note beside it, [`watched`](super::memory::Position): whoever then wakes some wakes
//! all. It sleeps on the roster, the position, the entry and the note, in this order. The waker
//! looks for the note *after* it has woken some: if one of those was a watcher, the note was left
//! before. A waker takes the note out before it wakes all; a watcher that is about to sleep is
//! queued on the position then, and woken, or sees that its note is gone. The mark alone would not
//! tell it: others may have marked the position again. Nobody but watchers is concerned if the note
//! stays longer than they do.
//!
//! A watcher is no participant, and does the same for the dead as those who are. What it was woken
//! for it leaves to others, and wakes all of them.
//!
//! # What is left to slices
//! Kernels before 5.16, which have no `futex_waitv`: there `tail` or `head` alone is watched.
//! Before 6.2 the kernel wakes nobody through the roster. A thread that is *stopped* between its
//! exchange and its wake, or with a wake of the kernel's, keeps a sleeper waiting for as long,
//! unless others operate. A burier that is stopped keeps nothing else.

use crossproc_sys::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};
use crossproc_sys::atomic::{AtomicU64, fence};
use crossproc_sys::futex::{self, Watch};
use crossproc_sys::robust::Thread;

use super::exchange::{End, MOST_ROUNDS, Refused, Ring, Which};
use super::memory::{Position, QueueMemory};
use super::words::{CLOSED, WAITERS};
use crate::wait::{Ended, Waiter};

/// How often one who spins looks for what keeps it from going on, before it tries again.
const MOST_SEARCHES: u32 = 16;

/// Who waits, or is woken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
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
    pub(crate) fn position<'a>(self, ring: Ring<'a>) -> &'a Position {
        match self {
            Side::Getters => &ring.counters().tail.0,
            Side::Putters => &ring.counters().head.0,
        }
    }

    /// The other side.
    fn other(self) -> Side {
        match self {
            Side::Getters => Side::Putters,
            Side::Putters => Side::Getters,
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

impl QueueMemory {
    /// One operation on the items, whose wakes outlive the thread. `operate` gives the flags of its
    /// end of the ring, of `tail` or `head`, and how many it put or got.
    #[inline(always)]
    pub(crate) fn at_once(
        &self,
        thread: &Thread,
        side: Side,
        operate: impl FnOnce(Ring<'_>) -> Result<(u64, usize), Refused>,
    ) -> Result<(), Refused> {
        thread.begin(&self.control().roster.0);
        let ring = self.ring(Which::Items);
        let result = operate(ring);
        if let Ok((flags, count)) = result {
            if flags & WAITERS != 0 {
                self.wake_other_side(ring, side, count);
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
        mut operate: impl FnMut(Ring<'_>) -> Result<(u64, usize), Refused>,
        mut sleep: impl FnMut(Ring<'_>, &mut Waiter) -> bool,
    ) -> Result<(), Failure> {
        thread.begin(&self.control().roster.0);
        let ring = self.ring(Which::Items);
        let mut has_slept = false;
        let mut rounds = 0;
        let result = loop {
            match operate(ring) {
                Ok((flags, count)) => {
                    if flags & WAITERS != 0 {
                        self.wake_other_side(ring, side, count);
                    }
                    break Ok(());
                }
                Err(refused) if refused == side.refusal() => {}
                Err(refused) => break Err(refused.into()),
            }
            if let Err(ended) = waiter.check() {
                break Err(ended.into());
            }
            if !self.spin(ring, side, waiter) {
                let slept = sleep(ring, waiter);
                has_slept |= slept;
                rounds = if slept { 0 } else { rounds + 1 };
                if rounds == MOST_ROUNDS {
                    break Err(Refused::Corrupt.into());
                }
            }
        };
        if has_slept {
            self.pass_on(ring, side, result.as_ref().err());
        }
        thread.end();
        result
    }

    /// Looks for a while whether what keeps this side from going on is still there. Whether it is
    /// not, or is not to be told.
    fn spin(&self, ring: Ring<'_>, side: Side, waiter: &mut Waiter) -> bool {
        let mut obstacle = None;
        let mut searches = 0;
        waiter.spin(|| {
            // Relaxed: a hint. Who goes on looks again.
            if obstacle.is_some_and(|(cell, entry): (&AtomicU64, u64)| cell.load(Relaxed) == entry)
            {
                return false;
            }
            // It has another entry by now. To find that may take long, if a peer has displaced the
            // positions.
            obstacle = self.obstacle(ring, side);
            searches += 1;
            obstacle.is_none() || searches == MOST_SEARCHES
        })
    }

    #[cold]
    fn wake_other_side(&self, ring: Ring<'_>, side: Side, count: usize) {
        side.other().position(ring).wake(count as u32);
    }

    /// What whoever has slept does for the others: there may have been one wake for several of
    /// them.
    fn pass_on(&self, ring: Ring<'_>, side: Side, failure: Option<&Failure>) {
        let position = side.position(ring);
        let seen = position.at.load(Acquire);
        match failure {
            Some(Failure::Refused(_)) => self.wake_all(ring),
            None if seen & WAITERS != 0 && self.obstacle(ring, side).is_none() => position.wake(1),
            _ => {}
        }
    }

    pub(crate) fn wake_all(&self, ring: Ring<'_>) {
        Side::Getters.position(ring).wake(u32::MAX);
        Side::Putters.position(ring).wake(u32::MAX);
    }

    /// Sleeps for a slice at most while there is nothing to do for this side. Whether it did sleep.
    /// The roster is pending.
    pub(crate) fn sleep(&self, ring: Ring<'_>, side: Side, waiter: &mut Waiter) -> bool {
        let roster = &self.control().roster.0;
        // Acquire: pairs with the Release in `announce_member`.
        let in_roster = roster.load(Acquire);
        let word = &side.position(ring).at;
        let Some(marked) = mark(word) else { return false };
        let Some((cell, entry)) = self.obstacle(ring, side) else {
            self.finish_close(ring);
            return false;
        };
        let mut watches = Watches::<6>::new();
        // In this order: see the top.
        watches.add(Watch::whole(roster, in_roster));
        watches.add(Watch::whole(word, marked));
        watches.add([Watch::new(cell, entry as u32)]);
        watches.sleep(waiter, word, marked);
        self.bury(waiter.until());
        true
    }

    /// What one that has died may have left undone: it may have been about to wake any number, and
    /// to take out the mark, or have begun to close the queue. The roster is pending.
    pub(crate) fn do_for_the_dead(&self) {
        let ring = self.ring(Which::Items);
        self.finish_close(ring);
        self.wake_all(ring);
        if self.config.is_joinable {
            self.wake_joins();
        }
    }

    /// The entry that keeps this side from going on, and its word.
    pub(crate) fn obstacle(&self, ring: Ring<'_>, side: Side) -> Option<(&AtomicU64, u64)> {
        let end = match side {
            Side::Getters => End::Head,
            Side::Putters => End::Tail,
        };
        let found = self.find(ring, end).ok()?;
        let is_blocked = match side {
            Side::Getters => found.is_empty(),
            Side::Putters => found.is_full_since_last_cycle(),
        };
        // Acquire: pairs with the Release in `close`. What is seen too late here the kernel sees.
        let flags = ring.head().load(Acquire) | ring.tail().load(Acquire);
        (is_blocked && flags & CLOSED == 0).then(|| (self.entry(found.at), found.entry))
    }

    /// Closes the queue for puts, and tells all who sleep.
    ///
    /// `head` is marked first, so that who is about to sleep on it, for room, has something to see
    /// should the closer die in between; `tail` is what counts. Whoever finds one marked and not
    /// the other does the rest.
    pub(crate) fn close(&self, thread: &Thread) {
        thread.begin(&self.control().roster.0);
        let ring = self.ring(Which::Items);
        // Release: pairs with the Acquire loads of positions.
        ring.head().fetch_or(CLOSED, Release);
        ring.tail().fetch_or(CLOSED, Release);
        // Also if somebody has found it half done, and done the rest: that one may die before it
        // wakes anybody.
        self.wake_all(ring);
        thread.end();
    }

    /// Does what a closer may have left undone, if it has begun.
    pub(crate) fn finish_close(&self, ring: Ring<'_>) {
        // Acquire, both: pair with the Release here and in `close`.
        let (head, tail) = (ring.head().load(Acquire), ring.tail().load(Acquire));
        if (head | tail) & CLOSED != 0 && head & tail & CLOSED == 0 {
            ring.head().fetch_or(CLOSED, Release);
            ring.tail().fetch_or(CLOSED, Release);
            self.wake_all(ring);
        }
    }
}

impl<const N: usize> Watches<'_, N> {
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Sleeps on all of them. On `word` alone where the kernel cannot watch several.
    pub(crate) fn sleep(&self, waiter: &mut Waiter, word: &AtomicU64, seen: u64) {
        let Some(first) = self.words[0] else { return };
        let words: [Watch<'_>; N] =
            core::array::from_fn(|index| self.words[index].unwrap_or(first));
        waiter.sleep(|until| {
            futex::wait_any(&words[..self.len], until)
                .unwrap_or_else(|| futex::wait_on_one(word, seen as u32, until))
        });
    }
}

/// Says that somebody is going to sleep on the word: what it is then, unless it changes all the
/// time.
pub(crate) fn mark(word: &AtomicU64) -> Option<u64> {
    // Relaxed, all: the mark orders nothing by itself.
    let seen = word.load(Relaxed);
    let marked = seen | WAITERS;
    if seen != marked && word.compare_exchange(seen, marked, Relaxed, Relaxed).is_err() {
        return None;
    }
    // SeqCst: the mark is before the look at the entry. Who exchanges that looks for the mark
    // afterwards, see `QueueMemory::end`.
    fence(SeqCst);
    Some(marked)
}

impl Position {
    /// Wakes `count` of those who sleep on it, or all, if there may be a watcher among them. If
    /// they are fewer the mark goes, and those who have come since are woken, too.
    pub(crate) fn wake(&self, count: u32) {
        let mut woken = futex::wake(&self.at, count);
        // Relaxed: a watcher's note is older than its sleep, and the kernel's queue, where it was
        // found, is between the two and this.
        if self.watched.load(Relaxed) != 0 && self.watched.swap(0, Relaxed) != 0 {
            woken = woken.saturating_add(futex::wake(&self.at, u32::MAX));
        }
        if woken < count {
            unmark(&self.at);
        }
    }
}

/// Wakes all who sleep on a word that no watcher sleeps on without another one, and takes the mark
/// out.
pub(crate) fn wake_all_of(word: &AtomicU64) {
    futex::wake(word, u32::MAX);
    unmark(word);
}

/// Takes the mark out, and wakes those who have come since all were woken.
fn unmark(word: &AtomicU64) {
    let seen = word.load(Relaxed);
    // Relaxed: the mark orders nothing.
    if seen & WAITERS != 0 && word.compare_exchange(seen, seen & !WAITERS, Relaxed, Relaxed).is_ok()
    {
        futex::wake(word, u32::MAX);
    }
}
