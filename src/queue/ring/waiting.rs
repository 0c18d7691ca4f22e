//! How participants wait for each other: getters for items, putters for room.
//!
//! # Goal
//! No thread sleeps while there is something for it, though any participant may die or be stopped
//! at any instruction. Without sleepers there is no system call.
//!
//! # How
//! Getters sleep on `tail`, putters on `head`. A sleeper marks that word with `WAITERS` first, and
//! watches the *entry* that keeps it from going on. For a getter that is the entry at `head`, which
//! is empty while there is nothing to get. For a putter it is the entry at `tail`, which is full
//! while there is no room. A participant that exchanges an entry looks for the mark afterwards, and
//! wakes one sleeper. The mark stays until a wake has found fewer sleepers than it would have
//! woken. After the mark was taken out, all sleepers that came since are woken (as for the lock,
//! see `lock::state`).
//!
//! Between its exchange and its wake a participant may die. So all sleepers watch the `roster`,
//! too, whose low bits are 0. Every participant has it pending in every operation. So the kernel
//! wakes one sleeper when a participant dies in an operation (`crossproc_sys::robust`), after it
//! has marked the dead participant's token. A thread that has slept looks for dead participants.
//! The first to find one does what that may have left undone: it wakes all, and finishes a close
//! that was begun. Then it settles the rest, and says last that the dead participant is buried
//! ([`burying`](super::burying)). A thread that has slept and leaves items, or room, behind wakes
//! the next, because a wake may have been meant for several.
//!
//! # Why no wake-up is lost
//! *Invariant: while a thread sleeps that need not, another thread is awake. That thread will wake
//! the sleeper, or dies trying, which wakes yet another thread to do it.*
//!
//! The kernel takes a sleeper's words one after the other: it queues the sleeper on one, compares
//! that, and goes on to the next. The roster is the first. A participant that dies before the
//! sleeper is queued there has changed the words that are compared after it. A later death wakes
//! this sleeper, or another. An exchange before the entry is compared is seen there. An exchange
//! after that is by a participant that then sees the mark, or that dies. The mark was there before:
//! this is what SeqCst is for.
//!
//! # Watchers
//! A watcher waits for other things, too (`wait::source`). It marks the position like all others,
//! and leaves a note beside it, [`watched`](super::layout::Position): a thread that then wakes some
//! wakes all. A watcher sleeps on the roster, the position, the entry and the note, in this order.
//! The waker looks for the note *after* it has woken some: if one of those was a watcher, the note
//! was left before. A waker takes the note out before it wakes all. A watcher that is about to
//! sleep is queued on the position by then, and woken, or it sees that its note is gone. The mark
//! alone would not tell it: others may have marked the position again. A note that stays longer
//! than its watchers makes one waker wake all.
//!
//! A watcher is no participant, and does the same for the dead as participants do. What it was
//! woken for it leaves to others, and wakes all of them.
//!
//! # What is left to slices
//! Kernels before 5.16 have no `futex_waitv`: there `tail` or `head` alone is watched. Before 6.2
//! the kernel wakes no thread through the roster. A thread may be *stopped* between its exchange
//! and its wake, or with a wake of the kernel's. It then keeps a sleeper waiting for as long,
//! unless others operate. A burier that is stopped withholds nothing else.

use crossproc_sys::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};
use crossproc_sys::atomic::{AtomicU64, fence};
use crossproc_sys::futex::{self, Watch};
use crossproc_sys::robust::Thread;

use super::ends::{End, MOST_ROUNDS, Ring, Which};
use super::layout::Position;
use super::memory::QueueMemory;
use super::refused::Refused;
use super::words::{CLOSED, WAITERS};
use crate::wait::source::Words;
use crate::wait::{Ended, Waiter};

/// How often a spinning thread looks for its obstacle before it tries the operation again.
const MOST_SEARCHES: u32 = 16;

/// The number of words that a sleeper watches: two of 64 bits, an entry or a cursor, and a token.
const WATCHED: usize = 6;

/// What else a sleeper watches, and when it looks again at the latest.
#[derive(Debug, Default)]
pub(super) struct Besides<'a> {
    pub(super) token: Option<Watch<'a>>,
    pub(super) until: Option<u64>,
}

/// The participants that wait, or are woken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Side {
    Getters,
    Putters,
}

/// Why a waiting operation failed.
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
    /// Returns the position that this side sleeps on.
    pub(crate) fn position<'a>(self, ring: Ring<'a>) -> &'a Position {
        match self {
            Side::Getters => &ring.counters().tail.0,
            Side::Putters => &ring.counters().head.0,
        }
    }

    /// Returns the other side.
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

impl QueueMemory {
    /// Does one operation on the items, whose wakes outlive the thread. `operate` returns the flags
    /// of its end of the ring, `tail` or `head`, and how many items it put or got.
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
                ring.wake_other_side(side, count);
            }
        }
        thread.end();
        result.map(|_| ())
    }

    /// Does the same, and waits as long as the waiter lets it.
    #[cold]
    pub(crate) fn waiting(
        &self,
        thread: &Thread,
        side: Side,
        waiter: &mut Waiter,
        operate: impl FnMut(Ring<'_>) -> Result<(u64, usize), Refused>,
        sleep: impl FnMut(Ring<'_>, &mut Waiter) -> bool,
    ) -> Result<(), Failure> {
        let obstacle = || self.ring(Which::Items).obstacle(side);
        self.waiting_while(thread, side, waiter, obstacle, operate, sleep)
    }

    /// Does the same. `obstacle` returns a word that keeps the operation from being done.
    pub(crate) fn waiting_while<'a>(
        &'a self,
        thread: &Thread,
        side: Side,
        waiter: &mut Waiter,
        obstacle: impl Fn() -> Option<(&'a AtomicU64, u64)>,
        mut operate: impl FnMut(Ring<'a>) -> Result<(u64, usize), Refused>,
        mut sleep: impl FnMut(Ring<'a>, &mut Waiter) -> bool,
    ) -> Result<(), Failure> {
        thread.begin(&self.control().roster.0);
        let ring = self.ring(Which::Items);
        let mut has_slept = false;
        let mut rounds = 0;
        let result = loop {
            match operate(ring) {
                Ok((flags, count)) => {
                    if flags & WAITERS != 0 {
                        ring.wake_other_side(side, count);
                    }
                    break Ok(());
                }
                Err(refused) if refused == side.refusal() => {}
                Err(refused) => break Err(refused.into()),
            }
            if let Err(ended) = waiter.check() {
                break Err(ended.into());
            }
            if !spin(&obstacle, waiter) {
                let slept = sleep(ring, waiter);
                has_slept |= slept;
                rounds = if slept { 0 } else { rounds + 1 };
                if rounds == MOST_ROUNDS {
                    break Err(Refused::Corrupt.into());
                }
            }
        };
        if has_slept {
            ring.pass_on(side, result.as_ref().err(), &obstacle);
        }
        thread.end();
        result
    }

    /// Does what a participant that died may have left undone. It may have been about to wake any
    /// number, and to take out the mark, or have begun to close the queue. The roster must be
    /// pending.
    pub(crate) fn do_for_the_dead(&self) {
        let ring = self.ring(Which::Items);
        ring.finish_close();
        ring.wake_all();
        if self.config.is_joinable {
            self.wake_joins();
        }
        if self.config.letters != 0 {
            self.wake_for_letter();
        }
    }

    /// Closes the queue for puts, and wakes all sleepers.
    ///
    /// `head` is marked first. So a thread that is about to sleep on it, for room, has something to
    /// see should the closer die in between. `tail` is what counts. A thread that finds one marked
    /// and not the other does the rest.
    pub(crate) fn close(&self, thread: &Thread) {
        thread.begin(&self.control().roster.0);
        let ring = self.ring(Which::Items);
        // Release: pairs with the Acquire loads of positions.
        ring.head().fetch_or(CLOSED, Release);
        ring.tail().fetch_or(CLOSED, Release);
        // Also if another thread has found it half done, and done the rest: that thread may die
        // before it wakes any sleeper.
        ring.wake_all();
        thread.end();
    }
}

impl<'a> Ring<'a> {
    #[cold]
    fn wake_other_side(self, side: Side, count: usize) {
        side.other().position(self).wake(count as u32);
    }

    /// Does what a thread that has slept owes the others: there may have been one wake for several
    /// of them.
    fn pass_on(
        self,
        side: Side,
        failure: Option<&Failure>,
        obstacle: impl Fn() -> Option<(&'a AtomicU64, u64)>,
    ) {
        let position = side.position(self);
        let seen = position.at.load(Acquire);
        match failure {
            Some(Failure::Refused(_)) => self.wake_all(),
            None if seen & WAITERS != 0 && obstacle().is_none() => position.wake(1),
            _ => {}
        }
    }

    pub(crate) fn wake_all(self) {
        Side::Getters.position(self).wake(u32::MAX);
        Side::Putters.position(self).wake(u32::MAX);
        self.memory.wake_for_memory();
    }

    /// Sleeps for at most one slice while there is nothing to do for this side. Returns whether it
    /// did sleep. The roster must be pending.
    pub(crate) fn sleep(self, side: Side, waiter: &mut Waiter) -> bool {
        self.sleep_on(side, waiter, || Some((self.obstacle(side)?, Besides::default())))
    }

    /// Does the same while there is this obstacle.
    pub(super) fn sleep_on(
        self,
        side: Side,
        waiter: &mut Waiter,
        obstacle: impl FnOnce() -> Option<((&'a AtomicU64, u64), Besides<'a>)>,
    ) -> bool {
        let roster = &self.memory.control().roster.0;
        // Acquire: pairs with the Release in `announce_member`.
        let in_roster = roster.load(Acquire);
        let word = &side.position(self).at;
        let Some(marked) = mark(word) else { return false };
        let Some(((cell, seen), besides)) = obstacle() else {
            self.finish_close();
            return false;
        };
        let mut words = [None; WATCHED];
        let mut words = Words::new(&mut words);
        // In this order: see the top.
        words.add_whole(roster, in_roster);
        words.add_whole(word, marked);
        words.add(Watch::new(cell, seen as u32));
        besides.token.into_iter().for_each(|token| words.add(token));
        words.cut_at(besides.until);
        words.sleep::<WATCHED>(waiter, |until| futex::wait_on_one(word, marked as u32, until));
        self.memory.bury(waiter.until());
        true
    }

    /// Returns the entry that keeps this side from going on, and its word. Of a broadcast, only for
    /// putters, whose obstacle is a cursor.
    pub(crate) fn obstacle(self, side: Side) -> Option<(&'a AtomicU64, u64)> {
        if self.memory.config.is_broadcast() && side == Side::Putters {
            return self.no_room();
        }
        let end = match side {
            Side::Getters => End::Head,
            Side::Putters => End::Tail,
        };
        let found = self.find(end).ok()?;
        let is_blocked = match side {
            Side::Getters => found.is_empty(),
            Side::Putters => found.is_full_since_last_cycle(),
        };
        // What this sees too late, the kernel sees.
        (is_blocked && !self.is_closing()).then(|| (self.memory.entry(found.at), found.entry))
    }

    /// Returns whether a close has begun.
    pub(super) fn is_closing(self) -> bool {
        // Acquire: pairs with the Release in `close`.
        (self.head().load(Acquire) | self.tail().load(Acquire)) & CLOSED != 0
    }

    /// Does what a closer may have left undone, if it has begun.
    pub(crate) fn finish_close(self) {
        // Acquire, both: pair with the Release here and in `close`.
        let (head, tail) = (self.head().load(Acquire), self.tail().load(Acquire));
        if (head | tail) & CLOSED != 0 && head & tail & CLOSED == 0 {
            self.head().fetch_or(CLOSED, Release);
            self.tail().fetch_or(CLOSED, Release);
            self.wake_all();
        }
    }
}

/// Spins for a while on an obstacle. Returns whether the obstacle is gone, or cannot be determined.
fn spin<'a>(find: impl Fn() -> Option<(&'a AtomicU64, u64)>, waiter: &mut Waiter) -> bool {
    let mut obstacle = None;
    let mut searches = 0;
    waiter.spin(|| {
        // Relaxed: a hint. A thread that goes on looks again.
        if obstacle.is_some_and(|(cell, word): (&AtomicU64, u64)| cell.load(Relaxed) == word) {
            return false;
        }
        // The obstacle is another word by now. To find that may take long, if a peer has displaced
        // the positions.
        obstacle = find();
        searches += 1;
        obstacle.is_none() || searches == MOST_SEARCHES
    })
}

/// Says that a thread is going to sleep on the word. Returns the marked word, or `None` if the word
/// has changed meanwhile.
pub(crate) fn mark(word: &AtomicU64) -> Option<u64> {
    // Relaxed, all: the mark orders nothing by itself.
    let seen = word.load(Relaxed);
    let marked = seen | WAITERS;
    if seen != marked && word.compare_exchange(seen, marked, Relaxed, Relaxed).is_err() {
        return None;
    }
    // SeqCst: the mark is before the look at the entry. A participant that exchanges the entry
    // looks for the mark afterwards, see `Ring::end`.
    fence(SeqCst);
    Some(marked)
}

impl Position {
    /// Wakes `count` sleepers on the position, or all, if there may be a watcher among them. If
    /// they are fewer, the mark goes, and those that have come since are woken, too.
    pub(crate) fn wake(&self, count: u32) {
        let mut woken = futex::wake(&self.at, count);
        // Relaxed: a watcher's note is older than its sleep. The kernel's queue, where the watcher
        // was found, is between the two and this load.
        if self.watched.load(Relaxed) != 0 && self.watched.swap(0, Relaxed) != 0 {
            woken = woken.saturating_add(futex::wake(&self.at, u32::MAX));
        }
        if woken < count {
            unmark(&self.at);
        }
    }
}

/// Wakes all sleepers on a word, and takes the mark out. Watchers sleep on such a word only
/// together with another one.
pub(crate) fn wake_all_of(word: &AtomicU64) {
    futex::wake(word, u32::MAX);
    unmark(word);
}

/// Takes the mark out, and wakes those that have come since all were woken.
fn unmark(word: &AtomicU64) {
    let seen = word.load(Relaxed);
    // Relaxed: the mark orders nothing.
    if seen & WAITERS != 0 && word.compare_exchange(seen, seen & !WAITERS, Relaxed, Relaxed).is_ok()
    {
        futex::wake(word, u32::MAX);
    }
}
